package load

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// The kinds of failure.
const (
	// KindStatus is an answer with another status than 200 or 201.
	KindStatus = "status"
	// KindTimeout is no answer within the timeout; the connection was given up.
	KindTimeout = "timeout"
	// KindClosed is a connection that ended before the answer had arrived whole.
	KindClosed = "closed"
	// KindConnect is an attempt to connect that failed. No request was lost by it.
	KindConnect = "connect"
	// KindMalformed is an answer that is not HTTP/1.1.
	KindMalformed = "malformed"
	// KindNoValue is an answer to a read that says 200 and brings no value.
	KindNoValue = "no-value"
	// KindUnsent is a request of an open loop that was due and never sent.
	KindUnsent = "unsent"
	// KindMissed is an event that a watcher did not get within the timeout.
	KindMissed = "missed"
	// KindOrder is an event that a watcher got twice or too late.
	KindOrder = "order"
)

// Failure is a kind of failure and how often it happened.
type Failure struct {
	Kind string `json:"kind"`
	// Status and ErrorCode are those of the answer, for KindStatus.
	Status    int   `json:"status,omitempty"`
	ErrorCode int   `json:"error_code,omitempty"`
	Count     int64 `json:"count"`
}

// String describes the failure in a few words.
func (f Failure) String() string {
	text := fmt.Sprintf("%d × %s", f.Count, f.Kind)
	if f.Status != 0 {
		text += fmt.Sprintf(" %d", f.Status)
	}
	if f.ErrorCode != 0 {
		text += fmt.Sprintf(" (error %d)", f.ErrorCode)
	}
	return text
}

func describe(failures []Failure) string {
	var texts []string
	for _, f := range failures {
		texts = append(texts, f.String())
	}
	return strings.Join(texts, ", ")
}

// sort of measurement, each with its own latencies.
type sort int

const (
	reading sort = iota
	writing
	fanning // from an event's intended write until the last watcher has it
	sorts
)

// latencyMax is the longest latency that is told apart from longer ones: a run
// with its backlog is not longer.
const latencyMax = DurationMax + TimeoutMax

// newHistogram holds nanoseconds to three digits.
func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, int64(latencyMax), 3)
}

// recorder holds what was measured on some of the connections. Any goroutine may
// use it; it is shared by few, so that its lock is free.
type recorder struct {
	mu sync.Mutex
	measured
}

type measured struct {
	latencies      [sorts]*hdrhistogram.Histogram // nil: none
	counts         [sorts]int64                   // successes
	failed         map[Failure]int64              // with a Count of 0
	sent, received int64                          // bytes of what was measured
	reconnects     int64
	deliveries     int64 // events that watchers got
}

// success records an answer.
func (r *recorder) success(s sort, latency time.Duration, sent, received int) {
	r.mu.Lock()
	r.counts[s]++
	r.latency(s, latency)
	r.sent += int64(sent)
	r.received += int64(received)
	r.mu.Unlock()
}

// failure records what went wrong. A request that was never answered is charged
// with the time that was waited for it, as if it had been answered then; one
// that was answered with an error is not among the latencies.
func (r *recorder) failure(f Failure, s sort, waited time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f.Count = 0
	if r.failed == nil {
		r.failed = map[Failure]int64{}
	}
	r.failed[f]++
	if f.Kind == KindTimeout || f.Kind == KindUnsent || f.Kind == KindMissed {
		r.latency(s, waited)
	}
}

// missed records an event that so many watchers did not get in time.
func (r *recorder) missed(watchers int, waited time.Duration) {
	if watchers == 0 {
		return
	}
	r.failure(Failure{Kind: KindMissed}, fanning, waited)
	r.mu.Lock()
	r.failed[Failure{Kind: KindMissed}] += int64(watchers) - 1
	r.mu.Unlock()
}

func (r *recorder) reconnected() {
	r.mu.Lock()
	r.reconnects++
	r.mu.Unlock()
}

func (r *recorder) delivered() {
	r.mu.Lock()
	r.deliveries++
	r.mu.Unlock()
}

func (m *measured) latency(s sort, d time.Duration) {
	if m.latencies[s] == nil {
		m.latencies[s] = newHistogram()
	}
	// It is within the bounds of the histogram, so there is no error.
	_ = m.latencies[s].RecordValue(int64(min(max(d, 0), latencyMax)))
}

// add adds what other holds.
func (m *measured) add(other *measured) {
	for s := range sorts {
		m.counts[s] += other.counts[s]
		if other.latencies[s] == nil {
			continue
		}
		if m.latencies[s] == nil {
			m.latencies[s] = newHistogram()
		}
		m.latencies[s].Merge(other.latencies[s])
	}
	for f, n := range other.failed {
		if m.failed == nil {
			m.failed = map[Failure]int64{}
		}
		m.failed[f] += n
	}
	m.sent += other.sent
	m.received += other.received
	m.reconnects += other.reconnects
	m.deliveries += other.deliveries
}

// ops is the number of requests that were answered as they should be.
func (m *measured) ops() int64 { return m.counts[reading] + m.counts[writing] }

// failures returns what went wrong, most frequent first.
func (m *measured) failures() []Failure {
	var all []Failure
	for f, n := range m.failed {
		f.Count = n
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b Failure) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Status, b.Status), cmp.Compare(a.ErrorCode, b.ErrorCode))
	})
	return all
}
