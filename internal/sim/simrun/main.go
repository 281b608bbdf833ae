// Command simrun runs seeds of the deterministic simulator.
//
//	simrun -seeds 20000            many seeds, on all cores
//	simrun -seed 17                one seed, with a readable trace
//	simrun -seed 17 -shrink        the same with as few faults as still fail
//
// A run that needs many cores starts itself again, one process a core, because
// a simulation pins the randomness of its whole process. The exit code is 1 when
// a seed fails.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/marsevilspirit/deimos/internal/sim"
)

// options are the flags.
type options struct {
	seed     uint64
	from     uint64
	seeds    int
	jobs     int
	child    bool
	shrink   bool
	skip     string
	duration time.Duration
	profile  string
	defect   string
	limit    int
}

// summary is what a process found. Its JSON form goes from child to parent.
type summary struct {
	Seeds, Planned, Observed                               int
	Failures                                               []failure
	Rows                                                   map[string]int
	Profiles                                               map[string]int
	Simulated                                              time.Duration
	Writes, Reads, Unknown, WatchEvents, Expiries, Leaders int
}

type failure struct {
	Seed uint64
	Text string
}

func main() {
	var o options
	flag.Uint64Var(&o.seed, "seed", 0, "replay this seed with a trace")
	flag.Uint64Var(&o.from, "from", 1, "the first seed of many")
	flag.IntVar(&o.seeds, "seeds", 300, "how many seeds to run")
	flag.IntVar(&o.jobs, "jobs", runtime.NumCPU(), "how many processes run seeds")
	flag.BoolVar(&o.child, "child", false, "run seeds here and print a summary as JSON")
	flag.BoolVar(&o.shrink, "shrink", false, "cut the failing seed down before its trace is printed")
	flag.StringVar(&o.skip, "skip", "", "numbers of faults to leave out of the seed, with commas")
	flag.DurationVar(&o.duration, "simulate", 0, "simulated time with faults; 0: the seed decides")
	flag.StringVar(&o.profile, "profile", "", "one of "+strings.Join(sim.Profiles, ", ")+"; empty: the seed decides")
	flag.StringVar(&o.defect, "defect", "", "break the simulated driver: one of "+strings.Join(sim.Defects, ", "))
	flag.IntVar(&o.limit, "failures", 20, "stop after so many failing seeds")
	flag.Parse()
	code, err := run(&o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "simrun:", err)
		code = 1
	}
	os.Exit(code)
}

func run(o *options) (int, error) {
	switch {
	case o.seed != 0:
		return replay(o)
	case o.child:
		s := here(o)
		return 0, json.NewEncoder(os.Stdout).Encode(s)
	}
	began := time.Now()
	s, err := spread(o)
	if err != nil {
		return 1, err
	}
	s.print(time.Since(began))
	if len(s.Failures) > 0 {
		return 1, nil
	}
	return 0, nil
}

func (o *options) config(seed uint64) sim.Config {
	return sim.Config{Seed: seed, Duration: o.duration, Profile: o.profile, Defect: o.defect}
}

// replay runs one seed with a trace, cut down if that is wanted.
func replay(o *options) (int, error) {
	cfg := o.config(o.seed)
	for text := range strings.SplitSeq(o.skip, ",") {
		if text == "" {
			continue
		}
		n, err := strconv.Atoi(text)
		if err != nil {
			return 1, fmt.Errorf("skip %q: %w", text, err)
		}
		if cfg.Skip == nil {
			cfg.Skip = map[int]bool{}
		}
		cfg.Skip[n] = true
	}
	var v *sim.Violation
	if o.shrink && errors.As(sim.Run(cfg).Err, &v) {
		cfg.Skip = sim.Shrink(cfg, v.Rule, 100)
	}
	cfg.Trace = os.Stdout
	res := sim.Run(cfg)
	fmt.Printf("\nseed %d: %s, %d members, %.1f simulated seconds, trace hash %016x\n",
		res.Seed, res.Profile, res.Members, res.Simulated.Seconds(), res.TraceHash)
	for _, f := range res.Faults {
		fmt.Printf("  fault planned for %.3f s: %s, observed: %v\n", f.At.Seconds(), f.Text, f.Observed)
	}
	if o.shrink && len(cfg.Skip) > 0 {
		var skipped []string
		for _, n := range slices.Sorted(maps.Keys(cfg.Skip)) {
			skipped = append(skipped, strconv.Itoa(n))
		}
		fmt.Printf("  replay without a search: simrun -seed %d -skip %s\n", o.seed, strings.Join(skipped, ","))
	}
	if res.Err != nil {
		fmt.Printf("FAILED: %v\n", res.Err)
		return 1, nil
	}
	fmt.Println("passed")
	return 0, nil
}

