package sim

import (
	"crypto/rand"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"runtime/debug"
	"strings"
	"time"
)

// Config says what to simulate.
type Config struct {
	// Seed decides everything that the other fields leave open.
	Seed uint64
	// Duration is the simulated time for which faults are planned. 0: the seed
	// decides, between 20 and 60 seconds. The run goes on beyond it until those
	// have happened that could not.
	Duration time.Duration
	// Profile names the kind of faults that prevail, one of [Profiles]. Empty:
	// the seed decides.
	Profile string
	// Members is how many members the cluster begins with. 0: the seed decides,
	// between 3 and 5.
	Members int
	// Skip leaves out planned faults by their number in the plan, so that a
	// failing run can be cut down. The rest of the run's randomness stays.
	Skip map[int]bool
	// Trace, unless nil, gets a readable line for all that happens.
	Trace io.Writer
	// Defect breaks the simulated driver on purpose; one of [Defects] or empty.
	Defect string
}

// Result tells how a run went.
type Result struct {
	Seed    uint64
	Profile string
	Members int
	// Err is a [*Violation], or nil.
	Err error
	// TraceHash is equal for equal runs.
	TraceHash uint64
	// Simulated is how much time passed in the simulation.
	Simulated time.Duration
	// Faults are the planned faults in the order of their numbers.
	Faults []PlannedFault
	// Rows counts, for each row of the fault matrix, the faults of its kind that
	// were observed.
	Rows map[string]int
	// Writes, Reads and Unknown count the clients' operations: acknowledged
	// writes, answered reads, and writes whose outcome the client never heard.
	Writes, Reads, Unknown int
	// Current counts the linearizable reads that an only member answered without
	// a round.
	Current int
	// Events counts what the scheduler carried out, WatchEvents what watchers
	// received, Expiries the expired keys, Leaders the leaders that were elected.
	Events, WatchEvents, Expiries, Leaders int
}

// PlannedFault is one fault of a run's plan.
type PlannedFault struct {
	At       time.Duration
	Text     string
	Observed bool
}

// Violation is a broken promise, or a run that proves nothing (rule "void").
type Violation struct {
	At   time.Duration
	Rule string
	Text string
}

// Error implements the error interface.
func (v *Violation) Error() string {
	return fmt.Sprintf("%s at %.6fs: %s", v.Rule, v.At.Seconds(), v.Text)
}

// world is everything of one run.
type world struct {
	cfg     Config
	now     time.Duration
	queue   eventQueue
	seq     uint64
	rnd     *mathrand.Rand // latencies of members and disks
	tracer  tracer
	net     *network
	hosts   []*host
	plan    *plan
	check   *checker
	oracle  *oracle
	ttl     *ttlOracle
	admin   *admin
	clients []*client
	watches []*watch
	history history
	calm    calmness
	rows    map[string]int
	res     *Result
	healing bool
	// exclusiveTo is until when no other fault may begin.
	exclusiveTo time.Duration
	// idleTo is until when clients do nothing.
	idleTo  time.Duration
	options options
}

// options are the settings of the product that a seed chooses.
type options struct {
	snapshotCount uint64
	historyEvents int
	catchUp       uint64
}

// The settings of the standard cluster.
const (
	heartbeat = 100 * time.Millisecond
	election  = time.Second
)

// Streams of randomness. Each subject has its own, so that a change in one
// leaves the others alone.
const (
	streamWorld = iota + 1
	streamNet
	streamPlan
	streamClient
	streamRaft
	streamWatch
	streamAdmin
	streamFault // and above: one for each fault
)

func newRand(seed, stream uint64) *mathrand.Rand {
	return mathrand.New(mathrand.NewPCG(seed, stream*0x9e3779b97f4a7c15))
}

// pinned is the randomness that raft gets.
type pinned struct{ rnd *mathrand.Rand }

// Read implements io.Reader.
func (p pinned) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(p.rnd.Uint32())
	}
	return len(b), nil
}

// Run simulates one seed. See the package comment for what must not happen
// meanwhile.
func Run(cfg Config) (res Result) {
	real := rand.Reader
	rand.Reader = pinned{newRand(cfg.Seed, streamRaft)}
	defer func() { rand.Reader = real }()
	res.Seed = cfg.Seed
	w := newWorld(cfg, &res)
	defer func() {
		switch v := recover().(type) {
		case nil:
		case *Violation:
			res.Err = v
		default:
			res.Err = &Violation{At: w.now, Rule: "panic", Text: fmt.Sprintf("%v\n%s", v, shortStack())}
		}
		w.report()
	}()
	w.run()
	return res
}

// shortStack is the part of a stack that names the code of this project.
func shortStack() string {
	var out []string
	lines := strings.Split(string(debug.Stack()), "\n")
	for i := range lines {
		if strings.Contains(lines[i], "deimos/") || strings.Contains(lines[i], "raft") {
			out = append(out, strings.TrimSpace(lines[i]))
		}
	}
	return strings.Join(out[:min(len(out), 24)], "\n")
}

