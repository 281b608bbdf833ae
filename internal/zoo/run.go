package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"
)

// verdict is what became of a mutant.
type verdict int

const (
	caught verdict = iota
	survived
	// stale: the text that the mutant replaces is not there.
	stale
	// broken: with the mutant the tests do not build.
	broken
	// unsound: the tests do not pass without the mutant, or there are none.
	unsound
	// stuck: the tests did not come to an end, and were not expected to hang.
	stuck
	// ended: the zoo was interrupted.
	ended
)

var verdictNames = [...]string{"caught", "SURVIVED", "STALE", "DOES NOT BUILD", "CATCHER UNSOUND", "TIMED OUT", "interrupted"}

func (v verdict) String() string { return verdictNames[v] }

// result is the outcome for one mutant.
type result struct {
	mutant  *mutant
	verdict verdict
	by      string // the test that has caught it
	took    time.Duration
	detail  string // what an operator needs to see of a failure
}

// workshop builds and runs tests, with and without mutants. Its methods may be
// called from any goroutine.
type workshop struct {
	root string // of the module
	temp string // for everything that is written
	// buildFlags go to each build.
	buildFlags []string

	mu    sync.Mutex
	clean map[string]*cleanBuild // by package
	sound map[string]*sounding   // by catcher
	dirs  map[string]string      // of dependencies
}

type cleanBuild struct {
	once sync.Once
	path string
	err  error
}

type sounding struct {
	once sync.Once
	err  error
}

func newWorkshop(root, temp string, buildFlags ...string) *workshop {
	return &workshop{
		root: root, temp: temp, buildFlags: buildFlags,
		clean: map[string]*cleanBuild{}, sound: map[string]*sounding{}, dirs: map[string]string{},
	}
}

// try finds out whether a mutant is caught.
func (w *workshop) try(ctx context.Context, m *mutant) result {
	began := time.Now()
	r := w.judge(ctx, m)
	r.mutant, r.took = m, time.Since(began)
	if ctx.Err() != nil {
		return result{mutant: m, verdict: ended, took: r.took}
	}
	return r
}

func (w *workshop) judge(ctx context.Context, m *mutant) result {
	dir, err := os.MkdirTemp(w.temp, m.id+"-")
	if err != nil {
		return result{verdict: broken, detail: err.Error()}
	}
	defer func() { _ = os.RemoveAll(dir) }() // the whole of temp goes at the end anyway
	flags, err := w.prepare(ctx, m, dir)
	if err != nil {
		return result{verdict: stale, detail: err.Error()}
	}
	r := result{verdict: survived}
	built := map[string]string{} // by package
	for i := range m.catchers {
		c := &m.catchers[i]
		if err := w.check(ctx, c); err != nil {
			return result{verdict: unsound, detail: err.Error()}
		}
		if built[c.pkg] == "" {
			binary := filepath.Join(dir, path.Base(c.pkg)+".test")
			if err := w.build(ctx, c.pkg, binary, flags); err != nil {
				return result{verdict: broken, detail: err.Error()}
			}
			built[c.pkg] = binary
		}
		out := w.run(ctx, c, built[c.pkg])
		switch {
		case out.passed:
			continue
		case out.timedOut && !c.hangs:
			r = result{verdict: stuck, detail: fmt.Sprintf("%s took more than %v\n%s", c, c.timeLimit(), tail(out.text))}
			continue
		}
		return result{verdict: caught, by: caughtBy(c, out), detail: out.text}
	}
	return r
}

// check makes sure that a catcher passes without any mutant, once.
func (w *workshop) check(ctx context.Context, c *catcher) error {
	w.mu.Lock()
	s := w.sound[c.String()]
	if s == nil {
		s = &sounding{}
		w.sound[c.String()] = s
	}
	w.mu.Unlock()
	s.once.Do(func() {
		binary, err := w.cleanBinary(ctx, c.pkg)
		if err != nil {
			s.err = fmt.Errorf("%s does not build without the mutant: %w", c.pkg, err)
			return
		}
		out := w.run(ctx, c, binary)
		switch {
		case !out.passed:
			s.err = fmt.Errorf("%s fails without the mutant:\n%s", c, tail(out.text))
		case !strings.Contains(out.text, "\n--- PASS: ") && !strings.HasPrefix(out.text, "--- PASS: "):
			s.err = fmt.Errorf("%s runs no test here:\n%s", c, tail(out.text))
		}
	})
	return s.err
}

