package mirror

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/client"
)

func TestAMissingDirectoryIsEmptyAndMayComeLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, r := newSource(), new(receiver)
		s.become(7, nil)
		openPlayed(t, s, r)
		if r.count != 1 || r.last == nil || len(r.last) != 0 {
			t.Fatalf("delivered %d times, last %v, want once, empty", r.count, r.last)
		}
		s.event(8, deimos.ActionSet, file("/d/a", "1"))
		synctest.Wait()
		if want := (Files{"a": "1"}); !maps.Equal(r.last, want) {
			t.Errorf("delivered %v, want %v", r.last, want)
		}
	})
}

func TestTheLastStateStaysWhileNobodyAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, r := newSource(), new(receiver)
		s.become(7, dir("/d", file("/d/a", "1")))
		m := openPlayed(t, s, r)
		pass(time.Minute)
		if m.Age() > checkInterval || !m.Healthy() || m.Err() != nil {
			t.Errorf("after a quiet minute: age %v, healthy %v, error %v, want a fresh copy", m.Age(), m.Healthy(), m.Err())
		}

		s.fail(client.ErrNoEndpoint)
		pass(time.Minute)
		if m.Age() < 55*time.Second || m.Healthy() || !errors.Is(m.Err(), client.ErrNoEndpoint) {
			t.Errorf("after a minute alone: age %v, healthy %v, error %v, want an old copy", m.Age(), m.Healthy(), m.Err())
		}
		if r.count != 1 || len(r.last) != 1 {
			t.Errorf("delivered %d times, last %v, want the first state alone", r.count, r.last)
		}

		s.fail(nil)
		pass(checkInterval)
		if !m.Healthy() || m.Err() != nil {
			t.Errorf("afterwards: healthy %v, error %v, want a fresh copy", m.Healthy(), m.Err())
		}
	})
}

func TestAWatchThatHasStoppedIsBegunAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, r := newSource(), new(receiver)
		s.become(7, dir("/d", file("/d/a", "1")))
		m := openPlayed(t, s, r)
		s.become(8, dir("/d", file("/d/a", "2"))) // and no event
		pass(2*checkInterval + time.Second)
		if s.opened() != 2 {
			t.Fatalf("%d watches, want a second one", s.opened())
		}
		s.reset()
		synctest.Wait()
		if r.last["a"] != "2" || m.Age() != 0 {
			t.Errorf("delivered %v, age %v, want the new value, just now", r.last, m.Age())
		}
	})
}

func TestAWatchThatIsLateOrAheadIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, r := newSource(), new(receiver)
		s.become(7, dir("/d", file("/d/a", "1")))
		m := openPlayed(t, s, r)
		for i := range uint64(60) {
			// A read is ahead of the watch, which then goes beyond.
			s.become(10+10*i, dir("/d", file("/d/a", "read")))
			pass(time.Second)
			s.event(11+10*i, deimos.ActionSet, file("/d/a", "later"))
		}
		synctest.Wait()
		if s.opened() != 1 || !m.Healthy() {
			t.Errorf("%d watches, healthy %v, want one watch of a fresh copy", s.opened(), m.Healthy())
		}
	})
}

func TestStatesAreMergedWhileTheReceiverIsAtWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource()
		s.become(7, dir("/d", file("/d/a", "0")))
		gate := make(chan struct{}, 1)
		gate <- struct{}{}
		var got []string
		go s.reset()
		m, err := Open(t.Context(), s, "/d", slog.New(slog.DiscardHandler), func(f Files) {
			<-gate
			got = append(got, f["a"])
		})
		if err != nil {
			t.Fatal(err)
		}
		for i, v := range []string{"1", "2", "3"} {
			s.event(uint64(8+i), deimos.ActionSet, file("/d/a", v))
			synctest.Wait()
		}
		close(gate)
		synctest.Wait()
		m.Close()
		if len(got) != 3 || got[0] != "0" || got[1] != "1" || got[2] != "3" {
			t.Errorf("delivered %v, want [0 1 3]", got)
		}
	})
}

func TestOpenTriesUntilItsContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		go func() {
			for ctx.Err() == nil {
				select {
				case s.items <- item{err: client.ErrNoEndpoint}:
				case <-ctx.Done():
				}
			}
		}()
		m, err := Open(ctx, s, "/d", slog.New(slog.DiscardHandler), new(receiver).take)
		if m != nil || !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, client.ErrNoEndpoint) {
			t.Errorf("Open = %v, %v, want both reasons", m, err)
		}
		if n := s.opened(); n < 10 || n > 40 {
			t.Errorf("%d tries in a minute, want a pause of seconds between them", n)
		}
	})
}

func TestOpenFailsAtOnceWhenItCanNeverWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource()
		go func() { s.items <- item{err: client.ErrInvalidArgument} }()
		if m, err := Open(t.Context(), s, "/d", slog.New(slog.DiscardHandler), new(receiver).take); m != nil || err != client.ErrInvalidArgument {
			t.Errorf("Open = %v, %v, want ErrInvalidArgument", m, err)
		}
	})
}

func TestTheMirrorEndsWithItsClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, r := newSource(), new(receiver)
		s.become(7, dir("/d", file("/d/a", "1")))
		m := openPlayed(t, s, r)
		s.items <- item{err: client.ErrClosed}
		<-m.Done()
		pass(time.Minute)
		if m.Healthy() || !errors.Is(m.Err(), client.ErrClosed) || r.last["a"] != "1" {
			t.Errorf("healthy %v, error %v, files %v, want the last state and ErrClosed", m.Healthy(), m.Err(), r.last)
		}
	})
}
