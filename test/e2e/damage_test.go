package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// damagedNode is a single member that was killed after it had acknowledged a
// number of writes, and whose log was then damaged in one of them.
func damagedNode(t *testing.T, keys, damaged int) *node {
	t.Helper()
	n := startNode(t)
	for i := range keys {
		if _, err := put(t.Context(), probe, n.client, fmt.Sprintf("/damage/%03d", i), strconv.Itoa(i)); err != nil {
			t.Fatal(err)
		}
	}
	n.kill(t)
	harmLog(t, n.dir, func(t *testing.T, f *os.File, end int64) {
		text := make([]byte, end)
		if _, err := f.ReadAt(text, 0); err != nil {
			t.Fatal(err)
		}
		at := bytes.Index(text, fmt.Appendf(nil, "/damage/%03d", damaged))
		if at < 0 {
			t.Fatalf("void: the write of key %d is not in the log", damaged)
		}
		writeAt(t, f, []byte{'/' ^ 0x10}, int64(at))
	})
	return n
}

// logCommand runs deimos log and returns what it printed and its exit code.
func logCommand(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	p := startProcess(t, append([]string{"log"}, args...)...)
	code = p.wait(t, exitMax)
	return p.stdout.String(), p.stderr.String(), code
}

// recoverable is what deimos log prints with --output json.
type recoverable struct {
	Verdict  string
	Damage   string
	Last     uint64 `json:"lastRaftIndex"`
	Recovery *struct {
		LastRaftIndex, SeenRaftIndex uint64
		LostBytes                    int64
	}
	KeptIn string
}

func logJSON(t *testing.T, wantCode int, args ...string) (r recoverable) {
	t.Helper()
	stdout, stderr, code := logCommand(t, append(args, "--output", "json")...)
	if err := json.Unmarshal([]byte(stdout), &r); err != nil || code != wantCode {
		t.Fatalf("deimos log %v = %d, want %d; it printed %q and %q (%v)", args, code, wantCode, stdout, stderr, err)
	}
	return r
}

// TestDamagedOnlyMemberIsRecovered does what the message of the refused start
// says, as an operator would.
func TestDamagedOnlyMemberIsRecovered(t *testing.T) {
	t.Parallel()
	const keys, damaged = 100, 60
	n := damagedNode(t, keys, damaged)
	segment := filepath.Join(n.dir, "wal", "0000000000000000-0000000000000000.wal")
	before, err := os.ReadFile(segment)
	if err != nil {
		t.Fatal(err)
	}
	n.start(t)
	if code := n.run.wait(t, exitMax); code != 65 {
		t.Fatalf("exit code of a damaged member = %d, want 65\n%s", code, n.run.stderr.tail())
	}
	said := n.run.stderr.String()
	for _, want := range []string{"deimos log inspect --data-dir " + n.dir, "deimos log recover --data-dir " + n.dir, segment} {
		if !strings.Contains(said, want) {
			t.Errorf("the message does not name %q:\n%s", want, n.run.stderr.tail())
		}
	}

	r := logJSON(t, 65, "inspect", "--data-dir", n.dir)
	if r.Verdict != "damaged" || !strings.Contains(r.Damage, segment) || r.Recovery == nil || r.Recovery.SeenRaftIndex < r.Recovery.LastRaftIndex+keys-damaged {
		t.Errorf("deimos log inspect = %+v, want the damage, and what is lost behind it", r)
	}
	stdout, stderr, code := logCommand(t, "recover", "--data-dir", n.dir)
	if code != 2 || !strings.Contains(stderr, "--accept-loss") || !strings.Contains(stdout, fmt.Sprintf("raft index %d to", r.Recovery.LastRaftIndex+1)) {
		t.Errorf("deimos log recover without consent = %d %q %q, want 2, and what would be lost", code, stdout, stderr)
	}
	if after, err := os.ReadFile(segment); err != nil || !bytes.Equal(before, after) {
		t.Fatalf("the log was changed without consent (%v)", err)
	}
	stdout, stderr, code = logCommand(t, "recover", "--data-dir", n.dir, "--accept-loss")
	if code != 0 || !strings.Contains(stdout, "kept in "+filepath.Join(n.dir, "replaced-1")) {
		t.Fatalf("deimos log recover = %d %q %q, want 0, and where the old log is", code, stdout, stderr)
	}
	if kept, err := os.ReadFile(filepath.Join(n.dir, "replaced-1", "wal", filepath.Base(segment))); err != nil || !bytes.Equal(before, kept) {
		t.Errorf("the old log was not kept as it was (%v)", err)
	}

	n.start(t)
	n.waitReady(t)
	for i := range keys {
		status, body, err := get(t.Context(), n.client+fmt.Sprintf("/keys/damage/%03d", i))
		want := http.StatusOK
		if i >= damaged {
			want = http.StatusNotFound
		}
		if err != nil || status != want || status == http.StatusOK && !strings.Contains(body, fmt.Sprintf(`"value":"%d"`, i)) {
			t.Errorf("GET of key %d = %d %s, %v, want %d", i, status, body, err, want)
		}
	}
	if index, err := put(t.Context(), probe, n.client, "/new", "1"); err != nil || index < 1_000_000 {
		t.Errorf("PUT = index %d, %v, want one that no client has seen", index, err)
	}
	for _, command := range []string{"inspect", "recover"} {
		if _, stderr, code := logCommand(t, command, "--data-dir", n.dir); code != 73 || !strings.Contains(stderr, strconv.Itoa(n.run.cmd.Process.Pid)) {
			t.Errorf("deimos log %s of a member that runs = %d %q, want 73 and its process", command, code, stderr)
		}
	}
	n.kill(t)
	n.start(t)
	n.waitReady(t)
	n.run.signal(t, syscall.SIGTERM)
	if code := n.run.wait(t, exitMax); code != 0 {
		t.Errorf("exit code = %d, want 0", code)
	}
	if r := logJSON(t, 0, "inspect", "--data-dir", n.dir); r.Verdict != "clean" {
		t.Errorf("deimos log inspect = %+v, want a clean log", r)
	}
}

