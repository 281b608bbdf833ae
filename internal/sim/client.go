package sim

import (
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/raftnode"
)

// How clients behave.
const (
	clientCount   = 8
	clientTimeout = 2500 * time.Millisecond
	thinkMin      = 30 * time.Millisecond
	thinkMax      = 220 * time.Millisecond
	registerKeys  = 5
)

// client does one operation after the other, on a member of its choice.
type client struct {
	w       *world
	n       int
	rnd     *mathrand.Rand
	host    *host
	count   int
	seen    map[string]sighting // what it knows of the registers
	mortals []string            // keys with a TTL that it has set
	stopped bool
	idle    bool
}

// sighting is what a client has seen of a key.
type sighting struct {
	exists bool
	value  string
	index  uint64
}

// op is one operation of a client.
type op struct {
	client   int
	kind     opKind
	request  deimos.Request
	register bool
	// sawValue is what the client saw at the index that is its condition.
	sawValue  string
	call, ret time.Duration
	// ackedBefore is the highest store index that was acknowledged to anybody
	// before the call.
	ackedBefore uint64
	done        bool
	unknown     bool
	// What the answer said.
	index    uint64 // of the event, or of the state
	failed   deimos.Code
	value    string // read
	exists   bool
	modified uint64
	// The proposal, and the entry that it became.
	run, seq  uint64
	raftIndex uint64
}

type opKind uint8

const (
	opWrite opKind = iota
	opRead
	opLocalRead
)

func (w *world) startClients() {
	for n := range clientCount {
		c := &client{w: w, n: n, rnd: newRand(w.cfg.Seed, streamClient+uint64(n)<<32), seen: map[string]sighting{}}
		w.clients = append(w.clients, c)
		w.after(between(c.rnd, time.Second, 2*time.Second), c.next)
	}
}

// next begins an operation, unless the clients are to stop.
func (c *client) next() {
	if c.stopped {
		c.idle = true
		return
	}
	if c.w.idleTo > c.w.now {
		c.w.after(min(c.w.idleTo-c.w.now, time.Second), c.next)
		return
	}
	c.choose()
	o := c.pick()
	c.try(o, 4)
}

// choose picks a member now and then; a client stays with one that answers.
func (c *client) choose() {
	if c.host == nil || c.host.gone != exitNone || chance(c.rnd, 0.15) {
		c.host = c.w.anyHost(c.rnd)
	}
}

// anyHost picks a member that has not gone for ever.
func (w *world) anyHost(rnd *mathrand.Rand) *host {
	var alive []*host
	for _, h := range w.hosts {
		if h.gone == exitNone && !h.replaced {
			alive = append(alive, h)
		}
	}
	if len(alive) == 0 {
		return w.hosts[0]
	}
	return alive[rnd.IntN(len(alive))]
}

// try sends the operation. A refusal that promises that nothing was proposed
// may be tried again, on another member.
func (c *client) try(o *op, tries int) {
	w := c.w
	if tries == 4 {
		o.call, o.ackedBefore = w.now, w.oracle.acked
	}
	h := c.host
	over := false
	end := func(a answer) {
		if over {
			return
		}
		over = true
		c.hear(o, h, a, tries)
	}
	w.after(between(c.rnd, 50*time.Microsecond, 500*time.Microsecond), func() {
		if h.proc == nil {
			end(answer{err: errNotSent})
			return
		}
		w.schedule(0, h.proc, func() { c.serve(o, h, end) })
	})
	w.after(clientTimeout, func() { end(answer{err: errDeadline}) })
}

// errNotSent says that there was nobody to take the request.
var errNotSent = errors.New("sim: connection refused")

// serve is the member's side of a request.
func (c *client) serve(o *op, h *host, end func(answer)) {
	switch o.kind {
	case opWrite:
		r := h.proc.write(&o.request, end)
		o.run, o.seq = r.run, r.seq
		if c.w.cfg.Defect == DefectProposeTwice && !h.dead() {
			c.w.after(clientTimeout/2, func() {
				if !o.done && h.proc != nil && !r.over {
					h.proc.write(&o.request, end)
				}
			})
		}
	case opRead:
		h.proc.read(true, end)
	case opLocalRead:
		h.proc.read(false, end)
	}
}

