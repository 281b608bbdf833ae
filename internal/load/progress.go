package load

import "time"

// Progress is how a run stands.
type Progress struct {
	// Elapsed is how long it has been measured; negative during the warm-up.
	Elapsed time.Duration
	// Operations and Failures are those so far.
	Operations, Failures int64
	// OperationsPerSecond is the rate since the last report.
	OperationsPerSecond float64
	// P99 is the 99th percentile so far.
	P99 time.Duration
	// Total is how many operations there will be; 0: that is not known.
	Total int64
}

// progressInterval is the time between two reports.
const progressInterval = time.Second

// progress reports how a run stands. It belongs to the monitor.
type progress struct {
	run  *run
	at   time.Duration // of the last report
	last int64         // operations then
}

func newProgress(r *run) *progress { return &progress{run: r} }

// report calls the function of the configuration if it is time.
func (p *progress) report(now time.Duration) {
	if p.run.cfg.Progress == nil {
		return
	}
	if p.at == 0 {
		p.at = now
	}
	since := now - p.at
	if since < progressInterval {
		return
	}
	t := p.run.total()
	ops, latencies := t.ops(), merged(t.latencies[reading], t.latencies[writing])
	if p.run.fanout != nil {
		ops, latencies = t.counts[fanning], merged(t.latencies[fanning])
	}
	report := Progress{
		Elapsed:             now - p.run.plan.from(),
		Operations:          ops,
		OperationsPerSecond: float64(ops-p.last) / since.Seconds(),
		P99:                 time.Duration(latencies.ValueAtPercentile(99)),
		Total:               p.run.plan.limit,
	}
	for _, n := range t.failed {
		report.Failures += n
	}
	p.at, p.last = now, ops
	p.run.cfg.Progress(report)
}
