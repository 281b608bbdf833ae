package queue

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/client"
	"github.com/marsevilspirit/deimos/client/internal/retry"
)

// config is that of a contender with a TTL of ten seconds, so that the lease is
// eight and a renewal is due after 3.33.
func config() Config {
	return Config{Dir: "/q", Owner: "anna", TTL: 10 * time.Second, Log: slog.New(slog.DiscardHandler)}
}

// hold takes a place in the line and returns its lease.
func hold(t *testing.T, f *fakeLine, cfg Config) *Lease {
	t.Helper()
	w := newContender(f, cfg)
	if err := w.wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w.lease
}

// The loss has to be reported a fifth of the TTL before the cluster can give the
// place to another, whatever happens to the renewals: that moment counts from
// when the last one was sent that was answered in time.
func TestLossIsReportedBeforeTheClusterRemovesThePlace(t *testing.T) {
	const never = time.Hour
	deaf := func(d time.Duration) error { <-time.After(d); return nil } // does not hear the end of its context
	patient := func(ctx context.Context, d time.Duration) error {
		if retry.Sleep(ctx, d) != nil {
			return unknown()
		}
		return nil
	}
	for _, tt := range []struct {
		name   string
		before func(ctx context.Context, n int) error // of the n-th renewal
		after  func(ctx context.Context, n int) error
		lost   time.Duration // after the start
	}{
		{name: "all refused", before: func(context.Context, int) error { return client.ErrNoEndpoint }, lost: 8 * time.Second},
		{name: "elections", before: func(context.Context, int) error { return deimos.ErrLeaderElection }, lost: 8 * time.Second},
		{name: "all hang", before: func(ctx context.Context, _ int) error { return patient(ctx, never) }, lost: 8 * time.Second},
		{name: "all hang and do not hear", before: func(context.Context, int) error { return deaf(time.Minute) }, lost: 8 * time.Second},
		{name: "applied, but no answer ever", after: func(ctx context.Context, _ int) error { return patient(ctx, never) }, lost: 8 * time.Second},
		{name: "applied, and the answer comes too late", after: func(context.Context, int) error { return deaf(5 * time.Second) }, lost: 8 * time.Second},
		{
			name: "the second is refused",
			before: func(_ context.Context, n int) error {
				if n > 1 {
					return client.ErrNoEndpoint
				}
				return nil
			},
			lost: 10*time.Second/3 + 8*time.Second,
		},
		{
			name: "slow answers, then none", // counts from sending, not from the answer
			after: func(ctx context.Context, n int) error {
				if n > 2 {
					return patient(ctx, never)
				}
				return patient(ctx, 1900*time.Millisecond)
			},
			lost: 2*(10*time.Second/3) + 8*time.Second,
		},
		{
			name: "slow on the way there, then none",
			before: func(ctx context.Context, n int) error {
				if n > 2 {
					return patient(ctx, never)
				}
				return patient(ctx, 1900*time.Millisecond)
			},
			lost: 2*(10*time.Second/3) + 8*time.Second,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				f := newFakeLine(10 * time.Second)
				n := 0 // renewals come one after the other
				f.setBefore(func(ctx context.Context, op string) error {
					if op != "renew" {
						return nil
					}
					if n++; tt.before != nil {
						return tt.before(ctx, n)
					}
					return nil
				})
				f.setAfter(func(ctx context.Context, op string) error {
					if op == "renew" && tt.after != nil {
						return tt.after(ctx, n)
					}
					return nil
				})
				l := hold(t, f, config())
				<-l.Context().Done()
				lost := time.Now()
				if got := lost.Sub(start); got != tt.lost {
					t.Errorf("lost after %v, want %v", got, tt.lost)
				}
				if err := l.Err(); !errors.Is(err, ErrLost) || !errors.Is(context.Cause(l.Context()), ErrLost) {
					t.Errorf("Err() = %v, want ErrLost", err)
				}
				<-l.kept
				<-time.After(time.Minute)
				if at, ok := f.whenRemoved(l.Key()); !ok || at.Sub(lost) < 2*time.Second {
					t.Errorf("the place was removed %v after the loss (%v), want 2s at least", at.Sub(lost), ok)
				}
			})
		})
	}
}

