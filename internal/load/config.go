package load

import (
	"crypto/tls"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Work is a kind of load.
type Work string

// The kinds of load.
const (
	// Put writes keys at random, each connection as fast as it is answered.
	Put Work = "put"
	// Get reads keys at random, linearizably (quorum=true).
	Get Work = "get"
	// GetLocal reads keys at random as the member has them (quorum=false).
	GetLocal Work = "get-local"
	// Mixed reads linearizably and writes, in the proportion of Config.Reads.
	Mixed Work = "mixed"
	// List lists directories at random, linearizably. It needs Keys.PerDir.
	List Work = "list"
	// WatchFanout has Config.Watchers streams on one key and measures how long it
	// takes from the moment a write is due until the last of them has the event.
	WatchFanout Work = "watch-fanout"
	// Fill writes each key once.
	Fill Work = "fill"
	// OpenLoop sends Config.Rate requests a second whether or not they are
	// answered in time, and measures from the moment each was due: a server that
	// stalls is charged for every request that it delayed.
	OpenLoop Work = "open-loop"
)

// Works lists all kinds of load.
func Works() []Work {
	return []Work{Put, Get, GetLocal, Mixed, List, WatchFanout, Fill, OpenLoop}
}

// reads tells whether Config.Reads means something.
func (w Work) reads() bool {
	return w == Get || w == GetLocal || w == Mixed || w == List || w == OpenLoop
}

// Config says everything about a run. Start from [Default].
type Config struct {
	Work   Work
	Target Target
	Keys   Keys
	// Connections is how many there are, each with one request under way at most,
	// spread evenly over the endpoints. The streams of WatchFanout come on top; its
	// writes use one connection.
	Connections int
	// Duration is how long the work is measured. 0: until all Requests are done.
	// Fill has none.
	Duration time.Duration
	// Warmup is how long the work is done before it is measured.
	Warmup time.Duration
	// Requests ends the work when so many were measured. 0: no limit.
	Requests int64
	// Rate is requests a second for OpenLoop, and events a second for WatchFanout.
	// Requests that are due and find no free connection wait in a backlog. It takes
	// no memory, is no longer than Rate × Duration, and is sent for Timeout at most
	// after the end; what has not been sent then is a failure of the kind
	// [KindUnsent], and its wait is part of the latencies.
	Rate float64
	// Reads is the share of reads, 0 to 1, of Mixed and OpenLoop.
	Reads float64
	// Filled tells that the keys are there already. Without it, a work that reads
	// writes all of them first.
	Filled bool
	// Watchers is the number of streams of WatchFanout.
	Watchers int
	// Timeout is how long a request may take until its connection is given up.
	Timeout time.Duration
	// Seed determines which keys are used in which order on each connection.
	Seed uint64
	// Progress, if not nil, is called about once a second while the work is done,
	// from a goroutine of Run.
	Progress func(Progress)

	// Goroutines gives each connection a goroutine also where it could be polled,
	// as connections with TLS have. It costs more.
	Goroutines bool
}

// Target says which servers get the load.
type Target struct {
	// Endpoints are http://host:port or https://host:port. Connections take them
	// in turn.
	Endpoints []string
	// Prefix is where the servers keep their keys: /keys, or /v2/keys for etcd.
	Prefix string
	// TLS is for https endpoints. Nil: the authorities of the system.
	TLS *tls.Config
}

// Keys says which keys and values are used. Key number n is Prefix/kn, or
// Prefix/dm/kn with PerDir, with zeros in front so that all keys are of one length.
type Keys struct {
	// Prefix is the directory of all keys, beginning with a slash.
	Prefix string
	// Count is the number of keys.
	Count int
	// PerDir is how many keys share a directory below Prefix. 0: there are no
	// directories.
	PerDir int
	// ValueBytes is the length of every value.
	ValueBytes int
}

// Default returns the configuration of a work that [Run] takes as it is.
func Default(w Work) Config {
	cfg := Config{
		Work:        w,
		Target:      Target{Endpoints: []string{"http://127.0.0.1:4001"}, Prefix: "/keys"},
		Keys:        Keys{Prefix: "/bench", Count: 10_000, ValueBytes: 128},
		Connections: 64,
		Duration:    10 * time.Second,
		Warmup:      time.Second,
		Timeout:     10 * time.Second,
		Seed:        1,
	}
	switch w {
	case Get, GetLocal:
		cfg.Reads = 1
	case List:
		cfg.Reads, cfg.Keys.PerDir = 1, 100
	case Mixed:
		cfg.Reads = 0.9
	case Fill:
		cfg.Duration, cfg.Warmup = 0, 0
	case OpenLoop:
		cfg.Rate = 1000
	case WatchFanout:
		cfg.Rate, cfg.Watchers = 10, 1000
	}
	return cfg
}

// The bounds of a configuration.
const (
	EndpointsMax   = 256
	ConnectionsMax = 60_000 // the ports of one address
	WatchersMax    = 60_000
	KeysMax        = 100_000_000
	ValueBytesMax  = 8 << 20
	RateMax        = 1_000_000
	DurationMax    = 24 * time.Hour
	TimeoutMax     = 10 * time.Minute
)

// ConfigError says what is wrong with a [Config].
type ConfigError struct {
	// Name is that of the setting, in lower case with dashes, and Reason why it is
	// refused, as the rest of a sentence.
	Name, Reason string
}

// Error implements the error interface.
func (e *ConfigError) Error() string { return "load: " + e.Name + ": " + e.Reason }

func invalid(name, format string, args ...any) error {
	return &ConfigError{name, fmt.Sprintf(format, args...)}
}

// check returns a [*ConfigError] for what cannot be run.
func (c *Config) check() error {
	if !slices.Contains(Works(), c.Work) {
		return invalid("work", "%q is none of %s", c.Work, joined(Works()))
	}
	for _, n := range []struct {
		name            string
		value, min, max int64
	}{
		{"connections", int64(c.Connections), 1, ConnectionsMax},
		{"keys", int64(c.Keys.Count), 1, KeysMax},
		{"per-dir", int64(c.Keys.PerDir), 0, KeysMax},
		{"value-bytes", int64(c.Keys.ValueBytes), 0, ValueBytesMax},
		{"requests", c.Requests, 0, math.MaxInt64},
	} {
		if n.value < n.min || n.value > n.max {
			return invalid(n.name, "%d is not within %d … %d", n.value, n.min, n.max)
		}
	}
	if err := c.checkTimes(); err != nil {
		return err
	}
	if err := c.checkWork(); err != nil {
		return err
	}
	if err := checkPath("prefix", c.Target.Prefix); err != nil {
		return err
	}
	if err := checkPath("key-prefix", c.Keys.Prefix); err != nil {
		return err
	}
	return checkOpenFiles(c)
}

func (c *Config) checkTimes() error {
	for _, d := range []struct {
		name       string
		value, max time.Duration
	}{{"duration", c.Duration, DurationMax}, {"warmup", c.Warmup, DurationMax}, {"timeout", c.Timeout, TimeoutMax}} {
		if d.value < 0 || d.value > d.max {
			return invalid(d.name, "%v is not within 0s … %v", d.value, d.max)
		}
	}
	switch {
	case c.Timeout == 0:
		return invalid("timeout", "it must be above 0")
	case c.Work == Fill && (c.Duration != 0 || c.Warmup != 0 || c.Requests != 0):
		return invalid("work", "fill writes all keys: it takes no duration, warm-up or number of requests")
	case c.Work != Fill && c.Duration == 0 && c.Requests == 0:
		return invalid("duration", "without a number of requests it must be above 0")
	}
	return nil
}

// checkWork checks what only some kinds of load have.
func (c *Config) checkWork() error {
	paced := c.Work == OpenLoop || c.Work == WatchFanout
	switch {
	case math.IsNaN(c.Reads) || c.Reads < 0 || c.Reads > 1:
		return invalid("reads", "%v is not within 0 … 1", c.Reads)
	case !paced && c.Rate != 0:
		return invalid("rate", "only open-loop and watch-fanout have one; %s is as fast as it is answered", c.Work)
	case paced && !(c.Rate > 0 && c.Rate <= RateMax):
		return invalid("rate", "%v is not above 0 and up to %d", c.Rate, RateMax)
	case paced && c.Duration > 0 && c.Rate*c.Duration.Seconds() < 1:
		return invalid("rate", "nothing is due within %v at %v a second", c.Duration, c.Rate)
	case c.Work == List && c.Keys.PerDir == 0:
		return invalid("per-dir", "list needs directories, with 1 key in each at least")
	case c.Work == WatchFanout && (c.Watchers < 1 || c.Watchers > WatchersMax):
		return invalid("watchers", "%d is not within 1 … %d", c.Watchers, WatchersMax)
	case c.Work == WatchFanout && c.Keys.ValueBytes < eventDigits:
		return invalid("value-bytes", "%d is too short for the number of the event, which has %d digits", c.Keys.ValueBytes, eventDigits)
	}
	return nil
}

// checkPath checks a path that others are put behind.
func checkPath(name, path string) error {
	switch {
	case !strings.HasPrefix(path, "/") || strings.HasSuffix(path, "/"):
		return invalid(name, "%q must begin with a slash and not end with one", path)
	case !utf8.ValidString(path) || strings.ContainsFunc(path, unicode.IsControl):
		return invalid(name, "%q has control characters or is not UTF-8", path)
	case len(path) > 4000:
		return invalid(name, "it is longer than 4000 bytes")
	}
	return nil
}

func joined(works []Work) string {
	var names []string
	for _, w := range works {
		names = append(names, string(w))
	}
	return strings.Join(names, ", ")
}
