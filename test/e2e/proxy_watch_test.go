package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos"
)

// follower watches what the load writes and resumes whenever its watch ends.
type follower struct {
	base, kind string        // kind is poll, stream or events
	begun      chan struct{} // closed when the first watch has begun

	mu      sync.Mutex
	last    uint64 // the last index that it has seen
	seen    []acked
	watches int   // opened in all
	wrong   error // what must not be
}

// startFollower starts a follower and waits until it watches.
func startFollower(t testing.TB, base, kind string) *follower {
	t.Helper()
	f := &follower{base: base, kind: kind, begun: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { f.run(ctx) })
	t.Cleanup(func() {
		cancel()
		done.Wait()
	})
	select {
	case <-f.begun:
	case <-time.After(readyMax):
		t.Fatalf("a watch (%s) has not begun after %v", kind, readyMax)
	}
	return f
}

func (f *follower) run(ctx context.Context) {
	for ctx.Err() == nil {
		// What does not answer is tried again; what answers wrongly is noted.
		_ = until(ctx, func() error { return f.watch(ctx) })
	}
}

// watch opens one watch and reads it to its end. An error asks for a pause.
func (f *follower) watch(ctx context.Context) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, f.base+"/keys/load?wait=true&recursive=true", nil)
	if err != nil {
		return err
	}
	last, first := f.position()
	switch f.kind {
	case "events":
		r.Header.Set("Accept", "text/event-stream")
	case "stream":
		r.URL.RawQuery += "&stream=true"
	}
	switch {
	case !first && f.kind == "events":
		r.Header.Set("Last-Event-ID", strconv.FormatUint(last, 10))
	case !first:
		r.URL.RawQuery += "&waitIndex=" + strconv.FormatUint(last+1, 10)
	}
	res, err := watcher.Do(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		if res.StatusCode < 500 {
			f.note(fmt.Errorf("GET %s = %d", r.URL, res.StatusCode))
		}
		return fmt.Errorf("GET %s = %d", r.URL, res.StatusCode)
	}
	start, err := strconv.ParseUint(res.Header.Get("X-Deimos-Index"), 10, 64)
	if err != nil {
		f.note(fmt.Errorf("GET %s: index header: %w", r.URL, err))
		return err
	}
	f.begin(start, first)
	f.read(bufio.NewReader(res.Body))
	return nil
}

func (f *follower) position() (last uint64, first bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last, f.watches == 0
}

func (f *follower) begin(index uint64, first bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.watches++
	if first {
		f.last = index
		close(f.begun)
	}
}

func (f *follower) note(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.wrong == nil {
		f.wrong = err
	}
}

// read takes events until the body ends. Half a line is no event; a whole one
// that makes no sense must not be.
func (f *follower) read(body *bufio.Reader) {
	for {
		text, err := body.ReadString('\n')
		if err != nil {
			return
		}
		if f.kind == "events" {
			data, ok := strings.CutPrefix(text, "data: ")
			if !ok {
				continue
			}
			text = data
		}
		var e deimos.Event
		if err := json.Unmarshal([]byte(text), &e); err != nil || e.Node == nil || e.Node.Value == nil {
			f.note(fmt.Errorf("the event %q: %w", text, err))
			return
		}
		f.mu.Lock()
		if e.Node.ModifiedIndex <= f.last && f.wrong == nil {
			f.wrong = fmt.Errorf("event %d came after event %d", e.Node.ModifiedIndex, f.last)
		}
		f.last = e.Node.ModifiedIndex
		f.seen = append(f.seen, acked{f.last, e.Node.Key, *e.Node.Value})
		f.mu.Unlock()
	}
}

// wantEvents waits until the follower is at the last of the acknowledged writes
// and fails the test for each that it was not told.
func (f *follower) wantEvents(t testing.TB, events []acked) {
	t.Helper()
	last := uint64(0)
	for _, e := range events {
		last = max(last, e.index)
	}
	untilWithin(t, readyMax, func(context.Context) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.wrong == nil && f.last < last {
			return fmt.Errorf("the %s watch is at index %d, want %d", f.kind, f.last, last)
		}
		return nil
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.wrong != nil {
		t.Errorf("%s watch: %v", f.kind, f.wrong)
	}
	seen := map[uint64]acked{}
	for _, e := range f.seen {
		seen[e.index] = e
	}
	lost := 0
	for _, e := range events {
		if seen[e.index] != e {
			lost++
			t.Errorf("%s watch: event %d = %v, want %v as acknowledged", f.kind, e.index, seen[e.index], e)
		}
		if lost == 5 {
			t.Fatal("…")
		}
	}
}

// acknowledged are the writes of a load that were acknowledged.
func (l *load) acknowledged() []acked {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.events)
}

// watchersOf is the number of watches that the running members serve.
func watchersOf(ctx context.Context, c *cluster) (sum float64, err error) {
	for _, n := range c.nodes {
		if n.run.ended() {
			continue
		}
		count, err := metric(ctx, n.client, "deimos_store_watchers")
		if err != nil {
			return 0, err
		}
		sum += count
	}
	return sum, nil
}

