//go:build !linux

package main

import (
	"errors"
	"os"
	"syscall"
)

// alsoForwarded are the signals that commands get besides those that end this
// program.
var alsoForwarded = []os.Signal{syscall.SIGHUP}

// link is nothing: a command is reached as a process.
type link struct{}

// start leaves a command in the group of this program: it alone gets the
// signals, and what it has left running goes on.
func (p *child) start([]string) error { return p.cmd.Start() }

// tell passes a signal on. A command that has ended is told nothing.
func (p *child) tell(sig os.Signal) {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.kill()
	}
}

// kill ends the command. It may be called again.
func (p *child) kill() {
	_ = p.cmd.Process.Kill() // it fails when there is nobody left to kill
}

func (p *child) cleanUp() {}

// runGuard has nothing to do: commands have no guards here.
func runGuard([]string) (code int, ok bool) { return 0, false }
