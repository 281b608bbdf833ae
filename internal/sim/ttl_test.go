package sim

import (
	"crypto/rand"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos"
)

// script runs a world without planned faults, in which what the script
// schedules happens.
func script(t *testing.T, duration time.Duration, schedule func(w *world)) *world {
	t.Helper()
	cfg := Config{Seed: 1, Duration: duration}
	real := rand.Reader
	rand.Reader = pinned{newRand(cfg.Seed, streamRaft)}
	defer func() { rand.Reader = real }()
	w := newWorld(cfg, &Result{})
	w.plan.faults = nil
	schedule(w)
	if v := caught(w.run); v != nil {
		t.Fatal(v)
	}
	return w
}

// When all members are down, nobody remembers how the time ran on an idle
// cluster: it goes on from the newest entry, and a key lives longer by that.
func TestAKeyOutlivesAStopOfAllByTheAgeOfTheNewestEntry(t *testing.T) {
	const (
		ttl   = 9 * time.Second
		setAt = 16 * time.Second // when all that clients have set is gone
		idle  = 8 * time.Second
		down  = 500 * time.Millisecond
	)
	w := script(t, setAt+idle+2*down, func(w *world) {
		w.after(5*time.Second, func() { w.idleTo = time.Minute })
		w.after(setAt, func() {
			w.leader().write(&deimos.Request{Op: deimos.OpSet, Key: "/t/last", HasTTL: true, TTLSeconds: int64(ttl.Seconds())}, func(answer) {})
		})
		w.after(setAt+idle, func() {
			w.calm.begin()
			for _, h := range w.hosts {
				h.crash()
				w.after(down, h.boot)
			}
		})
		w.after(setAt+idle+down, w.calm.end)
	})
	if got := w.calm.forgotten; got < idle-100*time.Millisecond || got > idle {
		t.Errorf("%s of cluster time were forgotten, want those %s since the newest entry", got, idle)
	}
	events := w.oracle.byKey["/t/last"]
	last := &w.oracle.events[events[len(events)-1]]
	if last.action != deimos.ActionExpire {
		t.Errorf("the last event of the key is %s, want %s", last.action, deimos.ActionExpire)
	}
}

func TestLateExpiriesAreJudged(t *testing.T) {
	const ttl = 5 * time.Second
	for _, tt := range []struct {
		name                    string
		passed, busy, forgotten time.Duration
		ok                      bool
	}{
		{"in time", ttl + time.Second, 0, 0, true},
		{"late in calm", ttl + time.Second + time.Millisecond, 0, 0, false},
		{"as late as it was not calm", ttl + 4*time.Second, 3 * time.Second, 0, true},
		{"later than that", ttl + 4*time.Second, 2 * time.Second, 0, false},
		{"as late as the time was forgotten", ttl + 4*time.Second, time.Second, 2 * time.Second, true},
		{"later than both", ttl + 4*time.Second, time.Second, time.Second, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			const before = time.Hour // of what was before the key does not count
			w := &world{now: before + tt.passed}
			w.ttl = newTTLOracle(w)
			w.calm = calmness{w: w, sampled: w.now, busy: before + tt.busy, forgotten: before + tt.forgotten}
			d := deadline{ttl: ttl, set: entryInfo{at: before, busy: before, forgotten: before}}
			if v := caught(func() { w.ttl.notLate("/t/k", d, w.now) }); (v == nil) != tt.ok {
				t.Errorf("notLate() = %v, want ok %v", v, tt.ok)
			}
		})
	}
}