func newWorld(cfg Config, res *Result) *world {
	w := &world{cfg: cfg, rnd: newRand(cfg.Seed, streamWorld), rows: map[string]int{}, res: res}
	w.tracer = newTracer(w, cfg.Trace)
	w.plan = newPlan(cfg)
	w.options = w.plan.options
	w.net = newNetwork(w)
	w.check = newChecker(w)
	w.oracle = newOracle(w)
	w.ttl = newTTLOracle(w)
	w.admin = newAdmin(w)
	w.history.w = w
	return w
}

// run is the whole life of a world.
func (w *world) run() {
	w.makeMembers()
	w.startClients()
	w.startWatches()
	w.calm.start(w)
	w.startFaults()
	for w.now < w.plan.duration { // which a fault may put off
		w.advance(w.plan.duration)
	}
	w.lastChances()
	w.heal()
	w.finish()
}

func (w *world) report() {
	w.res.TraceHash = w.tracer.hash
	w.res.Simulated = w.now
	w.res.Rows = w.rows
	w.res.Profile = w.plan.profile
	w.res.Members = w.plan.members
	w.res.Leaders = len(w.check.leaders)
	w.res.Expiries = w.ttl.expiries
	w.res.Faults = nil
	for _, f := range w.plan.faults {
		w.res.Faults = append(w.res.Faults, PlannedFault{At: f.at, Text: f.String(), Observed: f.observed})
	}
}

// fail ends the run with a violation.
func (w *world) fail(rule, format string, args ...any) {
	panic(&Violation{At: w.now, Rule: rule, Text: fmt.Sprintf(format, args...)})
}

// event is something that is to happen. One that belongs to a process does not
// happen when the process is dead, and waits while it is paused.
type event struct {
	at  time.Duration
	seq uint64
	p   *process
	fn  func()
}

// eventQueue is a heap by time, then by order of arrival.
type eventQueue []event

func (q eventQueue) less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].seq < q[j].seq
}

func (q *eventQueue) push(e event) {
	*q = append(*q, e)
	h := *q
	for i := len(h) - 1; i > 0; {
		parent := (i - 1) / 2
		if !h.less(i, parent) {
			return
		}
		h[i], h[parent] = h[parent], h[i]
		i = parent
	}
}

func (q *eventQueue) pop() event {
	h := *q
	top := h[0]
	last := len(h) - 1
	h[0] = h[last]
	h[last] = event{}
	h = h[:last]
	*q = h
	for i := 0; ; {
		child := 2*i + 1
		if child >= last {
			return top
		}
		if child+1 < last && h.less(child+1, child) {
			child++
		}
		if !h.less(child, i) {
			return top
		}
		h[i], h[child] = h[child], h[i]
		i = child
	}
}

// after schedules fn for the world itself.
func (w *world) after(d time.Duration, fn func()) { w.schedule(d, nil, fn) }

func (w *world) schedule(d time.Duration, p *process, fn func()) {
	w.seq++
	w.queue.push(event{at: w.now + max(d, 0), seq: w.seq, p: p, fn: fn})
}

// advance carries out what happens until a time.
func (w *world) advance(until time.Duration) {
	w.advanceWhile(until, func() bool { return true })
}

// advanceWhile carries out what happens until a time, or until more is false.
func (w *world) advanceWhile(until time.Duration, more func() bool) {
	for len(w.queue) > 0 && w.queue[0].at <= until {
		if !more() {
			return
		}
		e := w.queue.pop()
		w.now = e.at
		if e.p != nil {
			if e.p.dead {
				continue
			}
			if e.p.host.paused {
				e.p.host.deferred = append(e.p.host.deferred, e)
				continue
			}
		}
		w.res.Events++
		e.fn()
	}
	w.now = max(w.now, until)
}

// skip lets time pass in which nothing happens, because all members are down.
func (w *world) skip(d time.Duration) {
	w.calm.account()
	for i := range w.queue {
		w.queue[i].at += d // the order stays
	}
	w.now += d
	w.calm.account()
	w.calm.unsettledTo += d
	w.exclusiveTo += d
	w.idleTo += d
	w.plan.duration += d
	for _, t := range w.admin.tasks {
		t.until += d
	}
}

// between draws a duration.
func between(rnd *mathrand.Rand, low, high time.Duration) time.Duration {
	if high <= low {
		return low
	}
	return low + time.Duration(rnd.Int64N(int64(high-low)))
}

// chance is true with probability p.
func chance(rnd *mathrand.Rand, p float64) bool { return rnd.Float64() < p }

// row counts a fault for a row of the matrix.
func (w *world) row(names ...string) {
	for _, name := range names {
		w.rows[name]++
	}
}
