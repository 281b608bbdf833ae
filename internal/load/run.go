package load

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"
)

// run is one run. Its clock is that of now.
type run struct {
	cfg       Config
	zero      time.Time
	plan      plan
	fanout    *fanout // nil: there is none
	callers   []caller
	recorders []*recorder

	up       atomic.Int64 // callers that have been greeted, or watch
	working  atomic.Int64 // requesters that have not finished
	lastSign atomic.Int64 // when the last answer came
	over     atomic.Bool

	// Of the monitor, and after it has ended of everybody.
	ended       time.Duration // when the last request was answered or given up, or it was interrupted
	interrupted bool
	cpu         time.Duration // what this process used while it was measured
	cpuFrom     time.Duration
}

// connectionsPerRecorder is how many connections share one, where each has its
// own goroutine.
const connectionsPerRecorder = 16

func newRun(cfg Config, endpoints []*endpoint) *run {
	r := &run{cfg: cfg, zero: time.Now()}
	r.plan = plan{warmup: cfg.Warmup, duration: cfg.Duration, limit: cfg.Requests}
	if cfg.Rate > 0 {
		r.plan.interval = 1e9 / cfg.Rate
	}
	connections := cfg.Connections
	switch cfg.Work {
	case Fill:
		r.plan.limit = int64(cfg.Keys.Count)
	case WatchFanout:
		connections = 1
		r.fanout = newFanout(r, cfg.Watchers)
	}
	for i := range connections {
		if i%connectionsPerRecorder == 0 {
			r.recorders = append(r.recorders, new(recorder))
		}
		r.callers = append(r.callers, newRequester(r, endpoints[i%len(endpoints)], r.recorders[len(r.recorders)-1], i))
	}
	r.working.Store(int64(connections))
	if r.fanout != nil {
		for i := range cfg.Watchers {
			r.callers = append(r.callers, newWatcher(r.fanout, endpoints[i%len(endpoints)]))
		}
	}
	return r
}

func (r *run) now() time.Duration { return time.Since(r.zero) }

// openingMax is how many connections are under way at once that have not been
// answered anything yet, for each poller or all goroutines. A server may take
// many that are silent for an attack.
const openingMax = 128

// arrived counts a caller that is connected for the first time. The last one
// lets the work begin.
func (r *run) arrived() {
	if r.up.Add(1) == int64(len(r.callers)) {
		r.plan.begin(r.now())
	}
}

func (r *run) answered(now time.Duration) { r.lastSign.Store(int64(now)) }

// left counts a requester that has finished.
func (r *run) left() { r.working.Add(-1) }

// total adds up what all recorders hold.
func (r *run) total() *measured {
	var t measured
	for _, rec := range r.recorders {
		rec.mu.Lock()
		t.add(&rec.measured)
		rec.mu.Unlock()
	}
	return &t
}

// drive does the work. It returns when it is done or ctx is cancelled; the error
// tells that it could not begin.
func (r *run) drive(ctx context.Context) error {
	monitored := make(chan error, 1)
	go func() { monitored <- r.monitor(ctx) }()
	err := r.move()
	r.over.Store(true) // also where the driver failed
	if monitorErr := <-monitored; err == nil {
		err = monitorErr
	}
	return err
}

// tick is how often a run looks after itself.
const tick = 20 * time.Millisecond

// interruptGrace is how long requests under way are waited for when a run is
// interrupted.
const interruptGrace = time.Second

// beginMax is how long all connections may take to be there. Requests begin
// without those that are late then; a fan-out does not.
const beginMax = 10 * time.Second

// monitor ends the run when it is time, and reports the progress meanwhile.
func (r *run) monitor(ctx context.Context) error {
	defer r.over.Store(true)
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	progress, stop := newProgress(r), ctx.Done()
	measuring := false
	for {
		select {
		case <-stop:
			r.plan.stop()
			r.interrupted, r.ended, stop = true, r.now(), nil
		case <-ticker.C:
		}
		now := r.now()
		if !r.plan.begun() && !r.interrupted {
			if err := r.awaitBegin(now); err != nil {
				return err
			}
			continue
		}
		if !measuring && now >= r.plan.from() {
			measuring, r.cpuFrom = true, processCPU()
		}
		if r.fanout != nil {
			r.fanout.giveUp(now)
		}
		progress.report(now)
		if r.done(now) {
			if !r.interrupted {
				r.ended = now
			}
			r.cpu = processCPU() - r.cpuFrom
			return nil
		}
	}
}

// awaitBegin lets the work begin without connections that are late.
func (r *run) awaitBegin(now time.Duration) error {
	switch up := r.up.Load(); {
	case r.over.Load():
		return nil
	case now < min(beginMax, r.cfg.Timeout):
	case r.fanout != nil:
		return fmt.Errorf("load: only %d of the writer and %d watchers were accepted within %v", up, r.cfg.Watchers, now.Round(time.Second))
	case up == 0:
		return fmt.Errorf("load: %w: no connection within %v", ErrNoConnection, now.Round(time.Second))
	default:
		r.plan.begin(now)
	}
	return nil
}

// done tells whether the run is over, by itself or because it has to be.
func (r *run) done(now time.Duration) bool {
	switch {
	case r.over.Load():
		return true
	case r.working.Load() == 0:
		return r.fanout == nil || r.fanout.settled()
	case r.interrupted:
		return now-r.ended > min(interruptGrace, r.cfg.Timeout) || !r.plan.begun()
	}
	if until := r.plan.until(); until > 0 {
		return now > until+r.cfg.Timeout+2*tick
	}
	quiet := now - time.Duration(max(r.lastSign.Load(), r.plan.start.Load()))
	return quiet > max(stallMax, r.cfg.Timeout)
}

// loops is how many threads poll the connections: few, because servers that are
// measured on the same machine need the others.
func loops() int { return max(1, runtime.GOMAXPROCS(0)/4) }

// hasTLS tells whether any connection is encrypted.
func (r *run) hasTLS() bool {
	for _, c := range r.callers {
		if c.server().tls != nil {
			return true
		}
	}
	return false
}
