package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// rest is the command of a holder that only holds.
const rest = `exec sleep 600`

// Goal: whoever has the lock has it alone, tokens only grow, and the death of
// the leader changes neither. Method: contenders write a line into one file
// when they enter and when they leave, and the leader is killed half way.
func TestLockScriptsExcludeEachOtherAcrossALeaderKill(t *testing.T) {
	t.Parallel()
	const contenders, turns = 3, 4
	c := startCluster(t)
	urls := c.others(nil)
	kept := hold(t, urls, rest, "", "lock.sh", "kept", "15")
	token := kept.waitHeld(t).token

	var locks []*contest
	for _, args := range [][]string{{"lock.sh", "a", "15"}, {"queue-lock.sh", "a", "15"}, {"elect.sh", "a", "15", "http://10.0.0.9:80"}} {
		l := startContest(t, contenders, urls, args[0], args[1:]...)
		l.want = turns
		locks = append(locks, l)
	}
	for _, l := range locks {
		l.waitSections(t)
	}
	old := c.leader(t)
	before, err := readNode(t.Context(), old.client, "/locks/kept")
	if err != nil {
		t.Fatal(err)
	}
	old.kill(t)
	for _, l := range locks {
		l.want = l.sections(t) + turns
	}
	for _, l := range locks {
		l.waitSections(t)
		l.stop(t)
		l.wantOneAtATime(t)
	}

	// A lease that was held all the time is renewed through the new leader and
	// keeps its token.
	rested := c.others(old)[0]
	untilWithin(t, heldMax, func(ctx context.Context) error {
		n, err := readNode(ctx, rested, "/locks/kept")
		if err == nil && n.ModifiedIndex == before.ModifiedIndex {
			err = errors.New("the lock was not renewed after the leader was killed")
		}
		if err == nil && n.CreatedIndex != token {
			t.Errorf("createdIndex of the lock = %d, want the token %d", n.CreatedIndex, token)
		}
		return err
	})
	kept.signal(t, syscall.SIGTERM)
	if code := kept.wait(t, exitMax); code != 128+int(syscall.SIGTERM) {
		t.Errorf("exit code of a holder after SIGTERM = %d, want that of its command, 143", code)
	}
	if n, err := readNode(t.Context(), rested, "/locks/kept"); err == nil {
		t.Errorf("the lock of a holder that ended = %+v, want none", n)
	}
}

// contest is a set of contenders who take one lock again and again.
type contest struct {
	name string
	file string // what they write
	end  string // ends them when it is there
	want int    // how many times they are to hold it
	runs []*process
}

func startContest(t testing.TB, contenders int, urls []string, name string, args ...string) *contest {
	t.Helper()
	dir := t.TempDir()
	l := &contest{name: name, file: filepath.Join(dir, "sections"), end: filepath.Join(dir, "end")}
	path := script(t, name)
	for i := range contenders {
		turned := append(append([]string{}, urls[i%len(urls):]...), urls[:i%len(urls)]...)
		all := []string{"DEIMOS_ENDPOINTS=" + strings.Join(turned, ","), "no_proxy=127.0.0.1",
			"sh", "-c", `end=$1; shift; until [ -e "$end" ]; do "$@" || exit; done`, "contender", l.end, path}
		all = append(append(all, args...), "--",
			"sh", "-c", `echo "enter $DEIMOS_TOKEN" >>"$1"; sleep 0.05; echo "leave $DEIMOS_TOKEN" >>"$1"`, "section", l.file)
		l.runs = append(l.runs, startCommand(t, "", "env", all...))
	}
	return l
}

