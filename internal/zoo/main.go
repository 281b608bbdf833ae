package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"
)

// The statuses with which the program ends.
const (
	exitCaught = iota
	exitSurvived
	exitUsage
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := program(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// options are the flags.
type options struct {
	only     string
	short    bool
	list     bool
	sim      bool
	seeds    int
	verbose  bool
	parallel int
}

func program(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var o options
	flags := flag.NewFlagSet("zoo", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.only, "only", "", "run only these mutants, separated by commas")
	flags.BoolVar(&o.short, "short", false, "run only the cheap mutants")
	flags.BoolVar(&o.list, "list", false, "list the mutants and run none")
	flags.BoolVar(&o.sim, "sim", false, "run the mutants that the simulator sees, which has to catch them alone")
	flags.IntVar(&o.seeds, "seeds", 200, "how many seeds the simulator has for each mutant, with -sim")
	flags.BoolVar(&o.verbose, "v", false, "show the end of what each test that has caught a mutant said")
	flags.IntVar(&o.parallel, "parallel", 2, "how many mutants are tried at one time")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return exitCaught
		}
		return exitUsage
	}
	if flags.NArg() > 0 || o.parallel < 1 || o.seeds < 1 {
		fmt.Fprintln(stderr, "zoo: no arguments are taken, and -parallel and -seeds are at least 1")
		return exitUsage
	}
	mutants, err := pick(zoo(), o.only, o.short)
	if err != nil {
		fmt.Fprintln(stderr, "zoo:", err)
		return exitUsage
	}
	without := notYet()
	if o.sim {
		mutants, without = simulated(mutants, o.seeds), blind()
	}
	if o.list {
		list(stdout, mutants, without)
		return exitCaught
	}
	return run(ctx, o, mutants, stdout, stderr)
}

func run(ctx context.Context, o options, mutants []mutant, stdout, stderr io.Writer) int {
	temp, err := os.MkdirTemp("", "zoo-")
	if err != nil {
		fmt.Fprintln(stderr, "zoo:", err)
		return exitSurvived
	}
	defer func() { _ = os.RemoveAll(temp) }() // it is in the directory for such
	w := newWorkshop("", temp)
	root, err := w.command(ctx, "", "go", "list", "-m", "-f", "{{.Dir}}")
	if err != nil {
		fmt.Fprintf(stderr, "zoo: find the module: %v: %s\n", err, root)
		return exitSurvived
	}
	w.root = strings.TrimSpace(root)
	began := time.Now()
	count := 0
	for r := range results(ctx, w, mutants, o.parallel) {
		if report(stdout, &r, o.verbose); r.verdict == caught {
			count++
		}
	}
	fmt.Fprintf(stdout, "%d of %d mutants caught in %v\n", count, len(mutants), time.Since(began).Round(time.Second))
	if count < len(mutants) || len(mutants) == 0 {
		return exitSurvived
	}
	return exitCaught
}

// results tries the mutants, several at a time, and delivers what became of
// them as it comes. The channel is closed after the last one.
func results(ctx context.Context, w *workshop, mutants []mutant, parallel int) <-chan result {
	todo := make(chan *mutant, len(mutants))
	for i := range mutants {
		todo <- &mutants[i]
	}
	close(todo)
	out := make(chan result, len(mutants))
	var wg sync.WaitGroup
	for range parallel {
		wg.Go(func() {
			for m := range todo {
				out <- w.try(ctx, m)
			}
		})
	}
	go func() {
		wg.Wait()
		close(out)
	}()
	return out
}

func report(to io.Writer, r *result, verbose bool) {
	fmt.Fprintf(to, "%-5s %s … ", r.mutant.id, r.mutant.name)
	if r.verdict == caught {
		fmt.Fprintf(to, "caught by %s in %.1f s\n", r.by, r.took.Seconds())
		if !verbose {
			return
		}
	} else {
		fmt.Fprintf(to, "%s in %.1f s\n", r.verdict, r.took.Seconds())
	}
	if r.detail != "" {
		fmt.Fprintln(to, "      "+strings.ReplaceAll(tail(r.detail), "\n", "\n      "))
	}
}

func list(to io.Writer, mutants []mutant, without []waiting) {
	tw := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	for i := range mutants {
		m := &mutants[i]
		short := ""
		if m.short {
			short = "short"
		}
		var names []string
		for j := range m.catchers {
			names = append(names, m.catchers[j].String())
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", m.id, short, m.name, strings.Join(names, ", "))
	}
	for _, q := range without {
		fmt.Fprintf(tw, "%s\twithout\t%s\t\n", q.id, q.why)
	}
	_ = tw.Flush() // an error belongs to the writer behind
}
