package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/marsevilspirit/deimos/internal/load"
	"github.com/marsevilspirit/deimos/internal/proctest"
)

var program string

// TestMain is the servers that are compared with, too: the tests start themselves
// as benchpeers does.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 {
		serveInstead(os.Args[1], os.Args[2])
	}
	os.Exit(proctest.Main(m, &program))
}

func newBench(t *testing.T) *bench {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	dir := t.TempDir()
	return &bench{deimos: program, etcd: "/nowhere/etcd", self: self, dir: dir, out: dir, log: log,
		// So many idle watchers cost more than a collection gives back meanwhile.
		rounds: 1, measure: 150 * time.Millisecond, fillKeys: 500, growKeys: 500, idle: 1000}
}

// TestCellsOfRealServers plays the cells that need no etcd, small, and looks
// that each figure is one.
func TestCellsOfRealServers(t *testing.T) {
	if testing.Short() {
		t.Skip("starts other programs")
	}
	b := newBench(t)
	for _, name := range []string{"put-3-follower", "get-1", "put-1-connection", "watch-fanout", "large-store", "idle-watchers",
		"growth-keys", "growth-width", "growth-list", "growth-connections", "growth-values", "growth-tls"} {
		t.Run(name, func(t *testing.T) {
			for _, c := range b.cells() {
				if c.name != name {
					continue
				}
				without := c.columns[:0]
				for _, column := range c.columns {
					if column != etcd {
						without = append(without, column)
					}
				}
				c.columns = without
				if name == "large-store" { // its open loop takes 20 s at least
					c.open = once(func(ctx context.Context, system string) ([]float64, error) { return b.restartOnly(ctx, c, system) })
				}
				if err := b.play(t.Context(), c); err != nil {
					t.Fatalf("play() = %v", err)
				}
				for _, column := range c.columns {
					if len(c.results[column]) != 1 || len(c.results[column][0]) == 0 {
						t.Errorf("%s has %v, want figures of one round", column, c.results[column])
					}
					for i, f := range c.results[column][0] {
						if !(f > 0) {
							t.Errorf("%s: %s is %v, want a figure above 0", column, c.rows[i].name, f)
						}
					}
				}
				if len(c.notes) > 0 {
					t.Errorf("notes are %q, want none", c.notes)
				}
			}
		})
	}
	left, err := filepath.Glob(filepath.Join(b.dir, "[0-9]*"))
	if err != nil || len(left) > 0 {
		t.Errorf("%v, %v: data was left behind", left, err)
	}
}

// restartOnly is the large store without its open loop.
func (b *bench) restartOnly(ctx context.Context, c *cell, system string) (figures []float64, err error) {
	cl, err := b.start(ctx, system, options{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, cl.stop()) }()
	fill := b.config(load.Fill, system, cl.members[0])
	fill.Keys.Count, fill.Keys.PerDir = b.fillKeys, storePerDir
	if _, err := b.load(ctx, c, fill); err != nil {
		return nil, err
	}
	first := cl.members[0].pid()
	restart, err := cl.members[0].restart(ctx, system)
	if err != nil {
		return nil, err
	}
	if second := cl.members[0].pid(); second == first {
		return nil, errors.New("it is the same process")
	}
	return []float64{restart.Seconds()}, nil
}

func TestServerThatDoesNotStartIsExplained(t *testing.T) {
	b := newBench(t)
	_, err := b.start(t.Context(), deimos, options{flags: []string{"--no-such-flag"}})
	if err == nil || !strings.Contains(err.Error(), "unknown flag --no-such-flag") {
		t.Errorf("start() = %v, want what the program said", err)
	}
}

func TestContendersTakeTurns(t *testing.T) {
	b := newBench(t)
	b.rounds = 3
	var order []string
	closed := false
	c := &cell{name: "turns", columns: []string{"a", "b"}, rows: []row{{"work", perSecond, false}}}
	c.open = func(context.Context) (measure, func() error, error) {
		return func(_ context.Context, column string) ([]float64, error) {
			order = append(order, column)
			return []float64{float64(len(order))}, nil
		}, func() error { closed = true; return nil }, nil
	}
	if err := b.play(t.Context(), c); err != nil || !closed {
		t.Fatalf("play() = %v, closed: %t", err, closed)
	}
	if got := strings.Join(order, " "); got != "a b a b a b" {
		t.Errorf("the order was %s", got)
	}
	if diff := cmp.Diff([]float64{2, 4, 6}, c.figures("b", 0)); diff != "" {
		t.Errorf("figures, want -, got +:\n%s", diff)
	}
}

func played(c *cell, results map[string][][]float64) *cell {
	c.results = results
	return c
}

