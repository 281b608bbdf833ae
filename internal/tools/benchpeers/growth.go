package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/marsevilspirit/deimos/internal/load"
)

// growthCells look how the cost of Deimos grows.
func (b *bench) growthCells() []*cell {
	return []*cell{b.keysCell(), b.widthCell(), b.listCell(), b.connectionsCell(), b.valuesCell(), b.tlsCell()}
}

// growthPerDir is the number of keys in each directory of these stores.
const growthPerDir = 100

// putAndGet are the rows of most of these cells.
var putAndGet = []row{{name: "PUT", unit: perSecond}, {name: "GET, linearizable", unit: perSecond}}

// variant is a running member with its load.
type variant struct {
	cluster *cluster
	keys    load.Keys
}

// stores opens a cell whose columns are stores of different shapes, each filled
// once. All run at once; the one that is not measured is idle.
func (b *bench) stores(c *cell, shapes map[string]load.Keys, works ...load.Work) func(context.Context) (measure, func() error, error) {
	return func(ctx context.Context) (measure, func() error, error) {
		running := map[string]*variant{}
		closing := func() error {
			var errs []error
			for _, v := range running {
				errs = append(errs, v.cluster.stop())
			}
			return errors.Join(errs...)
		}
		for _, column := range c.columns {
			cl, err := b.start(ctx, deimos, options{})
			if err != nil {
				return nil, nil, errors.Join(err, closing())
			}
			running[column] = &variant{cl, shapes[column]}
			fill := b.config(load.Fill, deimos, cl.members[0])
			fill.Keys = shapes[column]
			if _, err := b.load(ctx, c, fill); err != nil {
				return nil, nil, errors.Join(err, closing())
			}
		}
		return func(ctx context.Context, column string) (figures []float64, err error) {
			v := running[column]
			for _, w := range works {
				cfg := b.config(w, deimos, v.cluster.members[0])
				cfg.Keys, cfg.Filled = v.keys, true
				r, err := b.load(ctx, c, cfg)
				if err != nil {
					return nil, err
				}
				figures = append(figures, r.OperationsPerSecond)
			}
			return figures, nil
		}, closing, nil
	}
}

// shape is a store of so many keys, so many of them in each directory.
func shape(count, perDir int) load.Keys {
	keys := load.Default(load.Put).Keys
	keys.Count, keys.PerDir = count, perDir
	return keys
}

func (b *bench) keysCell() *cell {
	c := &cell{name: "growth-keys", growth: true, rows: putAndGet}
	shapes := map[string]load.Keys{}
	for _, n := range []int{b.growKeys / 100, b.growKeys / 10, b.growKeys} {
		column := thousands(float64(n)) + " keys"
		c.columns = append(c.columns, column)
		shapes[column] = shape(n, growthPerDir)
	}
	c.open = b.stores(c, shapes, load.Put, load.Get)
	return c
}

func (b *bench) widthCell() *cell {
	n := b.growKeys / 10
	keys := thousands(float64(n)) + " keys"
	c := &cell{name: "growth-width", growth: true, rows: putAndGet}
	c.columns = []string{keys + ", 100 to a directory", keys + " in one directory"}
	c.open = b.stores(c, map[string]load.Keys{c.columns[0]: shape(n, growthPerDir), c.columns[1]: shape(n, 0)}, load.Put, load.Get)
	return c
}

func (b *bench) listCell() *cell {
	c := &cell{name: "growth-list", growth: true, rows: []row{{name: "listing a directory of 100 keys, linearizable", unit: perSecond}}}
	shapes := map[string]load.Keys{}
	for _, n := range []int{b.growKeys / 100, b.growKeys} {
		column := thousands(float64(n)) + " keys in the store"
		c.columns = append(c.columns, column)
		shapes[column] = shape(n, growthPerDir)
	}
	c.open = b.stores(c, shapes, load.List)
	return c
}

