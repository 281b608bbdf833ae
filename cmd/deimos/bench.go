package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/marsevilspirit/deimos/daemon"
	"github.com/marsevilspirit/deimos/internal/load"
	"github.com/marsevilspirit/deimos/internal/pki"
	"github.com/marsevilspirit/deimos/internal/timerslack"
)

const benchHelp = `Put load on running members and measure it: requests a second, how long they
take, what fails. It writes and reads keys below --key-prefix, and leaves them
there.

WORK is one of

  put           write keys at random, as fast as they are answered
  get           read keys at random, linearizably
  get-local     read keys at random, as the member has them
  mixed         read linearizably and write, --reads of them reads
  list          list directories of --per-dir keys at random, linearizably
  fill          write each of --keys keys once
  open-loop     send --rate requests a second, --reads of them reads, whether or
                not they are answered in time
  watch-fanout  write --rate events a second to a key that --watchers watch

A latency counts from the moment a request was sent. Those of open-loop count
from the moment it was due: requests that are due while all connections wait for
an answer are charged for the wait. They are sent as soon as they can be, at the
latest --timeout after the end. The latency of watch-fanout is the time from the
moment a write was due until the last watcher has the event.

A work that reads writes all keys first, unless --filled says that they are there.

The same work against etcd 3.4 that was started with --enable-v2=true:

  deimos bench put --endpoints http://127.0.0.1:2379 --prefix /v2/keys

Exit codes: 0 measured, 1 not a single request succeeded or the work could not
begin, 2 wrong use, 3 an endpoint cannot be connected to.`

// envEndpoints is the variable that stands for --endpoints.
const envEndpoints = envPrefix + "ENDPOINTS"

// benchOptions are the flags of deimos bench.
type benchOptions struct {
	config    load.Config
	endpoints string
	files     pki.Files // of TLS
	output    string
}

func benchCommand(env []string) *cobra.Command {
	o := benchOptions{config: load.Default(load.Put)}
	c := &cobra.Command{
		Use:   "bench WORK",
		Short: "Put load on members and measure it",
		Long:  benchHelp,
		Example: `  deimos bench put
  deimos bench mixed --reads 0.9 --duration 30s
  deimos bench open-loop --rate 1000 --output json`,
		Args: benchWork,
		RunE: func(c *cobra.Command, args []string) error {
			o.config.Work = load.Work(args[0])
			if err := o.complete(c, env); err != nil {
				return err
			}
			return o.run(c.Context(), c.OutOrStdout(), c.ErrOrStderr())
		},
	}
	for _, w := range load.Works() {
		c.ValidArgs = append(c.ValidArgs, string(w))
	}
	o.flags(c, env)
	return c
}

// benchWork wants one of the works as the only argument.
func benchWork(c *cobra.Command, args []string) error {
	switch {
	case len(args) == 0:
		return daemon.Usagef("%s needs one of the works %s", c.CommandPath(), strings.Join(c.ValidArgs, ", "))
	case len(args) > 1:
		return daemon.Usagef("%s: unexpected argument %q", c.CommandPath(), args[1])
	case !slices.Contains(c.ValidArgs, args[0]):
		return daemon.Usagef("%s: there is no work %q, only %s", c.CommandPath(), args[0], strings.Join(c.ValidArgs, ", "))
	}
	return nil
}

func (o *benchOptions) flags(c *cobra.Command, env []string) {
	f, cfg := c.Flags(), &o.config
	f.StringVar(&o.endpoints, "endpoints", strings.Join(cfg.Target.Endpoints, ","),
		"client `URLS` of members, which the connections use in turn; env: "+envEndpoints)
	f.StringVar(&cfg.Target.Prefix, "prefix", cfg.Target.Prefix, "`PATH` of the keys API: /v2/keys for etcd")
	registerTLS(f, env, &o.files)

	f.IntVar(&cfg.Connections, "connections", cfg.Connections, "`NUMBER` of connections, each with one request at a time")
	f.DurationVar(&cfg.Duration, "duration", cfg.Duration, "how long to measure; not for fill")
	f.DurationVar(&cfg.Warmup, "warmup", cfg.Warmup, "how long to work before measuring; not for fill")
	f.Int64Var(&cfg.Requests, "requests", 0, "end after `NUMBER` measured requests (default no limit); without --duration, only then")
	f.DurationVar(&cfg.Timeout, "timeout", cfg.Timeout, "how long to wait for an answer")

	f.IntVar(&cfg.Keys.Count, "keys", cfg.Keys.Count, "`NUMBER` of keys")
	f.BoolVar(&cfg.Filled, "filled", false, "the keys are there already, from fill with the same --keys, --per-dir and --key-prefix")
	f.StringVar(&cfg.Keys.Prefix, "key-prefix", cfg.Keys.Prefix, "directory of all keys, a `KEY`")
	f.IntVar(&cfg.Keys.PerDir, "per-dir", 0, "`NUMBER` of keys in each directory below --key-prefix (default all in one, for list 100)")
	f.IntVar(&cfg.Keys.ValueBytes, "value-bytes", cfg.Keys.ValueBytes, "`LENGTH` of values")
	f.Uint64Var(&cfg.Seed, "seed", cfg.Seed, "`NUMBER` that determines which keys are used in which order")

	f.Float64Var(&cfg.Reads, "reads", 0, "`SHARE` of reads, for mixed (default 0.9) and open-loop (default 0)")
	f.Float64Var(&cfg.Rate, "rate", 0, "`NUMBER` a second, of requests for open-loop (default 1000), of events for watch-fanout (default 10)")
	f.IntVar(&cfg.Watchers, "watchers", 0, "`NUMBER` of watchers, for watch-fanout (default 1000)")

	f.StringVarP(&o.output, "output", "o", formatText, "`FORMAT` of the result, text or json; json is in seconds and bytes")
}