func (h *host) dead() bool { return h.proc == nil }

// hear takes an answer in.
func (c *client) hear(o *op, h *host, a answer, tries int) {
	w := c.w
	safe := errors.Is(a.err, raftnode.ErrNoLeader) || errors.Is(a.err, errDiskLow) || errors.Is(a.err, errNotSent)
	if a.err != nil {
		c.host = nil
	}
	if safe && tries > 0 && !c.stopped {
		w.after(between(c.rnd, 5*time.Millisecond, 300*time.Millisecond), func() {
			c.choose()
			c.try(o, tries-1)
		})
		return
	}
	o.ret, o.done = w.now, true
	switch {
	case safe:
		o.failed = deimos.CodeRaftInternal // certainly without effect
	case a.err != nil:
		o.unknown = true
		if o.kind == opWrite {
			w.res.Unknown++
		}
	default:
		c.answered(o, h, a)
	}
	if w.tracer.on() {
		w.tracer.logf("client %d at %x: %s", c.n, h.id, o)
	}
	w.tracer.mix(uint64(w.now), uint64(c.n), o.index, uint64(o.failed))
	w.history.add(o)
	w.after(between(c.rnd, thinkMin, thinkMax), c.next)
}

// answered checks and notes an answer that says what happened.
func (c *client) answered(o *op, h *host, a answer) {
	w := c.w
	if w.calm.isCalm() && !w.healing {
		w.calm.calmOps++
	}
	switch {
	case o.kind != opWrite:
		w.res.Reads++
		c.sawRead(o, a)
	case a.refused != nil:
		o.failed, o.index = a.refused.Code, a.refused.Index
	case a.event == nil:
		o.index = w.oracle.acked + 1 // a defect: success without an event
		w.fail("acknowledged, not committed", "client %d at %x: %s without an event", c.n, h.id, o)
	default:
		w.res.Writes++
		o.index, o.raftIndex = a.event.Index(), a.raftIndex
		if h.proc != nil && h.proc.run == o.run {
			w.check.acknowledged(h.proc, o.raftIndex)
		}
		n := a.event.Node()
		c.learn(n.Key(), sighting{exists: !a.event.Action().Removes(), value: n.Value(), index: o.index})
		if _, mortal := n.DeadlineMS(); mortal && c.rnd.IntN(3) == 0 {
			c.mortals = append(c.mortals, n.Key())
		}
	}
	if o.kind != opLocalRead && o.index <= o.ackedBefore && (o.kind == opWrite && o.failed == 0 || o.index < o.ackedBefore) {
		w.fail("real time order", "client %d at %x: %s has index %d; %d was acknowledged before the call", c.n, h.id, o, o.index, o.ackedBefore)
	}
	if o.kind != opLocalRead {
		w.oracle.acked = max(w.oracle.acked, o.index)
	}
}

func (c *client) sawRead(o *op, a answer) {
	key := o.request.Key
	o.index = a.view.Index()
	if o.register {
		c.w.oracle.checkView(a.view, key)
	}
	if n, err := a.view.Get(key); err == nil {
		o.exists, o.value, o.modified = true, n.Value(), n.ModifiedIndex()
	}
	if o.kind == opRead {
		c.learn(key, sighting{exists: o.exists, value: o.value, index: o.modified})
	}
}

func (c *client) learn(key string, s sighting) { c.seen[key] = s }

func (c *client) newValue() string {
	c.count++
	return "c" + strconv.Itoa(c.n) + "-" + strconv.Itoa(c.count)
}

