package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A command that is run for somebody has a guard above it: this program, started
// once more. The kernel ends a process with the one that has started it, but not
// what that process has started itself. So the guard adopts all that loses its
// parent below it, and kills it when the pipe ends that it gets its orders from.
//
// The guard is in a process group of its own, where neither the terminal nor
// signals for the command reach it, and it ends as the command does.

// guardName is what a guard is called instead of the name of the program. It is
// no command: nobody but this program starts one.
const guardName = "deimos-guard"

// report is what a guard says once: that the command runs, or why it does not.
type report struct {
	PID     int           `json:"pid"`
	Failure string        `json:"failure"` // "": it runs
	Errno   syscall.Errno `json:"errno"`   // 0: the failure is none of the system's
}

// A report of a failure is an error for the program that reads it.
func (r *report) Error() string { return r.Failure }

func (r *report) Unwrap() error { return r.Errno }

// guard watches over one command.
type guard struct {
	pid    int
	group  bool // the command leads a process group of its own
	ended  bool
	status syscall.WaitStatus // once ended
}

// guardArgs are the arguments of a guard that reads orders from one file it
// inherits and reports to another. The command runs in a process group, in one of
// its own if that is 0.
func guardArgs(orders, report uintptr, group int, argv []string) []string {
	return append([]string{guardName, strconv.Itoa(int(orders)), strconv.Itoa(int(report)), strconv.Itoa(group)}, argv...)
}

// runGuard is the whole process if it was started as a guard, which ok tells. The
// code is that of the command, or 128 and the signal that has ended it.
func runGuard(args []string) (code int, ok bool) {
	if len(args) == 0 || args[0] != guardName {
		return 0, false
	}
	// The kernel kills the command when the thread ends that has started it.
	runtime.LockOSThread()
	var ordersFD, reportFD, group int
	numbers, argv := args[1:min(4, len(args))], args[min(4, len(args)):]
	_, err := fmt.Sscan(strings.Join(numbers, " "), &ordersFD, &reportFD, &group)
	if err != nil || len(argv) == 0 || !isPipe(ordersFD) || !isPipe(reportFD) {
		fmt.Fprintln(os.Stderr, "deimos: a guard is started by deimos lock and its like, not by hand: see deimos help lock")
		return exitUsage, true
	}
	// They are not for the command.
	unix.CloseOnExec(ordersFD)
	unix.CloseOnExec(reportFD)
	orders, reports := os.NewFile(uintptr(ordersFD), "orders"), os.NewFile(uintptr(reportFD), "report")
	// They are for the command, and come as orders. The command does not inherit
	// that they are caught, as it would if they were ignored.
	signal.Notify(make(chan os.Signal, 1), append([]os.Signal{syscall.SIGINT, syscall.SIGTERM}, alsoForwarded...)...)
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)

	var g guard
	err = g.start(group, argv)
	r := report{PID: g.pid}
	if err != nil {
		r.Failure = err.Error()
		r.Errno, _ = errors.AsType[syscall.Errno](err)
	}
	// If there is nobody left to read it, the orders have ended too.
	_ = json.NewEncoder(reports).Encode(r)
	_ = reports.Close()
	if err != nil {
		return exitNotRun, true
	}
	signals := make(chan syscall.Signal)
	go readOrders(orders, signals)
	g.watch(children, signals)
	if g.status.Signaled() {
		return exitSignal + int(g.status.Signal()), true
	}
	return g.status.ExitStatus(), true
}

func isPipe(fd int) bool {
	var stat unix.Stat_t
	return unix.Fstat(fd, &stat) == nil && stat.Mode&unix.S_IFMT == unix.S_IFIFO
}

func (g *guard) start(group int, argv []string) error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("adopt what it starts: %w", err)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pgid: group, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	g.pid, g.group = cmd.Process.Pid, group == 0
	return nil
}

// readOrders closes signals when there will be no more.
func readOrders(orders *os.File, signals chan<- syscall.Signal) {
	defer close(signals)
	var b [1]byte
	for {
		if n, err := orders.Read(b[:]); n == 0 || err != nil {
			return
		}
		signals <- syscall.Signal(b[0])
	}
}

// watch follows orders until the command has ended, or until nothing is left
// after the order to kill. It alone waits for children, so that no signal goes to
// a process that has got the number of an earlier one.
func (g *guard) watch(children <-chan os.Signal, signals <-chan syscall.Signal) {
	killing := false
	for {
		select {
		case sig, ok := <-signals:
			if ok {
				g.signal(sig)
			} else {
				killing, signals = true, nil
			}
		case <-children:
		}
		left := g.reap()
		switch {
		case killing && left:
			g.killChildren()
		case killing:
			return
		case g.ended:
			if g.group {
				_ = syscall.Kill(-g.pid, syscall.SIGKILL) // what it has left running, if anything
			}
			return
		}
	}
}

// signal passes a signal on to the command, which gets none once it has ended.
func (g *guard) signal(sig syscall.Signal) {
	to := g.pid
	if g.group {
		to = -g.pid
	}
	_ = syscall.Kill(to, sig) // what has changed its user gets no signals
}

// reap takes note of the children that have ended, and reports whether some are left.
func (g *guard) reap() (left bool) {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return false
		case pid == 0:
			return true
		case pid == g.pid:
			g.ended, g.status = true, status
		}
	}
}

// killChildren kills the children that there are. Theirs become children of the
// guard before it is told of the end, and so their turn comes.
func (g *guard) killChildren() {
	if !g.ended {
		g.signal(syscall.SIGKILL) // the group at once
		_ = syscall.Kill(g.pid, syscall.SIGKILL)
	}
	lists, _ := filepath.Glob("/proc/self/task/*/children") // the pattern is right
	for _, list := range lists {
		text, _ := os.ReadFile(list) // a thread that has ended has none
		for _, word := range strings.Fields(string(text)) {
			if pid, err := strconv.Atoi(word); err == nil {
				_ = syscall.Kill(pid, syscall.SIGKILL) // what has changed its user is waited for
			}
		}
	}
}
