package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var (
	lockRounds = flag.Int("lock-rounds", 30, "locks that are contended for while holders are stopped and members killed")
	lockSeed   = flag.Uint64("lock-seed", 1, "seed of the first batch of them; the next has the next one")
)

const (
	// A batch of locks is contended for by some processes at the same time.
	batchLocks, batchProcesses = 30, 4
	// turnsEach is how many turns each lock has to see before its round ends.
	turnsEach = 4
	// batchMax is how long a batch may take.
	batchMax = 2 * time.Minute
)

// Processes contend for locks. Meanwhile some of them are stopped by SIGSTOP for
// up to twice the TTL, and members are killed, half of them leaders. Whatever
// happens, no two of them may believe in the same lock at the same time, tokens
// have to grow, and who is stopped and goes on must not get through to a resource
// that has seen a greater token. The lock tells of the loss before anybody else
// has it, because a turn ends with the last moment at which it said nothing.
func TestLockHoldersNeverOverlap(t *testing.T) {
	c := startCluster(t)
	var all lockStats
	for batch, left := 0, *lockRounds; left > 0 && !t.Failed(); batch++ {
		seed := *lockSeed + uint64(batch)
		n := min(left, batchLocks)
		left -= n
		b := &lockBatch{cluster: c, random: rand.New(rand.NewPCG(seed, 0)), seed: seed}
		for i := range n {
			b.locks = append(b.locks, fmt.Sprintf("seed%d-%d", seed, i))
		}
		b.run(t)
		b.check(t, &all)
		t.Logf("seed %d: %+v so far", seed, all)
	}
	if all.Stops == 0 || all.Kills == 0 || all.Lost == 0 {
		t.Error("void: nobody was stopped, killed, or lost a lock")
	}
}

// lockStats is what has happened.
type lockStats struct{ Turns, Lost, Writes, Refused, Stops, Kills int }

// lockBatch is a set of locks and the processes that contend for them.
type lockBatch struct {
	cluster   *cluster
	random    *rand.Rand
	seed      uint64
	locks     []string
	processes []*process
	stops     [2]int
	kills     int
}

// run runs the processes until each lock has seen its turns, and members are
// down and up again.
func (b *lockBatch) run(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	guarded := httptest.NewServer(&fenced{greatest: make(map[string]uint64)})
	defer guarded.Close()
	for i := range batchProcesses {
		j := job{Endpoints: b.cluster.others(nil), Resource: guarded.URL, Locks: b.locks, Seed: b.seed*100 + uint64(i)}
		text, err := json.Marshal(j)
		if err != nil {
			t.Fatal(err)
		}
		b.processes = append(b.processes, startCommand(t, contenderVariable+"="+string(text), self))
	}
	ctx, cancel := context.WithTimeout(t.Context(), batchMax)
	defer cancel()
	trouble, calm := context.WithCancel(ctx)
	var stopping sync.WaitGroup
	for i := range b.stops {
		random := rand.New(rand.NewPCG(b.seed, uint64(i)+1))
		half := b.processes[i*batchProcesses/2 : (i+1)*batchProcesses/2]
		stopping.Go(func() { b.stops[i] = stopAndGoOn(trouble, t, random, half) })
	}
	for b.kills < 2 || !b.finished(t) {
		if ctx.Err() != nil {
			t.Errorf("not all locks have seen %d turns after %v: %v", turnsEach, batchMax, b.counts(t))
			break
		}
		b.killMember(ctx, t)
	}
	calm()
	stopping.Wait()
	for _, p := range b.processes {
		p.signal(t, syscall.SIGTERM)
	}
	for _, p := range b.processes {
		if code := p.wait(t, 30*time.Second); code != 0 {
			t.Errorf("a contender ended with %d", code)
		}
	}
}