// pick draws the next operation.
func (c *client) pick() *op {
	o := &op{client: c.n}
	switch n := c.rnd.IntN(100); {
	case n < 72:
		c.pickRegister(o)
	case n < 82:
		o.request = deimos.Request{Op: deimos.OpSet, Key: fmt.Sprintf("/t/c%d-%d", c.n, c.rnd.IntN(40)), Value: c.newValue(), HasTTL: true, TTLSeconds: 1 + c.rnd.Int64N(9)}
	case n < 87 && len(c.mortals) > 0:
		i := c.rnd.IntN(len(c.mortals))
		o.request = deimos.Request{Op: deimos.OpUpdate, Key: c.mortals[i], Refresh: true, HasTTL: true, TTLSeconds: 1 + c.rnd.Int64N(6)}
		c.mortals = slices.Delete(c.mortals, i, i+1)
	case n < 92:
		o.request = deimos.Request{Op: deimos.OpCreateInOrder, Key: "/q", Value: c.newValue()}
	case n < 97:
		o.request = deimos.Request{Op: deimos.OpSet, Key: fmt.Sprintf("/d/x%d/y%d", c.rnd.IntN(3), c.rnd.IntN(6)), Value: c.newValue()}
	case n < 98:
		o.request = deimos.Request{Op: deimos.OpUpdate, Key: fmt.Sprintf("/d/x%d", c.rnd.IntN(3)), HasTTL: true, TTLSeconds: 1 + c.rnd.Int64N(3)}
	default:
		o.request = deimos.Request{Op: deimos.OpDelete, Key: fmt.Sprintf("/d/x%d", c.rnd.IntN(3)), Recursive: true}
	}
	return o
}

// pickRegister draws an operation on one of the keys whose histories are
// checked for linearizability.
func (c *client) pickRegister(o *op) {
	o.register = true
	key := fmt.Sprintf("/r/k%d", c.rnd.IntN(registerKeys))
	s := c.seen[key]
	o.request = deimos.Request{Key: key, Value: c.newValue()}
	o.sawValue = s.value
	switch n := c.rnd.IntN(100); {
	case n < 34:
		o.kind = opRead
	case n < 44:
		o.kind = opLocalRead
	case n < 64:
		o.request.Op = deimos.OpSet
	case n < 76 && s.exists:
		o.request.Op, o.request.HasPrevValue, o.request.PrevValue = deimos.OpCompareAndSwap, true, s.value
	case n < 84 && s.exists:
		o.request.Op, o.request.PrevIndex = deimos.OpCompareAndSwap, s.index
	case n < 91:
		o.request.Op = deimos.OpCreate
	case n < 94 && s.exists:
		o.request.Op, o.request.PrevIndex = deimos.OpCompareAndDelete, s.index
	case n < 97:
		o.request.Op = deimos.OpUpdate
	default:
		o.request.Op = deimos.OpDelete
	}
}

var opNames = map[deimos.Op]string{
	deimos.OpSet: "set", deimos.OpCreate: "create", deimos.OpUpdate: "update", deimos.OpCompareAndSwap: "cas",
	deimos.OpCreateInOrder: "in-order", deimos.OpDelete: "delete", deimos.OpCompareAndDelete: "cad",
}

// String describes the operation in a line.
func (o *op) String() string {
	what := opNames[o.request.Op]
	switch o.kind {
	case opRead:
		what = "read"
	case opLocalRead:
		what = "local read"
	}
	s := fmt.Sprintf("%s %s", what, o.request.Key)
	if o.kind == opWrite {
		s += fmt.Sprintf(" %q if (%q,%d)", o.request.Value, o.request.PrevValue, o.request.PrevIndex)
	}
	switch {
	case o.unknown:
		return s + ": unknown"
	case o.failed != 0:
		return s + fmt.Sprintf(": error %d at index %d", o.failed, o.index)
	case o.kind != opWrite:
		return s + fmt.Sprintf(": %q of index %d at index %d", o.value, o.modified, o.index)
	}
	return s + fmt.Sprintf(": index %d (raft index %d)", o.index, o.raftIndex)
}
