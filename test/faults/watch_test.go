package faults

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/marsevilspirit/deimos"
)

// roamers is how many watchers change from member to member, beside one that
// stays with each member.
const roamers = 2

// event is a write or expiry, as watchers were told of it.
type event struct {
	Index  uint64        `json:"index"`
	Action deimos.Action `json:"action"`
	Node   node          `json:"node"`
	Prev   *node         `json:"prev,omitempty"`
	// At is when the first watcher heard of it, in nanoseconds since the run
	// began.
	At   int64  `json:"at"`
	From string `json:"from"`
}

// same reports whether two watchers were told the same.
func (e *event) same(other *event) bool {
	if e.Action != other.Action || e.Node != other.Node || (e.Prev == nil) != (other.Prev == nil) {
		return false
	}
	return e.Prev == nil || *e.Prev == *other.Prev
}

// events are what all watchers of a run were told.
type events struct {
	mu      sync.Mutex
	byIndex map[uint64]*event
	heard   int
	watches int
	cleared int // answers that the history is gone
}

// watchers follow the whole tree from index 2 on.
type watchers struct {
	*events
	c    *cluster
	at   []atomic.Uint64 // the last index of each
	wg   sync.WaitGroup
	stop context.CancelFunc
}

func startWatchers(ctx context.Context, c *cluster, seed uint64) *watchers {
	ctx, cancel := context.WithCancel(ctx)
	w := &watchers{events: &events{byIndex: map[uint64]*event{}}, c: c, stop: cancel, at: make([]atomic.Uint64, c.Size+roamers)}
	for i := range w.at {
		w.wg.Go(func() { w.follow(ctx, i, rand.New(rand.NewPCG(seed, 1000+uint64(i)))) })
	}
	return w
}

func (w *watchers) end() {
	w.stop()
	w.wg.Wait()
}

// wantAll waits until every watcher has come to an index.
func (w *watchers) wantAll(ctx context.Context, index uint64) {
	err := within(ctx, 10*time.Second, func(context.Context) error {
		for i := range w.at {
			if at := w.at[i].Load(); at < index {
				return fmt.Errorf("faults: watcher %d is at index %d", i, at)
			}
		}
		return nil
	})
	if err != nil {
		w.c.violate("watch", "not all watchers came to index %d: %v", index, err)
	}
}

// follow is one watcher: it resumes behind the last index that it has seen,
// whenever a watch ends or is left.
func (w *watchers) follow(ctx context.Context, id int, rng *rand.Rand) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	w.at[id].Store(1)
	for ctx.Err() == nil {
		m := w.c.members[id%w.c.Size]
		stay := time.Duration(200+rng.IntN(1500)) * time.Millisecond
		if id >= w.c.Size {
			if all := w.c.inside(); len(all) > 0 {
				m = all[rng.IntN(len(all))]
			}
		} else if rng.IntN(3) > 0 {
			stay = time.Hour
		}
		watch, cancel := context.WithTimeout(ctx, stay)
		err := w.watch(watch, client, id, m, rng.IntN(4) > 0)
		cancel()
		if err != nil {
			letPass(ctx, 20*time.Millisecond)
		}
	}
}

// watch opens one watch and reads it to its end. Its error says that there was
// none.
func (w *watchers) watch(ctx context.Context, client *http.Client, id int, m *member, stream bool) error {
	last := w.at[id].Load()
	target := fmt.Sprintf("%s/keys/?wait=true&recursive=true&waitIndex=%d", m.client, last+1)
	if stream {
		target += "&stream=true"
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		return w.refused(id, m, last, resp.StatusCode, body)
	}
	w.mu.Lock()
	w.watches++
	w.mu.Unlock()
	lines := bufio.NewReader(resp.Body)
	for {
		line, err := lines.ReadString('\n')
		if errors.Is(err, io.EOF) && line != "" && ctx.Err() == nil {
			w.c.violate("watch", "watcher %d on %s: an ordinary end within a line: %q", id, m.name, line)
		}
		if err != nil {
			return nil // the end of the watch; half a line is no event
		}
		e, err := eventOf(line)
		if err != nil {
			w.c.violate("watch", "watcher %d on %s: %v", id, m.name, err)
			return nil
		}
		e.At, e.From = int64(w.c.since()), m.name
		if e.Index != last+1 {
			w.c.violate("watch", "watcher %d on %s heard of index %d after %d", id, m.name, e.Index, last)
		}
		last = max(last, e.Index)
		w.at[id].Store(last)
		if old := w.events.add(e); old != nil {
			w.c.violate("watch", "event %d is %+v for %s and %+v for %s", e.Index, old, old.From, e, e.From)
		}
	}
}

// refused judges an answer without a watch. History that is gone is skipped.
func (w *watchers) refused(id int, m *member, last uint64, status int, body []byte) error {
	var a answer
	if err := json.Unmarshal(body, &a); err != nil {
		w.c.violate("watch", "watcher %d on %s: status %d with %.200q", id, m.name, status, body)
		return err
	}
	if status == http.StatusServiceUnavailable || status == http.StatusInternalServerError && a.Cause == deimos.CauseStopping {
		return fmt.Errorf("faults: watch on %s: %.200s", m.name, body)
	}
	var oldest, requested uint64
	_, err := fmt.Sscanf(a.Cause, "the requested history has been cleared [%d/%d]", &oldest, &requested)
	if status != http.StatusBadRequest || a.ErrorCode != deimos.CodeIndexCleared || err != nil ||
		requested != last+1 || oldest <= requested || oldest > a.Index+1 {
		w.c.violate("watch", "watcher %d on %s from index %d: status %d with %s", id, m.name, last+1, status, body)
		return fmt.Errorf("faults: watch on %s: %.200s", m.name, body)
	}
	w.mu.Lock()
	w.cleared++
	w.mu.Unlock()
	w.at[id].Store(oldest - 1)
	return nil
}

func eventOf(line string) (*event, error) {
	var a answer
	if err := json.Unmarshal([]byte(line), &a); err != nil {
		return nil, fmt.Errorf("line %.200q: %w", line, err)
	}
	if a.Node == nil {
		return nil, fmt.Errorf("line %.200q has no node", line)
	}
	return &event{Index: a.Node.ModifiedIndex, Action: a.Action, Node: *nodeOf(a.Node), Prev: nodeOf(a.PrevNode)}, nil
}

// add keeps an event. It returns an earlier one that contradicts it.
func (s *events) add(e *event) *event {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard++
	old := s.byIndex[e.Index]
	if old == nil {
		s.byIndex[e.Index] = e
		return nil
	}
	old.At = min(old.At, e.At)
	if !old.same(e) {
		return old
	}
	return nil
}

// missing counts the indexes up to end of which no watcher has heard.
func (s *events) missing(end uint64) (count int, first uint64) {
	for i := uint64(2); i <= end; i++ {
		if s.byIndex[i] == nil {
			if count++; first == 0 {
				first = i
			}
		}
	}
	return count, first
}
