package httpapi

import (
	"strings"
	"sync"
	"testing"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/store"
)

func write(t *testing.T, s *store.Store, value string) *store.Event {
	t.Helper()
	e, err := s.Apply(&deimos.Request{Op: deimos.OpSet, Key: "/a", Value: value}, 1)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestAnEventIsEncodedOnceForItsWatchers(t *testing.T) {
	b := newFake()
	h := newHandler(t, b, nil)
	e := write(t, b.store, "1")
	lines := make([][]byte, 8)
	var group sync.WaitGroup
	for i := range lines {
		group.Go(func() { lines[i] = h.encoded(e) })
	}
	group.Wait()
	for i, line := range lines {
		if &line[0] != &lines[0][0] {
			t.Errorf("watcher %d got bytes of its own", i)
		}
	}
}

// The history does not count what is kept for watchers.
func TestWhatIsKeptForWatchersIsBounded(t *testing.T) {
	const bytesMax, countMax = 64 << 10, 16
	for _, tt := range []struct {
		name, value string
		events      int
		most        int // bytes that are kept
	}{
		{"control characters", strings.Repeat("\x01", 500), 100, bytesMax},
		{"too large to be kept", strings.Repeat("\x01", 5000), 4, 0},
		{"many small ones", "x", 3 * countMax, countMax * 512},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newFake()
			h := newHandler(t, b, nil)
			h.encodings.bytesMax, h.encodings.countMax = bytesMax, countMax
			var events []*store.Event
			for range tt.events {
				e := write(t, b.store, tt.value)
				if line := h.encoded(e); !strings.Contains(string(line[:64]), `"action":"set"`) {
					t.Fatalf("encoded() = %.64q, want the event", line)
				}
				events = append(events, e)
			}
			bytes, count := 0, 0
			for _, e := range events {
				if line := e.Encoding(); line != nil {
					bytes += cap(line)
					count++
				}
			}
			if bytes > tt.most || count > countMax {
				t.Errorf("%d bytes of %d events are kept, want at most %d of %d", bytes, count, tt.most, countMax)
			}
			if bytes != h.encodings.bytes || count != len(h.encodings.events) {
				t.Errorf("%d bytes of %d events are counted, want %d of %d", h.encodings.bytes, len(h.encodings.events), bytes, count)
			}
			if tt.most > 0 && events[len(events)-1].Encoding() == nil {
				t.Error("the newest event's is not kept")
			}
		})
	}
}
