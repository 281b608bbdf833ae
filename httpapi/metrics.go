package httpapi

import (
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// methods are the values of the label method. Anything else a client may
// invent counts as the last one.
var methods = [...]string{
	http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPost, http.MethodDelete, http.MethodOptions, "other",
}

const (
	statusMin = 200
	statusEnd = 600
)

// metrics counts what the handler does. A counter is looked up by its labels
// once and then found by position.
type metrics struct {
	requests  *prometheus.CounterVec
	durations [len(methods)]prometheus.Observer
	watches   prometheus.Gauge
	counters  [len(methods)][statusEnd - statusMin]atomic.Pointer[prometheus.Counter]
}

// newMetrics makes the metrics and registers them unless r is nil.
func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "deimos_http_requests_total",
			Help: "Requests answered on the client port; a watch counts when it ends.",
		}, []string{"method", "code"}),
		watches: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "deimos_http_watches",
			Help: "Watches that clients hold open.",
		}),
	}
	durations := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "deimos_http_request_duration_seconds",
		Help:    "Time from the head of a request to the end of its answer, without watches.",
		Buckets: []float64{50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 0.1, 0.25, 0.5, 1, 2.5, 5, 10},
	}, []string{"method"})
	for i, name := range methods {
		m.durations[i] = durations.WithLabelValues(name)
	}
	if r == nil {
		return m, nil
	}
	for _, c := range [...]prometheus.Collector{m.requests, m.watches, durations} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("httpapi: registering metrics: %w", err)
		}
	}
	return m, nil
}

// count counts a finished request.
func (m *metrics) count(c *call) {
	method := len(methods) - 1
	for i, name := range methods {
		if name == c.r.Method {
			method = i
			break
		}
	}
	if !c.watching {
		m.durations[method].Observe(time.Since(c.start).Seconds())
	}
	status := c.status
	if status < statusMin || status >= statusEnd {
		return // no answer was begun
	}
	slot := &m.counters[method][status-statusMin]
	counter := slot.Load()
	if counter == nil {
		found := m.requests.WithLabelValues(methods[method], strconv.Itoa(status))
		counter = &found
		slot.Store(counter)
	}
	(*counter).Inc()
}

// newMetricsPage serves what g gathers as Prometheus text 0.0.4, whatever
// other formats the client would take.
func newMetricsPage(g prometheus.Gatherer, log *slog.Logger) http.Handler {
	if g == nil {
		g = prometheus.DefaultGatherer
	}
	page := promhttp.HandlerFor(g, promhttp.HandlerOpts{
		ErrorLog:      slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		ErrorHandling: promhttp.ContinueOnError,
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		plain := *r
		plain.Header = http.Header{"Accept-Encoding": r.Header["Accept-Encoding"]}
		page.ServeHTTP(w, &plain)
	})
}