// stop asks the contenders to end after their next turn.
func (l *contest) stop(t testing.TB) {
	t.Helper()
	if err := os.WriteFile(l.end, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (l *contest) lines(t testing.TB) []string {
	t.Helper()
	text, err := os.ReadFile(l.file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return slices.Collect(strings.Lines(string(text)))
}

// sections is how many times the lock was held so far.
func (l *contest) sections(t testing.TB) int { return len(l.lines(t)) / 2 }

// waitSections waits until the lock was held as often as is wanted.
func (l *contest) waitSections(t testing.TB) {
	t.Helper()
	untilWithin(t, heldMax, func(context.Context) error {
		if got := l.sections(t); got < l.want {
			return fmt.Errorf("%s was held %d times, want %d", l.name, got, l.want)
		}
		return nil
	})
}

// wantOneAtATime waits for the end of the contenders and looks at what they
// have written.
func (l *contest) wantOneAtATime(t testing.TB) {
	t.Helper()
	for _, p := range l.runs {
		if code := p.wait(t, time.Minute); code != 0 {
			t.Errorf("%s: exit code of a contender = %d, want 0\n%s", l.name, code, p.stderr.tail())
		}
	}
	lines := l.lines(t)
	if len(lines)%2 != 0 {
		t.Fatalf("%s: %d lines, want two for each time the lock was held:\n%s", l.name, len(lines), strings.Join(lines, ""))
	}
	var last uint64
	for i := 0; i < len(lines); i += 2 {
		token, err := strconv.ParseUint(strings.TrimSpace(strings.TrimPrefix(lines[i], "enter ")), 10, 64)
		if err != nil || lines[i+1] != fmt.Sprintln("leave", token) {
			t.Fatalf("%s: lines %d and %d are %q and %q, want one to enter and to leave alone (%v)", l.name, i+1, i+2, lines[i], lines[i+1], err)
		}
		if token <= last {
			t.Errorf("%s: token %d came after token %d, want tokens that grow", l.name, token, last)
		}
		last = token
	}
}

// Goal: a holder that fails in any way has ended before the next one begins,
// and the next one gets the lock in time. Method: leases take their time, so
// all holders are made to fail at once and are looked at one after the other,
// the one first for which the time counts.
func TestLockScriptsWhenTheHolderFails(t *testing.T) {
	t.Parallel()
	urls := startCluster(t).others(nil)
	cases := []struct {
		name string
		fail func(t *testing.T, urls []string) (check func(t *testing.T))
	}{
		{"the cluster is gone and it does not listen", failAlone},
		{"all of it is killed", failKilled},
		{"it is stopped for longer than its lease", failStopped},
		{"only the script is killed", failOrphaned},
		{"its key is deleted", failRobbed},
	}
	checks := make([]func(*testing.T), len(cases))
	for i, tt := range slices.Backward(cases) {
		checks[i] = tt.fail(t, urls)
	}
	for i, tt := range cases {
		t.Run(tt.name, checks[i])
	}
}

// failAlone kills the only member just after a renewal, so that it is known when
// the lease ends: the command is dead before that, also if TERM does not end it.
func failAlone(t *testing.T, _ []string) func(*testing.T) {
	n := startNode(t)
	h := hold(t, []string{n.client}, `trap '' TERM; while :; do sleep 1; done`, "", "lock.sh", "alone", "8")
	m := h.waitHeld(t)
	untilWithin(t, heldMax, func(ctx context.Context) error {
		node, err := readNode(ctx, n.client, "/locks/alone")
		if err == nil && node.ModifiedIndex == m.token {
			err = errors.New("the lock was not renewed")
		}
		return err
	})
	over := time.Now().Add(shortTTL)
	n.kill(t)
	return func(t *testing.T) {
		waitGone(t, m.group, time.Until(over))
		if time.Now().After(over) {
			t.Error("void: the command was looked at too late")
		}
		if code := h.wait(t, exitMax); code != lostStatus {
			t.Errorf("exit code of a holder without a cluster = %d, want %d\n%s", code, lostStatus, h.stderr.tail())
		}
	}
}

// failKilled kills a holder with all that it has started, as the end of its
// machine would.
func failKilled(t *testing.T, urls []string) func(*testing.T) {
	started := time.Now()
	first := hold(t, urls, rest, "", "queue-lock.sh", "killed", "8")
	token := first.waitHeld(t).token
	next := hold(t, urls, rest, "", "queue-lock.sh", "killed", "8")
	waitChildren(t, urls[0], "/locks/_queue/killed", 2)
	killed := time.Now()
	first.all(t, syscall.SIGKILL)
	return func(t *testing.T) {
		m := next.waitHeld(t)
		if m.token <= token {
			t.Errorf("token of the next holder = %d, want more than %d", m.token, token)
		}
		if got := m.at.Sub(started); got < shortTTL {
			t.Errorf("the next one held the lock %v after the first lease was asked for, want at least %v", got, shortTTL)
		}
		if got, want := m.at.Sub(killed), shortTTL+3*time.Second; got > want {
			t.Errorf("the next one held the lock %v after the first was killed, want at most %v", got, want)
		}
	}
}

// failStopped stops a holder as a pause of its machine would. When it goes on
// it believes that it holds the lock, until it looks at the clock: the resource
// refuses its token, and then it is stopped.
func failStopped(t *testing.T, urls []string) func(*testing.T) {
	r := guard(t)
	const use = `while :; do curl -s "$2?token=$DEIMOS_TOKEN"; sleep 0.1; done`
	first := hold(t, urls, use, r.url, "lock.sh", "stopped", "8")
	old := first.waitHeld(t)
	r.waitFor(t, "a use of the first token", func() bool { return r.highest == old.token })
	next := hold(t, urls, use, r.url, "lock.sh", "stopped", "8")
	first.all(t, syscall.SIGSTOP)
	return func(t *testing.T) {
		m := next.waitHeld(t)
		r.waitFor(t, "a use of the second token", func() bool { return r.highest == m.token })
		if first.ended() {
			t.Fatal("void: the holder that was stopped has ended")
		}
		signalGroup(t, old.group, syscall.SIGCONT)
		r.waitFor(t, "a use of the first token that is refused", func() bool { return r.refused[old.token] })
		signalGroup(t, first.cmd.Process.Pid, syscall.SIGCONT)
		waitGone(t, old.group, 5*time.Second)
		if code := first.wait(t, exitMax); code != lostStatus {
			t.Errorf("exit code of a holder that was stopped for longer than its lease = %d, want %d\n%s", code, lostStatus, first.stderr.tail())
		}
		// The first one has released what it held, which was nothing.
		n, err := readNode(t.Context(), urls[0], "/locks/stopped")
		if err != nil || n.CreatedIndex != m.token || next.ended() {
			t.Errorf("the lock = %+v, %v, want that of the next holder, made at index %d", n, err, m.token)
		}
	}
}

// failOrphaned kills the script alone: its command must not outlive it, and
// the lock need not wait for its TTL.
func failOrphaned(t *testing.T, urls []string) func(*testing.T) {
	h := hold(t, urls, rest, "", "lock.sh", "orphaned", "300")
	m := h.waitHeld(t)
	// The script, the one of its own that watches, and what that one sleeps with.
	untilWithin(t, exitMax, func(context.Context) error {
		if n := running(t, h.cmd.Process.Pid); n < 3 {
			return fmt.Errorf("the script has %d processes, want 3", n)
		}
		return nil
	})
	h.signal(t, syscall.SIGKILL)
	return func(t *testing.T) {
		waitGone(t, m.group, exitMax)
		untilWithin(t, exitMax, func(ctx context.Context) error {
			if n, err := readNode(ctx, urls[0], "/locks/orphaned"); err == nil {
				return fmt.Errorf("the lock is held: %+v", n)
			}
			return nil
		})
	}
}

// failRobbed deletes the key of a holder, as an operator might.
func failRobbed(t *testing.T, urls []string) func(*testing.T) {
	h := hold(t, urls, `trap '' TERM; while :; do sleep 1; done`, "", "elect.sh", "robbed", "8", "http://10.0.0.9:80")
	m := h.waitHeld(t)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, urls[0]+"/keys/elections/robbed", nil)
	if err != nil {
		t.Fatal(err)
	}
	if status, body := exchange(t, r); status != http.StatusOK {
		t.Fatalf("DELETE of the key = %d %s", status, body)
	}
	return func(t *testing.T) {
		waitGone(t, m.group, exitMax)
		if code := h.wait(t, exitMax); code != lostStatus {
			t.Errorf("exit code of a holder whose key was deleted = %d, want %d\n%s", code, lostStatus, h.stderr.tail())
		}
	}
}

// guarded is a resource that remembers the highest token it has seen and
// refuses any lower one.
type guarded struct {
	url     string
	mu      sync.Mutex
	highest uint64
	refused map[uint64]bool
}

func guard(t testing.TB) *guarded {
	r := &guarded{refused: map[uint64]bool{}}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		token, err := strconv.ParseUint(q.FormValue("token"), 10, 64)
		r.mu.Lock()
		defer r.mu.Unlock()
		if err != nil || token < r.highest {
			r.refused[token] = true
			w.WriteHeader(http.StatusConflict)
			return
		}
		r.highest = token
	}))
	t.Cleanup(s.Close)
	r.url = s.URL
	return r
}

