package main

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos/internal/clustertest"
	"github.com/marsevilspirit/deimos/internal/syncbuf"
)

// envRunMain makes the test binary the program itself, for tests that need it
// as a process.
const envRunMain = "RUN_DEIMOS_MAIN"

func TestMain(m *testing.M) {
	// A guard is started by the program, so it may be by the tests.
	if os.Getenv(envRunMain) != "" || os.Args[0] == "deimos-guard" {
		main()
	}
	os.Exit(m.Run())
}

// startProcess runs the program as a process of its own, and waits until it has
// printed a line.
func (p *prompt) startProcess(args ...string) (*exec.Cmd, *syncbuf.Buffer) {
	p.t.Helper()
	return p.startProcessWith(func(*exec.Cmd) {}, args...)
}

// startProcessWith does the same with other settings.
func (p *prompt) startProcessWith(set func(*exec.Cmd), args ...string) (*exec.Cmd, *syncbuf.Buffer) {
	p.t.Helper()
	self, err := os.Executable()
	if err != nil {
		p.t.Fatal(err)
	}
	var out syncbuf.Buffer
	cmd := exec.CommandContext(p.t.Context(), self, args...)
	cmd.Env = append(slices.Clone(p.env), envRunMain+"=1")
	cmd.Stdout = &out
	cmd.WaitDelay = time.Second
	set(cmd)
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	clustertest.Eventually(p.t, "output", func() bool { return strings.Contains(out.String(), "\n") })
	return cmd, &out
}

func TestTheCommandGetsTheVerySignal(t *testing.T) {
	p := newPrompt(t)
	cmd, out := p.startProcess(append([]string{"lock", "n"}, shell("trap 'echo int; exit 4' INT; echo up; sleep 600 & wait")...)...)
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	err := cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 4 || out.String() != "up\nint\n" {
		t.Errorf("deimos lock = %v with %q, want the command to get INT and exit with 4", err, out.String())
	}
}

func TestASecondSignalIsForTheCommandToo(t *testing.T) {
	for _, args := range []string{"lock n", "elect n", "register web 10.0.0.9:80", "exec-watch /w --from-index 2"} {
		if !t.Run(args, func(t *testing.T) {
			p := newPrompt(t)
			p.must("put", "/w", "x")
			script := "trap 'echo cleaning up' TERM; trap 'echo hurry; exit 4' INT; echo up; while :; do sleep 600 & wait $!; done"
			cmd, out := p.startProcess(append(strings.Fields(args), shell(script)...)...)
			for _, step := range []struct {
				sig  os.Signal
				want string
			}{{syscall.SIGTERM, "up\ncleaning up\n"}, {os.Interrupt, "up\ncleaning up\nhurry\n"}} {
				if err := cmd.Process.Signal(step.sig); err != nil {
					t.Fatal(err)
				}
				clustertest.Eventually(t, step.want, func() bool { return out.String() == step.want })
			}
			want := 4
			if strings.HasPrefix(args, "exec-watch") {
				want = exitOK // it was asked to end
			}
			_ = cmd.Wait() // the code says it
			if code := cmd.ProcessState.ExitCode(); code != want {
				t.Errorf("deimos %s = %d after TERM and INT, want %d", args, code, want)
			}
			p.must(append([]string{"lock", "n", "--timeout", "5s"}, shell("true")...)...) // it was released
		}) {
			return // the others would wait as long for what does not come
		}
	}
}
