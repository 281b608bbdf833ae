package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/internal/clustertest"
)

// shell is what a test appends to run a script.
func shell(script string) []string { return []string{"--", "sh", "-c", script} }

func TestCommandsRunWhileALeaseIsHeld(t *testing.T) {
	p := newPrompt(t)
	for _, name := range []string{"lock", "elect"} {
		t.Run(name, func(t *testing.T) {
			first := p.must(append([]string{name, "n"}, shell(`echo "$DEIMOS_TOKEN"`)...)...)
			second := p.must(append([]string{name, "n"}, shell(`echo "$DEIMOS_TOKEN"`)...)...)
			a, errA := strconv.Atoi(strings.TrimSpace(first))
			b, errB := strconv.Atoi(strings.TrimSpace(second))
			if errA != nil || errB != nil || b <= a {
				t.Errorf("the tokens of two holders are %q and %q, want the second greater", first, second)
			}
			for _, tt := range []struct {
				script string
				code   int
			}{{"exit 7", 7}, {"kill -KILL $$", exitSignal + 9}} {
				if o := p.run(append([]string{name, "n"}, shell(tt.script)...)...); o.code != tt.code || o.stderr != "" {
					t.Errorf("deimos %s -- %s = %+v, want code %d and no word", name, tt.script, o, tt.code)
				}
			}
			if o := p.run(name, "n", "--", "/nowhere/command"); o.code != exitNotRun || !strings.Contains(o.stderr, `"/nowhere/command" cannot be started`) {
				t.Errorf("deimos %s -- /nowhere/command = %+v, want code %d", name, o, exitNotRun)
			}
		})
	}
}

// The cluster takes no write: whoever waits for a lock or a lead is told why.
func TestWhoWaitsIsToldOfAnOutage(t *testing.T) {
	for _, name := range []string{"lock", "elect"} {
		t.Run(name, func(t *testing.T) {
			var posts atomic.Int64
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPost {
					posts.Add(1)
				}
				w.WriteHeader(http.StatusInsufficientStorage)
				fmt.Fprintf(w, `{"errorCode":300,"message":"Raft Internal Error","cause":%q,"index":1}`, deimos.CauseDiskReserve)
			}))
			defer server.Close()
			p := &prompt{t, []string{envEndpoints + "=" + server.URL}}
			r := p.start(append([]string{name, "n"}, shell("true")...)...)
			clustertest.Eventually(t, "the third try", func() bool { return posts.Load() >= 3 })
			if code := r.stop(); code != exitFailure {
				t.Errorf("deimos %s = %d, want %d", name, code, exitFailure)
			}
			if got := r.stderr.String(); strings.Count(got, "level=WARN") != 1 || !strings.Contains(got, deimos.CauseDiskReserve) {
				t.Errorf("deimos %s has said %q, want one warning with the cause", name, got)
			}
		})
	}
}

func TestOneCommandAtATimeRunsUnderALock(t *testing.T) {
	p := newPrompt(t)
	dir := t.TempDir()
	// mkdir fails for the second of two at once.
	script := "mkdir " + dir + "/in && sleep 0.05 && rmdir " + dir + "/in"
	var all []*running
	for range 4 {
		all = append(all, p.start(append([]string{"lock", "n"}, shell(script)...)...))
	}
	for _, r := range all {
		if code := <-r.code; code != exitOK {
			t.Errorf("deimos lock = %d with stderr %q, want 0", code, r.stderr.String())
		}
	}
}

func TestACommandIsStoppedWhenItsLeaseIsLost(t *testing.T) {
	for _, tt := range []struct{ name, args, dir, script, end string }{
		{"lock", "lock n", "/locks/_queue/n", "echo up; exec sleep 600", ""},
		{"elect", "elect n --value me", "/elections/_queue/n", "echo up; exec sleep 600", ""},
		{"gently", "lock n", "/locks/_queue/n", "trap 'echo bye; exit 0' TERM; echo up; sleep 600 & wait", "bye\n"},
		{"by force", "lock n --ttl 2s", "/locks/_queue/n", "trap '' TERM; echo up; sleep 600", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := newPrompt(t)
			r := p.start(append(strings.Fields(tt.args), shell(tt.script)...)...)
			r.waitFor("up\n")
			p.must("rm", tt.dir, "--recursive")
			if code := <-r.code; code != exitLost || r.stdout.String() != "up\n"+tt.end || !strings.Contains(r.stderr.String(), "was lost, and the command was stopped\n") {
				t.Errorf("deimos %s = %d with %q and stderr %q, want %d and %q", tt.args, code, r.stdout.String(), r.stderr.String(), exitLost, tt.end)
			}
		})
	}
}

