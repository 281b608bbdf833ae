package proxy

import (
	"fmt"
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics counts what a proxy does.
type metrics struct {
	requests *prometheus.CounterVec
	failures prometheus.Counter
	watches  prometheus.Gauge
	shared   prometheus.Gauge
}

// newMetrics makes the metrics and registers them unless r is nil.
func newMetrics(r prometheus.Registerer, m *members) (*metrics, error) {
	x := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "deimos_proxy_requests_total",
			Help: "Requests answered by the proxy; a watch counts when it ends.",
		}, []string{"method", "code"}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "deimos_proxy_upstream_failures_total",
			Help: "Requests to members, the proxy's own among them, that brought no answer.",
		}),
		watches: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "deimos_proxy_watches",
			Help: "Watches that clients hold open.",
		}),
		shared: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "deimos_proxy_shared_watches",
			Help: "Watches of clients that joined the upstream watch of another client.",
		}),
	}
	if r == nil {
		return x, nil
	}
	gauge := func(state string, count func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "deimos_proxy_members",
			Help:        "Members that the proxy knows, and those of them that answered last time.",
			ConstLabels: prometheus.Labels{"state": state},
		}, func() float64 { return float64(count()) })
	}
	for _, c := range [...]prometheus.Collector{
		x.requests, x.failures, x.watches, x.shared,
		gauge("known", func() int { known, _ := m.count(); return known }),
		gauge("healthy", func() int { _, healthy := m.count(); return healthy }),
	} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("proxy: registering metrics: %w", err)
		}
	}
	return x, nil
}

// count counts a finished request. Methods that a client may invent count as
// one.
func (x *metrics) count(method string, status int) {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPost, http.MethodDelete, http.MethodOptions:
	default:
		method = "other"
	}
	x.requests.WithLabelValues(method, strconv.Itoa(status)).Inc()
}
