package transport

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/marsevilspirit/deimos"
)

// metrics are the counters of one HTTP. They count also when nobody collects
// them.
type metrics struct {
	dropped   *prometheus.CounterVec
	refused   *prometheus.CounterVec
	snapshots *prometheus.CounterVec
	active    *prometheus.GaugeVec
}

// newMetrics registers the metrics. Transports that share a registry share the
// metrics.
func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "deimos_peer_messages_dropped_total",
			Help: "Times that messages to a peer were dropped: queue full, connection lost, peer unknown or message too large.",
		}, []string{"to"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "deimos_peer_messages_refused_total",
			Help: "Messages and requests from peers that were refused. With the reason run, the sender tries again at once.",
		}, []string{"reason"}),
		snapshots: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "deimos_peer_snapshots_sent_total",
			Help: "Snapshot transfers to peers that ended, by outcome.",
		}, []string{"outcome"}),
		active: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "deimos_peer_active",
			Help: "1 while a connection with the peer is up, 0 while it is down.",
		}, []string{"peer"}),
	}
	if reg == nil {
		return m, nil
	}
	err := errors.Join(register(reg, &m.dropped), register(reg, &m.refused), register(reg, &m.snapshots), register(reg, &m.active))
	if err != nil {
		return nil, fmt.Errorf("transport: register metrics: %w", err)
	}
	return m, nil
}

func register[C prometheus.Collector](reg prometheus.Registerer, c *C) error {
	err := reg.Register(*c)
	var exists prometheus.AlreadyRegisteredError
	if errors.As(err, &exists) {
		if shared, ok := exists.ExistingCollector.(C); ok {
			*c = shared
			return nil
		}
	}
	return err
}

func (m *metrics) droppedTo(id uint64) {
	m.dropped.WithLabelValues(deimos.FormatID(id)).Inc()
}

func (m *metrics) refusedFor(r refusal) {
	m.refused.WithLabelValues(string(r)).Inc()
}

func (m *metrics) snapshotSent(ok bool) {
	outcome := "failed"
	if ok {
		outcome = "finished"
	}
	m.snapshots.WithLabelValues(outcome).Inc()
}

func (m *metrics) setActive(id uint64, active bool) {
	v := 0.0
	if active {
		v = 1
	}
	m.active.WithLabelValues(deimos.FormatID(id)).Set(v)
}

func (m *metrics) forget(id uint64) {
	m.dropped.DeleteLabelValues(deimos.FormatID(id))
	m.active.DeleteLabelValues(deimos.FormatID(id))
}
