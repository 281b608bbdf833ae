package store

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/marsevilspirit/deimos"
)

func TestHistoryKeepsTheNewestEventsOnly(t *testing.T) {
	const key = "/k" // its events cost 192 + 2 + value + previous value
	for _, tt := range []struct {
		name   string
		cfg    Config
		writes int
		value  string
		oldest uint64
	}{
		{"fresh", Config{}, 0, "", 1},
		{"one below the count", Config{HistoryEvents: 10}, 9, "", 1},
		{"at the count", Config{HistoryEvents: 10}, 10, "", 1},
		{"one above the count", Config{HistoryEvents: 10}, 11, "", 3},
		{"far above the count", Config{HistoryEvents: 10}, 29, "", 21},
		{"across chunks", Config{HistoryEvents: 3 * chunkEvents}, 20 * chunkEvents, "", 17*chunkEvents + 2},
		{"one event", Config{HistoryEvents: 1}, 600, "", 601},
		{"at the bytes", Config{HistoryBytes: 5 * 194}, 5, "", 1},
		{"one above the bytes", Config{HistoryBytes: 5*194 - 1}, 5, "", 3},
		{"newest alone is too large", Config{HistoryBytes: 1}, 5, "large", 6},
		{"by bytes across chunks", Config{HistoryBytes: 400 * (194 + 20)}, 2000, strings.Repeat("v", 10), 1602},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := New(tt.cfg)
			for range tt.writes {
				mustApply(t, s, set(key, tt.value))
			}
			v := s.View()
			if got := v.OldestIndex(); got != tt.oldest {
				t.Fatalf("OldestIndex() after %d writes = %d, want %d", tt.writes, got, tt.oldest)
			}
			_, err := s.Watch(key, false, tt.oldest-1)
			if cleared := errors.Is(err, &deimos.Error{Code: deimos.CodeIndexCleared}); cleared != (tt.oldest > 1) {
				t.Errorf("Watch from %d = %v, want refused %t", tt.oldest-1, err, tt.oldest > 1)
			}
			got := waiting(t, mustWatch(t, s, key, false, tt.oldest))
			if want := int(v.Index() - max(tt.oldest, 2) + 1); len(got) != want {
				t.Errorf("Watch from %d has %d events, want %d", tt.oldest, len(got), want)
			}
		})
	}
}

func TestClearedHistoryIsNamedInTheError(t *testing.T) {
	s := New(Config{HistoryEvents: 10})
	for s.index < 30 {
		mustApply(t, s, set("/a", "v"))
	}
	_, err := s.Watch("/w", false, 20)
	if err == nil {
		t.Fatal("Watch(/w, 20) = nil, want 401: the history begins at 21")
	}
	if got, want := outcomeText(nil, err), "401 the requested history has been cleared [21/20] at 30"; got != want {
		t.Errorf("Watch(/w, 20) = %s, want %s", got, want)
	}
	if n := s.Watchers(); n != 0 {
		t.Errorf("Watchers() after a refused watch = %d, want 0", n)
	}
}

// Cleared events may stay in memory only as part of a chunk that is still in
// use, and that is a small part of the bound.
func TestClearedEventsAreSoonReleased(t *testing.T) {
	for _, valueBytes := range []int{0, 1000, 100000, 3000000} {
		t.Run(fmt.Sprintf("values of %d bytes", valueBytes), func(t *testing.T) {
			const bytesMax = 10 << 20
			s := New(Config{HistoryBytes: bytesMax, HistoryEvents: 1000})
			value := strings.Repeat("v", valueBytes)
			for i := range 3000 {
				mustApply(t, s, set("/a", value))
				var held, largest int64
				if i%100 != 99 {
					continue
				}
				for _, c := range s.history.chunks {
					for _, e := range c.events {
						if e != nil {
							held += e.cost()
							largest = max(largest, e.cost())
						}
					}
				}
				if most := bytesMax + bytesMax/chunkShare + 2*largest; held > most {
					t.Fatalf("history holds %d bytes after %d writes, want at most %d", held, i+1, most)
				}
				if n := len(s.history.chunks); n > 1000/chunkEvents+2+3*chunkShare {
					t.Fatalf("history has %d chunks", n)
				}
			}
		})
	}
}

// A batch may hold more events than the history keeps.
func TestLiveWatchersGetEventsThatTheHistoryHasCleared(t *testing.T) {
	s := New(Config{HistoryEvents: 2})
	w := mustWatch(t, s, "/", true, 0)
	var batch []*deimos.Request
	for i := range 20 {
		batch = append(batch, set(fmt.Sprintf("/k%d", i), ""))
	}
	mustApply(t, s, batch...)
	if got := waiting(t, w); len(got) != 20 {
		t.Errorf("watcher got %d events, want 20", len(got))
	}
	if got := s.View().OldestIndex(); got != 20 {
		t.Errorf("OldestIndex() = %d, want 20", got)
	}
}

func TestReplayIsPinnedAtRegistration(t *testing.T) {
	s := New(Config{HistoryEvents: 5})
	for range 5 {
		mustApply(t, s, set("/a", "v"))
	}
	w := mustWatch(t, s, "/a", false, 2)
	for range 2000 {
		mustApply(t, s, set("/b", "v"))
	}
	mustApply(t, s, set("/a", "v"))
	if got := waiting(t, w); len(got) != 6 {
		t.Errorf("watcher got %d events, want the 5 of its history and 1 live", len(got))
	}
}
