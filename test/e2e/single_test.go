package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestSingleNodeKilledDuringWrites(t *testing.T) {
	t.Parallel()
	n := startNode(t, "--snapshot-count", "500")
	load := startLoad(t, 8, n.client)
	for round := range 3 {
		load.waitAcks(t, (round+1)*700)
		n.kill(t)
		n.start(t)
		n.waitReady(t)
	}
	load.waitAcks(t, load.acks()+100)
	load.stop(t)
	load.wantNotVoid(t)
	load.wantAll(t, n.client)
	n.kill(t)
	n.start(t)
	n.waitReady(t)
	load.wantAll(t, n.client)
}

func TestTornTailStartsByItself(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		harm   func(t *testing.T, f *os.File, end int64)
		broken bool // bytes were cut off, so they must be kept aside
	}{
		{"bytes cut off", func(t *testing.T, f *os.File, end int64) {
			if err := f.Truncate(end - 5); err != nil {
				t.Fatal(err)
			}
		}, true},
		{"bytes zeroed", func(t *testing.T, f *os.File, end int64) {
			writeAt(t, f, make([]byte, 5), end-5)
		}, true},
		{"bytes appended", func(t *testing.T, f *os.File, end int64) {
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			r := rand.New(rand.NewPCG(seed, 0))
			garbage := make([]byte, 700)
			for i := range garbage {
				garbage[i] = byte(r.UintN(255) + 1)
			}
			writeAt(t, f, garbage, (end+7)/8*8)
		}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			n := startNode(t)
			load := startLoad(t, 4, n.client)
			load.waitAcks(t, 400)
			load.stop(t)
			load.wantNotVoid(t)
			// The last batch is the victim: nothing is said of it.
			if _, err := put(t.Context(), probe, n.client, "/victim", strings.Repeat("v", 64)); err != nil {
				t.Fatal(err)
			}
			n.kill(t)
			harmLog(t, n.dir, tt.harm)

			n.start(t)
			n.waitReady(t)
			load.wantAll(t, n.client)
			aside, err := filepath.Glob(filepath.Join(n.dir, "wal", "*.broken*"))
			if err != nil {
				t.Fatal(err)
			}
			if tt.broken && len(aside) == 0 {
				t.Errorf("no *.broken file in %s, want the bytes that were cut off", filepath.Join(n.dir, "wal"))
			}
			again := startLoad(t, 2, n.client)
			again.waitAcks(t, 50)
			again.stop(t)
			n.kill(t)
			n.start(t)
			n.waitReady(t)
			load.wantAll(t, n.client)
			again.wantAll(t, n.client)
		})
	}
}

