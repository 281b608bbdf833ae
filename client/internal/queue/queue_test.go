package queue

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/client"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// owned is config with an owner.
func owned(owner string) Config {
	cfg := config()
	cfg.Owner = owner
	return cfg
}

// turns is who has had the turn.
type turns struct {
	mu   sync.Mutex
	seen []string
}

func (s *turns) add(who string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(s.seen, who)
}

// take waits for a turn, keeps it for a second, and releases.
func (s *turns) take(t *testing.T, f *fakeLine, cfg Config) {
	w := newContender(f, cfg)
	if err := w.wait(t.Context()); err != nil {
		t.Errorf("%s: %v", cfg.Owner, err)
		return
	}
	s.add(cfg.Owner)
	<-time.After(time.Second)
	if err := w.lease.Release(t.Context()); err != nil {
		t.Errorf("%s: Release() = %v", cfg.Owner, err)
	}
}

func TestTurnsAreTakenInOrderAndEachEndWakesOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeLine(10 * time.Second)
		var s turns
		var all sync.WaitGroup
		want := strings.Split("a b c d e f g h", " ")
		for _, who := range want {
			all.Go(func() { s.take(t, f, owned(who)) })
			synctest.Wait()
		}
		all.Wait()
		if !slices.Equal(s.seen, want) {
			t.Errorf("turns %v, want %v", s.seen, want)
		}
		// One look at the start for each, and one for each that was woken.
		if got := f.count("places"); got != 2*len(want)-1 {
			t.Errorf("the line was read %d times, want %d", got, 2*len(want)-1)
		}
	})
}

// Waiting takes many times the TTL, and renewals fail now and then.
func TestWaitingContenderKeepsItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeLine(10 * time.Second)
		holder := hold(t, f, owned("holder"))
		var s turns
		var all sync.WaitGroup
		for _, who := range []string{"first", "second"} {
			all.Go(func() { s.take(t, f, owned(who)) })
			synctest.Wait()
		}
		<-time.After(time.Hour)
		if got := f.keys(); !slices.Equal(got, []string{"1", "2", "3"}) {
			t.Errorf("places %v after an hour, want 1 2 3", got)
		}
		if err := holder.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		all.Wait()
		if want := []string{"first", "second"}; !slices.Equal(s.seen, want) {
			t.Errorf("turns %v, want %v", s.seen, want)
		}
	})
}

func TestLostPlaceIsReplacedAtTheEndAndTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeLine(10 * time.Second)
		holder := hold(t, f, owned("holder"))
		told := &lines{}
		cfg := owned("first")
		cfg.Log = slog.New(told)
		var s turns
		var all sync.WaitGroup
		all.Go(func() { s.take(t, f, cfg) })
		synctest.Wait()
		all.Go(func() { s.take(t, f, owned("second")) })
		synctest.Wait()
		f.vanish("/q/00000000000000000002")
		<-time.After(5 * time.Second) // it is seen at the next renewal
		if got := f.keys(); len(got) != 3 {
			t.Errorf("places %v, want three", got)
		}
		if !told.has("place in the queue lost, queueing again") {
			t.Errorf("the log has %q", told.seen)
		}
		if err := holder.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		all.Wait()
		if want := []string{"second", "first"}; !slices.Equal(s.seen, want) {
			t.Errorf("turns %v, want %v", s.seen, want)
		}
	})
}

// A contender that could not renew for the time of its lease, while the cluster
// still has the key, takes it up again instead of a second one.
func TestPlaceThatIsStillThereIsTakenUpAgain(t *testing.T) {
	for _, tt := range []struct {
		name string
		cut  func(op string) bool
	}{
		{"nothing gets through", func(string) bool { return true }},
		{"only renewals fail", func(op string) bool { return op == "renew" }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFakeLine(10 * time.Second)
				holder := hold(t, f, owned("holder"))
				var s turns
				var all sync.WaitGroup
				all.Go(func() { s.take(t, f, owned("first")) })
				synctest.Wait()
				f.setBefore(func(_ context.Context, op string) error {
					if tt.cut(op) {
						return client.ErrNoEndpoint
					}
					return nil
				})
				<-time.After(8*time.Second + 50*time.Millisecond)
				f.setBefore(nil)
				<-time.After(time.Second)
				if got := f.keys(); !slices.Contains(got, "2") {
					t.Errorf("places %v, want 2 among them", got)
				}
				if err := holder.Release(t.Context()); !errors.Is(err, ErrLost) {
					t.Errorf("Release() of the holder = %v, want ErrLost", err)
				}
				all.Wait()
				if f.count("enter") != 2 {
					t.Errorf("%d places were made, want 2", f.count("enter"))
				}
			})
		})
	}
}