func (w *workshop) cleanBinary(ctx context.Context, pkg string) (string, error) {
	w.mu.Lock()
	b := w.clean[pkg]
	if b == nil {
		b = &cleanBuild{path: filepath.Join(w.temp, strings.ReplaceAll(pkg, "/", "-")+".test")}
		w.clean[pkg] = b
	}
	w.mu.Unlock()
	b.once.Do(func() { b.err = w.build(ctx, pkg, b.path, nil) })
	return b.path, b.err
}

func (w *workshop) build(ctx context.Context, pkg, binary string, flags []string) error {
	args := append([]string{"test", "-c", "-o", binary}, w.buildFlags...)
	args = append(append(args, flags...), "./"+pkg)
	out, err := w.command(ctx, w.root, "go", args...)
	if err == nil {
		_, err = os.Stat(binary) // there is none for a package without tests
	}
	if err != nil {
		return fmt.Errorf("go test -c ./%s: %w\n%s", pkg, err, tail(out))
	}
	return nil
}

// outcome is what one run of tests has shown.
type outcome struct {
	passed, timedOut bool
	text             string
}

// timedOutText is what the testing package says when a limit is over.
const timedOutText = "panic: test timed out after"

func (w *workshop) run(ctx context.Context, c *catcher, binary string) outcome {
	limit := c.timeLimit()
	// The testing package shows where a test hangs; the context is for those who
	// do not let it.
	ctx, cancel := context.WithTimeout(ctx, limit+10*time.Second)
	defer cancel()
	args := append([]string{"-test.v", "-test.run", c.run, "-test.timeout", limit.String()}, c.args...)
	text, err := w.command(ctx, filepath.Join(w.root, c.pkg), binary, args...)
	return outcome{
		passed:   err == nil,
		timedOut: errors.Is(ctx.Err(), context.DeadlineExceeded) || strings.Contains(text, timedOutText),
		text:     text,
	}
}

// outputMaxBytes bounds what is kept of the output of a command.
const outputMaxBytes = 4 << 20

// command runs a program in a process group of its own, all of which ends with
// the context.
func (w *workshop) command(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	var out bounded
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// bounded keeps the first outputMaxBytes that are written to it.
type bounded struct{ bytes.Buffer }

// Write implements [io.Writer].
func (b *bounded) Write(p []byte) (int, error) {
	b.Buffer.Write(p[:min(len(p), outputMaxBytes-b.Len())])
	return len(p), nil
}

var failLine = regexp.MustCompile(`(?m)^--- FAIL: (\S+)`)

// seedLine is what the simulator says of a seed that fails: its number, and the
// rule that was broken.
var seedLine = regexp.MustCompile(`(?m)\bseed (\d+) \(.*?\): (.+?) at [0-9.]+s:`)

// caughtBy names the test that has failed, and how.
func caughtBy(c *catcher, out outcome) string {
	name := c.tests()
	if found := failLine.FindStringSubmatch(out.text); found != nil {
		name = found[1]
	}
	name = path.Base(c.pkg) + "." + name
	if found := seedLine.FindStringSubmatch(out.text); found != nil {
		name += fmt.Sprintf(" with seed %s (%s)", found[1], found[2])
	}
	switch {
	case out.timedOut:
		return name + " (it hangs)"
	case strings.Contains(out.text, "\npanic: ") || strings.Contains(out.text, "\nfatal error: "):
		return name + " (it panics)"
	}
	return name
}

// tail returns the end of a text.
func tail(text string) string {
	const lines = 25
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
