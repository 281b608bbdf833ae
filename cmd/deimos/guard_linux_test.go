package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/marsevilspirit/deimos/internal/clustertest"
	"github.com/marsevilspirit/deimos/internal/syncbuf"
)

// family starts processes in all the ways in which they lose their parents, and
// prints what is theirs: the guard, itself, a child, one whose parent has ended,
// and one in a session of its own. They stay when their terminal is gone.
const family = `trap '' HUP; sleep 600 & child=$!
orphan=$(sleep 600 >/dev/null & echo $!)
alone=$(setsid sh -c 'sleep 600 >/dev/null & echo $!')
echo $PPID $$ $child $orphan $alone; wait`

// pids returns the numbers on the line that a command has printed.
func pids(t *testing.T, line string, n int) []int {
	t.Helper()
	words := strings.Fields(line)
	if len(words) != n {
		t.Fatalf("the command prints %q, want %d processes", line, n)
	}
	var all []int
	for _, word := range words {
		pid, err := strconv.Atoi(word)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, pid)
	}
	return all
}

// stat returns what /proc/PID/stat has behind the name: the state, the parent, the
// process group, the session, the terminal and its foreground group. It is nothing
// when the process has ended.
func stat(pid int) []string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if fields[0] == "Z" {
		return nil
	}
	return fields
}

func waitForTheEnd(t *testing.T, of ...int) {
	t.Helper()
	clustertest.Eventually(t, fmt.Sprintf("the end of %d", of), func() bool {
		return !slices.ContainsFunc(of, func(pid int) bool { return stat(pid) != nil })
	})
}

func kill(t *testing.T, pid int, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, sig); err != nil {
		t.Fatalf("kill %d: %v", pid, err)
	}
}

// startAtTerminal is startProcess with a terminal of its own for input.
func (p *prompt) startAtTerminal(args ...string) (*exec.Cmd, *syncbuf.Buffer) {
	p.t.Helper()
	ptmx, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		p.t.Skipf("there are no terminals: %v", err)
	}
	p.t.Cleanup(func() { ptmx.Close() })
	number, err := unix.IoctlGetInt(int(ptmx.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(ptmx.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		p.t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		p.t.Fatal(err)
	}
	defer tty.Close()
	return p.startProcessWith(func(cmd *exec.Cmd) {
		cmd.Stdin = tty
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	}, args...)
}

func TestAllThatTheCommandHasStartedDiesWithTheProgram(t *testing.T) {
	for _, tt := range []struct {
		name, args string
		start      func(*prompt, ...string) (*exec.Cmd, *syncbuf.Buffer)
	}{
		{"lock", "lock n", (*prompt).startProcess},
		{"elect", "elect n", (*prompt).startProcess},
		{"register", "register web 10.0.0.9:80", (*prompt).startProcess},
		{"exec-watch", "exec-watch /w --from-index 2", (*prompt).startProcess},
		{"at a terminal", "lock n", (*prompt).startAtTerminal},
	} {
		if !t.Run(tt.name, func(t *testing.T) {
			p := newPrompt(t) // what a killed program holds stays until its TTL is over
			p.must("put", "/w", "x")
			cmd, out := tt.start(p, append(strings.Fields(tt.args), shell(family)...)...)
			all := pids(t, out.String(), 5)
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err == nil {
				t.Error("a killed program ended well")
			}
			waitForTheEnd(t, all...)
		}) {
			return // the others would wait as long for what does not come
		}
	}
}

func TestAllThatTheCommandHasStartedIsKilledWhenALeaseIsLost(t *testing.T) {
	p := newPrompt(t)
	cmd, out := p.startAtTerminal(append([]string{"lock", "n", "--ttl", "2s"}, shell("trap '' TERM; "+family)...)...)
	all := pids(t, out.String(), 5)
	p.must("rm", "/locks/_queue/n", "--recursive")
	_ = cmd.Wait() // the code says it
	if code := cmd.ProcessState.ExitCode(); code != exitLost {
		t.Errorf("deimos lock = %d, want %d", code, exitLost)
	}
	if left := slices.DeleteFunc(all, func(pid int) bool { return stat(pid) == nil }); len(left) > 0 {
		t.Errorf("the processes %d live on when deimos lock has ended, want none", left)
	}
}

func TestTheCommandEndsWithItsGuard(t *testing.T) {
	p := newPrompt(t)
	cmd, out := p.startProcess(append([]string{"lock", "n"}, shell("sleep 600 & echo $PPID $$ $!; wait")...)...)
	all := pids(t, out.String(), 3)
	if all[0] == cmd.Process.Pid {
		t.Fatal("the command has no guard")
	}
	kill(t, all[0], syscall.SIGKILL)
	_ = cmd.Wait() // the code says it
	if code, want := cmd.ProcessState.ExitCode(), exitSignal+int(syscall.SIGKILL); code != want {
		t.Errorf("deimos lock = %d when its guard is killed, want %d", code, want)
	}
	waitForTheEnd(t, all...)
	p.must(append([]string{"lock", "n"}, shell("true")...)...) // it was released
}

func TestSignalsForTheGuardEndNothing(t *testing.T) {
	p := newPrompt(t)
	script := "trap 'echo bye; exit 3' TERM; echo $PPID; while :; do sleep 600 & wait $!; done"
	cmd, out := p.startProcess(append([]string{"lock", "n"}, shell(script)...)...)
	guard := pids(t, out.String(), 1)[0]
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2} {
		kill(t, guard, sig)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	err := cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 3 || !strings.HasSuffix(out.String(), "\nbye\n") {
		t.Errorf("deimos lock = %v with %q, want the command to get TERM and exit with 3", err, out.String())
	}
}

func TestTheProcessGroupOfTheCommand(t *testing.T) {
	p := newPrompt(t)
	for _, tt := range []struct {
		name  string
		start func(*prompt, ...string) (*exec.Cmd, *syncbuf.Buffer)
		own   bool
	}{
		{"its own", (*prompt).startProcess, true},
		{"that of the program at a terminal", (*prompt).startAtTerminal, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := &prompt{t, p.env}
			cmd, out := tt.start(p, append([]string{"lock", "n"}, shell("echo $PPID $$; exec sleep 600")...)...)
			all := pids(t, out.String(), 2)
			want := strconv.Itoa(all[1])
			if !tt.own {
				want = strconv.Itoa(cmd.Process.Pid)
			}
			command, guard := stat(all[1]), stat(all[0])
			if command[2] != want || !tt.own && command[5] != want {
				t.Errorf("the command is in group %s, in the foreground is %s, want %s", command[2], command[5], want)
			}
			if guard[2] != strconv.Itoa(all[0]) {
				t.Errorf("the guard %d is in group %s, want its own", all[0], guard[2])
			}
			kill(t, cmd.Process.Pid, syscall.SIGTERM)
			_ = cmd.Wait() // the code says it
			if code, want := cmd.ProcessState.ExitCode(), exitSignal+int(syscall.SIGTERM); code != want {
				t.Errorf("deimos lock = %d, want %d", code, want)
			}
		})
	}
}

