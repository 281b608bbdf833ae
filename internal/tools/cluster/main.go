// Command cluster runs three members on this machine for development: it
// starts them on fixed ports, puts the name of the member before each line
// they write, and ends them together. It does not restart what has died, and
// it is not part of the program that is shipped.
//
//	cluster [-bin bin/deimos] [-data cluster.deimos] [flags for every member]
//
// Clients are served on ports 4001 to 4003 of 127.0.0.1, the members talk to
// each other on 7001 to 7003. Each member has one goroutine, which waits for
// its end; run waits for all of them.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	size            = 3
	clientPortFirst = 4001
	peerPortFirst   = 7001

	// stopMax is how long the members may take to end before they are killed.
	stopMax = 30 * time.Second
	// lineMaxBytes is the length at which a line without end is written anyway.
	lineMaxBytes = 64 << 10
)

func main() {
	c := config{out: os.Stdout}
	flag.StringVar(&c.bin, "bin", "bin/deimos", "the program to run")
	flag.StringVar(&c.data, "data", "cluster.deimos", "directory of the data directories")
	flag.Parse()
	c.extra = flag.Args()
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	if err := run(c, signals); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

// config says what to run.
type config struct {
	bin   string
	data  string
	extra []string // flags for every member
	out   io.Writer
}

// member is one running process.
type member struct {
	name string
	cmd  *exec.Cmd
}

// exit tells that a member has ended.
type exit struct {
	name string
	err  error
}

// run starts the members and returns when all have ended. The first signal
// asks them to end, the second kills them. A member that ends before it was
// asked to is reported; the error in the end names those that ended badly, or
// all of them when they ended by themselves.
func run(c config, signals <-chan os.Signal) error {
	if err := os.MkdirAll(c.data, 0o700); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	out := &lockedWriter{w: c.out}
	exits := make(chan exit, size)
	var running []*member
	// A member that died was reported; it is a failure only if nobody asked for
	// the end.
	var failed, died []string
	for i := range size {
		m, err := start(c, i, out, exits)
		if err != nil {
			fmt.Fprintf(out, "cluster | %v\n", err)
			failed = append(failed, fmt.Sprintf("node%d", i+1))
			continue
		}
		running = append(running, m)
		fmt.Fprintf(out, "cluster | %s is process %d, for clients at http://127.0.0.1:%d; started as: %s\n",
			m.name, m.cmd.Process.Pid, clientPortFirst+i, strings.Join(m.cmd.Args, " "))
	}

	stopping := false
	var late <-chan time.Time
	for alive := len(running); alive > 0; {
		select {
		case <-signals:
			if stopping {
				signalAll(running, syscall.SIGKILL)
				continue
			}
			stopping, late = true, time.After(stopMax)
			fmt.Fprintln(out, "cluster | stops; once more kills")
			signalAll(running, syscall.SIGTERM)
		case <-late:
			fmt.Fprintf(out, "cluster | not ended after %s, killed\n", stopMax)
			signalAll(running, syscall.SIGKILL)
		case e := <-exits:
			alive--
			if stopping && e.err == nil {
				continue
			}
			if stopping {
				failed = append(failed, e.name)
			} else {
				died = append(died, e.name)
			}
			fmt.Fprintf(out, "cluster | %s has ended: %s, %d left\n", e.name, describe(e.err), alive)
		}
	}
	if !stopping {
		failed = append(failed, died...)
	}
	if len(failed) > 0 {
		return fmt.Errorf("did not run to the end: %s", strings.Join(failed, ", "))
	}
	return nil
}

func describe(err error) string {
	if err == nil {
		return "without an error, though not asked to"
	}
	return err.Error()
}

// start starts member i, whose end is sent to exits.
func start(c config, i int, out io.Writer, exits chan<- exit) (*member, error) {
	name := fmt.Sprintf("node%d", i+1)
	client := fmt.Sprintf("http://127.0.0.1:%d", clientPortFirst+i)
	args := []string{
		"--name", name,
		"--data-dir", filepath.Join(c.data, name+".deimos"),
		"--bootstrap-config", bootstrap(),
		"--listen-peer-urls", peerURL(i),
		"--listen-client-urls", client,
		"--advertise-client-urls", client,
	}
	lines := &prefixWriter{prefix: name + "   | ", w: out}
	cmd := exec.Command(c.bin, append(args, c.extra...)...)
	cmd.Stdout, cmd.Stderr = lines, lines
	// A group of its own, or Ctrl-C on the terminal would reach the member
	// beside the signal from here, and a second signal ends it at once.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		err := cmd.Wait()
		lines.flush()
		exits <- exit{name, err} // never blocks: one place for each member
	}()
	return &member{name, cmd}, nil
}

func peerURL(i int) string { return fmt.Sprintf("http://127.0.0.1:%d", peerPortFirst+i) }

func bootstrap() string {
	var list []string
	for i := range size {
		list = append(list, fmt.Sprintf("node%d=%s", i+1, peerURL(i)))
	}
	return strings.Join(list, ",")
}

// signalAll reaches the living; that others have ended already is no news.
func signalAll(members []*member, s os.Signal) {
	for _, m := range members {
		_ = m.cmd.Process.Signal(s)
	}
}

// lockedWriter lets several goroutines write whole lines to one writer.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

// Write implements io.Writer.
func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// prefixWriter passes on whole lines with a prefix, one Write each. One
// goroutine at a time uses it.
type prefixWriter struct {
	prefix  string
	w       io.Writer
	partial []byte
}

// Write implements io.Writer. It takes all of p whatever becomes of the lines:
// a member must not block or die because the terminal has gone.
func (p *prefixWriter) Write(data []byte) (int, error) {
	for rest := data; len(rest) > 0; {
		line, after, ended := bytes.Cut(rest, []byte("\n"))
		p.partial = append(p.partial, line...)
		if ended || len(p.partial) >= lineMaxBytes {
			p.flush()
		}
		rest = after
	}
	return len(data), nil
}

// flush writes a line that has not ended yet.
func (p *prefixWriter) flush() {
	if len(p.partial) == 0 {
		return
	}
	fmt.Fprintf(p.w, "%s%s\n", p.prefix, p.partial)
	p.partial = p.partial[:0]
}
