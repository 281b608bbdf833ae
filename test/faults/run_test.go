package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// goodPerSecond is how many requests a second have to be answered while the
// cluster serves at all; a run with fewer proves nothing.
const goodPerSecond = 200

// TestRuns puts clusters under fault, and judges all that was seen.
func TestRuns(t *testing.T) {
	sizes := []int{3, 3, 1}
	if *roundsFlag > 0 {
		sizes = nil
		for i := range *roundsFlag {
			sizes = append(sizes, []int{3, 3, 5, 3, 1}[i%5])
		}
	}
	var mu sync.Mutex
	var recoveries []time.Duration
	t.Cleanup(func() { // when the parallel runs have ended
		slices.Sort(recoveries)
		t.Logf("after leader kills %s", percentiles(recoveries))
	})
	for i, size := range sizes {
		if *sizeFlag > 0 {
			size = *sizeFlag
		}
		s := setupOf(*seedFlag+uint64(i), size, *durationFlag)
		t.Run(fmt.Sprintf("seed=%d/size=%d", s.Seed, s.Size), func(t *testing.T) {
			if *roundsFlag == 0 {
				t.Parallel()
			}
			took := runOnce(t, s)
			mu.Lock()
			defer mu.Unlock()
			recoveries = append(recoveries, took...)
		})
	}
}

// report is what a run leaves behind when it fails.
type report struct {
	Setup      setup             `json:"setup"`
	Plan       []fault           `json:"plan"`
	Faults     map[string]*tally `json:"faults"`
	Violations []violation       `json:"violations"`
	Ops        []*op             `json:"ops"`
	Events     []*event          `json:"events"`
}

// runOnce is one run, from the start of the members to the verdict. It returns
// how long writes were away after each death of a leader.
func runOnce(t *testing.T, s setup) (recoveries []time.Duration) {
	c := newCluster(t, s)
	ctx := t.Context()
	plan := s.plan()
	w := startWatchers(ctx, c, s.Seed)
	l := startLoad(ctx, c, s.Seed)
	defer w.end()
	defer l.endAll()

	c.disturb(ctx, l.history, plan)
	c.heal(ctx)
	l.end()
	l.lastRound(ctx)
	c.waitExpiry(ctx)
	l.endAll()
	end, tree := c.agree(ctx)
	w.wantAll(ctx, end)
	w.end()

	v := newEvidence(c.dir, l.ops, w.events, end, c.violate)
	v.judge()
	c.restartAll(ctx, end, tree)
	whole := c.judgeLogs(l.ops)
	c.judgeVoid(l.history, w.events)
	c.conclude(t, plan, v, l.history, whole)
	return c.recoveries
}

// disturb runs the injector and the operator side by side until the time is
// over and both have finished what they began.
func (c *cluster) disturb(ctx context.Context, h *history, plan []fault) {
	ctx, cancel := context.WithTimeout(ctx, c.Duration)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { (&injector{c, h}).run(ctx, plan) })
	wg.Go(func() {
		(&operator{c, rand.New(rand.NewPCG(c.Seed, 11))}).run(ctx, c.operatorSteps())
	})
	wg.Wait()
}

// heal ends all faults and waits until every member is ready.
func (c *cluster) heal(ctx context.Context) {
	c.net.heal()
	for _, m := range c.inside() {
		if err := m.waitReady(ctx, readyMax); err != nil {
			c.violate("liveness", "all faults are over: %v", err)
		}
	}
}

// waitExpiry waits until every key with a life is gone.
func (c *cluster) waitExpiry(ctx context.Context) {
	err := within(ctx, 20*time.Second, func(ctx context.Context) error {
		_, body, _, err := get(ctx, c.inside()[0].client+"/keys/t?recursive=true")
		if err == nil && strings.Contains(body, `"key":"/t/`) {
			err = errNotYet
		}
		return err
	})
	if err != nil {
		c.violate("ttl", "keys with a life are still there: %v", err)
	}
}

// restartAll ends all members, half of them without asking, starts them again,
// and wants what was there. Then it ends them for good, in order.
func (c *cluster) restartAll(ctx context.Context, end uint64, tree string) {
	members := c.inside()
	for i, m := range members {
		if i%2 == 0 {
			m.kill()
		} else {
			m.terminate()
		}
	}
	for _, m := range members {
		if err := m.start(goesOn); err != nil {
			c.violate("harness", "%v", err)
		}
	}
	c.heal(ctx)
	if now, again := c.agree(ctx); now != end || again != tree {
		c.violate("lost write", "after a restart of all the index is %d and was %d; the trees are equal: %v", now, end, again == tree)
	}
	var wg sync.WaitGroup
	for _, m := range members {
		wg.Go(func() { m.terminate() })
	}
	wg.Wait()
}

// judgeVoid finds runs that prove nothing.
func (c *cluster) judgeVoid(h *history, heard *events) {
	if rate := h.rate(); rate < goodPerSecond {
		c.violate("void", "%d good answers in %v of service are %.0f a second, want at least %d", h.good, h.working, rate, goodPerSecond)
	}
	if least := int(c.Duration.Seconds() * goodPerSecond / 10); h.good < least {
		c.violate("void", "%d good answers in all, want at least %d", h.good, least)
	}
	if h.locals == 0 || heard.watches == 0 || heard.heard == 0 {
		c.violate("void", "%d local reads, %d watches and %d events", h.locals, heard.watches, heard.heard)
	}
	if len(c.faults) == 0 {
		c.violate("void", "no fault happened")
	}
	for kind, f := range c.faults {
		if f.Observed == 0 {
			c.violate("void", "%q was injected %d times and never observed", kind, f.Injected)
		}
	}
}

// conclude reports the run. A failed one is kept, with the way to repeat it.
func (c *cluster) conclude(t *testing.T, plan []fault, v *evidence, h *history, whole int) {
	t.Helper()
	outcomes := map[outcome]int{}
	for _, o := range h.ops {
		outcomes[o.Outcome]++
	}
	t.Logf("%d requests %v, %d local reads (%d older ones without a quorum), %d events (%d unheard), %d watches (%d with history gone), %d histories linearizable, %d whole logs",
		len(h.ops), outcomes, h.locals, h.older, v.end, v.missed, v.events.watches, v.events.cleared, v.judged, whole)
	t.Logf("%.0f good answers a second of service; flags %v; latest end of a key %v; writes back after leader kills %v", h.rate(), c.Flags, v.latest, c.recoveries)
	for _, kind := range slices.Sorted(maps.Keys(c.faults)) {
		t.Logf("  %3d of %3d observed: %s", c.faults[kind].Observed, c.faults[kind].Injected, kind)
	}
	if c.verdict(t) {
		return
	}
	if err := c.keep(plan, v); err != nil {
		t.Error(err)
	}
	t.Errorf("the same plan again (how the processes run differs from time to time):\n"+
		"go test ./test/faults -run TestRuns -rounds 1 -seed %d -size %d -duration %v", c.Seed, c.Size, c.Duration)
}

// keep writes the history beside the data directories and logs.
func (c *cluster) keep(plan []fault, v *evidence) error {
	r := report{Setup: c.setup, Plan: plan, Faults: c.faults, Violations: c.violations, Ops: v.ops}
	for _, i := range slices.Sorted(maps.Keys(v.events.byIndex)) {
		r.Events = append(r.Events, v.events.byIndex[i])
	}
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return fmt.Errorf("faults: writing the history: %w", err)
	}
	return os.WriteFile(filepath.Join(c.dir, "history.json"), text, 0o600)
}
