package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos"
)

// ledger is what writers, each with keys of its own, have been told of their
// writes, whose values rise. It is made for long loops: it remembers two numbers
// a key. Its methods may be called from any goroutine.
type ledger struct {
	c    *cluster
	wg   sync.WaitGroup
	stop context.CancelFunc

	mu    sync.Mutex
	keys  map[string]*promise
	acks  int
	fails map[string]int
	sent  time.Time // when the last write that was acknowledged was sent, and when it was answered
	acked time.Time
}

// promise is what is known of a key.
type promise struct{ acked, tried int }

// keysPerWriter bounds the tree of a ledger.
const keysPerWriter = 20

// startLedger starts writers that turn to the next of the members whenever one
// fails them. Values are larger the larger the generation, so that a later one
// can write the same keys again.
func startLedger(ctx context.Context, c *cluster, generation, writers int, members ...*member) *ledger {
	ctx, cancel := context.WithCancel(ctx)
	l := &ledger{c: c, stop: cancel, keys: map[string]*promise{}, fails: map[string]int{}}
	for i := range writers {
		l.wg.Go(func() { l.write(ctx, fmt.Sprintf("/ledger/%d", i), generation*1_000_000, i, members) })
	}
	return l
}

func (l *ledger) end() {
	l.stop()
	l.wg.Wait()
}

func (l *ledger) write(ctx context.Context, dir string, base, turn int, members []*member) {
	client := newHTTP()
	defer client.CloseIdleConnections()
	for seq := base + 1; ctx.Err() == nil; seq++ {
		key := fmt.Sprintf("%s/%02d", dir, seq%keysPerWriter)
		l.try(key, seq)
		// A write that went to a leader just before it died has no answer for long;
		// who wants to go on asks again.
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), 500*time.Millisecond)
		o := &op{Kind: kindSet, Key: key, Value: strconv.Itoa(seq)}
		sent := time.Now()
		o.do(limit, client, members[turn%len(members)].client, l.c.since)
		cancel()
		switch o.Outcome {
		case acked:
			l.ack(key, seq, sent)
			continue
		case odd, refused:
			l.c.violate("answer", "an answer that no fault excuses: %v", o)
		}
		l.mu.Lock()
		l.fails[string(o.Outcome)]++
		l.mu.Unlock()
		turn++
		letPass(ctx, 10*time.Millisecond)
	}
}

func (l *ledger) try(key string, seq int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.keys[key] == nil {
		l.keys[key] = &promise{}
	}
	l.keys[key].tried = seq
}

func (l *ledger) ack(key string, seq int, sent time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.keys[key].acked = seq
	l.acks++
	if sent.After(l.sent) {
		l.sent, l.acked = sent, time.Now()
	}
}

// count is the number of acknowledged writes.
func (l *ledger) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acks
}

// waitMore waits for that many more acknowledged writes, or fails the test.
func (l *ledger) waitMore(t testing.TB, more int, most time.Duration) {
	t.Helper()
	want := l.count() + more
	err := within(t.Context(), most, func(context.Context) error {
		if got := l.count(); got < want {
			return fmt.Errorf("%d acknowledged writes, want %d", got, want)
		}
		return nil
	})
	if err != nil {
		t.Fatalf("after %v: %v", most, err)
	}
}

// ackAfter waits for a write that was sent after a moment, and returns when it
// was acknowledged.
func (l *ledger) ackAfter(ctx context.Context, after time.Time, most time.Duration) (at time.Time, err error) {
	err = within(ctx, most, func(context.Context) error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if !l.sent.After(after) {
			return errNotYet
		}
		at = l.acked
		return nil
	})
	return at, err
}

// wantAll reads the tree linearizably from a member, and compares it with every
// promise. The writers have ended.
func (l *ledger) wantAll(ctx context.Context, m *member) {
	var event deimos.Event
	err := within(ctx, readyMax, func(ctx context.Context) error {
		status, body, _, err := get(ctx, m.client+"/keys/ledger?recursive=true")
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("status %d with %.200s", status, body)
		}
		if err == nil {
			err = json.Unmarshal([]byte(body), &event)
		}
		return err
	})
	if err != nil {
		l.c.violate("liveness", "reading the tree of %s: %v", m.name, err)
		return
	}
	values := map[string]int{}
	collect(event.Node, values)
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, p := range l.keys {
		if got := values[key]; got < p.acked || got > p.tried {
			l.c.violate("lost write", "GET %s on %s = %d, want between %d, the last acknowledged, and %d, the last tried", key, m.name, got, p.acked, p.tried)
		}
	}
}

// collect gathers the numbers below a node.
func collect(n *deimos.Node, values map[string]int) {
	if n.Value != nil {
		if v, err := strconv.Atoi(*n.Value); err == nil {
			values[n.Key] = v
		}
	}
	for _, child := range n.Nodes {
		collect(child, values)
	}
}
