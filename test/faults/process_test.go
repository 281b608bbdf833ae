package faults

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// readyMax is how long a member may take until /readyz says ok.
	readyMax = 20 * time.Second
	// exitMax is how long a graceful end may take.
	exitMax = 15 * time.Second
)

// process is one run of the program. What it writes goes to a file, behind what
// earlier runs wrote.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed after the state of cmd was set
	// expected is the [ending] that it will have.
	expected atomic.Int32
	// silent is whether it has written nothing, known when it has ended.
	silent bool
}

// startProcess runs a command, most often the program itself.
func startProcess(logPath, name string, args ...string) (*process, error) {
	f, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("faults: opening the log of %s: %w", name, err)
	}
	fmt.Fprintf(f, "--- start %s %s\n", name, strings.Join(args, " "))
	from, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("faults: the log of %s: %w", name, err)
	}
	p := &process{cmd: exec.Command(name, args...), exited: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = f, f
	p.cmd.Env = slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "DEIMOS_") })
	if err := p.cmd.Start(); err != nil {
		f.Close()
		return nil, fmt.Errorf("faults: starting %s: %w", name, err)
	}
	go func() {
		defer close(p.exited)
		// How it ended is in ProcessState, where those look who wait for it.
		_ = p.cmd.Wait()
		to, err := f.Seek(0, io.SeekEnd)
		p.silent = err == nil && to == from
		fmt.Fprintf(f, "--- end %v\n", p.cmd.ProcessState)
		f.Close()
	}()
	return p, nil
}

func (p *process) running() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// signal sends a signal. A process that has ended takes none.
func (p *process) signal(s syscall.Signal) {
	if p.running() {
		// What fails here has ended in between, and its end is judged.
		_ = p.cmd.Process.Signal(s)
	}
}

// wait waits for the end, and reports whether it came in time.
func (p *process) wait(most time.Duration) bool {
	select {
	case <-p.exited:
		return true
	case <-time.After(most):
		return false
	}
}

// code is the exit code of a process that has ended, -1 if a signal ended it.
func (p *process) code() int { return p.cmd.ProcessState.ExitCode() }

// killed reports whether signal 9 ended it.
func (p *process) killed() bool { return p.endedBy(syscall.SIGKILL) }

// cameTooEarly reports whether SIGTERM ended it before it had said anything: a
// program can ask for signals no earlier than its main function is called.
func (p *process) cameTooEarly() bool { return p.silent && p.endedBy(syscall.SIGTERM) }

func (p *process) endedBy(s syscall.Signal) bool {
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == s
}

// standsStill reports whether the system has the process stopped.
func (p *process) standsStill() bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return false
	}
	_, after, ok := strings.Cut(string(text), ") ")
	return ok && strings.HasPrefix(after, "T")
}

// badWords never stand in a log, whatever the fault.
var badWords = []string{"panic:", "fatal error:", "DATA RACE"}

// badLines are the lines of a log that must not be.
func badLines(logPath string) ([]string, error) {
	text, err := os.ReadFile(logPath)
	if err != nil {
		return nil, fmt.Errorf("faults: reading a log: %w", err)
	}
	var bad []string
	for line := range strings.Lines(string(text)) {
		if slices.ContainsFunc(badWords, func(w string) bool { return strings.Contains(line, w) }) {
			bad = append(bad, strings.TrimSpace(line))
		}
	}
	return bad, nil
}
