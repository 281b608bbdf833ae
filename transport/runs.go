package transport

import (
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// runSilence is for how long the process that speaks for a member must have
	// been silent before another one takes its place without a sign that it has
	// ended. It is a little more than what it takes to notice a dead peer.
	runSilence = idleTimeout + 2*time.Second
	// runQuery names the sender's run in the query of a request.
	runQuery = "run"
	// placeMaxBytes bounds what is remembered of where a process is.
	placeMaxBytes = 200
)

// tenure is the time in which one process speaks for a member.
type tenure struct {
	run   string
	place string // where the process is, as far as it is known; for texts only
	since time.Time

	heardNS  atomic.Int64 // when anything came from it last, from since
	openedNS atomic.Int64 // when it opened a request last, from since; 0: never
	open     atomic.Int32 // requests and streams under way, in both directions
	over     atomic.Bool  // another process speaks now
}

func newTenure(run, place string) *tenure {
	place = place[:min(len(place), placeMaxBytes)]
	return &tenure{run: run, place: strings.TrimSpace(strings.ToValidUTF8(place, "")), since: time.Now()}
}

// hear notes that something has come from the process.
func (n *tenure) hear() { n.heardNS.Store(int64(time.Since(n.since))) }

// silentFor returns for how long nothing has come from it.
func (n *tenure) silentFor() time.Duration {
	return time.Since(n.since) - time.Duration(n.heardNS.Load())
}

// opened notes that the process has opened a request. Unlike the bytes of a
// stream, which can lie in a buffer for long after their sender has ended, an
// opening tells that it was there a moment ago.
func (n *tenure) opened() {
	n.hear()
	n.openedNS.Store(int64(time.Since(n.since)))
}

// openedAfter reports whether the newest opening came after a moment.
func (n *tenure) openedAfter(moment time.Time) bool {
	return n.openedNS.Load() > int64(moment.Sub(n.since))
}

// enter counts a request or a stream until the returned function is called.
func (n *tenure) enter() (leave func()) {
	n.open.Add(1)
	var once sync.Once
	return func() { once.Do(func() { n.open.Add(-1) }) }
}

// runs remembers for each member the process that speaks for it, and the
// contests about it. The zero value is ready; its methods may be called from any
// goroutine. It holds as many members as are known to this one.
type runs struct {
	mu       sync.Mutex
	tenures  map[uint64]*tenure
	contests map[uint64]*contest
}

// of returns the tenure of the process that speaks for a member; nil: none is
// known.
func (r *runs) of(id uint64) *tenure {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tenures[id]
}

// claim returns the tenure of a member, and nothing else if it is that of the
// given run. Otherwise it also returns the contest to wait for, which is new and
// has to be started if fresh.
func (r *runs) claim(id uint64, run string) (holder *tenure, c *contest, fresh bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	holder = r.tenures[id]
	if holder != nil && holder.run == run {
		return holder, nil, false
	}
	if c = r.contests[id]; c != nil && c.counts(run) {
		return holder, c, false
	}
	if r.contests == nil {
		r.contests = make(map[uint64]*contest)
	}
	c = &contest{run: run, done: make(chan struct{})}
	r.contests[id] = c
	return holder, c, true
}

// finish ends a contest. next is who speaks for the member from now on; nil: who
// did before. It returns the tenure that ends by that, nil if none does.
func (r *runs) finish(id uint64, c *contest, o outcome, next *tenure) (ended *tenure) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c.outcome, c.ended = o, time.Now()
	close(c.done)
	if next == nil || r.contests[id] != c { // the member was forgotten meanwhile
		return nil
	}
	if ended = r.tenures[id]; ended != nil {
		ended.over.Store(true)
	}
	if r.tenures == nil {
		r.tenures = make(map[uint64]*tenure)
	}
	r.tenures[id] = next
	return ended
}

// forget is for a member that is known no more.
func (r *runs) forget(id uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.tenures, id)
	delete(r.contests, id)
}

// setRun names the run of the sender in a request. It stands in the query,
// because the proof covers that also at a receiver that does not know of it.
func setRun(r *http.Request, run string) {
	if run != "" {
		r.URL.RawQuery = url.Values{runQuery: {run}}.Encode()
	}
}

// runOf returns the run of the sender of a request, "" when it names none, and
// false for what no process names.
func runOf(r *http.Request) (string, bool) {
	run := r.URL.Query().Get(runQuery)
	return run, run == "" || isNonce(run)
}
