package proxy

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/marsevilspirit/deimos"
)

// The limits of what waits for one client of a shared watch. A single event may
// be larger.
const (
	queueMax      = 1024
	queueMaxBytes = 1 << 20
)

const (
	// resumesMax is how often an upstream watch is taken up again after its
	// member was lost.
	resumesMax = 16
	// answerMaxBytes bounds the answer to a watch that is not a stream.
	answerMaxBytes = 1 << 20
)

// watchTable knows the upstream watches.
type watchTable struct {
	p *Proxy

	mu     sync.Mutex
	closed bool
	shared map[string]*flight // those that can be joined, by the key of their spec
	all    map[*flight]struct{}
}

func newWatchTable(p *Proxy) *watchTable {
	return &watchTable{p: p, shared: make(map[string]*flight), all: make(map[*flight]struct{})}
}

// join returns a place at an upstream watch for spec, at a new one when there
// is none that can be joined or alone is set; nil when the proxy is closing.
// The caller leaves it in the end.
func (t *watchTable) join(spec watchSpec, out *outgoing, alone bool) *viewer {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	if f := t.shared[spec.key]; f != nil && !alone {
		if v := f.join(); v != nil {
			return v
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	f := &flight{
		table: t, spec: spec, cancel: cancel, alone: alone,
		ready: make(chan struct{}), room: make(chan struct{}, 1), viewers: make(map[*viewer]struct{}),
	}
	v := f.join()
	t.all[f] = struct{}{}
	if !alone {
		t.shared[spec.key] = f
	}
	t.p.goroutines.Go(func() {
		defer cancel()
		f.run(ctx, out)
	})
	return v
}

// forget ends the joining of a watch that is over.
func (t *watchTable) forget(f *flight) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.all, f)
	if t.shared[f.spec.key] == f {
		delete(t.shared, f.spec.key)
	}
}

// close ends all watches and lets none begin.
func (t *watchTable) close() {
	t.mu.Lock()
	t.closed = true
	flights := make([]*flight, 0, len(t.all))
	for f := range t.all {
		flights = append(flights, f)
	}
	t.mu.Unlock()
	for _, f := range flights {
		f.end()
		f.cancel()
	}
}

// answerHead is the beginning of a member's answer to a watch, or the whole of
// it when it is no stream.
type answerHead struct {
	err      error // there was no answer
	status   int
	header   http.Header
	complete bool
	body     []byte
}

// flight is one upstream watch and its clients. Its goroutine reads events and
// gives them out; it ends when the upstream does or the last client leaves.
type flight struct {
	table  *watchTable
	spec   watchSpec
	cancel context.CancelFunc
	// ready is closed when head is set.
	ready chan struct{}
	head  answerHead
	// events tells an event stream from JSON lines; known when ready.
	events bool
	// room tells that a client has taken events. It holds one signal.
	room chan struct{}

	mu      sync.Mutex
	viewers map[*viewer]struct{}
	// alone means that nobody else may join and that the member's watch goes no
	// faster than its one client.
	alone bool
	// over means that no event will be given out any more.
	over bool
	// drained means that the upstream watch ends by itself now.
	drained bool
	begun   bool   // an event was given out
	beaten  bool   // a comment was given out
	last    []byte // the last event while nobody has asked for its index
	index   uint64 // of the last event, or the start of the upstream watch
	// promised is the index in the head that was given out: a client that has
	// heard nothing for a while takes it that no event up to there concerns it.
	promised uint64
	// broken means that the clients must not take the end for an ordinary one.
	broken bool
}

// viewer is the place of one client at a flight. The goroutine of the client's
// request takes from it.
type viewer struct {
	flight *flight
	// wake tells that take has something to say. It holds one signal.
	wake chan struct{}
	// index replaces that of the headers unless it is 0, and beat asks for a
	// comment at the start: the client joined a running stream.
	index  uint64
	beat   bool
	joined bool // the flight was there before

	// Guarded by the mutex of the flight.
	queue  [][]byte
	bytes  int
	ended  bool
	turned bool
}

