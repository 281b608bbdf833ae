package sim

import (
	"bufio"
	"errors"
	"flag"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "replay this seed with a trace")
	seedsFlag = flag.Int("seeds", 60, "how many seeds TestSeedsKeepAllPromises runs")
	fromFlag  = flag.Uint64("from", 1, "the first of them")
	simulate  = flag.Duration("simulate", 0, "simulated time with faults; 0: the seed decides")
)

// run simulates a seed and names it if it fails.
func run(t *testing.T, cfg Config) Result {
	t.Helper()
	res := Run(cfg)
	if res.Err != nil {
		t.Errorf("seed %d (%s, %d members): %v\nreplay: make sim SEED=%d", res.Seed, res.Profile, res.Members, res.Err, res.Seed)
	}
	return res
}

func TestSeedsKeepAllPromises(t *testing.T) {
	if *seedFlag != 0 {
		run(t, Config{Seed: *seedFlag, Duration: *simulate, Trace: os.Stdout})
		return
	}
	seeds, duration := *seedsFlag, *simulate
	if testing.Short() {
		seeds = 10
	}
	seeds = min(seeds, seedsMost)
	rows := map[string]int{}
	for n := range uint64(seeds) {
		for row, count := range run(t, Config{Seed: *fromFlag + n, Duration: duration}).Rows {
			rows[row] += count
		}
	}
	if seeds < 60 {
		return
	}
	for _, row := range []string{"R1", "R2", "R3", "R5", "R6", "R7", "R8", "R9", "R10", "R11", "R12", "R14", "R15", "R17", "R18", "R19", "R20",
		"D2a", "D4", "D6a", "D7", "D8", "D10", "D12b", "D13a", "T2", "T3", "T4", "T7", "W1", "W2", "W3"} {
		if rows[row] == 0 {
			t.Errorf("no seed from %d to %d contains a fault of row %s", *fromFlag, *fromFlag+uint64(seeds)-1, row)
		}
	}
}

// TestAnOnlyMemberKeepsAllPromises begins with one member, which answers
// linearizable reads without a round until another is added.
func TestAnOnlyMemberKeepsAllPromises(t *testing.T) {
	for _, tt := range []struct {
		profile string
		seeds   int
	}{
		{"members", 120}, // so many that an answer beside a learner would show
		{"mixed", 30},
		{"restarts", 30},
	} {
		seeds := min(tt.seeds, seedsMost)
		if testing.Short() {
			seeds = 10
		}
		current := 0
		for n := range uint64(seeds) {
			cfg := Config{Seed: *fromFlag + n, Profile: tt.profile, Members: 1}
			res := Run(cfg)
			if res.Err != nil {
				t.Errorf("seed %d (%s, one member): %v", cfg.Seed, tt.profile, res.Err)
			}
			current += res.Current
		}
		if current == 0 {
			t.Errorf("no read of the profile %s was answered without a round", tt.profile)
		}
	}
}

func TestSameSeedMakesTheSameRun(t *testing.T) {
	for _, profile := range []string{"mixed", "disks", "members"} {
		t.Run(profile, func(t *testing.T) {
			cfg := Config{Seed: 4711, Profile: profile, Duration: 10 * time.Second}
			first, second := run(t, cfg), run(t, cfg)
			if first.TraceHash != second.TraceHash || first.Events != second.Events {
				t.Errorf("two runs have the trace hashes %x and %x, and %d and %d events", first.TraceHash, second.TraceHash, first.Events, second.Events)
			}
			var trace strings.Builder
			cfg.Trace = &trace
			if traced := run(t, cfg); traced.TraceHash != first.TraceHash {
				t.Errorf("a run with a trace has the hash %x, without one %x", traced.TraceHash, first.TraceHash)
			}
			if trace.Len() == 0 {
				t.Error("the trace is empty")
			}
			cfg.Seed++
			if other := run(t, cfg); other.TraceHash == first.TraceHash {
				t.Errorf("seeds %d and %d make the same run", cfg.Seed-1, cfg.Seed)
			}
		})
	}
}

// TestCorpusStaysClean replays the seeds that have found a defect, in the
// product or in the simulator.
func TestCorpusStaysClean(t *testing.T) {
	f, err := os.Open("testdata/seeds.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		text, _, _ := strings.Cut(lines.Text(), "#")
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		cfg, err := corpusConfig(text)
		if err != nil {
			t.Fatalf("testdata/seeds.txt: %v", err)
		}
		run(t, cfg)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
}

// corpusConfig reads a line of the corpus: a seed, and after "without" the
// numbers of the faults to leave out.
func corpusConfig(text string) (Config, error) {
	seed, skip, _ := strings.Cut(text, " without ")
	number, err := strconv.ParseUint(seed, 10, 64)
	cfg := Config{Seed: number, Skip: map[int]bool{}}
	for n := range strings.SplitSeq(skip, ",") {
		if n == "" {
			continue
		}
		fault, bad := strconv.Atoi(n)
		err = errors.Join(err, bad)
		cfg.Skip[fault] = true
	}
	return cfg, err
}

// TestDefectsOfTheDriverAreCaught shows that the checks are awake: every defect
// fails within a few seeds.
func TestDefectsOfTheDriverAreCaught(t *testing.T) {
	const most = 200
	for _, defect := range Defects {
		t.Run(defect, func(t *testing.T) {
			for seed := uint64(1); seed <= most; seed++ {
				var v *Violation
				if errors.As(Run(Config{Seed: seed, Duration: 15 * time.Second, Defect: defect}).Err, &v) {
					t.Logf("seed %d: %s", seed, v.Rule)
					return
				}
			}
			t.Errorf("%d seeds do not catch the defect", most)
		})
	}
}

func TestShrinkKeepsTheViolation(t *testing.T) {
	cfg := Config{Seed: 1, Defect: DefectSnapshotLabel}
	var v *Violation
	if !errors.As(Run(cfg).Err, &v) {
		t.Fatalf("seed %d does not fail", cfg.Seed)
	}
	cfg.Skip = Shrink(cfg, v.Rule, 40)
	if len(cfg.Skip) == 0 {
		t.Error("Shrink left nothing out")
	}
	var smaller *Violation
	if !errors.As(Run(cfg).Err, &smaller) || smaller.Rule != v.Rule {
		t.Errorf("the smaller run ends with %v, want a violation of %s", smaller, v.Rule)
	}
}

func BenchmarkMinuteOfThreeMembers(b *testing.B) {
	seed := uint64(0)
	for b.Loop() {
		for seed++; newPlan(Config{Seed: seed}).members != 3; {
			seed++
		}
		if err := Run(Config{Seed: seed, Duration: time.Minute, Profile: "mixed"}).Err; err != nil {
			b.Fatalf("seed %d: %v", seed, err)
		}
	}
}
