package faults

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos/internal/proctest"
)

// The flags of long runs. Their defaults are the short share.
var (
	roundsFlag     = flag.Int("rounds", 0, "runs of TestRuns; 0: the short share")
	seedFlag       = flag.Uint64("seed", 1, "seed of the first run; the next has the next one")
	durationFlag   = flag.Duration("duration", 7*time.Second, "how long the faults of a run last")
	sizeFlag       = flag.Int("size", 0, "members of each run: 1, 3 or 5; 0: a mix")
	killsFlag      = flag.Int("kills", 10, "rounds of the tests that kill over and over")
	recoveriesFlag = flag.Int("recoveries", 2, "leaders that are killed to measure how soon writes come back")
	evidenceFlag   = flag.String("evidence", "", "directory in which failed runs are kept; empty: deimos-faults below the directory for temporary files")
)

// program is the path of the deimos binary.
var program string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(proctest.Main(m, &program))
}

// evidenceDir makes a new directory for what a test leaves when it fails.
func evidenceDir(t testing.TB, name string) string {
	t.Helper()
	parent := *evidenceFlag
	if parent == "" {
		parent = filepath.Join(os.TempDir(), "deimos-faults")
	}
	if err := os.MkdirAll(parent, 0o700); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(parent, name+"-")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// letPass waits while real time passes, because that is the fault or the load.
// It returns false when ctx ends first.
func letPass(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// until tries again every 20 ms until there is no error, and returns the last
// error when ctx ends.
func until(ctx context.Context, try func() error) error {
	for {
		err := try()
		if err == nil {
			return nil
		}
		if !letPass(ctx, 20*time.Millisecond) {
			return err
		}
	}
}

// within is until with a limit of its own.
func within(ctx context.Context, most time.Duration, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	return until(ctx, func() error { return try(ctx) })
}
