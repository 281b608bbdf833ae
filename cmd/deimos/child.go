package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/marsevilspirit/deimos/daemon"
)

// childOutputGrace is how long what a command has left running may go on to
// write, when this program passes the output on.
const childOutputGrace = time.Second

// child is a command that runs below this program, which waits for it; done is
// closed when it has ended.
type child struct {
	cmd  *exec.Cmd // the command, or the guard above it, which ends as it does
	done chan struct{}
	err  error // of Wait, once done is closed
	// signals are to be passed on; they are caught before the command starts.
	signals chan os.Signal
	// release leaves the signals to others.
	release func()
	link    // what else the platform needs to reach the command
}

// startChild runs argv with the streams of the session and env added to its
// environment. From then on until supervise returns, the signals of this program
// are for the command. If this program is killed, so is the command with all that
// it has started, on Linux.
func (s *session) startChild(ctx context.Context, argv []string, env ...string) (*child, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(append([]string{}, s.env...), env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = s.in, s.out, s.err
	cmd.WaitDelay = childOutputGrace
	p := &child{cmd: cmd, done: make(chan struct{}), signals: make(chan os.Signal, 8)}
	signal.Notify(p.signals, alsoForwarded...)
	later := laterSignalsOf(ctx)
	later.passTo(p.signals)
	p.release = func() {
		later.passTo(nil)
		signal.Stop(p.signals)
	}
	if err := p.start(argv); err != nil {
		p.release()
		return nil, &childError{exitNotRun, fmt.Sprintf("the command %q cannot be started: %v", argv[0], err), err}
	}
	go func() {
		defer close(p.done)
		p.err = cmd.Wait()
		p.cleanUp()
	}()
	return p, nil
}

// exit returns what the command ended with, nil for 0.
func (p *child) exit() error {
	exit, ok := errors.AsType[*exec.ExitError](p.err)
	switch {
	case p.err == nil || errors.Is(p.err, exec.ErrWaitDelay):
		return nil
	case !ok:
		return &childError{code: exitFailure, text: fmt.Sprintf("wait for the command %q: %v", p.cmd.Path, p.err)}
	case exit.Exited():
		return &childError{code: exit.ExitCode()}
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return &childError{code: exitSignal + int(status.Signal())}
	}
	return &childError{code: exitFailure}
}

// childError claims an exit code. Without a text nothing is said: the command
// has said what it wanted.
type childError struct {
	code int
	text string
	err  error // why it cannot be started
}

func (e *childError) Error() string { return e.text }

func (e *childError) Unwrap() error { return e.err }

// supervise waits for the end of a command that was started, and passes on the
// signals that this program gets. When lost is closed, the command is told to end
// at once, and is killed after grace.
func supervise(ctx context.Context, p *child, lost <-chan struct{}, grace time.Duration) {
	defer p.release()
	asked := ctx.Done()
	var late <-chan time.Time
	for {
		select {
		case <-p.done:
			return
		case sig := <-p.signals:
			p.tell(sig)
		case <-asked:
			asked = nil
			p.tell(signalOf(ctx))
		case <-lost:
			lost = nil
			p.tell(syscall.SIGTERM)
			late = time.After(grace)
		case <-late:
			p.kill()
		}
	}
}

// splitCommand separates the arguments of a command from the command line
// behind "--", which must be there.
func splitCommand(c *cobra.Command, args []string, before ...string) (own, command []string, err error) {
	at := c.ArgsLenAtDash()
	if at < 0 || at == len(args) {
		return nil, nil, daemon.Usagef("%s needs a command behind two dashes: %s %s -- COMMAND", c.CommandPath(), c.CommandPath(), strings.Join(before, " "))
	}
	return args[:at], args[at:], wants(before...)(c, args[:at])
}

// wantsCommand is wants for a command that takes a command line behind "--".
func wantsCommand(before ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		_, _, err := splitCommand(c, args, before...)
		return err
	}
}
