package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos"
)

const (
	// lostStatus is the exit code of a script whose lease was lost.
	lostStatus = 75
	// shortTTL is the shortest lease that the scripts take.
	shortTTL = 8 * time.Second
	// heldMax is how long a script may take to get what is free or becomes free.
	heldMax = 30 * time.Second
)

// script returns the path of one of the scripts of docs/examples, or skips the
// test where they cannot run.
func script(t testing.TB, name string) string {
	t.Helper()
	for _, need := range []string{"sh", "curl", "setsid"} {
		if _, err := exec.LookPath(need); err != nil {
			t.Skipf("layer CURL: %v", err)
		}
	}
	dir, err := filepath.Abs(filepath.Join("..", "..", "docs", "examples"))
	if err != nil {
		t.Fatal(err)
	}
	// go test takes no outcome from its cache that another script had.
	for _, file := range []string{name, "lease.sh"} {
		if _, err := os.Stat(filepath.Join(dir, file)); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, name)
}

// holder is a run of a script with a command that says when it holds.
type holder struct {
	*process
	file string // written by the command when it starts
}

// mark is what the command of a holder writes.
type mark struct {
	group int    // the process group of the command
	token uint64 // the fencing token
	at    time.Time
}

// hold runs a script in a process group of its own. Its command writes a mark
// and goes on with body, shell code that finds its argument in $2.
func hold(t testing.TB, urls []string, body, argument, name string, args ...string) *holder {
	t.Helper()
	h := &holder{file: filepath.Join(t.TempDir(), "mark")}
	all := []string{"env", "DEIMOS_ENDPOINTS=" + strings.Join(urls, ","), "no_proxy=127.0.0.1", script(t, name)}
	all = append(append(all, args...), "--", "sh", "-c", `echo "$$ $DEIMOS_TOKEN" >"$1.new" && mv "$1.new" "$1"; `+body, "command", h.file, argument)
	h.process = startCommand(t, "", "setsid", all...)
	t.Cleanup(func() { // before that of startCommand, which would wait for who is stopped
		if h.ended() {
			return
		}
		h.all(t, syscall.SIGKILL)
		<-h.exited
	})
	return h
}

// mark reads what the command has written, if it has.
func (h *holder) mark() (mark, error) {
	var m mark
	text, err := os.ReadFile(h.file)
	if err != nil {
		return m, err
	}
	info, err := os.Stat(h.file)
	if err != nil {
		return m, err
	}
	m.at = info.ModTime()
	_, err = fmt.Sscan(string(text), &m.group, &m.token)
	return m, err
}

// waitHeld waits until the command runs.
func (h *holder) waitHeld(t testing.TB) mark {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), heldMax)
	defer cancel()
	var m mark
	err := until(ctx, func() error {
		if h.ended() {
			t.Fatalf("the script has ended with %d before its command ran:\n%s", h.code, h.stderr.tail())
		}
		var err error
		m, err = h.mark()
		return err
	})
	if err != nil {
		t.Fatalf("the command does not run after %v: %v\n%s", heldMax, err, h.stderr.tail())
	}
	return m
}

// all sends a signal to the script and its children, then to the command and its
// own. The other way round a script that sees its command end may give the lock
// back before its own end.
func (h *holder) all(t testing.TB, s syscall.Signal) {
	t.Helper()
	m, err := h.mark()
	signalGroup(t, h.cmd.Process.Pid, s)
	if err == nil {
		signalGroup(t, m.group, s)
	} else if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("reading the mark: %v", err)
	}
}

func signalGroup(t testing.TB, group int, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(-group, s); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Errorf("sending %v to the process group %d: %v", s, group, err)
	}
}

// waitGone waits until no process of a group runs.
func waitGone(t testing.TB, group int, most time.Duration) {
	t.Helper()
	untilWithin(t, most, func(context.Context) error {
		if n := running(t, group); n > 0 {
			return fmt.Errorf("%d processes of the command still run", n)
		}
		return nil
	})
}

// running counts the processes of a group. One that is dead and that nobody has
// waited for yet, as the first process of a machine does when it gets to it,
// does not run.
func running(t testing.TB, group int) int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil || len(files) == 0 {
		t.Fatalf("there is no /proc to see processes in (%v)", err)
	}
	n := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended meanwhile
		}
		var state string
		var parent, of int
		_, rest, _ := strings.Cut(string(text), ") ") // behind the name
		if _, err := fmt.Sscan(rest, &state, &parent, &of); err == nil && of == group && state != "Z" {
			n++
		}
	}
	return n
}

// readNode reads a key.
func readNode(ctx context.Context, base, key string) (*deimos.Node, error) {
	status, body, err := get(ctx, base+"/keys"+key)
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("GET %s = %d %s", key, status, body)
	}
	var e deimos.Event
	if err := json.Unmarshal([]byte(body), &e); err != nil {
		return nil, err
	}
	return e.Node, nil
}

// waitChildren waits until a directory has so many children.
func waitChildren(t testing.TB, base, key string, want int) {
	t.Helper()
	untilWithin(t, heldMax, func(ctx context.Context) error {
		n, err := readNode(ctx, base, key)
		if err == nil && len(n.Nodes) != want {
			err = fmt.Errorf("%s has %d children, want %d", key, len(n.Nodes), want)
		}
		return err
	})
}