// complete makes the configuration of the flags, the environment and the
// defaults of the work.
func (o *benchOptions) complete(c *cobra.Command, env []string) error {
	cfg, given := &o.config, c.Flags().Changed
	if o.output != formatText && o.output != formatJSON {
		return daemon.Usagef("--output: invalid value %q: it must be text or json", o.output)
	}
	if text := lookup(env, envEndpoints); text != "" && !given("endpoints") {
		o.endpoints = text
	}
	cfg.Target.Endpoints = strings.Split(o.endpoints, ",")
	measured := slices.DeleteFunc(load.Works(), func(w load.Work) bool { return w == load.Fill })
	for _, own := range []struct {
		flag string
		of   []load.Work
	}{
		{"reads", []load.Work{load.Mixed, load.OpenLoop}},
		{"rate", []load.Work{load.OpenLoop, load.WatchFanout}},
		{"watchers", []load.Work{load.WatchFanout}},
		{"filled", []load.Work{load.Get, load.GetLocal, load.Mixed, load.List, load.OpenLoop}},
		{"duration", measured}, {"warmup", measured}, {"requests", measured},
	} {
		if given(own.flag) && !slices.Contains(own.of, cfg.Work) {
			return daemon.Usagef("--%s is not for %s", own.flag, cfg.Work)
		}
	}
	usual := load.Default(cfg.Work)
	for flag, use := range map[string]func(){
		"reads":    func() { cfg.Reads = usual.Reads },
		"rate":     func() { cfg.Rate = usual.Rate },
		"watchers": func() { cfg.Watchers = usual.Watchers },
		"per-dir":  func() { cfg.Keys.PerDir = usual.Keys.PerDir },
		"warmup":   func() { cfg.Warmup = usual.Warmup },
		"duration": func() {
			if cfg.Duration = usual.Duration; cfg.Requests > 0 {
				cfg.Duration = 0
			}
		},
	} {
		if !given(flag) {
			use()
		}
	}
	var err error
	cfg.Target.TLS, err = clientTLS(o.files)
	return err
}

// mayBeLate tells whether the timers of this process may be late. The load has
// timers of its own for what it measures, except with TLS. An open loop is about
// moments and not about what the processor has to do, so nothing is changed for it.
func (o *benchOptions) mayBeLate() bool {
	secure := func(url string) bool { return strings.HasPrefix(url, "https://") }
	return o.config.Work != load.OpenLoop && !slices.ContainsFunc(o.config.Target.Endpoints, secure)
}

// run does the work and prints the result.
func (o *benchOptions) run(ctx context.Context, stdout, stderr io.Writer) error {
	if o.mayBeLate() {
		_ = timerslack.Raise() // without it the load costs more, and is as good
	}
	watched := isTerminal(stderr)
	if watched {
		o.config.Progress = func(p load.Progress) { printProgress(stderr, p) }
	}
	result, err := load.Run(ctx, o.config)
	if watched {
		fmt.Fprint(stderr, clearLine)
	}
	if e, ok := errors.AsType[*load.ConfigError](err); ok {
		return daemon.Usagef("--%s: %s", e.Name, e.Reason)
	}
	if err != nil {
		return err
	}
	err = printTo(stdout, func(w io.Writer) error {
		if o.output == formatJSON {
			encoder := json.NewEncoder(w)
			encoder.SetIndent("", "  ")
			return encoder.Encode(result)
		}
		printResult(w, result)
		return nil
	})
	if err == nil && result.Operations == 0 && result.FailuresTotal > 0 {
		return fmt.Errorf("bench %s: nothing succeeded, %s", result.Work, result.Failures[0])
	}
	return err
}

// lookup returns the value of a variable in an environment; the last one counts.
func lookup(env []string, name string) string {
	value := ""
	for _, pair := range env {
		if v, ok := strings.CutPrefix(pair, name+"="); ok {
			value = v
		}
	}
	return value
}

// isTerminal tells whether somebody may be looking.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

const clearLine = "\r\x1b[K"

// printProgress writes over the line before.
func printProgress(w io.Writer, p load.Progress) {
	what := p.Elapsed.Round(time.Second).String()
	switch {
	case p.Elapsed < time.Second/2 && p.Operations == 0:
		fmt.Fprint(w, clearLine+"warm-up")
		return
	case p.Total > 0:
		what = fmt.Sprintf("%d of %d", p.Operations, p.Total)
	}
	fmt.Fprintf(w, "%s%s: %.0f/s, p99 %s, %d failed", clearLine, what, p.OperationsPerSecond, p.P99.Round(time.Microsecond), p.Failures)
}
