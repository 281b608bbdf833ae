//go:build !linux

package main

import (
	"os"
	"os/exec"
	"syscall"
)

// alsoForwarded are the signals that commands get besides those that end this
// program.
var alsoForwarded = []os.Signal{syscall.SIGHUP}

// prepareChild leaves a command in the group of this program: it alone gets the
// signals, and what it has left running goes on.
func prepareChild(*exec.Cmd) (group bool) { return false }

func signalChild(p *child, sig os.Signal) error { return p.cmd.Process.Signal(sig) }
