package registry

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/client"
)

func TestAnInstanceStaysRegisteredForAThirdOfItsTTLAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, e := newCluster(), new(events)
		r := start(t, c, e)
		if c.key != "/phobos/web/tcp@10.0.0.9:80" || c.entry.value != "v1" {
			t.Errorf("registered %s with %q", c.key, c.entry.value)
		}
		for range 600 {
			pass(time.Second)
			if !c.alive() {
				t.Fatalf("gone after %v", c.log())
			}
		}
		if n := len(c.log()); n < 60 || n > 68 {
			t.Errorf("%d calls in 10 minutes, want one every 9 to 10 s", n)
		}
		if err := r.Close(t.Context()); err != nil || c.alive() {
			t.Errorf("Close = %v, alive %v, want it removed", err, c.alive())
		}
		if e.String() != "[closed]" || r.State() != Closed || r.Err() != nil {
			t.Errorf("events %v, state %v, error %v", e, r.State(), r.Err())
		}
	})
}

func TestRegistrationOutlivesAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, e := newCluster(), new(events)
		r := start(t, c, e)
		c.do(func() { c.down = client.ErrNoEndpoint })
		pass(12 * time.Second)
		if r.State() != Failing || !errors.Is(r.Err(), client.ErrNoEndpoint) {
			t.Errorf("state %v, error %v, want failing with the reason", r.State(), r.Err())
		}
		pass(30 * time.Second)
		if r.State() != Lost {
			t.Errorf("state %v, want lost", r.State())
		}
		before := len(c.log())
		pass(time.Minute)
		if n := len(c.log()) - before; n < 10 || n > 17 {
			t.Errorf("%d tries in a minute, want one every 4 to 5 s", n)
		}
		c.do(func() { c.down = nil })
		pass(5 * time.Second)
		if r.State() != Registered || r.Err() != nil || !c.alive() || c.entry.value != "v1" {
			t.Errorf("state %v, error %v, alive %v, want it back", r.State(), r.Err(), c.alive())
		}
		if e.String() != "[failing lost registered]" {
			t.Errorf("events %v", e)
		}
	})
}

// The shortest life is refreshed elsewhere while a quarter of it is left.
func TestShortestTTLOutlivesAMemberThatHangs(t *testing.T) {
	for range 50 { // pauses have a random part
		synctest.Test(t, func(t *testing.T) {
			c, e := newCluster(), new(events)
			in := instance
			in.TTL = TTLMin
			r, err := register(t.Context(), &hanging{c, 200 * time.Millisecond}, in, WithNotify(e.take))
			if err != nil {
				t.Fatal(err)
			}
			var first time.Time
			c.do(func() { first = c.expires })
			pass(TTLMin * 3 / 4)
			c.do(func() {
				if !c.expires.After(first) {
					t.Errorf("not refreshed within %v", TTLMin*3/4)
				}
			})
			pass(time.Minute)
			if r.State() != Registered || !c.alive() || e.String() != "[failing registered]" {
				t.Errorf("state %v, error %v, alive %v, events %v, want it to stay", r.State(), r.Err(), c.alive(), e)
			}
			if err := r.Close(t.Context()); err != nil {
				t.Errorf("Close() = %v, want nil", err)
			}
		})
	}
}

// After a long pause of the program, and when somebody has removed it.
func TestAnEntryThatIsGoneIsWrittenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, e := newCluster(), new(events)
		r := start(t, c, e)
		c.do(func() { c.there = false })
		pass(10 * time.Second)
		if r.State() != Registered || !c.alive() || e.String() != "[lost registered]" {
			t.Errorf("state %v, alive %v, events %v, want it back, and the loss told", r.State(), c.alive(), e)
		}
	})
}

func TestLostAnswersAreNoOtherOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, e := newCluster(), new(events)
		c.lose = 2 // of the first writes
		r := start(t, c, e)
		pass(11 * time.Second)
		// One of those writes, taken for lost, happens only now.
		c.do(func() { c.write("v1", 30*time.Second) })
		pass(11 * time.Second)
		c.do(func() { c.lose = 1 }) // of a refresh
		pass(11 * time.Second)
		c.do(func() { c.lose = 1 }) // of the removal
		if r.State() != Registered || !c.alive() {
			t.Errorf("state %v, error %v, alive %v", r.State(), r.Err(), c.alive())
		}
		if err := r.Close(t.Context()); err != nil || c.alive() {
			t.Errorf("Close = %v, alive %v, want it removed", err, c.alive())
		}
		if e.String() != "[failing registered closed]" {
			t.Errorf("events %v, calls %v", e, c.log())
		}
	})
}

func TestWhoWritesTheEntryOwnsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, e := newCluster(), new(events)
		r := start(t, c, e)
		c.do(func() { c.write("v1", time.Hour) }) // of a newer process
		pass(10 * time.Second)
		select {
		case <-r.Done():
		default:
			t.Error("the registration goes on")
		}
		if r.State() != Replaced || !errors.Is(r.Err(), ErrReplaced) || e.String() != "[replaced]" {
			t.Errorf("state %v, error %v, events %v", r.State(), r.Err(), e)
		}
		if err := r.Close(t.Context()); err != nil || !c.alive() || r.State() != Replaced {
			t.Errorf("Close = %v, alive %v, state %v, want the entry of the other left alone", err, c.alive(), r.State())
		}
	})
}

func TestCloseLeavesTheEntryOfASuccessor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		r := start(t, c, new(events))
		c.do(func() { c.write("v1", time.Hour) })
		if err := r.Close(t.Context()); err != nil || !c.alive() {
			t.Errorf("Close = %v, alive %v, want nil, and the entry left alone", err, c.alive())
		}
	})
}

func TestCloseTellsThatTheEntryMayStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		r, err := register(t.Context(), c, instance)
		if err != nil {
			t.Fatal(err)
		}
		c.do(func() { c.down = client.ErrNoEndpoint })
		for range 2 {
			if err := r.Close(t.Context()); !errors.Is(err, client.ErrNoEndpoint) || !strings.Contains(err.Error(), c.key) {
				t.Errorf("Close = %v, want the key and the reason", err)
			}
		}
	})
}

func TestRegisterTriesUntilItsContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.down = deimos.ErrLeaderElection
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, err := register(ctx, c, instance)
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, deimos.ErrLeaderElection) {
			t.Errorf("register: %v, want both reasons", err)
		}
		if n := len(c.log()); n < 6 || n > 14 {
			t.Errorf("%d tries in 20 s: %v", n, c.log())
		}
		c.down = &deimos.Error{Code: deimos.CodeNotFile}
		if _, err := register(t.Context(), c, instance); !errors.Is(err, deimos.ErrNotFile) {
			t.Errorf("register over a directory: %v, want ErrNotFile", err)
		}
	})
}

func TestInstancesThatMakeNoSense(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   Instance
		want string
	}{
		{"no service", Instance{Addr: "h:1"}, "Service is empty"},
		{"path", Instance{Service: "a/b", Addr: "h:1"}, `Service "a/b" is not one element of a path`},
		{"hidden", Instance{Service: "_a", Addr: "h:1"}, "begins with _"},
		{"dots", Instance{Service: "..", Addr: "h:1"}, "not one element"},
		{"network", Instance{Service: "a", Network: "t@p", Addr: "h:1"}, `Network "t@p" has an @`},
		{"no address", Instance{Service: "a"}, `Addr "" is not host:port`},
		{"no port", Instance{Service: "a", Addr: "host"}, `Addr "host" is not host:port`},
		{"no host", Instance{Service: "a", Addr: ":80"}, `Addr ":80" is not host:port`},
		{"large port", Instance{Service: "a", Addr: "h:65536"}, `Addr "h:65536" has a port above 65535`},
		{"socket", Instance{Service: "a", Addr: "/run/a:1"}, "cannot be part of a key"},
		{"bytes", Instance{Service: "a", Addr: "h:1", Metadata: "\xff"}, "Metadata is not valid UTF-8"},
		{"short", Instance{Service: "a", Addr: "h:1", TTL: time.Millisecond}, "TTL is 1ms, must be at least 1s"},
	} {
		_, err := register(t.Context(), newCluster(), tt.in)
		if !errors.Is(err, client.ErrInvalidArgument) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
	if _, err := register(t.Context(), newCluster(), instance, WithPrefix("phobos")); !errors.Is(err, client.ErrInvalidArgument) {
		t.Errorf("relative prefix: %v, want ErrInvalidArgument", err)
	}
	if _, err := Discover(t.Context(), nil, "a/b"); !errors.Is(err, client.ErrInvalidArgument) {
		t.Errorf("Discover of a path: %v, want ErrInvalidArgument", err)
	}
}