// harmLog changes the newest segment of a log behind its last byte that is not
// zero; what follows it was allocated in advance.
func harmLog(t *testing.T, dir string, harm func(t *testing.T, f *os.File, end int64)) {
	t.Helper()
	segments, err := filepath.Glob(filepath.Join(dir, "wal", "*.wal"))
	if err != nil || len(segments) == 0 {
		t.Fatalf("void: no segment of the log in %s (%v)", dir, err)
	}
	name := slices.Max(segments)
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	end := int64(len(bytes.TrimRight(text, "\x00")))
	if end < 1000 {
		t.Fatalf("void: %s holds only %d bytes", name, end)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	harm(t, f, end)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func writeAt(t *testing.T, f *os.File, p []byte, at int64) {
	t.Helper()
	if _, err := f.WriteAt(p, at); err != nil {
		t.Fatal(err)
	}
}

func TestDamagedLogStopsTheStart(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	load := startLoad(t, 4, n.client)
	load.waitAcks(t, 400)
	load.stop(t)
	n.kill(t)
	harmLog(t, n.dir, func(t *testing.T, f *os.File, end int64) {
		// A key: there are bits that mean nothing, in what fills a record up.
		half := make([]byte, end-end/2)
		if _, err := f.ReadAt(half, end/2); err != nil {
			t.Fatal(err)
		}
		at := bytes.Index(half, []byte("/load/"))
		if at < 0 {
			t.Fatal("void: no key in the second half of the log")
		}
		writeAt(t, f, []byte{'/' ^ 0x10}, end/2+int64(at))
	})
	n.start(t)
	if code := n.run.wait(t, exitMax); code != 65 {
		t.Errorf("exit code on a log damaged in the middle = %d, want 65\n%s", code, n.run.stderr.tail())
	}
	if !strings.Contains(n.run.stderr.String(), ".wal") {
		t.Errorf("stderr names no segment of the log:\n%s", n.run.stderr.tail())
	}
}

func TestSignalsEndGracefully(t *testing.T) {
	t.Parallel()
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(s.String(), func(t *testing.T) {
			t.Parallel()
			n := startNode(t)
			load := startLoad(t, 4, n.client)
			load.waitAcks(t, 200)
			watch := openWatch(t, n.client, "/keys/none?wait=true&stream=true", 0)
			asked := time.Now()
			n.run.signal(t, s)
			code := n.run.wait(t, exitMax)
			if code != 0 {
				t.Errorf("exit code after %v = %d, want 0\n%s", s, code, n.run.stderr.tail())
			}
			t.Logf("ended after %v", time.Since(asked))
			watch.wantOrdinaryEnd(t)
			load.stop(t)
			n.start(t)
			n.waitReady(t)
			load.wantAll(t, n.client)
		})
	}
}

func TestSecondProcessOnADataDirectory(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	load := startLoad(t, 2, n.client)
	load.waitAcks(t, 20)
	second := newNode(t, "n1")
	for i, arg := range second.args {
		if arg == second.dir {
			second.args[i] = n.dir
		}
	}
	asked := time.Now()
	second.start(t)
	if code := second.run.wait(t, exitMax); code != 73 {
		t.Errorf("exit code on a data directory in use = %d, want 73\n%s", code, second.run.stderr.tail())
	}
	if took := time.Since(asked); took > 2*time.Second {
		t.Errorf("the second process ended after %v, want about 1 s", took)
	}
	if text := second.run.stderr.String(); !strings.Contains(text, n.dir) || !strings.Contains(text, strconv.Itoa(n.run.cmd.Process.Pid)) {
		t.Errorf("stderr = %q, want it to name %s and the process %d", text, n.dir, n.run.cmd.Process.Pid)
	}
	load.waitAcks(t, load.acks()+20)
	load.stop(t)
	load.wantAll(t, n.client)
}

func TestDataDirectoryIsPrivate(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	info, err := os.Stat(n.dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o700 {
		t.Errorf("mode of the data directory = %o, want 700", got)
	}
}

func TestRestartsDoNotMoveTheIndex(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	if index, err := put(t.Context(), probe, n.client, "/a", "1"); err != nil || index != 2 {
		t.Fatalf("PUT /keys/a = index %d, %v, want 2", index, err)
	}
	n.run.signal(t, syscall.SIGTERM)
	n.run.wait(t, exitMax)
	n.start(t)
	n.waitReady(t)
	if index, err := put(t.Context(), probe, n.client, "/a", "2"); err != nil || index != 3 {
		t.Errorf("PUT /keys/a after a restart = index %d, %v, want 3", index, err)
	}
}

func TestTheExamplesOfTheReadme(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	for _, tt := range []struct {
		method, body string
		status       int
		want         string
	}{
		{"PUT", "value=this is awesome", http.StatusCreated, `{"action":"set","node":{"key":"/foo","value":"this is awesome","modifiedIndex":2,"createdIndex":2}}`},
		{"GET", "", http.StatusOK, `{"action":"get","node":{"key":"/foo","value":"this is awesome","modifiedIndex":2,"createdIndex":2}}`},
		{"DELETE", "", http.StatusOK, `{"action":"delete","node":{"key":"/foo","modifiedIndex":3,"createdIndex":2},"prevNode":{"key":"/foo","value":"this is awesome","modifiedIndex":2,"createdIndex":2}}`},
		{"GET", "", http.StatusNotFound, `{"errorCode":100,"message":"Key not found","cause":"/foo","index":3}`},
	} {
		t.Run(fmt.Sprintf("%s %s", tt.method, tt.body), func(t *testing.T) {
			r, err := http.NewRequestWithContext(t.Context(), tt.method, n.client+"/keys/foo", strings.NewReader(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			status, body := exchange(t, r)
			if status != tt.status || body != tt.want+"\n" {
				t.Errorf("%s /keys/foo = %d %s, want %d %s", tt.method, status, body, tt.status, tt.want)
			}
		})
	}
}