// wantWatchers waits until the members serve between least and most watches.
func wantWatchers(t testing.TB, c *cluster, within time.Duration, least, most float64) {
	t.Helper()
	untilWithin(t, within, func(ctx context.Context) error {
		count, err := watchersOf(ctx, c)
		if err == nil && (count < least || count > most) {
			err = fmt.Errorf("the members serve %v watches, want %v to %v", count, least, most)
		}
		return err
	})
}

func TestWatchesThroughAProxySurviveTheDeathOfMembers(t *testing.T) {
	t.Parallel()
	c, p := startProxied(t)
	var followers []*follower
	for _, kind := range []string{"poll", "stream", "events"} {
		for range 3 {
			followers = append(followers, startFollower(t, p.client, kind))
		}
	}
	load := startLoad(t, 2, c.others(nil)...)
	load.waitAcks(t, 200)
	lost := 0.0 // watches on members that were killed
	for _, n := range c.nodes {
		count, err := metric(t.Context(), n.client, "deimos_store_watchers")
		if err != nil {
			t.Fatal(err)
		}
		lost += count
		n.kill(t)
		killed := time.Now()
		load.waitAckAfter(t, killed, 10*time.Second)
		load.waitAcks(t, load.acks()+100)
		n.start(t)
		n.waitReady(t)
	}
	load.waitAcks(t, load.acks()+100)
	load.stop(t)
	for _, f := range followers {
		f.wantEvents(t, load.acknowledged())
	}
	if lost < 2 { // the stream and the event stream that the clients share
		t.Errorf("void: only %v watches were on members when these were killed", lost)
	}
}

func TestIdenticalWatchesThroughAProxyShareOne(t *testing.T) {
	t.Parallel()
	const clients, few = 200, 20
	// The clients of long polls come back for each event, which costs.
	for kind, writes := range map[string]int{"poll": 10, "stream": 60, "events": 60} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			c, p := startProxied(t)
			var followers []*follower
			for range clients {
				followers = append(followers, startFollower(t, p.client, kind))
			}
			wantWatchers(t, c, time.Second, 1, 1)

			var events []acked
			write := func(count int) {
				t.Helper()
				for range count {
					value := strconv.Itoa(len(events) + 1)
					index, err := put(t.Context(), probe, p.client, "/load/a", value)
					if err != nil {
						t.Fatal(err)
					}
					events = append(events, acked{index, "/load/a", value})
				}
				for _, f := range followers {
					f.wantEvents(t, events)
				}
			}
			write(1)
			wantWatchers(t, c, 5*time.Second, 1, few)
			write(writes)
			wantWatchers(t, c, 5*time.Second, 1, few)

			// The member that serves the shared watch dies.
			for _, n := range c.nodes {
				if count, err := metric(t.Context(), n.client, "deimos_store_watchers"); err != nil || count > 0 {
					n.kill(t)
					break // it goes on at another one
				}
			}
			c.leader(t)
			wantWatchers(t, c, readyMax, 1, few)
			write(writes)
			for _, f := range followers {
				f.mu.Lock()
				if got := len(f.seen); got != len(events) {
					t.Errorf("a client was told %d events, want %d", got, len(events))
				}
				f.mu.Unlock()
			}
			wantWatchers(t, c, 5*time.Second, 1, few)
		})
	}
}

// rawGet opens a connection of its own, asks for something and reads the status
// line of the answer.
func rawGet(t testing.TB, base, target, header string) net.Conn {
	t.Helper()
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\n%s\r\n", target, u.Host, header); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if head, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.Contains(head, " 200 ") {
		t.Fatalf("GET %s = %q, %v", target, head, err)
	}
	return conn
}

func TestAProxyEndsAWatchWhenItsLastClientLeaves(t *testing.T) {
	t.Parallel()
	c, p := startProxied(t)
	base, err := watchersOf(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]string{"/keys/none?wait=true&stream=true&n=": "", "/keys/none?wait=true&n=": "", "/keys/none?wait=true&e=": "Accept: text/event-stream\r\n"}
	const each, twice = 20, 2
	for round := range 2 {
		var first, second []net.Conn
		for _, target := range slices.Sorted(maps.Keys(kinds)) {
			for i := range each {
				first = append(first, rawGet(t, p.client, target+strconv.Itoa(i), kinds[target]))
				second = append(second, rawGet(t, p.client, target+strconv.Itoa(i), kinds[target]))
			}
		}
		if len(first)+len(second) != len(kinds)*each*twice {
			t.Fatal("void: too few watches")
		}
		all := base + float64(len(kinds)*each)
		wantWatchers(t, c, time.Second, all, all)
		leave := func(conns []net.Conn) {
			for _, conn := range conns {
				if round == 1 { // with no time to linger the end is a reset
					if err := conn.(*net.TCPConn).SetLinger(0); err != nil {
						t.Fatal(err)
					}
				}
				if err := conn.Close(); err != nil {
					t.Fatal(err)
				}
			}
		}
		leave(first)
		if count, err := watchersOf(t.Context(), c); err != nil || count != all {
			t.Errorf("the members serve %v watches (%v) when half of the clients have left, want %v", count, err, all)
		}
		leave(second)
		wantWatchers(t, c, time.Second, base, base)
	}
}
