package faults

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/marsevilspirit/deimos"
)

const (
	// registers is how many keys are written by all at one time, and
	// opsPerRegister how many requests one gets until another takes its place:
	// a long history of one key is hard to judge.
	registers      = 5
	opsPerRegister = 250
	// clientsBeside is how many clients roam beside those pinned to a member.
	clientsBeside = 6
	// outage is the shortest time without a good answer to anybody that does not
	// count as service.
	outage = 300 * time.Millisecond
)

// history is what clients did and heard. Its methods may be called from any
// goroutine while the run lasts; the judges read it when all have ended.
type history struct {
	mu   sync.Mutex
	ops  []*op
	refs [registers]reference
	// working is the time in which requests were answered without a gap of
	// outage, and good how many were.
	working time.Duration
	last    int64
	good    int
	acks    []int64 // when writes were acknowledged, and when they were sent
	sent    []int64
	locals  int
	older   int // local reads after a restart without a quorum that showed less than before
}

// reference is what clients know about a register, to make conditions that may
// hold.
type reference struct {
	uses  int
	value string
	index uint64
}

func (h *history) add(o *op) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, o)
	if o.Outcome != acked && o.Outcome != refused {
		return
	}
	h.good++
	if gap := o.Return - h.last; gap < int64(outage) {
		h.working += time.Duration(max(0, gap))
	}
	h.last = max(h.last, o.Return)
	if o.Outcome == acked && o.Kind != kindRead {
		h.acks, h.sent = append(h.acks, o.Return), append(h.sent, o.Call)
	}
}

// rate is how many good answers there were in a second of service.
func (h *history) rate() float64 { return float64(h.good) / max(h.working.Seconds(), 0.001) }

// firstAckOf returns when the first write that was sent after a moment was
// acknowledged, and whether one was.
func (h *history) firstAckOf(after int64) (int64, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var first int64
	for i := len(h.acks) - 1; i >= 0 && h.acks[i] > after; i-- {
		if h.sent[i] > after && (first == 0 || h.acks[i] < first) {
			first = h.acks[i]
		}
	}
	return first, first != 0
}

// take chooses a register and returns its key and what is known of it.
func (h *history) take(rng *rand.Rand) (at int, key string, ref reference) {
	h.mu.Lock()
	defer h.mu.Unlock()
	at = rng.IntN(registers)
	r := &h.refs[at]
	if r.uses++; r.uses%opsPerRegister == 0 {
		r.value, r.index = "", 0
	}
	return at, fmt.Sprintf("/r/%d.%d", at, r.uses/opsPerRegister), *r
}

// learn notes what an answer says about a register.
func (h *history) learn(at int, o *op) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := &h.refs[at]
	switch {
	case !o.Whole || o.Key != fmt.Sprintf("/r/%d.%d", at, r.uses/opsPerRegister) || o.Got.Modified < r.index:
	case o.Kind.removes():
		r.value, r.index = "", 0
	default:
		r.value, r.index = o.Got.Value, o.Got.Modified
	}
}

// load is the clients of a run. One of them, the pulse, goes on when the others
// have ended, until all keys with a life are gone: it shows when the cluster
// serves and when it does not.
type load struct {
	*history
	c         *cluster
	wg        sync.WaitGroup
	stop      context.CancelFunc
	pulsing   sync.WaitGroup
	stopPulse context.CancelFunc
}

// startLoad starts the clients of a run.
func startLoad(ctx context.Context, c *cluster, seed uint64) *load {
	l := &load{history: &history{}, c: c}
	pulseCtx, stopPulse := context.WithCancel(ctx)
	l.stopPulse = stopPulse
	l.pulsing.Go(func() { l.pulse(pulseCtx, 102, rand.New(rand.NewPCG(seed, 102))) })
	ctx, l.stop = context.WithCancel(pulseCtx)
	for i := range c.Size + clientsBeside {
		pin := i
		if i >= c.Size {
			pin = -1
		}
		l.wg.Go(func() { l.client(ctx, i, pin, rand.New(rand.NewPCG(seed, uint64(i)))) })
	}
	l.wg.Go(func() { l.mortal(ctx, 100, rand.New(rand.NewPCG(seed, 100))) })
	l.wg.Go(func() { l.queue(ctx, 101, rand.New(rand.NewPCG(seed, 101))) })
	for _, m := range c.members {
		l.wg.Go(func() { l.local(ctx, m) })
	}
	return l
}

