package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// alsoForwarded are the signals that commands get besides those that end this
// program.
var alsoForwarded = []os.Signal{syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2}

// link is how this program reaches a command that runs below a guard.
type link struct {
	// orders is the pipe that only this program writes: a byte is a signal for the
	// command, and the end, which comes by itself when this program is killed, the
	// order to kill all that it has started.
	orders *os.File
	pid    int // of the command
	// group tells that the command leads a group of processes of its own, which
	// gets the signals and is ended with it.
	group bool
}

// start starts the command, whose path was looked up, below a guard. Unless
// somebody sits at the terminal that it reads from, it leads a process group of
// its own.
func (p *child) start(argv []string) error {
	if p.cmd.Err != nil {
		return p.cmd.Err
	}
	p.group = !readsTerminal(p.cmd)
	group := 0 // a new one
	if !p.group {
		group = unix.Getpgrp() // a terminal would stop another one
	}
	guardOrders, orders, err := os.Pipe()
	if err != nil {
		return err
	}
	reports, guardReport, err := os.Pipe()
	if err != nil {
		return errors.Join(err, guardOrders.Close(), orders.Close())
	}
	defer reports.Close()
	p.cmd.Path = "/proc/self/exe" // this very program, even if it was replaced
	p.cmd.Args = guardArgs(guardOrders.Fd(), guardReport.Fd(), group, argv)
	// It inherits them at their numbers. Others belong to files which the command
	// inherits from whoever has started this program.
	for _, f := range []*os.File{guardOrders, guardReport} {
		if _, e := unix.FcntlInt(f.Fd(), unix.F_SETFD, 0); e != nil {
			err = e
		}
	}
	// What the terminal sends to the group of this program is not for the guard.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err == nil {
		err = p.cmd.Start()
	}
	// The guard has its own. Nothing was written that could be lost.
	_, _ = guardOrders.Close(), guardReport.Close()
	if err == nil {
		if err = p.readReport(reports); err == nil {
			p.orders = orders
			return nil
		}
	} else if e, ok := errors.AsType[*fs.PathError](err); ok && e.Err == syscall.E2BIG {
		e.Path = argv[0] // it is the command's own arguments that are too long
	}
	return errors.Join(err, orders.Close())
}

// readReport waits until the guard has started the command, or could not.
func (p *child) readReport(from *os.File) error {
	var r report
	err := json.NewDecoder(from).Decode(&r)
	if err == nil && r.Failure == "" {
		p.pid = r.PID
		return nil
	}
	ended := p.cmd.Wait()
	if err != nil {
		return fmt.Errorf("its guard has ended: %w", errors.Join(ended, err))
	}
	return &r
}

// readsTerminal reports whether the input of a command is a terminal.
func readsTerminal(cmd *exec.Cmd) bool {
	f, ok := cmd.Stdin.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// tell passes a signal on. A command that has ended is told nothing.
func (p *child) tell(sig os.Signal) {
	// Without a guard, which it fails for, the command is ending already.
	_, _ = p.orders.Write([]byte{byte(sig.(syscall.Signal))})
}

// kill ends the command and all that it has started. It may be called again.
func (p *child) kill() {
	_ = p.orders.Close() // the second time it is closed
}

// cleanUp comes after the end. A guard that was killed has taken its command
// along, by order of the kernel, but not what that has started.
func (p *child) cleanUp() {
	p.kill()
	if exit, ok := errors.AsType[*exec.ExitError](p.err); ok && !exit.Exited() && p.group {
		_ = syscall.Kill(-p.pid, syscall.SIGKILL) // it fails when nobody is left
	}
}
