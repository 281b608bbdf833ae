package store

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/marsevilspirit/deimos"
)

// The matching rules of the contract, section 11, live and from history.
func TestWatchersSeeWhatMatches(t *testing.T) {
	writes := []*deimos.Request{
		set("/w/a", "1"),             // 2
		set("/w/_h", "x"),            // 3
		set("/w/_h/k", ""),           // fails: 104
		set("/w/s/_t/u", "y"),        // 4
		set("/wx", "z"),              // 5
		update("/w", "", ttl(50)),    // 6
		set("/w/a", "", refresh),     // 7, no watcher is told
		del("/w/s", recursive),       // 8
		set("/ab/x", ""),             // 9
		set("/abc", ""),              // 10
		del("/ab", recursive),        // 11
		del("/w/_h"),                 // 12
		post("/w/q", "j"),            // 13
		set("/w/e", "", dir, ttl(0)), // 14
		set("/_top/a", ""),           // 15
	}
	const expired = 16 // /w/e
	for _, tt := range []struct {
		key       string
		recursive bool
		want      []uint64
	}{
		{"/w/a", false, []uint64{2}},
		{"/w/a", true, []uint64{2}},
		{"/w", false, []uint64{6}},
		{"/w", true, []uint64{2, 6, 8, 13, 14, expired}},
		{"/w/_h", false, []uint64{3, 12}},
		{"/w/s", true, []uint64{8}},
		{"/w/s/_t", true, []uint64{4, 8}},
		{"/w/s/_t/u", false, []uint64{4, 8}},
		{"/w/s/never/was", false, []uint64{8}},
		{"/w/sx", true, nil},
		{"/w/e/never/was", true, []uint64{expired}},
		{"/", true, []uint64{2, 5, 6, 8, 9, 10, 11, 13, 14, expired}},
		{"/", false, nil},
		{"/ab", false, []uint64{11}},
		{"/ab", true, []uint64{9, 11}},
		{"/abc", false, []uint64{10}},
		{"/abc", true, []uint64{10}},
		{"/ab/x", false, []uint64{9, 11}},
		{"/_top", true, []uint64{15}},
		{"/w/a/below/a/file", true, nil},
	} {
		t.Run(fmt.Sprintf("%s recursive %t", tt.key, tt.recursive), func(t *testing.T) {
			s := New(Config{})
			live := mustWatch(t, s, tt.key, tt.recursive, 0)
			future := mustWatch(t, s, tt.key, tt.recursive, 8)
			var mid *Watcher
			for i, r := range writes {
				if i == 7 {
					mid = mustWatch(t, s, tt.key, tt.recursive, 2)
				}
				if _, err := s.Apply(r, 1000); err != nil && !errors.Is(err, &deimos.Error{Code: deimos.CodeNotDir}) {
					t.Fatal(err)
				}
				s.Publish(1)
			}
			s.Expire(1001, 10)
			s.Publish(1)
			from8 := tt.want[len(tt.want)-countFrom(tt.want, 8):]
			for _, w := range []struct {
				name string
				w    *Watcher
				want []uint64
			}{
				{"live", live, tt.want},
				{"from the future", future, from8},
				{"from history and live", mid, tt.want},
				{"from history", mustWatch(t, s, tt.key, tt.recursive, 1), tt.want},
				{"from history at 8", mustWatch(t, s, tt.key, tt.recursive, 8), from8},
				{"from beyond", mustWatch(t, s, tt.key, tt.recursive, 100), nil},
				{"from now", mustWatch(t, s, tt.key, tt.recursive, 0), nil},
			} {
				if got := indexes(t, w.w); !slices.Equal(got, w.want) {
					t.Errorf("%s: events %d, want %d", w.name, got, w.want)
				}
			}
		})
	}
}

func countFrom(indexes []uint64, from uint64) int {
	n := 0
	for _, i := range indexes {
		if i >= from {
			n++
		}
	}
	return n
}

// indexes returns the indexes of all events that Next hands out without waiting.
func indexes(t testing.TB, w *Watcher) []uint64 {
	t.Helper()
	var got []uint64
	for w.Ready() {
		e, err := w.Next(context.Background())
		if err != nil {
			t.Fatalf("Next() = %v, want no error", err)
		}
		got = append(got, e.Index())
	}
	return got
}

func TestNextWaitsForAnEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newWith(t, set("/a", "1"))
		w := mustWatch(t, s, "/a", false, 0)
		if w.StartIndex() != 2 {
			t.Errorf("StartIndex() = %d, want 2", w.StartIndex())
		}
		var got atomic.Pointer[Event]
		go func() {
			e, err := w.Next(t.Context())
			if err != nil {
				t.Error(err)
			}
			got.Store(e)
		}()
		synctest.Wait()
		mustApply(t, s, set("/b", "1"))
		if _, err := s.Apply(set("/a", "2"), 1); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got.Load() != nil {
			t.Errorf("Next() returned %s before it was published", eventText(got.Load()))
		}
		s.Publish(2)
		synctest.Wait()
		if e := got.Load(); e == nil || e.Index() != 4 {
			t.Errorf("Next() has not returned the event at 4")
		}
	})
}

func TestNextReturnsWhenItsContextIsDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newWith(t)
		w := mustWatch(t, s, "/a", false, 0)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := w.Next(ctx); err != context.DeadlineExceeded {
			t.Errorf("Next() = %v, want %v", err, context.DeadlineExceeded)
		}
		mustApply(t, s, set("/a", "1"))
		if _, err := w.Next(ctx); err != context.DeadlineExceeded {
			t.Errorf("Next() with an event waiting = %v, want %v", err, context.DeadlineExceeded)
		}
		if e, err := w.Next(t.Context()); err != nil || e.Index() != 2 {
			t.Errorf("Next() with a fresh context = %v, %v, want the event at 2", e, err)
		}
	})
}

func TestWatchesEnd(t *testing.T) {
	for _, tt := range []struct {
		name  string
		end   func(t *testing.T, s *Store, w *Watcher)
		after error // of a new watch
	}{
		{"when closed", func(_ *testing.T, _ *Store, w *Watcher) { w.Close(); w.Close() }, nil},
		{"when the store stops", func(_ *testing.T, s *Store, _ *Watcher) { s.CloseWatches(); s.CloseWatches() }, ErrStopped},
		{"when a snapshot is restored", func(t *testing.T, s *Store, _ *Watcher) {
			if err := s.Restore(9, strings.NewReader(string(snapshot(t, newWith(t, set("/x", "1")).View())))); err != nil {
				t.Error(err)
			}
		}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newWith(t, set("/a", "1"))
				blocked := mustWatch(t, s, "/a", false, 0)
				replaying := mustWatch(t, s, "/a", false, 1)
				queued := mustWatch(t, s, "/b", false, 0)
				mustApply(t, s, set("/b", "1"))
				done := make(chan error, 1)
				go func() {
					_, err := blocked.Next(t.Context())
					done <- err
				}()
				synctest.Wait()
				for _, w := range []*Watcher{blocked, replaying, queued} {
					tt.end(t, s, w)
					if w == blocked { // Next has one caller at a time
						if err := <-done; err != ErrWatchEnded {
							t.Errorf("blocked Next() = %v, want %v", err, ErrWatchEnded)
						}
					}
					if got := waiting(t, w); !slices.Equal(got, []string{ErrWatchEnded.Error()}) {
						t.Errorf("ended watch hands out %q, want %q alone", got, ErrWatchEnded)
					}
				}
				if n := s.Watchers(); n != 0 {
					t.Errorf("Watchers() = %d, want 0", n)
				}
				w, err := s.Watch("/a", false, 0)
				if err != tt.after {
					t.Errorf("Watch() afterwards = %v, want %v", err, tt.after)
				}
				if err == nil {
					w.Close()
				}
				mustApply(t, s, set("/a", "2"))
			})
		})
	}
}

func TestClosingRemovesOnlyOneself(t *testing.T) {
	s := New(Config{})
	var watchers []*Watcher
	for i := range 50 {
		watchers = append(watchers, mustWatch(t, s, []string{"/a", "/a/b"}[i%2], i%3 == 0, 0))
	}
	for i, w := range watchers {
		if i%4 == 1 {
			w.Close()
			w.Close()
		}
	}
	if n := s.Watchers(); n != 37 {
		t.Errorf("Watchers() = %d, want 37", n)
	}
	mustApply(t, s, set("/a/b", "1"))
	for i, w := range watchers {
		want := 1
		if i%4 == 1 || i%2 == 0 && i%3 != 0 {
			want = 0
		}
		got := 0
		for w.Ready() && i%4 != 1 {
			if _, err := w.Next(t.Context()); err != nil {
				t.Fatal(err)
			}
			got++
		}
		if got != want {
			t.Errorf("watcher %d got %d events, want %d", i, got, want)
		}
		w.Close()
	}
	if n := s.Watchers() + len(s.hub.groups) + s.hub.ordered.Len(); n != 0 {
		t.Errorf("watchers and groups left = %d, want 0", n)
	}
}

