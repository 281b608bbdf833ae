package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos/internal/proctest"
	"github.com/marsevilspirit/deimos/internal/syncbuf"
)

const (
	// readyMax is how long a process may take until /readyz says ok.
	readyMax = 20 * time.Second
	// exitMax is how long a graceful end may take.
	exitMax = 10 * time.Second
)

// node is one member: what it is started with, and the process if one runs.
// Its methods are for the goroutine of the test.
type node struct {
	name, dir    string
	client, peer string // base URLs
	args         []string
	run          *process
}

// newNode prepares a member of its own; flags come after the usual ones.
func newNode(t testing.TB, name string, flags ...string) *node {
	n := &node{name: name, dir: filepath.Join(t.TempDir(), name), client: "http://" + proctest.FreeAddress(t), peer: "http://" + proctest.FreeAddress(t)}
	n.args = append([]string{
		"--name", name, "--data-dir", n.dir,
		"--listen-client-urls", n.client, "--advertise-client-urls", n.client,
		"--listen-peer-urls", n.peer, "--advertise-peer-urls", n.peer,
	}, flags...)
	return n
}

// startNode starts a single member and waits until it is ready.
func startNode(t testing.TB, flags ...string) *node {
	t.Helper()
	n := newNode(t, "n1", flags...)
	n.start(t)
	n.waitReady(t)
	return n
}

func (n *node) start(t testing.TB) {
	t.Helper()
	n.run = startProcess(t, n.args...)
}

// waitReady waits until /readyz says ok, or fails the test.
func (n *node) waitReady(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), readyMax)
	defer cancel()
	err := until(ctx, func() error {
		if n.run.ended() {
			t.Fatalf("%s has ended with %d before it was ready:\n%s", n.name, n.run.code, n.run.stderr.tail())
		}
		status, body, err := get(ctx, n.client+"/readyz")
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("status %d: %s", status, body)
		}
		return err
	})
	if err != nil {
		t.Fatalf("%s is not ready after %v: %v\n%s", n.name, readyMax, err, n.run.stderr.tail())
	}
}

// kill sends signal 9 and waits for the end of the process.
func (n *node) kill(t testing.TB) {
	t.Helper()
	n.run.signal(t, syscall.SIGKILL)
	<-n.run.exited
	if !n.run.killed {
		t.Fatalf("void: %s ended by itself with %d before it was killed:\n%s", n.name, n.run.code, n.run.stderr.tail())
	}
}

// process is one run of the program.
type process struct {
	cmd    *exec.Cmd
	stderr *output
	stdout *output
	exited chan struct{} // closed after code and killed were set
	code   int
	killed bool // ended by signal 9
}

// startProcess runs the program until the test ends, at the latest.
func startProcess(t testing.TB, args ...string) *process {
	t.Helper()
	return startWith(t, "", args...)
}

// startWith does the same with a variable in the environment, which holds none
// of the program's otherwise.
func startWith(t testing.TB, variable string, args ...string) *process {
	t.Helper()
	return startCommand(t, variable, program, args...)
}

// startCommand does the same with another program, which runs ours.
func startCommand(t testing.TB, variable, name string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(name, args...), stderr: &output{}, stdout: &output{}, exited: make(chan struct{})}
	p.cmd.Stderr, p.cmd.Stdout = p.stderr, p.stdout
	p.cmd.Dir = t.TempDir()
	p.cmd.Env = slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "DEIMOS_") })
	if variable != "" {
		p.cmd.Env = append(p.cmd.Env, variable)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("starting the program: %v", err)
	}
	go func() {
		defer close(p.exited)
		err := p.cmd.Wait()
		p.code = p.cmd.ProcessState.ExitCode()
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			status, ok := exit.Sys().(syscall.WaitStatus)
			p.killed = ok && status.Signaled() && status.Signal() == syscall.SIGKILL
		}
	}()
	t.Cleanup(func() {
		if !p.ended() {
			p.signal(t, syscall.SIGKILL)
		}
		<-p.exited
		for _, word := range []string{"panic:", "fatal error:"} {
			if strings.Contains(p.stderr.String(), word) {
				t.Errorf("the program wrote %q:\n%s", word, p.stderr.String())
			}
		}
		if t.Failed() {
			t.Logf("stderr of %v:\n%s", args, p.stderr.tail())
		}
	})
	return p
}

func (p *process) ended() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

func (p *process) signal(t testing.TB, s syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatalf("sending %v: %v", s, err)
	}
}

// wait waits for the end of the process and returns its exit code.
func (p *process) wait(t testing.TB, most time.Duration) int {
	t.Helper()
	select {
	case <-p.exited:
	case <-time.After(most):
		t.Fatalf("the program still runs after %v:\n%s", most, p.stderr.tail())
	}
	return p.code
}

// output collects what a process writes while the test may read it.
type output struct{ syncbuf.Buffer }

// tail is the end of the output.
func (o *output) tail() string {
	s := o.String()
	const most = 6000
	if len(s) > most {
		return "…" + s[len(s)-most:]
	}
	return s
}

// until tries again every 10 ms until there is no error, and returns the last
// error when ctx ends.
func until(ctx context.Context, try func() error) error {
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-ticker.C:
		}
	}
}

// probe is the client of everything that is not a load.
var probe = &http.Client{Timeout: 5 * time.Second}

func get(ctx context.Context, url string) (int, string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	res, err := probe.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return res.StatusCode, string(body), err
}

// metric reads one unlabelled metric of a member.
func metric(ctx context.Context, base, name string) (float64, error) {
	status, body, err := get(ctx, base+"/metrics")
	if err != nil {
		return 0, err
	}
	for text := range strings.Lines(body) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(text), name+" "); ok {
			return strconv.ParseFloat(v, 64)
		}
	}
	return 0, fmt.Errorf("e2e: metric %s is not there (status %d)", name, status)
}
