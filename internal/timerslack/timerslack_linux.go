package timerslack

import (
	"fmt"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// kernelDefault is the slack of a process that nobody has given one, in
// nanoseconds.
const kernelDefault = 50_000

// Raise gives [Slack] to all threads of the process, and so to those that they
// will make, if the calling one has the kernel's default. An error leaves all as
// they are; it is [errors.ErrUnsupported] in a program with cgo. All goroutines
// stand still meanwhile, and for as long as a thread cannot be interrupted, so
// call it before there is work for the disk. It may be called from any goroutine.
func Raise() error {
	slack, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil {
		return fmt.Errorf("timerslack: read the timer slack: %w", err)
	}
	if slack != kernelDefault {
		return nil
	}
	// Not by x/sys/unix, whose prctl is of one thread.
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_SET_TIMERSLACK, uintptr(Slack.Nanoseconds()), 0)
	if errno != 0 {
		return fmt.Errorf("timerslack: set the timer slack of all threads: %w", errno)
	}
	return nil
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