// TestRecoveryIsKilledAtEveryStep kills deimos log recover at one after the other
// of the calls that make something durable or change a name. Run again it ends
// where one run would have, and the old log is whole.
func TestRecoveryIsKilledAtEveryStep(t *testing.T) {
	t.Parallel()
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("layer STRACE: strace is not installed")
	}
	n := damagedNode(t, 30, 20)
	segment := filepath.Join(n.dir, "wal", "0000000000000000-0000000000000000.wal")
	before, err := os.ReadFile(segment)
	if err != nil {
		t.Fatal(err)
	}
	old, err := os.Stat(segment)
	if err != nil {
		t.Fatal(err)
	}
	want := logJSON(t, 65, "inspect", "--data-dir", n.dir).Recovery.LastRaftIndex
	kills := 0
	for _, call := range []string{"fsync", "fdatasync", "renameat", "unlinkat"} {
		for nth := 1; ; nth++ {
			dir := filepath.Join(t.TempDir(), "n1")
			linkTree(t, n.dir, dir)
			p := startCommand(t, "", strace, "-f", "-qq", "-o", "/dev/null", "-e", "trace="+call,
				"-e", fmt.Sprintf("inject=%s:signal=KILL:when=%d", call, nth), program, "log", "recover", "--data-dir", dir, "--accept-loss")
			code := p.wait(t, exitMax)
			if _, stderr, code := logCommand(t, "recover", "--data-dir", dir, "--accept-loss"); code != 0 {
				t.Fatalf("recovering again after a kill at %s %d = %d %q, want 0", call, nth, code, stderr)
			}
			if r := logJSON(t, 0, "inspect", "--data-dir", dir); r.Last != want {
				t.Fatalf("after a kill at %s %d the log ends at raft index %d, want %d", call, nth, r.Last, want)
			}
			kept, err := filepath.Glob(filepath.Join(dir, "replaced-*", "wal", "*.wal"))
			if err != nil || len(kept) != 1 {
				t.Fatalf("after a kill at %s %d: old segments %q, %v, want one", call, nth, kept, err)
			}
			if info, err := os.Stat(kept[0]); err != nil || !os.SameFile(info, old) {
				t.Fatalf("after a kill at %s %d another file is kept in the place of the old segment (%v)", call, nth, err)
			}
			if code == 0 {
				break // there are no more
			}
			kills++
		}
	}
	if after, err := os.ReadFile(segment); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the old log was changed (%v)", err)
	}
	if kills < 20 {
		t.Errorf("void: the command was killed %d times, want at least 20", kills)
	}
}

// linkTree gives the files below a directory a second name below another one.
func linkTree(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := filepath.Join(to, strings.TrimPrefix(path, from))
		if d.IsDir() {
			return os.MkdirAll(name, 0o700)
		}
		return os.Link(path, name)
	})
	if err != nil {
		t.Fatal(err)
	}
}