// waitFor waits for a condition that looks at what mu guards.
func (r *guarded) waitFor(t testing.TB, what string, true func() bool) {
	t.Helper()
	untilWithin(t, heldMax, func(context.Context) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		if !true() {
			return fmt.Errorf("%s has not come; the highest token is %d", what, r.highest)
		}
		return nil
	})
}

func TestQueueLockScriptKeepsTheOrder(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	const order = `echo "$DEIMOS_TOKEN" >>"$2"`
	file := filepath.Join(t.TempDir(), "order")
	first := hold(t, []string{n.client}, rest, "", "queue-lock.sh", "a", "15")
	first.waitHeld(t)
	var waiting []*holder
	for i := range 4 {
		waiting = append(waiting, hold(t, []string{n.client}, order, file, "queue-lock.sh", "a", "15"))
		waitChildren(t, n.client, "/locks/_queue/a", i+2)
	}
	queue, err := readNode(t.Context(), n.client, "/locks/_queue/a")
	if err != nil {
		t.Fatal(err)
	}
	// One that does not want to wait any longer leaves its place at once.
	waiting[1].signal(t, syscall.SIGTERM)
	if code := waiting[1].wait(t, exitMax); code != 143 {
		t.Errorf("exit code of one that waited and got SIGTERM = %d, want 143", code)
	}
	waitChildren(t, n.client, "/locks/_queue/a", 4)
	first.signal(t, syscall.SIGTERM)
	var want string
	for i, w := range waiting {
		if i == 1 {
			continue
		}
		if code := w.wait(t, heldMax); code != 0 {
			t.Errorf("exit code of one that waited = %d, want 0\n%s", code, w.stderr.tail())
		}
		want += fmt.Sprintln(queue.Nodes[i+1].CreatedIndex)
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("tokens in the order of holding = %q, want that of coming, %q", got, want)
	}
}

