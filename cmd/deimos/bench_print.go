package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/marsevilspirit/deimos/internal/load"
)

// printResult writes a result for people to read.
func printResult(w io.Writer, r *load.Result) {
	line := func(label, format string, args ...any) {
		fmt.Fprintf(w, "%-12s %s\n", label, fmt.Sprintf(format, args...))
	}
	line("work", "%s", describeWork(r))
	line("endpoints", "%s", strings.Join(r.Endpoints, ", "))
	line("connections", "%d", r.Connections)
	early := ""
	if r.Interrupted {
		early = ", interrupted"
	}
	line("duration", "%s after a warm-up of %s%s", roundSeconds(r.DurationSeconds), roundSeconds(r.WarmupSeconds), early)
	line("succeeded", "%d, %.1f/s", r.Operations, r.OperationsPerSecond)
	if r.Deliveries > 0 {
		line("delivered", "%d events to %d watchers, %.0f/s", r.Deliveries, r.Watchers, float64(r.Deliveries)/max(r.DurationSeconds, 1e-9))
	}
	line("failed", "%d", r.FailuresTotal)
	for _, f := range r.Failures {
		line("", "%s", f)
	}
	if r.Reconnects > 0 {
		line("reconnected", "%d times", r.Reconnects)
	}
	line("traffic", "%.1f MB sent, %.1f MB received, %.1f MB/s", mega(r.SentBytes), mega(r.ReceivedBytes), r.BytesPerSecond/1e6)
	printLatency(w, "latency", &r.Latency)
	printLatency(w, "  of reads", r.ReadLatency)
	printLatency(w, "  of writes", r.WriteLatency)
	if n := max(r.Operations, r.Deliveries); n > 0 && r.DurationSeconds > 0 {
		what := "request"
		if r.Deliveries > 0 {
			what = "delivery"
		}
		line("generator", "%.2f of a processor, %.1f µs a %s", r.GeneratorCPUSeconds/r.DurationSeconds,
			r.GeneratorCPUSeconds/float64(n)*1e6, what)
	}
}

func describeWork(r *load.Result) string {
	text := string(r.Work)
	switch r.Work {
	case load.WatchFanout:
		return fmt.Sprintf("%s, %v events a second to %d watchers, values of %d bytes", text, r.Rate, r.Watchers, r.ValueBytes)
	case load.OpenLoop:
		text += fmt.Sprintf(", %v requests a second", r.Rate)
	}
	if r.Reads > 0 {
		text += fmt.Sprintf(", %v %% reads", 100*r.Reads)
	}
	text += fmt.Sprintf(", %d keys", r.Keys)
	if r.PerDir > 0 {
		text += fmt.Sprintf(", %d to a directory", r.PerDir)
	}
	return text + fmt.Sprintf(", values of %d bytes", r.ValueBytes)
}

func printLatency(w io.Writer, label string, l *load.Latency) {
	if l == nil || l.Count == 0 {
		return
	}
	fmt.Fprintf(w, "%-12s min %s, p50 %s, p90 %s, p99 %s, p99.9 %s, max %s\n", label,
		roundSeconds(l.Min), roundSeconds(l.P50), roundSeconds(l.P90), roundSeconds(l.P99), roundSeconds(l.P999), roundSeconds(l.Max))
}

// roundSeconds shows three digits of a time.
func roundSeconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	unit := time.Nanosecond
	for d/unit >= 1000 {
		unit *= 10
	}
	return d.Round(unit).String()
}

func mega(bytes int64) float64 { return float64(bytes) / 1e6 }
