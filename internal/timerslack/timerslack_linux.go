package timerslack

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"
)

// kernelDefault is the slack of a process that nobody has given one, in
// nanoseconds.
const kernelDefault = 50_000

// Raise starts the program again in the same process, with the same arguments and
// environment, and with [Slack]; it does not return then. It returns nil when the
// slack is not the default, as it is after the new start, and an error when the
// program has to go on as it is. Call it first thing: nothing of what the program
// has done, such as asking for signals, outlives it.
func Raise() error {
	runtime.LockOSThread() // the slack is the thread's, and the new program inherits it
	defer runtime.UnlockOSThread()
	slack, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil {
		return fmt.Errorf("timerslack: read the timer slack: %w", err)
	}
	if slack != kernelDefault {
		return nil
	}
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(Slack.Nanoseconds()), 0, 0, 0); err != nil {
		return fmt.Errorf("timerslack: set the timer slack: %w", err)
	}
	path, err := program()
	if err == nil {
		err = unix.Exec(path, os.Args, os.Environ())
	}
	return fmt.Errorf("timerslack: start the program again: %w", err)
}

// WithDefault calls start, which starts another program, so that this one has the
// kernel's default instead of the slack of this process. It returns the error of
// start. It may be called from any goroutine.
func WithDefault(start func() error) error {
	runtime.LockOSThread() // a new process inherits the slack of the thread that starts it
	defer runtime.UnlockOSThread()
	slack, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err == nil {
		err = unix.Prctl(unix.PR_SET_TIMERSLACK, kernelDefault, 0, 0, 0)
	}
	if err != nil {
		return fmt.Errorf("timerslack: give a program the default timer slack: %w", err)
	}
	defer func() { _ = unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(slack), 0, 0, 0) }() // it was set a moment ago
	return start()
}

// program returns the path of this program: the one by which it was started, if
// that still leads to it, because the process gets its name from it.
func program() (string, error) {
	running, err := os.Stat("/proc/self/exe")
	if err != nil {
		return "", err
	}
	if path, err := exec.LookPath(os.Args[0]); err == nil {
		if found, err := os.Stat(path); err == nil && os.SameFile(found, running) {
			return path, nil
		}
	}
	return os.Executable()
}