func TestUncleanKeysAreNotWatched(t *testing.T) {
	for _, key := range []string{"", "a", "/a/", "//", "/a/../b"} {
		if _, err := New(Config{}).Watch(key, true, 0); !errors.Is(err, &deimos.Error{Code: deimos.CodeInvalidField}) {
			t.Errorf("Watch(%q) = %v, want code 209", key, err)
		}
	}
}

func TestSlowWatcherGetsWhatWasQueuedAndThenEnds(t *testing.T) {
	for _, tt := range []struct {
		name       string
		valueBytes int
		create     bool // events without a previous value
		fits       int
	}{
		{"by count", 1, true, WatchEventsMax},
		{"by bytes", 100000 - eventOverheadBytes - len("/k0000"), true, WatchBytesMax / 100000},
		{"one large event", 3 << 20, true, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := New(Config{})
			w := mustWatch(t, s, "/", true, 0)
			quick := mustWatch(t, s, "/", true, 0)
			value := strings.Repeat("v", tt.valueBytes)
			for i := range tt.fits {
				mustApply(t, s, set(fmt.Sprintf("/k%04d", i), value))
				if got := len(indexes(t, quick)); got != 1 {
					t.Fatalf("quick watcher got %d events after write %d, want 1", got, i+1)
				}
			}
			if n := s.Watchers(); n != 2 {
				t.Fatalf("Watchers() with %d events queued = %d, want 2", tt.fits, n)
			}
			mustApply(t, s, set("/k9999", value))
			if n := s.Watchers(); n != 1 {
				t.Errorf("Watchers() after the overflow = %d, want 1", n)
			}
			mustApply(t, s, set("/more", ""))
			got := waiting(t, w)
			if len(got) != tt.fits+1 || got[len(got)-1] != ErrSlowWatcher.Error() {
				t.Errorf("slow watcher handed out %d events, want %d and %q", len(got)-1, tt.fits, ErrSlowWatcher)
			}
			if !w.Ready() {
				t.Fatal("the watch of a slow watcher goes on")
			}
			if _, err := w.Next(t.Context()); err != ErrSlowWatcher {
				t.Errorf("Next() again = %v, want %v", err, ErrSlowWatcher)
			}
			resumed := mustWatch(t, s, "/", true, uint64(tt.fits)+2)
			if got := indexes(t, resumed); !slices.Equal(got, []uint64{uint64(tt.fits) + 2, uint64(tt.fits) + 3}) {
				t.Errorf("resumed watch got %d, want the events after the last one", got)
			}
		})
	}
}

func TestQueueRoomComesBackAsEventsAreTaken(t *testing.T) {
	s := New(Config{})
	w := mustWatch(t, s, "/k", false, 0)
	next := uint64(2)
	for range 10 {
		for range WatchEventsMax / 2 {
			mustApply(t, s, set("/k", "v"))
		}
		for range WatchEventsMax/2 - 40 {
			e, err := w.Next(t.Context())
			if err != nil || e.Index() != next {
				t.Fatalf("Next() = %v, %v, want the event at %d", e, err, next)
			}
			next++
		}
	}
	for _, i := range indexes(t, w) {
		if i != next {
			t.Fatalf("Next() has index %d, want %d", i, next)
		}
		next++
	}
	if next != s.View().Index()+1 || w.bytes != 0 || w.queue != nil {
		t.Errorf("after reading all: next %d, %d bytes queued, %d slots, want %d and nothing", next, w.bytes, cap(w.queue), s.View().Index()+1)
	}
}

