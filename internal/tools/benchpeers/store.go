package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/marsevilspirit/deimos/internal/load"
)

// The work on a large store.
const (
	storePerDir        = 1000
	storeSnapshotCount = "10000"
	storeOpenRate      = 1000
	storeOpenMin       = 20 * time.Second // two snapshots at least
)

// storeCell fills a store and looks what that costs.
func (b *bench) storeCell() *cell {
	keys := thousands(float64(b.fillKeys)) + " keys"
	c := &cell{name: "large-store", columns: []string{deimos, etcd}, rows: []row{
		{keys + ": filling", perSecond, false},
		{keys + ": resident memory when full", size, true},
		{keys + ": the most there was", size, true},
		{keys + fmt.Sprintf(": %d PUT/s in an open loop, snapshots meanwhile, p99", storeOpenRate), duration, true},
		{keys + ": the same, the longest", duration, true},
		{keys + ": kill -9, start, until a linearizable read", duration, true},
	}}
	c.open = once(func(ctx context.Context, system string) (figures []float64, err error) {
		cl, err := b.start(ctx, system, options{flags: []string{"--snapshot-count", storeSnapshotCount}})
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, cl.stop()) }()
		return b.largeStore(ctx, c, cl)
	})
	return c
}

func (b *bench) largeStore(ctx context.Context, c *cell, cl *cluster) ([]float64, error) {
	s := cl.members[0]
	fill := b.config(load.Fill, cl.system, s)
	fill.Keys.Count, fill.Keys.PerDir = b.fillKeys, storePerDir
	filled, err := b.load(ctx, c, fill)
	if err != nil {
		return nil, err
	}
	resident, err := memory(s.pid(), "VmRSS")
	if err != nil {
		return nil, err
	}
	most, err := memory(s.pid(), "VmHWM")
	if err != nil {
		return nil, err
	}
	open := b.config(load.OpenLoop, cl.system, s)
	open.Keys, open.Rate, open.Duration = fill.Keys, storeOpenRate, max(b.measure, storeOpenMin)
	paced, err := b.load(ctx, c, open)
	if err != nil {
		return nil, err
	}
	restart, err := s.restart(ctx, cl.system)
	if err != nil {
		return nil, err
	}
	return []float64{filled.OperationsPerSecond, resident, most, paced.Latency.P99, paced.Latency.Max, restart.Seconds()}, nil
}

// restart kills the server and returns how long it takes from its start until it
// answers a linearizable read.
func (s *server) restart(ctx context.Context, system string) (time.Duration, error) {
	if err := s.kill(); err != nil {
		return 0, err
	}
	began := time.Now()
	if err := s.start(); err != nil {
		return 0, err
	}
	if err := s.await(ctx, system); err != nil {
		return 0, err
	}
	return time.Since(began), nil
}

// memory returns a field of /proc/PID/status in bytes.
func memory(pid int, field string) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(text) {
		if rest, ok := bytes.CutPrefix(line, []byte(field+":")); ok {
			kilobytes, err := strconv.ParseFloat(string(bytes.TrimSpace(bytes.TrimSuffix(bytes.TrimSpace(rest), []byte("kB")))), 64)
			return kilobytes * 1024, err
		}
	}
	return 0, fmt.Errorf("/proc/%d/status has no %s", pid, field)
}