func TestTheCommandGetsNoFilesOfTheGuard(t *testing.T) {
	p := newPrompt(t)
	cmd, out := p.startProcess(append([]string{"lock", "n"}, shell("echo $PPID $$; exec sleep 600")...)...)
	all := pids(t, out.String(), 2)
	guard, pid := all[0], all[1]
	args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", guard))
	words := strings.Split(string(args), "\x00")
	if err != nil || len(words) < 4 {
		t.Fatalf("the guard has the arguments %q, %v", args, err)
	}
	var pipes []string
	for _, fd := range words[1:3] {
		file := fmt.Sprintf("/proc/%d/fd/%s", guard, fd)
		if name, err := os.Readlink(file); err == nil { // the report was given, and that file is closed
			pipes = append(pipes, name)
		}
	}
	if len(pipes) != 1 || !strings.HasPrefix(pipes[0], "pipe:") {
		t.Fatalf("the guard has its orders from %q, want a pipe", pipes)
	}
	clustertest.Eventually(t, "the command in place of the shell", func() bool {
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		return err == nil && string(name) == "sleep\n"
	})
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil || len(files) < 3 {
		t.Fatalf("the command has the files %q, %v, want its streams", files, err)
	}
	for _, file := range files {
		if name, err := os.Readlink(file); err != nil || name == pipes[0] || filepath.Base(file) == words[2] {
			t.Errorf("the command has %s, which is %s, %v: that is the guard's", file, name, err)
		}
	}
	kill(t, cmd.Process.Pid, syscall.SIGTERM)
	_ = cmd.Wait() // it was told to end
}

func TestTheCommandInheritsFiles(t *testing.T) {
	p := newPrompt(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := w.WriteString("from file 4\n"); err != nil {
		t.Fatal(err)
	}
	w.Close()
	cmd, out := p.startProcessWith(func(cmd *exec.Cmd) {
		cmd.ExtraFiles = []*os.File{nil, r}
	}, append([]string{"lock", "n"}, shell("cat <&4")...)...)
	if err := cmd.Wait(); err != nil || out.String() != "from file 4\n" {
		t.Errorf("deimos lock = %v with %q, want the command to read file 4", err, out.String())
	}
}

func TestAGuardIsNotStartedByHand(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{guardName, guardName + " true", guardName + " 3 4 0", guardName + " 3 4 0 true", guardName + " a b c true"} {
		cmd := exec.CommandContext(t.Context(), self)
		cmd.Args = strings.Fields(args)
		out, _ := cmd.CombinedOutput() // the code says it
		if code := cmd.ProcessState.ExitCode(); code != exitUsage || !strings.Contains(string(out), "not by hand") {
			t.Errorf("%s = %d with %q, want %d", args, code, out, exitUsage)
		}
	}
}