// wait waits for a random time between low and high, or until ctx ends.
func wait(ctx context.Context, random *rand.Rand, low, high time.Duration) {
	select {
	case <-time.After(low + time.Duration(random.Int64N(int64(high-low)))):
	case <-ctx.Done():
	}
}

// stopAndGoOn stops one of the processes after the other until ctx ends, and
// returns how often it did.
func stopAndGoOn(ctx context.Context, t *testing.T, random *rand.Rand, processes []*process) int {
	for n := 0; ; n++ {
		wait(ctx, random, 50*time.Millisecond, time.Second)
		if ctx.Err() != nil {
			return n
		}
		p := processes[random.IntN(len(processes))]
		for _, s := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGCONT} {
			if err := p.cmd.Process.Signal(s); err != nil {
				t.Errorf("%v for a contender: %v", s, err)
				return n
			}
			if s == syscall.SIGSTOP {
				wait(ctx, random, 10*time.Millisecond, 2*lockTTL)
			}
		}
	}
}

// killMember kills a member and starts it again.
func (b *lockBatch) killMember(ctx context.Context, t *testing.T) {
	wait(ctx, b.random, 500*time.Millisecond, 2*time.Second)
	m := b.cluster.nodes[b.random.IntN(len(b.cluster.nodes))]
	if b.random.IntN(2) == 0 {
		m = b.cluster.leader(t)
	}
	m.kill(t)
	b.kills++
	wait(ctx, b.random, 100*time.Millisecond, 2*time.Second)
	m.start(t)
	m.waitReady(t)
}

// turns returns all turns that were told so far, by lock.
func (b *lockBatch) turns(t *testing.T) map[string][]turn {
	t.Helper()
	turns := make(map[string][]turn)
	for _, p := range b.processes {
		for line := range strings.Lines(p.stdout.String()) {
			if !strings.HasSuffix(line, "\n") {
				continue // it is being written
			}
			var u turn
			if err := json.Unmarshal([]byte(line), &u); err != nil {
				t.Fatalf("a contender wrote %q: %v", line, err)
			}
			turns[u.Lock] = append(turns[u.Lock], u)
		}
	}
	return turns
}

// counts returns how many turns each lock has seen.
func (b *lockBatch) counts(t *testing.T) map[string]int {
	counts := make(map[string]int)
	for name, turns := range b.turns(t) {
		counts[name] = len(turns)
	}
	return counts
}

// finished reports whether each lock has seen its turns.
func (b *lockBatch) finished(t *testing.T) bool {
	counts := b.counts(t)
	for _, name := range b.locks {
		if counts[name] < turnsEach {
			return false
		}
	}
	return true
}

// check judges the turns and adds them up.
func (b *lockBatch) check(t *testing.T, all *lockStats) {
	for name, turns := range b.turns(t) {
		slices.SortFunc(turns, func(a, b turn) int { return cmp.Compare(a.Start, b.Start) })
		var before turn
		for _, u := range turns {
			if u.Failure != "" {
				t.Errorf("%s: %s", name, u.Failure)
			}
			if u.Start > 0 {
				if u.Token <= before.Token || u.Start <= before.End {
					t.Errorf("%s: %+v was followed by %+v", name, before, u)
				}
				before = u
			}
			all.Turns++
			all.Writes += u.Writes
			all.Refused += u.Refused
			if u.Lost {
				all.Lost++
			}
		}
	}
	all.Stops += b.stops[0] + b.stops[1]
	all.Kills += b.kills
}

// fenced is what the locks guard: it refuses a token that is smaller than one
// that it has seen.
type fenced struct {
	mu       sync.Mutex
	greatest map[string]uint64
}

// ServeHTTP implements [http.Handler].
func (f *fenced) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	token, err := strconv.ParseUint(r.FormValue("token"), 10, 64)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if token < f.greatest[r.URL.Path] {
		http.Error(w, "the token is too old", http.StatusConflict)
		return
	}
	f.greatest[r.URL.Path] = token
}
