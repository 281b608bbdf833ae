package faults

import (
	"context"
	"sync"
	"syscall"
	"time"

	"github.com/marsevilspirit/deimos/internal/faultproxy"
)

// injector carries out the faults of a plan, one after the other, and leaves
// everything healed and running behind each. Its methods are for one goroutine.
type injector struct {
	c *cluster
	h *history
}

// run carries out the plan until it or ctx ends. A fault that was begun has its
// time.
func (in *injector) run(ctx context.Context, plan []fault) {
	for _, f := range plan {
		if !letPass(ctx, f.Pause) {
			return
		}
		in.inject(context.WithoutCancel(ctx), f)
	}
}

// pick chooses a member that nobody else has, the n-th of them.
func (in *injector) pick(n uint64) *member {
	all := in.c.inside()
	for i := range all {
		m := all[(n+uint64(i))%uint64(len(all))]
		if in.c.claimInside(m) {
			return m
		}
	}
	return nil
}

// pickLeader chooses the member that leads, if nobody else has it.
func (in *injector) pickLeader(ctx context.Context) *member {
	if m := leaderOf(ctx, in.c.inside()); m != nil && in.c.claimInside(m) {
		return m
	}
	return nil
}

func (in *injector) inject(ctx context.Context, f fault) {
	switch f.Kind {
	case killLeader, stopLeader, isolateLead:
		in.withOne(in.pickLeader(ctx), func(m *member) { in.toOne(ctx, f, m) })
	case killOne, stopOne, isolate, oneWay, halfSwitch, terminateOne:
		in.withOne(in.pick(f.Pick), func(m *member) { in.toOne(ctx, f, m) })
	case stopAndKill, cutAndKill:
		in.withOne(in.pick(f.Pick), func(a *member) {
			in.withOne(in.pick(f.Pick/7), func(b *member) { in.toTwo(ctx, f, a, b) })
		})
	case killAll:
		in.killAll(ctx, f)
	case rollingTerm:
		in.rolling(ctx, f)
	case reset, delay, trickle:
		in.toAllLinks(ctx, f)
	}
}

// withOne gives a member back afterwards, running.
func (in *injector) withOne(m *member, do func(*member)) {
	if m == nil {
		return
	}
	defer in.c.release(m)
	do(m)
	in.ensure(m)
}

func (in *injector) ensure(m *member) {
	if !m.running() {
		if err := m.start(goesOn); err != nil {
			in.c.violate("harness", "%v", err)
		}
	}
}

func (in *injector) toOne(ctx context.Context, f fault, m *member) {
	switch f.Kind {
	case killLeader:
		at := in.c.since()
		in.c.note(string(f.Kind), m.kill())
		if len(in.c.inside()) >= 3 {
			in.recovery(ctx, at)
		}
	case killOne:
		in.c.note(string(f.Kind), m.kill())
		letPass(ctx, f.Last/2)
	case stopLeader, stopOne:
		in.stop(f, m, func() { letPass(ctx, f.Last) })
	case terminateOne:
		in.c.note(string(f.Kind), m.terminate())
		letPass(ctx, f.Last/4)
	case isolate, isolateLead:
		in.cut(f, in.around(m), func() { letPass(ctx, f.Last) })
	case oneWay:
		in.cut(f, in.oneWayPairs(f, m), func() { letPass(ctx, f.Last) })
	case halfSwitch:
		in.cut(f, in.halves(m), func() { letPass(ctx, f.Last) })
	}
}

// toTwo does something to two members at once. The second one is killed and
// started again while the first is away.
func (in *injector) toTwo(ctx context.Context, f fault, a, b *member) {
	away := func() {
		letPass(ctx, f.Last/4)
		in.c.note("kill beside another fault", b.kill())
		letPass(ctx, f.Last/4)
		in.ensure(b)
		letPass(ctx, f.Last/2)
	}
	if f.Kind == stopAndKill {
		in.stop(f, a, away)
	} else {
		in.cut(f, in.around(a), away)
	}
}

// recoveryMax is how long writes may be away after a leader was killed.
const recoveryMax = 5 * time.Second

// recovery waits for a write that was sent after the leader was killed. The time
// is always recorded, and judged when nobody changes the members meanwhile, for
// one that is away or joins may be needed for a majority.
func (in *injector) recovery(ctx context.Context, killed time.Duration) {
	quiet := in.c.nobodyElse(1)
	var first int64
	err := within(ctx, recoveryMax+time.Second, func(context.Context) error {
		var ok bool
		if first, ok = in.h.firstAckOf(int64(killed)); !ok {
			return errNotYet
		}
		return nil
	})
	took := time.Duration(first) - killed
	if err == nil {
		in.c.mu.Lock()
		in.c.recoveries = append(in.c.recoveries, took)
		in.c.mu.Unlock()
	}
	if quiet && in.c.nobodyElse(1) && (err != nil || took > recoveryMax) {
		in.c.violate("recovery", "no write was acknowledged within %v of the death of the leader at %v (%v)", recoveryMax, killed, took)
	}
}

