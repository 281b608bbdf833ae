package main

import (
	"errors"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// alsoForwarded are the signals that commands get besides those that end this
// program.
var alsoForwarded = []os.Signal{syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2}

// prepareChild sets how a command is started, and tells whether it leads a
// process group of its own. One that reads from a terminal must not: the
// terminal would stop it.
func prepareChild(cmd *exec.Cmd) (group bool) {
	group = true
	if f, ok := cmd.Stdin.(*os.File); ok {
		_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
		group = err != nil
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: group, Pdeathsig: syscall.SIGKILL}
	return group
}

func signalChild(p *child, sig os.Signal) error {
	if !p.group {
		return p.cmd.Process.Signal(sig)
	}
	err := syscall.Kill(-p.cmd.Process.Pid, sig.(syscall.Signal))
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}
