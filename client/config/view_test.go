package config

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/client"
)

// played is a watch that a test plays. It implements mirror.Source; reads fail.
type played chan client.WatchEvent

func (played) Get(context.Context, string, ...client.GetOption) (*client.Response, error) {
	return nil, client.ErrNoEndpoint
}

func (p played) Watch(ctx context.Context, _ string, _ ...client.WatchOption) iter.Seq2[client.WatchEvent, error] {
	return func(yield func(client.WatchEvent, error) bool) {
		for {
			select {
			case <-ctx.Done():
				yield(client.WatchEvent{}, ctx.Err())
				return
			case e := <-p:
				if !yield(e, nil) {
					return
				}
			}
		}
	}
}

// start sends the first state: /app with the file port.
func (p played) start(port string) {
	n := &deimos.Node{Key: "/app", Dir: true, Nodes: []*deimos.Node{{Key: "/app/port", Value: &port}}}
	p <- client.WatchEvent{Event: deimos.Event{Action: deimos.ActionGet, Node: n}, Index: 7, Reset: true}
}

// set sends a new value and waits until it has been dealt with.
func (p played) set(key, value string) {
	p <- client.WatchEvent{Event: deimos.Event{Action: deimos.ActionSet, Node: &deimos.Node{Key: key, Value: &value}}, Index: 8}
	synctest.Wait()
}

type server struct {
	Port uint16 `deimos:"port,required"`
}

// decodeServer refuses privileged ports.
func decodeServer(t Tree) (server, error) {
	s, err := Decode[server](t)
	if err == nil && s.Port < 1024 {
		err = fmt.Errorf("port %d is privileged", s.Port)
	}
	return s, err
}

func TestTheLastGoodValueStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := make(played)
		go p.start("8080")
		var told []string
		v, err := watch(t.Context(), p, "/app", decodeServer, Options[server]{
			OnChange: func(old, new *server) { told = append(told, fmt.Sprintf("%d to %d", old.Port, new.Port)) },
			OnError:  func(err error) { told = append(told, err.Error()) },
		})
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		first := v.Load()
		if first.Port != 8080 || v.Err() != nil || !v.Healthy() {
			t.Errorf("first value %+v, error %v, healthy %v", first, v.Err(), v.Healthy())
		}

		p.set("/app/port", "80")
		if v.Load() != first || v.Err() == nil || v.Healthy() {
			t.Errorf("after a bad value: %+v, error %v, healthy %v, want the first one and the error", v.Load(), v.Err(), v.Healthy())
		}
		p.set("/app/port", "x")
		p.set("/app/port", "8080") // what it was
		p.set("/app/other", "1")   // of nobody
		if v.Load() != first || v.Err() != nil {
			t.Errorf("after what it was: %+v, error %v, want the first value", v.Load(), v.Err())
		}
		p.set("/app/port", "8081")
		if v.Load().Port != 8081 || first.Port != 8080 {
			t.Errorf("after a good value: %+v, and the first is %+v", v.Load(), first)
		}
		want := `config: /app: port 80 is privileged; config: /app: port: "x" is no uint16; 8080 to 8081`
		if got := strings.Join(told, "; "); got != want {
			t.Errorf("told %s, want %s", got, want)
		}

		<-time.After(time.Minute)
		synctest.Wait()
		if v.Load().Port != 8081 || v.Healthy() || v.Age() < time.Minute || !errors.Is(v.Err(), client.ErrNoEndpoint) {
			t.Errorf("without members: %+v, healthy %v, age %v, error %v", v.Load(), v.Healthy(), v.Age(), v.Err())
		}
	})
}

func TestWatchFailsWithoutAFirstGoodValue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := make(played)
		go p.start("80")
		v, err := watch(t.Context(), p, "/app", decodeServer, Options[server]{})
		if v != nil || err == nil || err.Error() != "config: /app: port 80 is privileged" {
			t.Errorf("watch = %v, %v", v, err)
		}
	})
}

func TestChangesAreMergedWhileOnChangeIsAtWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := make(played)
		go p.start("8000")
		gate := make(chan struct{})
		var told []string
		v, err := watch(t.Context(), p, "/app", decodeServer, Options[server]{
			Logger: slog.New(slog.DiscardHandler),
			OnChange: func(old, new *server) {
				<-gate
				told = append(told, fmt.Sprintf("%d to %d", old.Port, new.Port))
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		for port := 8001; port <= 8005; port++ {
			p.set("/app/port", fmt.Sprint(port))
		}
		if v.Load().Port != 8001 {
			t.Errorf("value %+v while the first change is being told, want that", v.Load())
		}
		close(gate)
		synctest.Wait()
		v.Close()
		if got := strings.Join(told, "; "); got != "8000 to 8001; 8001 to 8005" {
			t.Errorf("told %s", got)
		}
	})
}