// one opens a cell whose columns are loads on the same member. configure
// changes the load for a column.
func (b *bench) one(c *cell, configure func(column string, cfg *load.Config)) func(context.Context) (measure, func() error, error) {
	return func(ctx context.Context) (measure, func() error, error) {
		cl, err := b.start(ctx, deimos, options{})
		if err != nil {
			return nil, nil, err
		}
		filled := map[load.Keys]bool{}
		for _, column := range c.columns {
			fill := b.config(load.Fill, deimos, cl.members[0])
			connections := fill.Connections
			configure(column, &fill)
			fill.Connections = connections
			if filled[fill.Keys] {
				continue
			}
			filled[fill.Keys] = true
			if _, err := b.load(ctx, c, fill); err != nil {
				return nil, nil, errors.Join(err, cl.stop())
			}
		}
		return func(ctx context.Context, column string) (figures []float64, err error) {
			for _, w := range []load.Work{load.Put, load.Get} {
				cfg := b.config(w, deimos, cl.members[0])
				cfg.Filled = true
				configure(column, &cfg)
				r, err := b.load(ctx, c, cfg)
				if err != nil {
					return nil, err
				}
				figures = append(figures, r.OperationsPerSecond)
			}
			return figures, nil
		}, cl.stop, nil
	}
}

func (b *bench) connectionsCell() *cell {
	c := &cell{name: "growth-connections", growth: true, rows: putAndGet}
	counts := map[string]int{}
	for _, n := range []int{1, 8, 64, 256, 1024} {
		column := thousands(float64(n)) + " connections"
		if n == 1 {
			column = "1 connection"
		}
		c.columns = append(c.columns, column)
		counts[column] = n
	}
	c.open = b.one(c, func(column string, cfg *load.Config) { cfg.Connections = counts[column] })
	return c
}

func (b *bench) valuesCell() *cell {
	c := &cell{name: "growth-values", growth: true, rows: putAndGet}
	sizes := map[string]int{}
	for _, n := range []int{16, 128, 1 << 10, 16 << 10, 64 << 10} {
		column := fmt.Sprintf("values of %d B", n)
		if n >= 1<<10 {
			column = fmt.Sprintf("values of %d KiB", n>>10)
		}
		c.columns = append(c.columns, column)
		sizes[column] = n
	}
	c.open = b.one(c, func(column string, cfg *load.Config) {
		cfg.Keys.ValueBytes = sizes[column]
		cfg.Keys.Count = 1000 // 64 MB of the largest
		cfg.Keys.Prefix = "/bench" + strconv.Itoa(sizes[column])
	})
	return c
}

const (
	withoutTLS = "without TLS"
	withTLS    = "with TLS"
)

// tlsCell compares a member with one that has certificates. Both get their load
// from goroutines, which TLS needs.
func (b *bench) tlsCell() *cell {
	c := &cell{name: "growth-tls", growth: true, columns: []string{withoutTLS, withTLS}, rows: putAndGet}
	c.open = func(ctx context.Context) (measure, func() error, error) {
		plain, err := b.start(ctx, deimos, options{})
		if err != nil {
			return nil, nil, err
		}
		secure, trust, err := b.startSecure(ctx)
		if err != nil {
			return nil, nil, errors.Join(err, plain.stop())
		}
		return func(ctx context.Context, column string) (figures []float64, err error) {
			for _, w := range []load.Work{load.Put, load.Get} {
				cfg := b.config(w, deimos, plain.members[0])
				cfg.Goroutines = true
				if column == withTLS {
					cfg = b.config(w, deimos, secure.members[0])
					cfg.Target.TLS = trust.TLSClientConfig
				}
				r, err := b.load(ctx, c, cfg)
				if err != nil {
					return nil, err
				}
				figures = append(figures, r.OperationsPerSecond)
			}
			return figures, nil
		}, func() error { return errors.Join(plain.stop(), secure.stop()) }, nil
	}
	return c
}

// startSecure starts a member with a certificate by deimos ca.
func (b *bench) startSecure(ctx context.Context) (*cluster, *http.Transport, error) {
	ca := filepath.Join(b.dir, "ca")
	for _, args := range [][]string{{"ca", "create", "--dir", ca}, {"ca", "issue", "--dir", ca, "m1"}} {
		if out, err := exec.CommandContext(ctx, b.deimos, args...).CombinedOutput(); err != nil {
			return nil, nil, fmt.Errorf("deimos %v: %w: %s", args, err, out)
		}
	}
	trust, err := trusting(filepath.Join(ca, "ca.crt"))
	if err != nil {
		return nil, nil, err
	}
	cl, err := b.start(ctx, deimos, options{scheme: "https", tls: trust,
		flags: []string{"--cert-file", filepath.Join(ca, "m1.crt"), "--key-file", filepath.Join(ca, "m1.key")}})
	return cl, trust, err
}
