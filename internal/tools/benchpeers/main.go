// Command benchpeers compares Deimos with etcd 3.4 and its v2 API, with a
// net/http handler that does nothing, which no server in Go on net/http can
// beat, and with a loop that answers each read of a socket with the same bytes,
// which no server at all can beat. All run on this machine with the same settings, the same environment
// and the load of package load, one after the other in rounds, each time in a
// fresh directory. It prints a table of the ratios and writes it, as Markdown and
// JSON, after each part of the work, so that nothing is lost when it is ended.
//
//	benchpeers [-bin bin/deimos] [-rounds 5] [-seconds 4] [-cells regexp] [-list]
//	benchpeers empty|bare ADDRESS
//
// The second form is the handler that does nothing, or the loop. It is not part
// of the program that is shipped. Processes are started and ended by their ids; the
// main goroutine waits for all of them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/marsevilspirit/deimos/internal/timerslack"
)

func main() {
	if len(os.Args) == 3 {
		serveInstead(os.Args[1], os.Args[2])
	}
	_ = timerslack.Raise() // as deimos bench does; the servers have to do it themselves
	b := bench{log: os.Stderr, warmup: time.Second, settle: 3 * time.Second}
	flag.StringVar(&b.deimos, "bin", "bin/deimos", "the deimos program")
	flag.StringVar(&b.etcd, "etcd", "", "the etcd program (default: that of the system, which is installed if this is root on a Debian)")
	flag.StringVar(&b.out, "out", "bench-results", "directory of the results and, meanwhile, of the data")
	flag.IntVar(&b.rounds, "rounds", 5, "rounds of each cell")
	seconds := flag.Float64("seconds", 4, "seconds of each measurement")
	pattern := flag.String("cells", "", "regular expression that chooses cells")
	list := flag.Bool("list", false, "list the cells and end")
	flag.IntVar(&b.fillKeys, "fill-keys", 500_000, "keys of the large store")
	flag.IntVar(&b.growKeys, "grow-keys", 1_000_000, "keys of the largest store")
	flag.IntVar(&b.idle, "idle", 100_000, "idle watchers")
	flag.Parse()
	b.measure = time.Duration(*seconds * float64(time.Second))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, &b, *pattern, *list); err != nil {
		fail(err)
	}
}

// serveInstead makes this program one of the servers that are compared with, if
// it was started as one. Then it does not return.
func serveInstead(what, address string) {
	switch what {
	case "empty":
		fail(serveNothing(address))
	case "bare":
		fail(serveBare(address))
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "benchpeers:", err)
	os.Exit(1)
}

// bench holds the settings of all cells.
type bench struct {
	deimos, etcd, out        string
	rounds                   int
	measure                  time.Duration // of one measurement
	warmup                   time.Duration // before each
	settle                   time.Duration // until the memory of a server is looked at
	fillKeys, growKeys, idle int
	log                      *os.File

	self string // this program
	wrk  string // "": there is none
	dir  string // of the data
	runs int    // clusters so far, for their directories
}

func run(ctx context.Context, b *bench, pattern string, list bool) (err error) {
	chosen, err := regexp.Compile(pattern)
	if err != nil {
		return fmt.Errorf("-cells: %w", err)
	}
	if b.rounds < 1 || b.measure <= 0 {
		return fmt.Errorf("-rounds %d and -seconds %v must be above 0", b.rounds, b.measure.Seconds())
	}
	var cells []*cell
	for _, c := range b.cells() {
		if chosen.MatchString(c.name) {
			cells = append(cells, c)
		}
	}
	if len(cells) == 0 {
		return fmt.Errorf("-cells: no cell matches %q, see -list", pattern)
	}
	if list {
		for _, c := range cells {
			fmt.Println(c.name)
		}
		return nil
	}
	if err := b.prepare(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	r, err := newReport(b)
	if err != nil {
		return err
	}
	for _, c := range cells {
		err := b.play(ctx, c)
		if len(c.results) > 0 {
			r.add(c)
			if err := r.save(); err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			break
		}
		if err != nil { // one cell that fails does not cost the others
			fmt.Fprintf(b.log, "benchpeers: %s: %v\n", c.name, err)
			r.failed(c, err)
		}
	}
	if err := r.save(); err != nil {
		return err
	}
	fmt.Print(r.markdown())
	fmt.Fprintf(b.log, "benchpeers: saved as %s.md and .json\n", r.path)
	return ctx.Err()
}

// prepare finds the programs and makes the directories.
func (b *bench) prepare(ctx context.Context) (err error) {
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	if b.deimos, err = filepath.Abs(b.deimos); err != nil {
		return err
	}
	if _, err := os.Stat(b.deimos); err != nil {
		return fmt.Errorf("the program to measure: %w (make build makes it)", err)
	}
	if b.etcd == "" {
		if b.etcd, err = findEtcd(ctx, b.log); err != nil {
			return err
		}
	}
	if b.out, err = filepath.Abs(b.out); err != nil {
		return err
	}
	if err := os.MkdirAll(b.out, 0o755); err != nil {
		return err
	}
	b.wrk = findWrk(b.log)
	b.dir, err = os.MkdirTemp(b.out, "data-")
	return err
}