func TestLockScriptsSayWhatIsWrong(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	if _, err := put(t.Context(), probe, n.client, "/elections", "a file"); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"no command", []string{"lock.sh", "a", "15", "--"}, 2, "usage: lock.sh NAME TTL -- COMMAND..."},
		{"no address", []string{"elect.sh", "a", "15", "--", "true"}, 2, "usage: elect.sh"},
		{"a name that is a path", []string{"lock.sh", "a/b", "15", "--", "true"}, 2, `bad name "a/b"`},
		{"the name of the queues", []string{"lock.sh", "_queue", "15", "--", "true"}, 2, `bad name "_queue"`},
		{"a TTL with a unit", []string{"queue-lock.sh", "a", "15s", "--", "true"}, 2, `bad TTL "15s"`},
		{"a TTL that is too short", []string{"queue-lock.sh", "a", "7", "--", "true"}, 2, "at least 8 seconds"},
		{"a key that cannot be made", []string{"elect.sh", "a", "15", "http://10.0.0.9:80", "--", "true"}, 1, `/elections/a cannot be made: 400 {"errorCode":104`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			all := append([]string{"no_proxy=127.0.0.1", script(t, tt.args[0])}, tt.args[1:]...)
			p := startCommand(t, "DEIMOS_ENDPOINTS="+n.client, "env", all...)
			if code := p.wait(t, exitMax); code != tt.code || !strings.Contains(p.stderr.String(), tt.want) {
				t.Errorf("%v = exit code %d, stderr %q, want %d and %q", tt.args, code, p.stderr.String(), tt.code, tt.want)
			}
		})
	}
}

// Goal: who gets no answer finds out whether it holds. Method: between script
// and member is one who takes the answer of the first write away.
func TestLockScriptsFindOutWhatBecameOfAWriteWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	for _, tt := range []struct {
		name, script, dir string
		applied           bool
	}{
		{"a lock that was made", "lock.sh", "/locks", true},
		{"a lock that was not made", "lock.sh", "/locks", false},
		{"a place that was made", "queue-lock.sh", "/locks/_queue/made", true},
		{"a place that was not made", "queue-lock.sh", "/locks/_queue/lost", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			thief, lost := takeFirstAnswer(t, n.client, tt.applied)
			lock := map[bool]string{true: "made", false: "lost"}[tt.applied]
			h := hold(t, []string{thief}, rest, "", tt.script, lock, "15")
			m := h.waitHeld(t)
			if !lost.Load() {
				t.Fatal("void: no answer was taken away")
			}
			dir, err := readNode(t.Context(), n.client, tt.dir)
			if err != nil {
				t.Fatal(err)
			}
			if len(dir.Nodes) != 1 || dir.Nodes[0].CreatedIndex != m.token {
				t.Errorf("keys in %s = %+v, want the one that was made at index %d, the token", tt.dir, dir.Nodes, m.token)
			}
			if renewed := dir.Nodes[0].ModifiedIndex > m.token; renewed != tt.applied {
				t.Errorf("renewed = %t, want %t: of a write without an answer it is not known since when it counts", renewed, tt.applied)
			}
			h.signal(t, syscall.SIGTERM)
			h.wait(t, exitMax)
		})
	}
}

// takeFirstAnswer is a proxy that ends the connection of the first write
// without an answer, after or instead of passing it on.
func takeFirstAnswer(t testing.TB, target string, apply bool) (string, *atomic.Bool) {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	lost := &atomic.Bool{}
	member := httputil.NewSingleHostReverseProxy(u)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet || !lost.CompareAndSwap(false, true) {
			member.ServeHTTP(w, r)
			return
		}
		if apply {
			member.ServeHTTP(httptest.NewRecorder(), r)
		}
		panic(http.ErrAbortHandler)
	}))
	t.Cleanup(s.Close)
	return s.URL, lost
}