// join adds a client, or returns nil if it would not get what a watch of its
// own would get.
func (f *flight) join() *viewer {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := &viewer{flight: f, wake: make(chan struct{}, 1), joined: len(f.viewers) > 0}
	if f.over || v.joined && f.alone {
		return nil
	}
	if f.begun {
		if !f.spec.fromNow() || !f.indexKnown() {
			return nil
		}
		v.index = f.index
	}
	v.beat = f.beaten
	f.viewers[v] = struct{}{}
	if v.joined {
		f.table.p.metrics.shared.Inc()
	}
	return v
}

// indexKnown finds the index of the last event. The mutex is held.
func (f *flight) indexKnown() bool {
	if f.last == nil {
		return true
	}
	index, ok := frameIndex(f.last, f.events)
	if ok {
		f.index, f.last = index, nil
	}
	return ok
}

// run gets the answer of a member and gives it out.
func (f *flight) run(ctx context.Context, out *outgoing) {
	defer f.end()
	p := f.table.p
	resp, err := p.send(ctx, out)
	if err != nil {
		f.begin(answerHead{err: err})
		return
	}
	// A watch may be silent as long as it likes, so its member is asked.
	wait := p.sentry.hold(resp.from, resp.giveUp)
	defer func() {
		wait.end()
		p.closeBody(resp.Response)
	}()
	head := answerHead{status: resp.StatusCode, header: resp.Header}
	if resp.StatusCode != http.StatusOK || resp.ContentLength >= 0 {
		head.complete = true
		if head.body, err = io.ReadAll(io.LimitReader(resp.Body, answerMaxBytes+1)); err != nil || len(head.body) > answerMaxBytes {
			head = answerHead{err: errLost}
		}
		f.begin(head)
		return
	}
	f.begin(head)
	for range resumesMax {
		err := f.pump(ctx, resp.Body)
		if err == nil || ctx.Err() != nil {
			return
		}
		p.metrics.failures.Inc()
		p.log.Debug("watch of a member broke", "error", err)
		next := f.resume(ctx, out)
		if next == nil {
			break
		}
		wait.end()
		p.closeBody(resp.Response)
		resp, wait = next, p.sentry.hold(next.from, next.giveUp)
	}
	f.breakOff()
}

// closeBody gives up what is left of an answer.
func (p *Proxy) closeBody(resp *http.Response) {
	if err := resp.Body.Close(); err != nil {
		p.log.Debug("answer of a member not closed", "error", err)
	}
}

// resume opens the watch again behind the last whole event, at any member, or
// returns nil if that cannot be done. A member that has not come to what the head
// has promised, because it is cut off, say, must not go on with a watch that owes
// events up to there: its signs of life would be taken for that there are none.
func (f *flight) resume(ctx context.Context, out *outgoing) *reply {
	at, ok := f.resumeAt()
	if !ok {
		return nil
	}
	again := *out
	query, err := url.ParseQuery(out.query)
	if err != nil {
		return nil
	}
	query.Set(deimos.ParamWaitIndex, strconv.FormatUint(at, 10))
	again.query = query.Encode()
	if f.events {
		again.header = out.header.Clone()
		again.header.Set(headerLastEventID, strconv.FormatUint(at-1, 10))
	}
	resp, err := f.table.p.send(ctx, &again)
	if err != nil {
		return nil
	}
	index := headIndex(resp.Header)
	switch {
	case resp.StatusCode != f.head.status || resp.Header.Get("Content-Type") != f.head.header.Get("Content-Type"):
		// The history is gone, say. The client will be told when it asks.
	case f.owes(at) && index < f.promised:
		f.table.p.log.Debug("watch cannot go on at a member that is behind", "index", index, "promised_index", f.promised)
	default:
		return resp
	}
	f.table.p.closeBody(resp.Response)
	return nil
}

// owes reports whether the head has promised events from the index at on.
func (f *flight) owes(at uint64) bool { return at <= f.promised }

// breakOff is for a watch that cannot go on. One that owes events breaks, as it
// would without a proxy: from an ordinary end, clients conclude that there are
// none.
func (f *flight) breakOff() {
	at, ok := f.resumeAt()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broken = ok && !f.drained && f.owes(at)
}

// headIndex returns the index in the head of an answer, or 0.
func headIndex(header http.Header) uint64 {
	index, err := strconv.ParseUint(header.Get(deimos.HeaderEtcdIndex), 10, 64)
	if err != nil {
		return 0
	}
	return index
}

