package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/marsevilspirit/deimos/internal/load"
)

// cells returns all cells, in the order in which they are done.
func (b *bench) cells() []*cell {
	return slices.Concat(b.trafficCells(), b.latencyCells(), []*cell{b.storeCell(), b.idleCell()}, b.growthCells())
}

// traffic is a work of which the requests a second count.
type traffic struct {
	name, title string
	work        load.Work
	members     int
	follower    bool // it is sent to one that does not lead
}

func (b *bench) trafficCells() []*cell {
	var cells []*cell
	for _, tr := range []traffic{
		{"put-1", "PUT, durable, 1 member", load.Put, 1, false},
		{"put-3-leader", "PUT, durable, 3 members, at the leader", load.Put, 3, false},
		{"put-3-follower", "PUT, durable, 3 members, at a follower", load.Put, 3, true},
		{"get-1", "GET, linearizable, 1 member", load.Get, 1, false},
		{"get-3-follower", "GET, linearizable, 3 members, at a follower", load.Get, 3, true},
		{"get-local", "GET, local, 1 member", load.GetLocal, 1, false},
	} {
		c := &cell{name: tr.name, columns: []string{deimos, etcd}, rows: []row{{name: tr.title, unit: perSecond}}}
		if tr.members == 1 {
			c.columns = append(c.columns, nothing, sockets)
		}
		if hasWrk() {
			c.rows = append(c.rows, row{name: tr.title + ", by wrk", unit: perSecond})
		}
		c.open = once(func(ctx context.Context, system string) ([]float64, error) { return b.traffic(ctx, c, tr, system) })
		cells = append(cells, c)
	}
	return cells
}

// traffic measures a work against a fresh cluster, by this program and by wrk.
func (b *bench) traffic(ctx context.Context, c *cell, tr traffic, system string) (figures []float64, err error) {
	cl, err := b.start(ctx, system, options{members: tr.members})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, cl.stop()) }()
	at := cl.members[0]
	if tr.members > 1 {
		leader, follower, err := cl.leader(ctx)
		if err != nil {
			return nil, err
		}
		if at = leader; tr.follower {
			at = follower
		}
	}
	r, err := b.load(ctx, c, b.config(tr.work, system, at))
	if err != nil {
		return nil, err
	}
	figures = []float64{r.OperationsPerSecond}
	if b.wrk != "" {
		rate, err := b.runWrk(ctx, tr.work, system, at)
		if err != nil {
			return nil, err
		}
		figures = append(figures, rate)
	}
	return figures, nil
}

func (b *bench) latencyCells() []*cell {
	fanout := &cell{name: "watch-fanout", columns: []string{deimos, etcd},
		rows: []row{{name: "one event to 1,000 streams: until the last has it, p50", unit: duration, lower: true}}}
	fanout.open = once(func(ctx context.Context, system string) ([]float64, error) {
		return b.alone(ctx, fanout, b.config(load.WatchFanout, system, nil), system)
	})
	single := &cell{name: "put-1-connection", columns: []string{deimos, etcd, nothing, disk},
		rows: []row{{name: "PUT, durable, 1 member, 1 connection, p50", unit: duration, lower: true}}}
	single.open = once(func(ctx context.Context, system string) ([]float64, error) {
		if system == disk {
			p50, err := b.measureDisk(ctx)
			return []float64{p50}, err
		}
		cfg := b.config(load.Put, system, nil)
		cfg.Connections = 1
		return b.alone(ctx, single, cfg, system)
	})
	return []*cell{single, fanout}
}

// alone measures the median latency of a work against a fresh member.
func (b *bench) alone(ctx context.Context, c *cell, cfg load.Config, system string) (figures []float64, err error) {
	cl, err := b.start(ctx, system, options{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, cl.stop()) }()
	cfg.Target.Endpoints = []string{cl.members[0].url}
	r, err := b.load(ctx, c, cfg)
	if err != nil {
		return nil, err
	}
	return []float64{r.Latency.P50}, nil
}

// config is the usual configuration of a work.
func (b *bench) config(w load.Work, system string, at *server) load.Config {
	cfg := load.Default(w)
	cfg.Target.Prefix = prefix(system)
	if at != nil {
		cfg.Target.Endpoints = []string{at.url}
	}
	if w != load.Fill {
		cfg.Duration, cfg.Warmup = b.measure, b.warmup
	}
	return cfg
}

// load does a work. Failures of a few requests become a note of the cell.
func (b *bench) load(ctx context.Context, c *cell, cfg load.Config) (*load.Result, error) {
	r, err := load.Run(ctx, cfg)
	switch {
	case err != nil:
		return nil, err
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case r.FailuresTotal > r.Operations:
		return nil, fmt.Errorf("%s: only %d requests succeeded, %v", cfg.Work, r.Operations, r.Failures)
	case r.FailuresTotal > 0:
		c.note("%s, prefix %s: %d of %d requests failed in a round: %v", cfg.Work, cfg.Target.Prefix, r.FailuresTotal, r.FailuresTotal+r.Operations, r.Failures)
	}
	return r, nil
}