// end stops the clients but the pulse and waits for them.
func (l *load) end() {
	l.stop()
	l.wg.Wait()
}

// endAll stops all clients.
func (l *load) endAll() {
	l.end()
	l.stopPulse()
	l.pulsing.Wait()
}

// choose is the member that a client speaks to next.
func (l *load) choose(pin int, rng *rand.Rand) *member {
	if pin >= 0 {
		return l.c.members[pin]
	}
	all := l.c.inside()
	if len(all) == 0 {
		return l.c.members[0]
	}
	return all[rng.IntN(len(all))]
}

// newHTTP is a client with connections of its own.
func newHTTP() *http.Client {
	return &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 2, DisableCompression: true}}
}

// send does an op with a limit, records it, and waits a moment, a longer one
// when there was no good answer. It returns false when the load ends.
func (l *load) send(ctx context.Context, client *http.Client, m *member, o *op, rng *rand.Rand) bool {
	o.Member = m.name
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Duration(200+rng.IntN(900))*time.Millisecond)
	o.do(limit, client, m.client, l.c.since)
	cancel()
	l.add(o)
	pause := time.Duration(rng.IntN(8)) * time.Millisecond
	if o.Outcome == unknown || o.Outcome == nothing {
		pause = time.Duration(20+rng.IntN(80)) * time.Millisecond
	}
	return letPass(ctx, pause)
}

// client writes and reads registers.
func (l *load) client(ctx context.Context, id, pin int, rng *rand.Rand) {
	client := newHTTP()
	defer client.CloseIdleConnections()
	for seq := 0; ctx.Err() == nil; seq++ {
		at, key, ref := l.take(rng)
		o := &op{Client: id, Key: key, Kind: kindRead}
		switch x := rng.IntN(100); {
		case x < 28:
			o.Kind = kindSet
		case x < 40 && ref.value != "":
			o.Kind, o.PrevValue = kindSwap, ref.value
		case x < 50 && ref.index != 0:
			o.Kind, o.PrevIndex = kindSwapIndex, ref.index
		case x < 54:
			o.Kind = kindDelete
		case x < 58 && ref.value != "":
			o.Kind, o.PrevValue = kindDeleteIf, ref.value
		case x < 64:
			o.Kind = kindCreate
		case x < 68:
			o.Kind = kindUpdate
		}
		if o.Kind != kindRead && !o.Kind.removes() {
			o.Value = fmt.Sprintf("v%d-%d", id, seq)
		}
		ok := l.send(ctx, client, l.choose(pin, rng), o, rng)
		l.learn(at, o)
		if !ok {
			return
		}
	}
}

// mortal writes keys that expire, and some of them a second time before they
// do.
func (l *load) mortal(ctx context.Context, id int, rng *rand.Rand) {
	client := newHTTP()
	defer client.CloseIdleConnections()
	for seq := 0; letPass(ctx, time.Duration(15+rng.IntN(40))*time.Millisecond); seq++ {
		key := seq
		if seq > 20 && rng.IntN(4) == 0 {
			key = seq - 1 - rng.IntN(20)
		}
		o := &op{
			Client: id, Kind: kindSet, Key: fmt.Sprintf("/t/%d", key),
			Value: fmt.Sprintf("t%d", seq), TTL: int64(1 + rng.IntN(3)),
		}
		if !l.send(ctx, client, l.choose(-1, rng), o, rng) {
			return
		}
	}
}

