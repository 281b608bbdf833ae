package timerslack

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain is the program that the tests start: it raises its slack and tells what
// has become of it.
func TestMain(m *testing.M) {
	if os.Getenv("TIMERSLACK_TEST") == "" {
		os.Exit(m.Run())
	}
	pid := os.Getpid()
	if err := Raise(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	runtime.LockOSThread()
	slack, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	comm, _ := os.ReadFile("/proc/self/comm")
	fmt.Println(slack, err, pid, strings.TrimSpace(string(comm)), os.Args[1:], os.Getenv("TIMERSLACK_TEST"))
	os.Exit(0)
}

func TestRaise(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "named")
	if err := os.Symlink(self, link); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		before int // slack of the parent's thread
		path   string
		want   int64
	}{
		{"the default", kernelDefault, self, Slack.Nanoseconds()},
		{"by another name", kernelDefault, link, Slack.Nanoseconds()},
		{"somebody has chosen", 70_000, self, 70_000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			runtime.LockOSThread() // and leave it: the thread ends with the test, and its slack with it
			if err := unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(tt.before), 0, 0, 0); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), tt.path, "a", "b c")
			cmd.Env = append(os.Environ(), "TIMERSLACK_TEST=kept")
			out, err := cmd.Output()
			want := fmt.Sprintf("%d <nil> %d %.15s [a b c] kept\n", tt.want, cmd.Process.Pid, filepath.Base(tt.path))
			if err != nil || string(out) != want {
				t.Errorf("the program said %q, %v, want %q", out, err, want)
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

func TestAProgramThatIsGoneGoesOnAsItIs(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "gone")
	if err := os.WriteFile(path, data, 0o700); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, kernelDefault, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), path)
	cmd.Path, cmd.ExtraFiles = "/proc/self/fd/3", []*os.File{file}
	cmd.Env = append(os.Environ(), "TIMERSLACK_TEST=kept")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.HasPrefix(string(out), "timerslack: start the program again: ") {
		t.Errorf("the program said %q, %v, want that it could not be started again", out, err)
	}
}