func TestLeaseIsKeptForAsLongAsRenewalsAreAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeLine(10 * time.Second)
		n := 0
		f.setBefore(func(ctx context.Context, op string) error { // every other one hangs
			if op != "renew" {
				return nil
			}
			if n++; n%2 == 1 && retry.Sleep(ctx, time.Hour) != nil {
				return unknown()
			}
			return nil
		})
		l := hold(t, f, config())
		<-time.After(24 * time.Hour)
		if err := l.Err(); err != nil {
			t.Errorf("Err() after a day = %v", err)
		}
		if err := l.Release(t.Context()); err != nil {
			t.Errorf("Release() = %v", err)
		}
		if keys := f.keys(); len(keys) > 0 {
			t.Errorf("places %v are left", keys)
		}
	})
}

func TestRemovedKeyIsALossAtTheNextRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeLine(10 * time.Second)
		l := hold(t, f, config())
		f.vanish(l.Key())
		start := time.Now()
		<-l.Context().Done()
		if got := time.Since(start); got > 10*time.Second/3 {
			t.Errorf("lost after %v, want a third of the TTL", got)
		}
		if err := l.Release(t.Context()); !errors.Is(err, ErrLost) {
			t.Errorf("Release() = %v, want ErrLost", err)
		}
	})
}

// Nothing of the process runs between two looks at the clock: a stop.
func TestErrLooksAtTheClockItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeLine(10 * time.Second)
		f.setBefore(func(ctx context.Context, op string) error {
			if op == "renew" {
				return retry.Sleep(ctx, time.Hour)
			}
			return nil
		})
		l := hold(t, f, config())
		l.timer.Stop() // it has not run yet
		<-time.After(8 * time.Second)
		if err := l.Err(); !errors.Is(err, ErrLost) {
			t.Errorf("Err() = %v, want ErrLost", err)
		}
		if l.Context().Err() == nil {
			t.Error("the context goes on after Err has told the loss")
		}
		<-l.kept
	})
}

func TestReleaseTellsWhatItFound(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(f *fakeLine, l *Lease)
		want   []error       // of two calls, by errors.Is
		took   time.Duration // less up to a quarter of a pause
		left   int
	}{
		{name: "held", change: func(*fakeLine, *Lease) {}, want: []error{nil, nil}},
		{name: "key gone", change: func(f *fakeLine, l *Lease) { f.vanish(l.Key()) }, want: []error{ErrLost, ErrLost}},
		{
			name: "the answer is lost",
			change: func(f *fakeLine, _ *Lease) {
				f.setAfter(func(context.Context, string) error { f.setAfter(nil); return unknown() })
			},
			want: []error{nil, nil}, took: pauseMin,
		},
		{
			name: "nobody answers until the TTL is over", // and again, with another TTL of time
			change: func(f *fakeLine, _ *Lease) {
				f.setBefore(func(context.Context, string) error { return client.ErrNoEndpoint })
			},
			want: []error{client.ErrNoEndpoint, client.ErrNoEndpoint}, took: 20 * time.Second,
		},
		{
			name: "the client is closed",
			change: func(f *fakeLine, _ *Lease) {
				f.setBefore(func(context.Context, string) error { return client.ErrClosed })
			},
			want: []error{client.ErrClosed, client.ErrClosed}, left: 1,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFakeLine(10 * time.Second)
				l := hold(t, f, config())
				tt.change(f, l)
				start := time.Now()
				for i, want := range tt.want {
					if err := l.Release(t.Context()); !errors.Is(err, want) {
						t.Errorf("Release() %d = %v, want %v", i, err, want)
					}
				}
				if got := time.Since(start); got > tt.took || got < tt.took-pauseMin/4 {
					t.Errorf("took %v, want %v", got, tt.took)
				}
				if err := l.Err(); !errors.Is(err, ErrReleased) {
					t.Errorf("Err() = %v, want ErrReleased", err)
				}
				if got := len(f.keys()); got != tt.left {
					t.Errorf("%d places are left, want %d", got, tt.left)
				}
				<-time.After(time.Minute) // for the timers of places
			})
		})
	}
}