func newSummary() *summary { return &summary{Rows: map[string]int{}, Profiles: map[string]int{}} }

// here runs seeds in this process.
func here(o *options) *summary {
	s := newSummary()
	for n := range uint64(o.seeds) {
		res := sim.Run(o.config(o.from + n))
		s.Seeds++
		s.Profiles[res.Profile]++
		s.Planned += len(res.Faults)
		for i := range res.Faults {
			if res.Faults[i].Observed {
				s.Observed++
			}
		}
		for row, count := range res.Rows {
			if count > 0 {
				s.Rows[row]++
			}
		}
		s.Simulated += res.Simulated
		s.Writes += res.Writes
		s.Reads += res.Reads
		s.Unknown += res.Unknown
		s.WatchEvents += res.WatchEvents
		s.Expiries += res.Expiries
		s.Leaders += res.Leaders
		if res.Err != nil {
			s.Failures = append(s.Failures, failure{Seed: res.Seed, Text: res.Err.Error()})
			if len(s.Failures) >= o.limit {
				break
			}
		}
	}
	return s
}

// chunk is how many seeds a child runs.
const chunk = 250

// spread runs the seeds in child processes.
func spread(o *options) (*summary, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	total := newSummary()
	var mu sync.Mutex
	var wg sync.WaitGroup
	var failed error
	next := o.from
	end := o.from + uint64(o.seeds)
	take := func() (from uint64, count int) {
		mu.Lock()
		defer mu.Unlock()
		if failed != nil || len(total.Failures) >= o.limit || next >= end {
			return 0, 0
		}
		size := min(chunk, max(1, uint64(o.seeds/max(o.jobs, 1))))
		from, count = next, int(min(size, end-next))
		next += uint64(count)
		return from, count
	}
	for range max(o.jobs, 1) {
		wg.Go(func() {
			for from, count := take(); count > 0; from, count = take() {
				s, err := child(self, o, from, count)
				mu.Lock()
				if err != nil {
					failed = fmt.Errorf("seeds %d to %d: %w", from, from+uint64(count)-1, err)
				} else {
					total.add(s)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	slices.SortFunc(total.Failures, func(a, b failure) int { return int(int64(a.Seed) - int64(b.Seed)) })
	return total, failed
}

func child(self string, o *options, from uint64, count int) (*summary, error) {
	cmd := exec.Command(self, "-child", "-from", strconv.FormatUint(from, 10), "-seeds", strconv.Itoa(count),
		"-simulate", o.duration.String(), "-profile", o.profile, "-defect", o.defect, "-failures", strconv.Itoa(o.limit))
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	s := newSummary()
	return s, json.Unmarshal(out, s)
}

func (s *summary) add(o *summary) {
	s.Seeds += o.Seeds
	s.Planned += o.Planned
	s.Observed += o.Observed
	s.Failures = append(s.Failures, o.Failures...)
	for row, n := range o.Rows {
		s.Rows[row] += n
	}
	for profile, n := range o.Profiles {
		s.Profiles[profile] += n
	}
	s.Simulated += o.Simulated
	s.Writes += o.Writes
	s.Reads += o.Reads
	s.Unknown += o.Unknown
	s.WatchEvents += o.WatchEvents
	s.Expiries += o.Expiries
	s.Leaders += o.Leaders
}

// print writes the table: for each row of the matrix, in how many seeds its
// fault was observed.
func (s *summary) print(took time.Duration) {
	fmt.Printf("%d seeds, %.0f simulated hours in %s: %d writes, %d reads, %d unknown outcomes, %d watch events, %d expiries, %d leaders\n",
		s.Seeds, s.Simulated.Hours(), took.Round(time.Millisecond), s.Writes, s.Reads, s.Unknown, s.WatchEvents, s.Expiries, s.Leaders)
	fmt.Printf("faults: %d planned, %d observed\n", s.Planned, s.Observed)
	fmt.Print("profiles:")
	for _, p := range slices.Sorted(maps.Keys(s.Profiles)) {
		fmt.Printf(" %s %d", p, s.Profiles[p])
	}
	fmt.Println("\nseeds with the fault of a row:")
	for i, row := range slices.Sorted(maps.Keys(s.Rows)) {
		fmt.Printf("  %-5s %7d", row, s.Rows[row])
		if i%5 == 4 {
			fmt.Println()
		}
	}
	fmt.Println()
	for _, f := range s.Failures {
		fmt.Printf("FAILED seed %d: %s\n  replay: make sim SEED=%d\n", f.Seed, f.Text, f.Seed)
	}
	if len(s.Failures) == 0 {
		fmt.Println("no violation")
	} else {
		fmt.Printf("%d of %d seeds failed\n", len(s.Failures), s.Seeds)
	}
}
