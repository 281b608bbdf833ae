// Package load puts load on members and measures what comes of it: how many
// requests a second are answered, how long each takes, and what fails. It speaks
// plain HTTP/1.1 to anything that has the keys API, Deimos or etcd.
//
// It shares the machine with the servers it measures, so it is built to cost
// little: requests are rendered in advance, answers are read without copying
// them, and nothing is allocated for each request. On Linux a few threads poll
// all plain connections; with TLS, and on other systems, each connection has a
// goroutine. An answer counts only when its status is 200 or 201, its body has
// arrived whole, and a read has brought a value.
//
// The package prints nothing, reads no flags, and repeats no request that
// failed. All goroutines belong to [Run], which waits for them.
package load

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrNoConnection is in the error of [Run] when an endpoint could not be
// connected to before there was any load.
var ErrNoConnection = errors.New("cannot connect")

// Run puts the load on the servers that cfg describes and returns what was
// measured. A work that reads writes all keys first, unless Config.Filled. When
// ctx is cancelled, Run returns early with the result so far. An error is a
// [*ConfigError], or matches [ErrNoConnection], or tells that the work could not
// begin; requests that fail are no error but part of the result.
//
// A run ends: at the latest Config.Timeout after its duration, and, if it has
// none, when no request was answered for stallMax.
func Run(ctx context.Context, cfg Config) (*Result, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	endpoints, err := parseEndpoints(cfg.Target)
	if err != nil {
		return nil, err
	}
	return runOn(ctx, cfg, endpoints)
}

// runOn is Run after its configuration was checked.
func runOn(ctx context.Context, cfg Config, endpoints []*endpoint) (*Result, error) {
	if err := reach(ctx, endpoints, cfg.Timeout); err != nil {
		return nil, err
	}
	var filled int64
	var err error
	if cfg.Work.reads() && cfg.Reads > 0 && !cfg.Filled {
		if filled, err = prepare(ctx, cfg, endpoints); err != nil {
			return nil, err
		}
	}
	r := newRun(cfg, endpoints)
	if err := r.drive(ctx); err != nil {
		return nil, err
	}
	result := r.result()
	result.FilledKeys = filled
	return result, nil
}

// prepare writes all keys and returns how many.
func prepare(ctx context.Context, cfg Config, endpoints []*endpoint) (int64, error) {
	cfg.Work, cfg.Reads, cfg.Requests, cfg.Duration, cfg.Warmup, cfg.Rate = Fill, 0, 0, 0, 0, 0
	r := newRun(cfg, endpoints)
	if err := r.drive(ctx); err != nil {
		return 0, err
	}
	t := r.total()
	if missing := int64(cfg.Keys.Count) - t.ops(); missing > 0 && ctx.Err() == nil {
		return 0, fmt.Errorf("load: of %d keys to be read, %d could not be written: %s", cfg.Keys.Count, missing, describe(t.failures()))
	}
	return t.ops(), nil
}

// stallMax is how long a run without a duration goes on without any answer.
const stallMax = 30 * time.Second
