package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos"
)

const (
	// voidRate is the number of acknowledged writes a second below which a run
	// proves nothing.
	voidRate = 200
	// keysPerWriter bounds the tree, so that it can be compared as a whole.
	keysPerWriter = 40
	// writeMax is how long a writer waits for one answer. A write that went to a
	// leader just before it died has no answer until the program's own time-out,
	// for it is never proposed twice; a writer that wants to go on asks again.
	writeMax = 500 * time.Millisecond
)

// load is a set of writers, each with keys of its own that no one else writes
// and with values that rise. It records what was acknowledged.
type load struct {
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu      sync.Mutex
	changed *sync.Cond
	count   int
	index   uint64
	ackedAt time.Time // when the last write that was acknowledged was answered
	sentAt  time.Time // when the last write that was acknowledged was sent
	keys    map[string]*written
	events  []acked
	wrong   error // an answer that must not be
	last    time.Time
	working time.Duration // time in which writes were acknowledged without a gap of a second
}

// written is what is known of one key.
type written struct{ acked, tried int }

// acked is a write that was acknowledged.
type acked struct {
	index      uint64
	key, value string
}

// startLoad starts writers that turn to the next URL whenever one fails them.
func startLoad(t testing.TB, writers int, urls ...string) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel, keys: map[string]*written{}}
	l.changed = sync.NewCond(&l.mu)
	client := &http.Client{
		Timeout:   writeMax,
		Transport: &http.Transport{MaxIdleConnsPerHost: writers, DisableCompression: true},
	}
	for i := range writers {
		l.done.Go(func() { l.write(ctx, client, urls, fmt.Sprintf("/load/%d-%d", time.Now().UnixNano(), i), i) })
	}
	t.Cleanup(func() {
		cancel()
		l.done.Wait()
		client.CloseIdleConnections()
	})
	return l
}

// write is one writer.
func (l *load) write(ctx context.Context, client *http.Client, urls []string, dir string, turn int) {
	pause := time.NewTicker(20 * time.Millisecond)
	defer pause.Stop()
	for seq := 1; ctx.Err() == nil; seq++ {
		key := fmt.Sprintf("%s/%02d", dir, seq%keysPerWriter)
		l.try(key, seq)
		sent := time.Now()
		index, err := put(ctx, client, urls[turn%len(urls)], key, strconv.Itoa(seq))
		if err == nil {
			l.ack(key, seq, index, sent)
			continue
		}
		if errors.Is(err, errContract) {
			l.fail(err)
			return
		}
		turn++
		select {
		case <-pause.C:
		case <-ctx.Done():
		}
	}
}

// errContract marks an answer that no fault excuses.
var errContract = errors.New("e2e: an answer that must not be")

// put writes a key and returns the index of the write.
func put(ctx context.Context, client *http.Client, base, key, value string) (uint64, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPut, base+"/keys"+key, strings.NewReader("value="+url.QueryEscape(value)))
	if err != nil {
		return 0, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := client.Do(r)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if res.StatusCode/100 == 2 {
		// The status line acknowledges the write, whatever becomes of the body.
		index, perr := strconv.ParseUint(res.Header.Get("X-Deimos-Index"), 10, 64)
		if perr != nil {
			return 0, fmt.Errorf("%w: PUT %s: index header: %w", errContract, key, perr)
		}
		return index, nil
	}
	if err != nil {
		return 0, err
	}
	if res.StatusCode < 500 {
		return 0, fmt.Errorf("%w: PUT %s = %d %s", errContract, key, res.StatusCode, body)
	}
	return 0, fmt.Errorf("PUT %s = %d %s", key, res.StatusCode, body)
}

func (l *load) try(key string, seq int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.keys[key] == nil {
		l.keys[key] = &written{}
	}
	l.keys[key].tried = seq
}

func (l *load) ack(key string, seq int, index uint64, sent time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if gap := now.Sub(l.last); gap < time.Second {
		l.working += gap
	}
	l.last = now
	l.keys[key].acked = seq
	l.count++
	l.index = max(l.index, index)
	l.events = append(l.events, acked{index, key, strconv.Itoa(seq)})
	if sent.After(l.sentAt) {
		l.sentAt, l.ackedAt = sent, now
	}
	l.changed.Broadcast()
}

func (l *load) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wrong = errors.Join(l.wrong, err)
	l.changed.Broadcast()
}

// stop ends the writers and fails the test for an answer that must not be.
func (l *load) stop(t testing.TB) {
	t.Helper()
	l.cancel()
	l.done.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.wrong != nil {
		t.Error(l.wrong)
	}
}

// acks is the number of acknowledged writes.
func (l *load) acks() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.count
}

// lastIndex is the largest index of an acknowledged write.
func (l *load) lastIndex() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.index
}

// waitFor waits under the lock until ok, or fails the test.
func (l *load) waitFor(t testing.TB, most time.Duration, what string, ok func() bool) {
	t.Helper()
	late := false
	timer := time.AfterFunc(most, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		late = true
		l.changed.Broadcast()
	})
	defer timer.Stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	for !ok() && !late && l.wrong == nil {
		l.changed.Wait()
	}
	if !ok() {
		t.Fatalf("no %s within %v (%d acknowledged writes so far): %v", what, most, l.count, l.wrong)
	}
}

// waitAcks waits until that many writes have been acknowledged in all.
func (l *load) waitAcks(t testing.TB, count int) {
	t.Helper()
	l.waitFor(t, 30*time.Second, strconv.Itoa(count)+" acknowledged writes", func() bool { return l.count >= count })
}

// waitAckAfter waits for a write that was sent after a moment, and returns
// when it was acknowledged.
func (l *load) waitAckAfter(t testing.TB, after time.Time, most time.Duration) time.Time {
	t.Helper()
	l.waitFor(t, most, "write after the fault", func() bool { return l.sentAt.After(after) })
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ackedAt
}

// wantNotVoid fails the test when too few writes were acknowledged for it to
// prove anything.
func (l *load) wantNotVoid(t testing.TB) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if rate := float64(l.count) / max(l.working.Seconds(), 0.001); rate < voidRate {
		t.Errorf("void: %d acknowledged writes in %v of service, %.0f/s, want at least %d/s", l.count, l.working, rate, voidRate)
	}
}

// wantAll reads the tree of a member linearizably and fails the test for every
// acknowledged write that is neither there nor written over by a later one.
func (l *load) wantAll(t testing.TB, base string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), readyMax)
	defer cancel()
	status, body, err := get(ctx, base+"/keys/load?recursive=true")
	if err != nil || status != http.StatusOK {
		t.Fatalf("reading the tree of %s: %d %v", base, status, err)
	}
	var event deimos.Event
	if err := json.Unmarshal([]byte(body), &event); err != nil {
		t.Fatalf("reading the tree of %s: %v", base, err)
	}
	values := map[string]string{}
	files(event.Node, values)
	l.mu.Lock()
	defer l.mu.Unlock()
	lost := 0
	for key, w := range l.keys {
		got, err := strconv.Atoi(values[key])
		if values[key] == "" {
			got, err = 0, nil
		}
		if err != nil || got < w.acked || got > w.tried {
			lost++
			t.Errorf("GET %s on %s = %q, want between %d, the last acknowledged, and %d, the last tried", key, base, values[key], w.acked, w.tried)
		}
		if lost == 10 {
			t.Fatal("…")
		}
	}
}

// files collects the values below a node.
func files(n *deimos.Node, values map[string]string) {
	if n.Value != nil {
		values[n.Key] = *n.Value
	}
	for _, child := range n.Nodes {
		files(child, values)
	}
}