func TestHistoryToReplayDoesNotCountAsSlow(t *testing.T) {
	s := New(Config{})
	for range 3 * WatchEventsMax {
		mustApply(t, s, set("/k", "v"))
	}
	w := mustWatch(t, s, "/k", false, 2)
	for range WatchEventsMax {
		mustApply(t, s, set("/k", "v"))
	}
	got := indexes(t, w)
	if len(got) != 4*WatchEventsMax || s.Watchers() != 1 {
		t.Errorf("watcher got %d events, want %d", len(got), 4*WatchEventsMax)
	}
}

func TestTheFirstEncodingOfAnEventIsKept(t *testing.T) {
	s := New(Config{})
	e, err := s.Apply(set("/a", "1"), 1)
	if err != nil {
		t.Fatal(err)
	}
	if got := e.Encoding(); got != nil {
		t.Errorf("Encoding() = %q, want none yet", got)
	}
	var first atomic.Int32
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			if e.KeepEncoding([]byte{byte(i)}) {
				first.Add(1)
			}
		})
	}
	group.Wait()
	if got := e.Encoding(); first.Load() != 1 || len(got) != 1 {
		t.Errorf("%d of 8 were first and %q is kept, want one", first.Load(), got)
	}
	e.DropEncoding()
	if got := e.Encoding(); got != nil {
		t.Errorf("Encoding() = %q after DropEncoding(), want none", got)
	}
}

func TestEventsTellTheirTime(t *testing.T) {
	s := New(Config{})
	e, err := s.Apply(set("/a", "1", ttl(1)), 4321)
	if err != nil || e.NowMS() != 4321 {
		t.Errorf("NowMS() = %d, %v, want 4321", e.NowMS(), err)
	}
	s.Expire(9999, 1)
	if got := s.batch[1].NowMS(); got != 9999 {
		t.Errorf("NowMS() of the expiry = %d, want 9999", got)
	}
}

func TestIdleWatcherIsSmall(t *testing.T) {
	if got := unsafe.Sizeof(Watcher{}) + unsafe.Sizeof(group{}); got > 200 {
		t.Errorf("a watcher with its group takes %d bytes, want at most 200", got)
	}
}

// registrations is a flag because the promise is about 1,000,000 of them:
// go test ./store -run RegistrationRaces -race -registrations 10000000
var registrations = flag.Int("registrations", 200000, "watches that race with publications; a tenth with -race or -short")

// A watch that begins while writes are published gets every event from its
// first index on, without a gap, whichever way the two race. Several goroutines
// register, so that the lock always has somebody waiting for it.
func TestRegistrationRacesWithPublication(t *testing.T) {
	const registrars = 16
	tries := *registrations
	if raceEnabled || testing.Short() {
		tries /= 10
	}
	s := New(Config{})
	mustApply(t, s, set("/d/k", "v"))
	var writer, readers sync.WaitGroup
	var stop atomic.Bool
	writer.Go(func() {
		for i := 0; !stop.Load(); i++ {
			for range i%3 + 1 {
				if _, err := s.Apply(set("/d/k", "v"), 1); err != nil {
					t.Error(err)
					return
				}
			}
			s.Publish(uint64(i))
		}
	})
	for range registrars {
		readers.Go(func() {
			for i := range tries / registrars {
				if err := registerOnce(t.Context(), s, i); err != nil {
					t.Errorf("try %d: %v", i, err)
					return
				}
			}
		})
	}
	readers.Wait()
	stop.Store(true)
	writer.Wait()
}

// registerOnce begins a watch, from now or from the present index, and reads up
// to its first live event. Every event of the store matches.
func registerOnce(ctx context.Context, s *Store, i int) error {
	var from uint64
	if i%2 == 0 {
		from = max(s.View().Index(), 2)
	}
	w, err := s.Watch([]string{"/d/k", "/d", "/"}[i%3], i%3 != 0, from)
	if errors.Is(err, &deimos.Error{Code: deimos.CodeIndexCleared}) {
		return nil // held up for the whole length of the history
	}
	if err != nil {
		return err
	}
	defer w.Close()
	want := from
	if from == 0 {
		want = w.StartIndex() + 1
	}
	for ; want <= w.StartIndex()+1; want++ {
		e, err := w.Next(ctx)
		if err != nil {
			return err
		}
		if e.Index() != want {
			return fmt.Errorf("Next() = event at %d, want %d of a watch from %d at %d", e.Index(), want, from, w.StartIndex())
		}
	}
	return nil
}