// The answer that it has the turn reaches a contender when its lease is over.
func TestTurnIsNotTakenWithALeaseThatIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeLine(10 * time.Second)
		f.setBefore(func(_ context.Context, op string) error {
			if op == "renew" {
				return client.ErrNoEndpoint
			}
			return nil
		})
		f.setAfter(func(_ context.Context, op string) error {
			if op == "places" {
				f.setAfter(nil)
				<-time.After(9 * time.Second)
				f.setBefore(nil)
			}
			return nil
		})
		w := newContender(f, owned("anna"))
		if err := w.wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := w.lease.Err(); err != nil {
			t.Errorf("Err() = %v when the turn begins", err)
		}
		if err := w.lease.Release(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestReleaseBetweenLookAndWatchIsNotMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeLine(10 * time.Second)
		holder := hold(t, f, owned("holder"))
		f.setAfter(func(ctx context.Context, op string) error {
			if op != "places" {
				return nil
			}
			f.setAfter(nil)
			return holder.Release(ctx)
		})
		start := time.Now()
		w := newContender(f, owned("anna"))
		if err := w.wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > 0 {
			t.Errorf("the turn began %v after the release", took)
		}
		if err := w.lease.Release(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// The answer to the request that makes a place is lost, whether or not the place
// was made, or is made only after the contender has looked for it.
func TestLostAnswerLeavesNoSecondPlace(t *testing.T) {
	for _, tt := range []struct {
		name string
		set  func(f *fakeLine, w *contender)
	}{
		{name: "made", set: func(f *fakeLine, _ *contender) {
			f.setAfter(once("enter", unknown()))
		}},
		{name: "not made", set: func(f *fakeLine, _ *contender) {
			f.setBefore(once("enter", unknown()))
		}},
		{name: "made too late", set: func(f *fakeLine, w *contender) {
			f.setBefore(once("enter", unknown()))
			f.setAfter(func(ctx context.Context, op string) error {
				if op != "places" {
					return nil
				}
				f.setAfter(nil) // it has looked, and is about to ask again
				_, err := f.enter(ctx, w.cfg.Dir, w.value, w.cfg.TTL)
				return err
			})
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFakeLine(10 * time.Second)
				w := newContender(f, owned("anna"))
				tt.set(f, w)
				start := time.Now()
				if err := w.wait(t.Context()); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(start); took > time.Second {
					t.Errorf("it took %v to have the turn alone", took)
				}
				if got := f.keys(); len(got) != 1 {
					t.Errorf("places %v, want one", got)
				}
				if err := w.lease.Release(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// The place of a lost answer is made after the contender has looked, and no other
// request is accepted.
func TestLatePlaceIsTakenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeLine(10 * time.Second)
		first := once("enter", unknown())
		f.setBefore(func(ctx context.Context, op string) error {
			if err := first(ctx, op); err != nil || op != "enter" {
				return err
			}
			return deimos.ErrLeaderElection
		})
		w := newContender(f, owned("anna"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		done := make(chan error)
		go func() { done <- w.wait(ctx) }()
		<-time.After(time.Second)
		f.insert("/q", w.value)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if err := w.lease.Release(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// once fails the first operation of its kind.
func once(op string, err error) hook {
	var done sync.Once
	return func(_ context.Context, got string) (result error) {
		if got == op {
			done.Do(func() { result = err })
		}
		return result
	}
}

func TestWhoGivesUpLeavesNoPlace(t *testing.T) {
	giveUp := errors.New("enough")
	for _, tt := range []struct {
		name string
		set  func(f *fakeLine)
		most time.Duration
		left []string
	}{
		{name: "while it waits", set: func(*fakeLine) {}, left: []string{"1"}},
		{name: "while its place is being made", set: func(f *fakeLine) {
			f.setAfter(func(ctx context.Context, op string) error {
				if op == "enter" {
					<-ctx.Done()
					return unknown()
				}
				return nil
			})
		}, left: []string{"1"}},
		{name: "when nobody answers any more", set: func(f *fakeLine) {
			f.setBefore(func(ctx context.Context, op string) error {
				if op == "remove" {
					<-ctx.Done()
					return unknown()
				}
				return nil
			})
		}, most: leaveMax, left: []string{"1", "2"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFakeLine(10 * time.Second)
				holder := hold(t, f, owned("holder"))
				tt.set(f)
				ctx, cancel := context.WithCancelCause(t.Context())
				w := newContender(f, owned("anna"))
				done := make(chan error)
				go func() {
					err := w.wait(ctx)
					w.leave(ctx)
					done <- err
				}()
				<-time.After(time.Second)
				start := time.Now()
				cancel(giveUp)
				if err := <-done; !errors.Is(err, giveUp) {
					t.Errorf("wait() = %v, want the cause of the context", err)
				}
				if took := time.Since(start); took > tt.most {
					t.Errorf("giving up took %v, want %v at most", took, tt.most)
				}
				if got := f.keys(); !slices.Equal(got, tt.left) {
					t.Errorf("places %v are left, want %v", got, tt.left)
				}
				f.setBefore(nil)
				f.setAfter(nil)
				if err := holder.Release(t.Context()); err != nil {
					t.Error(err)
				}
				<-time.After(10 * time.Second)
				if got := f.keys(); len(got) > 0 {
					t.Errorf("places %v are left after a TTL", got)
				}
			})
		})
	}
}

func TestTryDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeLine(10 * time.Second)
		first := newContender(f, owned("anna 1"))
		if err := first.try(t.Context()); err != nil {
			t.Fatal(err)
		}
		second := newContender(f, owned("ben"))
		err := second.try(t.Context())
		if !errors.Is(err, ErrTaken) || !strings.Contains(err.Error(), "anna 1") {
			t.Errorf("try() = %v, want ErrTaken and the owner", err)
		}
		if f.count("enter") != 1 {
			t.Error("the second has written")
		}
		if err := first.lease.Release(t.Context()); err != nil {
			t.Error(err)
		}
		// Somebody comes between the look and the place.
		f.setBefore(func(ctx context.Context, op string) error {
			if op == "enter" {
				f.setBefore(nil)
				_, err := f.enter(ctx, "/q", "eve 2", f.ttl)
				return err
			}
			return nil
		})
		if err := second.try(t.Context()); !errors.Is(err, ErrTaken) {
			t.Errorf("try() = %v, want ErrTaken", err)
		}
		second.leave(t.Context())
		if got := f.keys(); len(got) != 1 {
			t.Errorf("places %v, want that of eve", got)
		}
		<-time.After(10 * time.Second)
	})
}

func TestErrorsThatWillNotPassEndTheWait(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		ends bool
	}{
		{"nobody at the start", client.ErrNoEndpoint, true},
		{"closed", client.ErrClosed, true},
		{"closed while the answer was awaited", &client.UnknownOutcomeError{Err: client.ErrClosed}, true},
		{"a file in the way", deimos.ErrNotDir, true},
		{"forbidden", &client.StatusError{Status: 403}, true},
		{"a proxy without members", &client.StatusError{Status: 503}, false},
		{"an election", deimos.ErrLeaderElection, false},
		{"an overloaded member", deimos.ErrRaftInternal, false},
		{"late", context.DeadlineExceeded, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFakeLine(10 * time.Second)
				f.setBefore(once("enter", tt.err))
				w := newContender(f, owned("anna"))
				err := w.wait(t.Context())
				if tt.ends != errors.Is(err, tt.err) {
					t.Errorf("wait() = %v", err)
				}
				w.leave(t.Context())
			})
		})
	}
}

func TestCheckNamesWhatIsWrong(t *testing.T) {
	long := strings.Repeat("a", NameMaxBytes)
	for _, name := range []string{"report", "a.b_c-d", "9", long} {
		if dir, err := Dir("/locks", name); err != nil || dir != "/locks/_queue/"+name {
			t.Errorf("Dir(%q) = %q, %v", name, dir, err)
		}
	}
	for _, name := range []string{"", "_a", ".", "a/b", "a b", "ä", long + "a"} {
		if _, err := Dir("/locks", name); !errors.Is(err, client.ErrInvalidArgument) {
			t.Errorf("Dir(%q): %v, want ErrInvalidArgument", name, err)
		}
	}
	owner := strings.Repeat("a", OwnerMaxBytes)
	for _, tt := range []struct {
		name string
		cfg  Config
		ok   bool
	}{
		{"zero", Config{}, true},
		{"limits", Config{TTL: TTLMin, Owner: owner}, true},
		{"longest TTL", Config{TTL: deimos.TTLMaxSeconds * time.Second}, true},
		{"short TTL", Config{TTL: TTLMin - 1}, false},
		{"long TTL", Config{TTL: deimos.TTLMaxSeconds*time.Second + 1}, false},
		{"long owner", Config{Owner: owner + "a"}, false},
		{"no text", Config{Owner: "\xff"}, false},
	} {
		got, err := tt.cfg.Check()
		if tt.ok && (err != nil || got.TTL == 0 || got.Log == nil) || !tt.ok && !errors.Is(err, client.ErrInvalidArgument) {
			t.Errorf("%s: Check() = %+v, %v", tt.name, got, err)
		}
	}
}
