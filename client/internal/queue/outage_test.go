package queue

import (
	"context"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/client"
)

// A cluster that refuses all writes for an hour is asked ever less often, and is
// told of once when it begins and once when it is over.
func TestAnOutageIsToldOnceAndTriedEverLessOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeLine(10 * time.Second)
		tries := 0
		f.setBefore(func(_ context.Context, op string) error {
			if op != "enter" {
				return nil
			}
			tries++
			return &deimos.Error{Code: deimos.CodeRaftInternal, Cause: deimos.CauseDiskReserve}
		})
		told := &lines{}
		cfg := owned("anna")
		cfg.Log = slog.New(told)
		w := newContender(f, cfg)
		done := make(chan error)
		go func() { done <- w.wait(t.Context()) }()
		<-time.After(time.Hour)
		synctest.Wait()
		fails := []string{"waiting in the queue fails, trying on"}
		if got := told.all(); !slices.Equal(got, fails) {
			t.Errorf("the log has %q during the outage, want %q", got, fails)
		}
		if low, high := int(time.Hour/pauseMax), int(time.Hour/pauseMax*4/3)+10; tries < low || tries > high {
			t.Errorf("%d tries in an hour, want %d to %d", tries, low, high)
		}
		f.setBefore(nil)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if got, want := told.all(), append(fails, "waiting in the queue goes on"); !slices.Equal(got, want) {
			t.Errorf("the log has %q after the outage, want %q", got, want)
		}
		if err := w.lease.Release(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestRenewalsThatFailAreToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeLine(10 * time.Second)
		told := &lines{}
		cfg := owned("anna")
		cfg.Log = slog.New(told)
		l := hold(t, f, cfg)
		f.setBefore(func(context.Context, string) error { return client.ErrNoEndpoint })
		<-time.After(7 * time.Second)
		f.setBefore(nil)
		<-time.After(time.Minute)
		if got, want := told.all(), []string{"renewal fails, trying on", "renewal works again"}; !slices.Equal(got, want) {
			t.Errorf("the log has %q, want %q", got, want)
		}
		if err := l.Release(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
