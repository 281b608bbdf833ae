package timerslack

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain is also the program that the tests start: it raises its slack and
// tells which one all of its threads have, or with cgo the thread that it is in.
func TestMain(m *testing.M) {
	if os.Getenv("TIMERSLACK_TEST") == "" {
		os.Exit(m.Run())
	}
	err := Raise()
	// The runtime ends the program where two threads tell different ones.
	slack, _, errno := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_GET_TIMERSLACK, 0, 0)
	if errno != 0 {
		slack, _, errno = syscall.RawSyscall(unix.SYS_PRCTL, unix.PR_GET_TIMERSLACK, 0, 0)
	}
	fmt.Print(slack, errno != 0, errors.Is(err, errors.ErrUnsupported), err == nil)
	os.Exit(0)
}

func TestRaise(t *testing.T) {
	// With cgo, so with the race detector, nothing changes, and it is said.
	raised := fmt.Sprint(Slack.Nanoseconds(), false, false, true)
	if errors.Is(Raise(), errors.ErrUnsupported) {
		raised = fmt.Sprint(kernelDefault, false, true, false)
	}
	for _, tt := range []struct {
		name   string
		before int // slack of the parent's thread
		want   string
	}{
		{"the default", kernelDefault, raised},
		{"somebody has chosen", 70_000, fmt.Sprint(70_000, false, false, true)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			runtime.LockOSThread() // and leave it: the thread ends with the test, and its slack with it
			if err := unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(tt.before), 0, 0, 0); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), "TIMERSLACK_TEST=1")
			if out, err := cmd.CombinedOutput(); err != nil || string(out) != tt.want {
				t.Errorf("the program said %q, %v, want %q", out, err, tt.want)
			}
		})
	}
}

func TestWithDefault(t *testing.T) {
	const own = 70_000
	runtime.LockOSThread() // and leave it, as above
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, own, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	var out []byte
	err := WithDefault(func() (err error) {
		out, err = exec.CommandContext(t.Context(), "cat", "/proc/self/timerslack_ns").Output()
		return err
	})
	if want := fmt.Sprintln(kernelDefault); err != nil || string(out) != want {
		t.Errorf("the slack of a program that was started = %q, %v, want %q", out, err, want)
	}
	if slack, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0); slack != own || err != nil {
		t.Errorf("slack afterwards = %d, %v, want %d", slack, err, own)
	}
	if err := WithDefault(func() error { return os.ErrInvalid }); err != os.ErrInvalid {
		t.Errorf("WithDefault() = %v, want the error of the start", err)
	}
}