func TestACommandIsStoppedBeforeTheLeaseCanHaveEnded(t *testing.T) {
	c := clustertest.New(t, 1)
	p := promptOf(t, c)
	ttl := 3 * time.Second
	r := p.start(append([]string{"lock", "n", "--ttl", ttl.String(), "--timeout", "1s"}, shell("trap '' TERM; echo up $$; exec sleep 600")...)...)
	r.waitFor("\n")
	process := "/proc/" + strings.Fields(r.stdout.String())[1]
	c.Member(0).Kill()
	start := time.Now() // no renewal succeeds that is sent after this
	clustertest.Eventually(t, "the end of the command", func() bool {
		_, err := os.Stat(process)
		return err != nil
	})
	if took := time.Since(start); took >= ttl {
		t.Errorf("the command ended %s after the cluster did, want it before %s", took, ttl)
	}
	if code := <-r.code; code != exitLost {
		t.Errorf("deimos lock = %d with stderr %q, want %d", code, r.stderr.String(), exitLost)
	}
}

func TestTheRequestToEndIsForTheCommand(t *testing.T) {
	p := newPrompt(t)
	r := p.start(append([]string{"lock", "n"}, shell("trap 'echo asked; exit 3' TERM; echo up; sleep 600 & wait")...)...)
	r.waitFor("up\n")
	if code := r.stop(); code != 3 || !strings.HasSuffix(r.stdout.String(), "asked\n") {
		t.Errorf("deimos lock = %d with %q, want the code 3 of the command", code, r.stdout.String())
	}
	p.must(append([]string{"lock", "n"}, shell("true")...)...) // it was released
}

func TestOtherSignalsAreForwarded(t *testing.T) {
	p := newPrompt(t)
	r := p.start(append([]string{"lock", "n"}, shell("trap 'echo reload; exit 0' HUP; echo up; sleep 600 & wait")...)...)
	r.waitFor("up\n")
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if code := <-r.code; code != exitOK || !strings.HasSuffix(r.stdout.String(), "reload\n") {
		t.Errorf("deimos lock = %d with %q, want the command to get HUP", code, r.stdout.String())
	}
}

func TestWhatACommandLeavesRunningEndsWithIt(t *testing.T) {
	p := newPrompt(t)
	file := filepath.Join(t.TempDir(), "pid")
	p.must(append([]string{"lock", "n"}, shell("sleep 600 >/dev/null 2>&1 & echo $! > "+file)...)...)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	clustertest.Eventually(t, "the end of what the command started", func() bool {
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		return err != nil || strings.Contains(string(stat), ") Z ")
	})
}

func TestExecWatchRunsACommandForEachChange(t *testing.T) {
	p := newPrompt(t)
	p.must("put", "/w/a", "one two")
	p.must("rm", "/w/a")
	p.must("mkdir", "/w/d")
	script := `echo "$DEIMOS_WATCH_ACTION $DEIMOS_WATCH_KEY [$DEIMOS_WATCH_VALUE] $DEIMOS_WATCH_INDEX"; [ "$DEIMOS_WATCH_ACTION" != delete ]`
	r := p.start(append([]string{"exec-watch", "/w", "--recursive", "--from-index", "2"}, shell(script)...)...)
	want := "set /w/a [one two] 2\ndelete /w/a [] 3\ncreate /w/d [] 4\n"
	r.waitFor("create /w/d [] 4\n")
	code := r.stop()
	if wantErr := "deimos: the command for index 3 has failed: exit code 1\n"; code != exitOK || r.stdout.String() != want || r.stderr.String() != wantErr {
		t.Errorf("deimos exec-watch = %d with %q and stderr %q, want 0 with %q and %q", code, r.stdout.String(), r.stderr.String(), want, wantErr)
	}
	if o := p.run("exec-watch", "/w", "--recursive", "--from-index", "2", "--", "/nowhere/command"); o.code != exitNotRun {
		t.Errorf("deimos exec-watch -- /nowhere/command = %+v, want code %d", o, exitNotRun)
	}
}

