package pki

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are those of all ports that share a registry.
type metrics struct {
	reloadFailures    *prometheus.CounterVec
	handshakeFailures *prometheus.CounterVec
	expiry            *prometheus.GaugeVec
}

// newMetrics registers the metrics with reg, or finds them there, unless it is
// nil. Also with an error the metrics can be used, but nobody reads them.
func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	labels := []string{"port"}
	m := &metrics{
		reloadFailures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "deimos_tls_reload_failures_total",
			Help: "Changed certificate files that could not be used, so that the old certificates stayed.",
		}, labels),
		handshakeFailures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "deimos_tls_handshake_failures_total",
			Help: "Incoming connections whose TLS handshake failed.",
		}, labels),
		expiry: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "deimos_tls_certificate_expiry_timestamp_seconds",
			Help: "When the certificate in use ends, in seconds since 1970.",
		}, labels),
	}
	if reg == nil {
		return m, nil
	}
	err := errors.Join(register(reg, &m.reloadFailures), register(reg, &m.handshakeFailures), register(reg, &m.expiry))
	if err != nil {
		return m, fmt.Errorf("pki: register metrics: %w", err)
	}
	return m, nil
}

func register[C prometheus.Collector](reg prometheus.Registerer, c *C) error {
	err := reg.Register(*c)
	if exists, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		if shared, ok := exists.ExistingCollector.(C); ok {
			*c = shared
			return nil
		}
	}
	return err
}