// stop stops the process for a while, without its knowing.
func (in *injector) stop(f fault, m *member, while func()) {
	p, ok := m.process()
	if !ok {
		return
	}
	p.signal(syscall.SIGSTOP)
	err := within(context.Background(), time.Second, func(context.Context) error {
		if !p.standsStill() {
			return errNotYet
		}
		return nil
	})
	while()
	in.c.note(string(f.Kind), err == nil && p.standsStill())
	p.signal(syscall.SIGCONT)
}

// killAll kills all members at the same moment.
func (in *injector) killAll(ctx context.Context, f fault) {
	var mine []*member
	for _, m := range in.c.inside() {
		if in.c.claimInside(m) {
			mine = append(mine, m)
		}
	}
	defer in.c.release(mine...)
	var wg sync.WaitGroup
	for _, m := range mine {
		wg.Go(func() { in.c.note(string(f.Kind), m.kill()) })
	}
	wg.Wait()
	letPass(ctx, f.Last/8)
	for _, m := range mine {
		in.ensure(m)
	}
}

// rolling restarts one member after the other.
func (in *injector) rolling(ctx context.Context, f fault) {
	for _, m := range in.c.inside() {
		if !in.c.claimInside(m) {
			continue
		}
		in.withOne(m, func(m *member) {
			in.c.note(string(f.Kind), m.terminate())
			in.ensure(m)
			// One that is not back in time is part of the fault; all have to be
			// back at the end.
			_ = m.waitReady(ctx, 3*time.Second)
		})
	}
}

// around are the ways to and from a member.
func (in *injector) around(m *member) []way {
	var ways []way
	for _, other := range in.c.inside() {
		if other != m {
			ways = append(ways, way{m.slot, other.slot}, way{other.slot, m.slot})
		}
	}
	return ways
}

// oneWayPairs are ways to or from a member, but not both, with each other one.
func (in *injector) oneWayPairs(f fault, m *member) []way {
	var ways []way
	for i, other := range in.c.inside() {
		switch {
		case other == m:
		case f.Pick>>i&1 == 0:
			ways = append(ways, way{m.slot, other.slot})
		default:
			ways = append(ways, way{other.slot, m.slot})
		}
	}
	return ways
}

// halves are the ways between two halves of the cluster, which both still
// reach one member.
func (in *injector) halves(middle *member) []way {
	var ways []way
	side := map[int]bool{}
	all := in.c.inside()
	for i, m := range all {
		side[m.slot] = i%2 == 0
	}
	for _, a := range all {
		for _, b := range all {
			if a != b && a != middle && b != middle && side[a.slot] != side[b.slot] {
				ways = append(ways, way{a.slot, b.slot})
			}
		}
	}
	if len(ways) == 0 { // the others are all on one side
		return in.around(middle)
	}
	return ways
}

// way is the bytes from one member to another.
type way struct{ from, to int }

// settle is how long bytes may still arrive that were on their way at a cut.
const settle = 50 * time.Millisecond

// waitConnected waits a moment for connections that carry bytes, for members
// that have just started have none yet.
func (in *injector) waitConnected(ways []way) {
	// If there are none, the fault is not observed.
	_ = within(context.Background(), time.Second, func(context.Context) error {
		for _, w := range ways {
			if bytes, conns := in.c.net.flow(w.from, w.to); bytes > 0 && conns > 0 {
				return nil
			}
		}
		return errNotYet
	})
}

// cut cuts ways for a while. The cut was observed if a connection was open whose
// bytes stopped; a cut that lets bytes through is a fault of this package.
func (in *injector) cut(f fault, ways []way, while func()) {
	in.waitConnected(ways)
	for _, w := range ways {
		in.c.net.cut(w.from, w.to, f.Drop)
	}
	letPass(context.Background(), settle)
	before := make([]int64, len(ways))
	open := 0
	for i, w := range ways {
		var conns int
		if before[i], conns = in.c.net.flow(w.from, w.to); before[i] > 0 {
			open += conns
		}
	}
	while()
	for i, w := range ways {
		if after, _ := in.c.net.flow(w.from, w.to); after != before[i] {
			in.c.violate("harness", "%d bytes from n%d reached n%d through a cut", after-before[i], w.from+1, w.to+1)
		}
	}
	in.c.net.heal()
	in.c.note(string(f.Kind), open > 0)
}

// toAllLinks disturbs all links at once.
func (in *injector) toAllLinks(ctx context.Context, f fault) {
	before := in.bytes()
	switch f.Kind {
	case reset:
		conns := 0
		for range 4 {
			in.c.net.each(func(p *faultproxy.Proxy) { conns += p.Conns() })
			in.c.net.each((*faultproxy.Proxy).CloseAll)
			letPass(ctx, f.Last/8)
		}
		in.c.note(string(f.Kind), conns > 0)
		return
	case delay:
		d := 5*time.Millisecond + f.Last/60 // at most 38 ms
		in.c.net.each(func(p *faultproxy.Proxy) { p.Delay(d) })
	case trickle:
		in.c.net.each(func(p *faultproxy.Proxy) { p.Trickle(64 << 10) })
	}
	letPass(ctx, max(f.Last, time.Second)) // long enough that something is sent
	in.c.note(string(f.Kind), in.bytes() > before)
	in.c.net.heal()
}

// bytes is how much was carried between members.
func (in *injector) bytes() (sum int64) {
	for _, l := range in.c.net.links {
		sum += l.back.Load()
	}
	return sum
}