// resumeAt returns the index from which on nothing was given out; it is above 0.
func (f *flight) resumeAt() (uint64, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.begun {
		known := f.indexKnown()
		return f.index + 1, known
	}
	if start := f.spec.start(f.events); start > 0 {
		return start, true
	}
	return f.index + 1, !f.alone
}

// begin publishes the head of the answer. A stream that starts inside the
// history goes to its first client only; the others have to open their own.
func (f *flight) begin(head answerHead) {
	f.head = head
	f.events = bytes.HasPrefix([]byte(head.header.Get("Content-Type")), []byte("text/event-stream"))
	f.mu.Lock()
	defer f.mu.Unlock()
	defer close(f.ready)
	if head.err != nil || head.complete {
		f.over = true
		return
	}
	f.promised = headIndex(head.header)
	start := f.spec.start(f.events)
	replay := (f.spec.stream || f.events) && start > 0 && f.owes(start)
	if f.promised > 0 && !replay {
		f.index = f.promised
		return
	}
	f.alone = true
	for v := range f.viewers {
		v.turned = v.joined
	}
}

// pump gives out what a member sends, in whole events, until the end.
func (f *flight) pump(ctx context.Context, body io.Reader) error {
	r := frameReader{r: bufio.NewReader(body), events: f.events}
	for {
		frame, err := r.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := f.give(ctx, frame); err != nil {
			return err
		}
		if !f.spec.stream && !f.events {
			break
		}
	}
	// A long poll is over; its connection is of use once it has ended.
	late := time.AfterFunc(f.table.p.limits.watchClose, f.cancel)
	defer late.Stop()
	f.end()
	_, err := io.CopyN(io.Discard, body, 1)
	if err == io.EOF {
		return nil
	}
	return err
}

// give hands a frame to all clients. It waits for room only while there is and
// can be just one client.
func (f *flight) give(ctx context.Context, frame []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.events && frame[0] == ':' {
		f.beaten = true
	} else {
		f.begun, f.last = true, frame
	}
	poll := !f.spec.stream && !f.events
	f.over, f.drained = f.over || poll, f.drained || poll
	for f.alone && f.full(frame) {
		f.mu.Unlock()
		select {
		case <-f.room:
		case <-ctx.Done():
		}
		f.mu.Lock()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	for v := range f.viewers {
		if v.ended {
			continue
		}
		if v.full(frame) {
			v.ended = true
		} else {
			v.queue = append(v.queue, frame)
			v.bytes += len(frame)
			v.ended = poll
		}
		v.signal()
	}
	return nil
}

// full reports whether any client has no room for a frame.
func (f *flight) full(frame []byte) bool {
	for v := range f.viewers {
		if !v.ended && v.full(frame) {
			return true
		}
	}
	return false
}

// end tells all clients that nothing more will come.
func (f *flight) end() {
	f.table.forget(f)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.over = true
	for v := range f.viewers {
		v.ended = true
		v.signal()
	}
}

func (v *viewer) full(frame []byte) bool {
	return len(v.queue) > 0 && (len(v.queue) >= queueMax || v.bytes+len(frame) > queueMaxBytes)
}

func (v *viewer) signal() {
	select {
	case v.wake <- struct{}{}:
	default:
	}
}

// isTurnedAway reports that the client has to open a watch of its own.
func (v *viewer) isTurnedAway() bool {
	v.flight.mu.Lock()
	defer v.flight.mu.Unlock()
	return v.turned
}

// hasBroken reports that the end must not be taken for an ordinary one.
func (v *viewer) hasBroken() bool {
	v.flight.mu.Lock()
	defer v.flight.mu.Unlock()
	return v.flight.broken
}

// take returns the events that wait, and whether they are the last ones.
func (v *viewer) take() (frames [][]byte, ended bool) {
	f := v.flight
	f.mu.Lock()
	defer f.mu.Unlock()
	frames, v.queue, v.bytes = v.queue, nil, 0
	select {
	case f.room <- struct{}{}:
	default:
	}
	return frames, v.ended
}

// leave gives the place up. The last one to leave ends the upstream watch.
func (v *viewer) leave() {
	f := v.flight
	f.mu.Lock()
	delete(f.viewers, v)
	last := len(f.viewers) == 0 && !f.drained
	f.over = f.over || last
	f.mu.Unlock()
	if v.joined {
		f.table.p.metrics.shared.Dec()
	}
	if last {
		f.cancel()
	}
}
