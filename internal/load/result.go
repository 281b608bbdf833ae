package load

import (
	"math"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Result is what a run has measured. Times are in seconds, sizes in bytes. The
// names of the fields in JSON do not change.
type Result struct {
	Work        Work     `json:"work"`
	Endpoints   []string `json:"endpoints"`
	Connections int      `json:"connections"`
	Watchers    int      `json:"watchers,omitempty"`
	Keys        int      `json:"keys"`
	PerDir      int      `json:"keys_per_directory,omitempty"`
	ValueBytes  int      `json:"value_bytes"`
	Rate        float64  `json:"rate_per_second,omitempty"` // as it was asked for
	Reads       float64  `json:"reads,omitempty"`           // the share
	Seed        uint64   `json:"seed"`
	// FilledKeys is how many keys were written before, to be read.
	FilledKeys int64 `json:"filled_keys,omitempty"`

	WarmupSeconds   float64 `json:"warmup_seconds"`
	DurationSeconds float64 `json:"duration_seconds"`
	// Interrupted tells that the run was ended early.
	Interrupted bool `json:"interrupted"`

	// Operations is how many requests were answered as they should be, or for
	// WatchFanout how many events have reached every watcher.
	Operations          int64     `json:"operations"`
	OperationsPerSecond float64   `json:"operations_per_second"`
	FailuresTotal       int64     `json:"failures_total"`
	Failures            []Failure `json:"failures"` // the most frequent first
	Reconnects          int64     `json:"reconnects"`
	// Deliveries is how many events all watchers together have got.
	Deliveries int64 `json:"deliveries,omitempty"`

	// SentBytes and ReceivedBytes are those of the operations, with their heads.
	SentBytes      int64   `json:"sent_bytes"`
	ReceivedBytes  int64   `json:"received_bytes"`
	BytesPerSecond float64 `json:"bytes_per_second"` // both

	// Latency is that of the operations, and of requests that were never answered.
	Latency Latency `json:"latency"`
	// ReadLatency and WriteLatency are parts of it where there are both; of
	// WatchFanout, WriteLatency is that of the writes themselves.
	ReadLatency  *Latency `json:"read_latency,omitempty"`
	WriteLatency *Latency `json:"write_latency,omitempty"`

	// GeneratorCPUSeconds is the processor time that this process used while it
	// measured.
	GeneratorCPUSeconds float64 `json:"generator_cpu_seconds"`
}

// Latency is a distribution of times, in seconds, each to three digits.
type Latency struct {
	Count  int64   `json:"count"`
	Min    float64 `json:"min_seconds"`
	Mean   float64 `json:"mean_seconds"`
	P50    float64 `json:"p50_seconds"`
	P90    float64 `json:"p90_seconds"`
	P99    float64 `json:"p99_seconds"`
	P999   float64 `json:"p99_9_seconds"`
	Max    float64 `json:"max_seconds"`
	Bounds []Bound `json:"buckets"`
}

// Bound tells how many latencies are no longer than a time.
type Bound struct {
	Seconds float64 `json:"le_seconds"`
	Count   int64   `json:"count"`
}

// result sums the run up after it has ended.
func (r *run) result() *Result {
	r.chargeUnanswered()
	r.chargeUnsent()
	t := r.total()
	cfg := &r.cfg
	res := &Result{
		Work: cfg.Work, Endpoints: cfg.Target.Endpoints, Connections: cfg.Connections,
		Keys: cfg.Keys.Count, PerDir: cfg.Keys.PerDir, ValueBytes: cfg.Keys.ValueBytes,
		Rate: cfg.Rate, Seed: cfg.Seed,
		WarmupSeconds: seconds(cfg.Warmup), DurationSeconds: seconds(r.measuredFor()), Interrupted: r.interrupted,
		Operations: t.ops(), Failures: t.failures(), Reconnects: t.reconnects, Deliveries: t.deliveries,
		SentBytes: t.sent, ReceivedBytes: t.received,
		GeneratorCPUSeconds: seconds(r.cpu),
	}
	if cfg.Work == Mixed || cfg.Work == OpenLoop {
		res.Reads = cfg.Reads
	}
	for _, f := range res.Failures {
		res.FailuresTotal += f.Count
	}
	if res.Failures == nil {
		res.Failures = []Failure{} // not null
	}
	both := merged(t.latencies[reading], t.latencies[writing])
	switch {
	case cfg.Work == WatchFanout:
		res.Watchers, res.Connections, res.Operations = cfg.Watchers, 1, t.counts[fanning]
		res.Latency, res.WriteLatency = *summary(merged(t.latencies[fanning])), summary(both)
	case t.latencies[reading] != nil && t.latencies[writing] != nil:
		res.ReadLatency, res.WriteLatency = summary(t.latencies[reading]), summary(t.latencies[writing])
		fallthrough
	default:
		res.Latency = *summary(both)
	}
	if res.DurationSeconds > 0 {
		res.OperationsPerSecond = float64(res.Operations) / res.DurationSeconds
		res.BytesPerSecond = float64(t.sent+t.received) / res.DurationSeconds
	}
	return res
}

// measuredFor is the time in which the measured requests were due. Where their
// number was the end, it reaches to the last answer.
func (r *run) measuredFor() time.Duration {
	if !r.plan.begun() {
		return 0
	}
	end, until := r.ended, r.plan.until()
	switch {
	case r.plan.limit > 0 && r.plan.claimed.Load() >= r.plan.limit:
		end = min(end, time.Duration(r.lastSign.Load()))
	case until > 0 && !r.interrupted:
		end = until
	}
	if until > 0 {
		end = min(end, until)
	}
	return max(0, end-r.plan.from())
}

// chargeUnanswered makes failures of the requests that were under way when the
// run was over.
func (r *run) chargeUnanswered() {
	now := r.now()
	for _, c := range r.callers {
		if c, ok := c.(*requester); ok && c.waiting {
			c.fail(Failure{Kind: KindTimeout}, now)
		}
	}
}

// chargeUnsent makes failures of the requests that were due and never sent.
func (r *run) chargeUnsent() {
	if r.plan.interval == 0 || !r.plan.begun() {
		return
	}
	s := writing
	switch {
	case r.fanout != nil:
		s = fanning
	case r.cfg.Reads == 1:
		s = reading
	}
	for n := r.plan.claimed.Load(); n < r.plan.total(); n++ {
		due := r.plan.due(n)
		if due >= r.ended {
			return
		}
		if due >= r.plan.from() {
			r.recorders[0].failure(Failure{Kind: KindUnsent}, s, r.ended-due)
		}
	}
}

// merged returns the sum of histograms, some of which may be nil.
func merged(all ...*hdrhistogram.Histogram) *hdrhistogram.Histogram {
	sum := newHistogram()
	for _, h := range all {
		if h != nil {
			sum.Merge(h)
		}
	}
	return sum
}

// boundFirst is the first bound of a bucket; each other is twice the one before.
const boundFirst = 10 * time.Microsecond

func summary(h *hdrhistogram.Histogram) *Latency {
	if h.TotalCount() == 0 {
		return &Latency{Bounds: []Bound{}}
	}
	at := func(percent float64) float64 { return seconds(h.ValueAtPercentile(percent)) }
	l := &Latency{
		Count: h.TotalCount(), Min: seconds(h.Min()), Mean: h.Mean() / float64(time.Second), Max: seconds(h.Max()),
		P50: at(50), P90: at(90), P99: at(99), P999: at(99.9),
	}
	bound, count := int64(boundFirst), int64(0)
	for _, bar := range h.Distribution() {
		for bar.Count > 0 && bar.To > bound && bound < math.MaxInt64/2 {
			l.Bounds = append(l.Bounds, Bound{seconds(bound), count})
			bound *= 2
		}
		count += bar.Count
	}
	l.Bounds = append(l.Bounds, Bound{seconds(bound), count})
	return l
}

// seconds divides once, so that round numbers stay round.
func seconds[T ~int64](nanoseconds T) float64 { return float64(nanoseconds) / float64(time.Second) }