// queue writes keys in order.
func (l *load) queue(ctx context.Context, id int, rng *rand.Rand) {
	client := newHTTP()
	defer client.CloseIdleConnections()
	for seq := 0; letPass(ctx, time.Duration(20+rng.IntN(60))*time.Millisecond); seq++ {
		o := &op{Client: id, Kind: kindInOrder, Key: "/q", Value: fmt.Sprintf("q%d", seq)}
		if !l.send(ctx, client, l.choose(-1, rng), o, rng) {
			return
		}
	}
}

// pulse writes one key, all the time.
func (l *load) pulse(ctx context.Context, id int, rng *rand.Rand) {
	client := newHTTP()
	defer client.CloseIdleConnections()
	for seq := 0; letPass(ctx, 50*time.Millisecond); seq++ {
		o := &op{Client: id, Kind: kindSet, Key: "/pulse", Value: fmt.Sprintf("p%d", seq)}
		if !l.send(ctx, client, l.choose(-1, rng), o, rng) {
			return
		}
	}
}

// local reads what a member holds, whose index may never fall: not in one run
// of its process, and not in the next either, unless the member was replaced by
// another one, or found no quorum for two election timeouts and shows what its
// log is sure of.
func (l *load) local(ctx context.Context, m *member) {
	client := newHTTP()
	defer client.CloseIdleConnections()
	var newest uint64
	var shown int64
	var dir string
	for letPass(ctx, 20*time.Millisecond) {
		before, run := m.dataDir(), m.starts.Load()
		limit, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		index, err := localIndex(limit, client, m.client)
		cancel()
		if err != nil || before != m.dataDir() {
			continue
		}
		if before != dir {
			newest, dir = 0, before
		}
		lived := time.Since(time.Unix(0, m.began.Load()))
		l.mu.Lock()
		l.locals++
		l.mu.Unlock()
		switch {
		case index >= newest:
			newest, shown = index, run
		case run == shown || lived < 2*l.c.election():
			l.c.violate("local read", "a local read on %s showed index %d %v after the start of its run %d, and %d was shown in its run %d", m.name, index, lived, run, newest, shown)
		default:
			l.mu.Lock()
			l.older++
			l.mu.Unlock()
			newest, shown = index, run
		}
	}
}

// localIndex reads a key that nobody writes, for the index in the answer.
func localIndex(ctx context.Context, client *http.Client, base string) (uint64, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/v2/keys/none", nil)
	if err != nil {
		return 0, err
	}
	resp, err := client.Do(r)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return 0, err
	}
	if resp.StatusCode != http.StatusNotFound {
		return 0, fmt.Errorf("faults: local read at %s: status %d", base, resp.StatusCode)
	}
	return strconv.ParseUint(resp.Header.Get(deimos.HeaderIndex), 10, 64)
}

// lastRound writes through every member and reads every register through every
// member, when all faults are over. Everything has to succeed.
func (l *load) lastRound(ctx context.Context) {
	client := newHTTP()
	defer client.CloseIdleConnections()
	try := func(o *op, m *member) {
		limit, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		o.Member = m.name
		o.do(limit, client, m.client, l.c.since)
		l.add(o)
		if o.Outcome != acked && o.Outcome != refused {
			l.c.violate("liveness", "a request failed although all faults are over: %v", o)
		}
	}
	members := l.c.inside()
	for i, m := range members {
		try(&op{Client: 200, Kind: kindSet, Key: fmt.Sprintf("/r/%d.last", i), Value: fmt.Sprintf("last%d", i)}, m)
	}
	for i, key := range l.keys() {
		try(&op{Client: 201, Kind: kindRead, Key: key}, members[i%len(members)])
	}
}

// keys are the registers that were used.
func (h *history) keys() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var keys []string
	for _, o := range h.ops {
		if o.isRegister() {
			keys = append(keys, o.Key)
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}
