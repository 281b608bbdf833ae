package sim

import (
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"time"
)

// Profiles are the kinds of runs: which faults prevail.
var Profiles = []string{"mixed", "restarts", "network", "disks", "members", "time"}

// plan is what a seed has in mind.
type plan struct {
	profile  string
	members  int
	duration time.Duration
	options  options
	faults   []*fault
	// late says that the planned time is over, and faults get their last chance.
	late bool
}

// fault is one planned fault.
type fault struct {
	w     *world
	n     int
	at    time.Duration
	lasts time.Duration
	kind  *faultKind
	rnd   *mathrand.Rand
	// tries is how often it has begun, active that it has not ended since, and
	// late that it began after the planned time.
	tries        int
	active, late bool
	// happened, unless nil, tells whether the fault has left a trace by now.
	happened func() bool
	observed bool
}

// String names the fault.
func (f *fault) String() string {
	return fmt.Sprintf("%s for %.2fs", f.kind.name, f.lasts.Seconds())
}

// faultKind is one kind of fault.
type faultKind struct {
	name string
	// weights say how often each profile has it, in the order of Profiles.
	weights [6]int
	// low and high bound how long it lasts.
	low, high time.Duration
	// begin makes the fault happen. It returns false when it cannot be made now
	// and is to be tried again, else a function that ends it, or nil.
	begin func(f *fault) (end func(), ok bool)
	// calm says that it leaves the cluster able to do its work in time.
	calm bool
	// rows are the rows of the matrix that it belongs to, counted when it has
	// happened.
	rows []string
}

// newPlan draws a plan. Each fault has randomness of its own, so that leaving
// one out changes no other.
func newPlan(cfg Config) *plan {
	rnd := newRand(cfg.Seed, streamPlan)
	pl := &plan{members: 3, duration: cfg.Duration}
	profile := rnd.IntN(len(Profiles) + 2)
	if profile >= len(Profiles) {
		profile = 0
	}
	if i := slices.Index(Profiles, cfg.Profile); i >= 0 {
		profile = i
	}
	pl.profile = Profiles[profile]
	if chance(rnd, 0.3) {
		pl.members = 4 + rnd.IntN(2)
	}
	drawn := between(rnd, 20*time.Second, 60*time.Second)
	if pl.duration == 0 {
		pl.duration = drawn
	}
	if cfg.Members > 0 {
		pl.members = cfg.Members
	}
	pl.options = options{snapshotCount: 120 + rnd.Uint64N(500), historyEvents: 100 + rnd.IntN(2000), catchUp: rnd.Uint64N(400)}
	total := 0
	for i := range faultKinds {
		total += faultKinds[i].weights[profile]
	}
	count := 3 + int(pl.duration/(4*time.Second)) + rnd.IntN(4)
	for n := range count {
		at := between(rnd, 3*time.Second, max(pl.duration-3*time.Second, 4*time.Second))
		f := &fault{n: n, at: at, rnd: newRand(cfg.Seed, streamFault+uint64(n)), kind: drawKind(rnd, profile, total)}
		f.lasts = between(f.rnd, f.kind.low, f.kind.high)
		if !cfg.Skip[n] {
			pl.faults = append(pl.faults, f)
		}
	}
	slices.SortStableFunc(pl.faults, func(a, b *fault) int { return int(a.at - b.at) })
	return pl
}

func drawKind(rnd *mathrand.Rand, profile, total int) *faultKind {
	at := rnd.IntN(total)
	for i := range faultKinds {
		if at -= faultKinds[i].weights[profile]; at < 0 {
			return &faultKinds[i]
		}
	}
	return &faultKinds[0]
}

// startFaults schedules the faults of the plan.
func (w *world) startFaults() {
	for _, f := range w.plan.faults {
		f.w = w
		w.after(f.at-w.now, f.try)
	}
}

// try begins the fault, now or as soon as it can be made.
func (f *fault) try() {
	w := f.w
	if w.healing {
		return
	}
	if w.exclusiveTo > w.now {
		w.after(100*time.Millisecond, f.try)
		return
	}
	f.happened = nil
	end, ok := f.kind.begin(f)
	if !ok {
		w.after(150*time.Millisecond, f.try)
		return
	}
	f.tries++
	f.active, f.late = true, w.plan.late
	w.tracer.mix(uint64(w.now), uint64(f.n))
	w.tracer.logf("fault %d: %s", f.n, f)
	if !f.kind.calm {
		w.calm.begin()
	}
	w.after(f.lasts, func() {
		w.tracer.logf("fault %d ends: %s", f.n, f.kind.name)
		f.look()
		f.active = false
		if end != nil {
			end()
		}
		if !f.kind.calm {
			w.calm.end()
		}
		f.again()
	})
}

// grows makes the growth of a counter the sign that the fault has happened.
func (f *fault) grows(counter func() int) {
	before := counter()
	f.happened = func() bool { return counter() > before }
}

// look finds out whether the fault has happened by now.
func (f *fault) look() {
	if f.happened != nil && f.happened() {
		f.seen()
	}
}

// again begins a fault that has ended and that nobody has noticed, once the
// planned time is over.
func (f *fault) again() {
	if f.w.plan.late && f.tries > 0 && !f.active && !f.observed {
		f.try()
	}
}

// lateFor is how long a fault that gets its last chance may have to wait for its
// condition: a leader, say, or calm, or a snapshot, which takes 14 s of ordinary
// traffic when it is due after the most entries.
const lateFor = 20 * time.Second

// lastChances goes on beyond the planned time until the faults have happened
// that could not: those that wait for a leader or for calm, because another
// fault took it away for all the time that was left, and those that nobody has
// noticed, which begin again. A fault that begins now comes to its end.
func (w *world) lastChances() {
	pl := w.plan
	pl.late = true
	wait := time.Duration(0)
	for _, f := range pl.faults {
		if f.look(); !f.observed {
			wait += f.lasts + lateFor
			f.again()
		}
	}
	// What has begun in the planned time takes nothing from the wait.
	for pl.pending() && pl.underWay() {
		w.advanceWhile(w.now+time.Second, func() bool { return pl.pending() && pl.underWay() })
	}
	pl.duration = max(pl.duration, w.now) + wait
	for w.now < pl.duration && pl.pending() { // the end of which a fault may put off
		w.advanceWhile(pl.duration, pl.pending)
	}
}

// underWay reports whether a fault that began in the planned time goes on.
func (pl *plan) underWay() bool {
	return slices.ContainsFunc(pl.faults, func(f *fault) bool { return f.active && !f.late })
}

// pending reports whether a fault that had no chance by the planned end has not
// had it yet.
func (pl *plan) pending() bool {
	return slices.ContainsFunc(pl.faults, func(f *fault) bool { return !f.observed || f.late && f.active })
}

// seen notes that the fault has really happened.
func (f *fault) seen() {
	if !f.observed {
		f.observed = true
		f.w.row(f.kind.rows...)
	}
}