func TestExecWatchGoesOnAfterAValueThatNoVariableHolds(t *testing.T) {
	p := newPrompt(t)
	p.env = append(p.env, "DEIMOS_WATCH_VALUE=of another watch", "DEIMOS_WATCH_VALUE_OMITTED=1")
	// Linux allows 32 pages in a variable, with its name and the byte behind it.
	longest := 32*os.Getpagesize() - len("DEIMOS_WATCH_VALUE=") - 1
	values := []string{"small", "a\x00b"}
	want := "/w/0 5 unset\n/w/1 unset 1\n"
	if runtime.GOOS == "linux" && longest < 1<<20 {
		values = append(values, strings.Repeat("x", longest), strings.Repeat("x", longest+1), strings.Repeat("x", 1<<20))
		want += fmt.Sprintf("/w/2 %d unset\n/w/3 unset 1\n/w/4 unset 1\n", longest)
	}
	for i, value := range values {
		p.must("put", fmt.Sprintf("/w/%d", i), value)
	}
	p.must("rm", "/w", "--recursive")
	want += "/w 0 unset\n"
	script := `if [ "${DEIMOS_WATCH_VALUE+set}" ]; then n=${#DEIMOS_WATCH_VALUE}; else n=unset; fi; echo "$DEIMOS_WATCH_KEY $n ${DEIMOS_WATCH_VALUE_OMITTED-unset}"`
	r := p.start(append([]string{"exec-watch", "/w", "--recursive", "--from-index", "2"}, shell(script)...)...)
	r.waitFor("/w 0 unset\n")
	if code := r.stop(); code != exitOK || r.stdout.String() != want || r.stderr.String() != "" {
		t.Errorf("deimos exec-watch = %d with %q and stderr %q, want 0 with %q", code, r.stdout.String(), r.stderr.String(), want)
	}
}

// A server that is not Deimos may have a key that no variable holds.
func TestExecWatchGoesOnAfterAnEventThatNoCommandCanBeToldOf(t *testing.T) {
	for _, tt := range []struct{ name, key, want string }{
		{"NUL", `/w/a\u0000b`, "environment variable contains NUL"},
		{"long", "/w/" + strings.Repeat("x", 4<<20), "argument list too long"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.name == "long" && runtime.GOOS != "linux" {
				t.Skip("how long arguments may be is known of Linux")
			}
			events := []string{
				`{"action":"set","node":{"key":"` + tt.key + `","value":"1","modifiedIndex":2,"createdIndex":2}}`,
				`{"action":"set","node":{"key":"/w/c","value":"1","modifiedIndex":3,"createdIndex":3}}`,
			}
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				n, err := strconv.Atoi(r.URL.Query().Get("waitIndex"))
				if err != nil || n > 3 {
					<-r.Context().Done()
					return
				}
				w.Header().Set("X-Etcd-Index", "3")
				w.Header().Set("Content-Type", "application/json")
				fmt.Fprintln(w, events[n-2])
			}))
			defer server.Close()
			p := &prompt{t, append(os.Environ(), envEndpoints+"="+server.URL)}
			r := p.start(append([]string{"exec-watch", "/w", "--recursive", "--from-index", "2", "--prefix", "/v2/keys"}, shell(`echo "$DEIMOS_WATCH_KEY"`)...)...)
			clustertest.Eventually(t, "the second event, or the end", func() bool { return r.stdout.String() != "" || len(r.code) > 0 })
			code := r.stop()
			if code != exitOK || r.stdout.String() != "/w/c\n" || !strings.HasPrefix(r.stderr.String(), `deimos: for index 2 the command "sh" cannot be started: `) ||
				!strings.HasSuffix(r.stderr.String(), tt.want+"\n") || strings.Count(r.stderr.String(), "\n") != 1 {
				t.Errorf("deimos exec-watch = %d with %q and stderr %.200q, want 0, the second event, and %q of the first", code, r.stdout.String(), r.stderr.String(), tt.want)
			}
		})
	}
}

func TestCommandsThatRunOthersNeedThem(t *testing.T) {
	p := &prompt{t, nil}
	for _, args := range []string{"lock n", "lock -- true", "lock a b -- true", "elect n --", "exec-watch /w", "exec-watch -- true"} {
		if o := p.run(strings.Fields(args)...); o.code != exitUsage {
			t.Errorf("deimos %s = %+v, want code %d", args, o, exitUsage)
		}
	}
	for _, args := range []string{"lock a/b -- true", "lock n --ttl 0s -- true", "lock n --ttl 100ms -- true", "elect n --ttl -1s -- true"} {
		if o := p.run(strings.Fields(args)...); o.code != exitUsage {
			t.Errorf("deimos %s = %+v, want code %d", args, o, exitUsage)
		}
	}
}