func TestReport(t *testing.T) {
	r := &report{path: filepath.Join(t.TempDir(), "r"), Rounds: 3, Seconds: 4, Begun: "today",
		Machine: machine{"EPYC", 2, "24 GB", "Linux", "1 2 3", "deimos version 1", "etcd Version: 3.4.23", "go1.26"}}
	r.add(played(&cell{name: "put", columns: []string{deimos, etcd, nothing}, rows: []row{{"PUT", perSecond, false}, {"PUT, by wrk", perSecond, false}}},
		map[string][][]float64{deimos: {{100, 10}, {300, 30}, {200}}, etcd: {{100, 20}, {100, 20}, {100}}, nothing: {{1000}, {1000}, {1000}}}))
	r.add(played(&cell{name: "fan", columns: []string{deimos, etcd}, rows: []row{{"latency", duration, true}}, notes: []string{"one thing"}},
		map[string][][]float64{deimos: {{0.002}}, etcd: {{0.010}}}))
	r.add(played(&cell{name: "grow", growth: true, columns: []string{"small", "large"}, rows: []row{{"PUT", perSecond, false}}},
		map[string][][]float64{"small": {{1000}, {2000}}, "large": {{900}, {1000}}}))
	const want = `2 processors (EPYC), memory 24 GB, Linux; deimos version 1 (go1.26); etcd Version: 3.4.23.
Rounds: 3, of 4 s each measurement, from today on; load average before: 1 2 3.
A figure is the median of the rounds, with the smallest and the largest; a ratio is taken within a round first.

A ratio above 1 is in favour of Deimos.

| work | Deimos | compared with | | ratio |
|---|---|---|---|---|
| PUT | 200/s (100/s – 300/s) | etcd 3.4 | 100/s | 2.00 (1.00 – 3.00) |
|  |  | net/http | 1,000/s | 0.20 (0.10 – 0.30) |
| PUT, by wrk | 20/s (10/s – 30/s) | etcd 3.4 | 20/s | 1.00 (0.50 – 1.50) |
| latency | 2 ms | etcd 3.4 | 10 ms | 5.00 |

How the cost of Deimos grows, compared with the first line of each work:

| work | | | ratio |
|---|---|---|---|
| PUT | small | 1,500/s (1,000/s – 2,000/s) |  |
| PUT | large | 950/s (900/s – 1,000/s) | 0.70 (0.50 – 0.90) |

Notes:

* one thing
`
	if diff := cmp.Diff(want, r.markdown()); diff != "" {
		t.Errorf("Markdown, want -, got +:\n%s", diff)
	}
	if err := r.save(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(r.path + ".json")
	if err != nil {
		t.Fatal(err)
	}
	var back struct {
		Figures []struct {
			Work, Column, Unit string
			Values             []float64
			Ratio              struct{ Median float64 }
		}
	}
	if err := json.Unmarshal(text, &back); err != nil || len(back.Figures) != 9 {
		t.Fatalf("JSON is %s, %v", text, err)
	}
	if f := back.Figures[1]; f.Column != etcd || f.Unit != "per_second" || f.Ratio.Median != 2 || len(f.Values) != 3 {
		t.Errorf("the second figure is %+v", f)
	}
}

func TestUnits(t *testing.T) {
	for _, tt := range []struct {
		unit  unit
		value float64
		want  string
	}{
		{perSecond, 0, "0/s"}, {perSecond, 12.345, "12.3/s"}, {perSecond, 999.4, "999/s"}, {perSecond, 16234, "16,200/s"}, {perSecond, 1234567, "1,230,000/s"},
		{duration, 0.0000226, "22.6 µs"}, {duration, 0.0009999, "1 ms"}, {duration, 0.25, "250 ms"}, {duration, 10.72, "10.7 s"},
		{size, 260, "260 B"}, {size, 26_350, "26.4 kB"}, {size, 305_400_000, "305 MB"}, {size, 1.36e9, "1.36 GB"},
	} {
		if got := tt.unit.format(tt.value); got != tt.want {
			t.Errorf("format(%v) = %s, want %s", tt.value, got, tt.want)
		}
	}
}

func TestBadUseIsRefusedBeforeAnythingIsStarted(t *testing.T) {
	for _, tt := range []struct {
		pattern string
		rounds  int
		want    string
	}{
		{"(", 1, "-cells"}, {"no such cell", 1, "no cell matches"}, {"put", 0, "-rounds 0"},
	} {
		b := newBench(t)
		b.rounds = tt.rounds
		if err := run(t.Context(), b, tt.pattern, false); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("run(%q) = %v, want %s", tt.pattern, err, tt.want)
		}
	}
}
