package e2e

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"
)

// footprint is what clients could leave behind in a member.
type footprint struct{ watchers, watches, connections, goroutines, files float64 }

func footprintOf(ctx context.Context, n *node) (footprint, error) {
	var f footprint
	for name, v := range map[string]*float64{
		"deimos_store_watchers": &f.watchers, "deimos_http_watches": &f.watches,
		"deimos_http_connections": &f.connections, "go_goroutines": &f.goroutines,
	} {
		var err error
		if *v, err = metric(ctx, n.client, name); err != nil {
			return f, err
		}
	}
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", n.run.cmd.Process.Pid))
	f.files = float64(len(files))
	return f, err
}

// wantNothingLeft waits until a member is as it was before its clients came.
// The other members may have come back meanwhile, by other connections.
func wantNothingLeft(t testing.TB, n *node, base footprint) {
	t.Helper()
	const slack = 25 // half of it has been seen between members at rest
	gone := time.Now()
	// A look is not cut short, so that the last one can be told.
	untilWithin(t, 5*time.Second, func(context.Context) error {
		f, err := footprintOf(t.Context(), n)
		if err == nil && (f.watchers != base.watchers || f.watches != base.watches) {
			err = fmt.Errorf("%s holds %+v, want the watches of %+v", n.name, f, base)
		}
		return err
	})
	if took := time.Since(gone); took > time.Second {
		t.Errorf("%s released the watches after %v, want at most 1 s", n.name, took)
	}
	var f footprint
	untilWithin(t, 5*time.Second, func(context.Context) (err error) {
		f, err = footprintOf(t.Context(), n)
		if err == nil && (f.connections > base.connections+2 || f.goroutines > base.goroutines+slack || f.files > base.files+slack) {
			err = fmt.Errorf("%s holds %+v, want about %+v", n.name, f, base)
		}
		return err
	})
	t.Logf("%s: %+v, before %+v", n.name, f, base)
}

func TestPhobosWhileAMemberIsKilled(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		leader bool
		ttl    time.Duration
	}{
		{"that no client asks", false, 3 * time.Second},
		// A renewal that went to the leader just before it died takes up to 3 s
		// to fail, and holds up the next one.
		{"that leads", true, 6 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			playPhobos(t, tt.leader, tt.ttl)
		})
	}
}

// playPhobos holds a conversation half way through which a member is killed.
func playPhobos(t *testing.T, leader bool, ttl time.Duration) {
	const reopened = 200
	c := startCluster(t)
	victim := c.follower(t)
	if leader {
		victim = c.leader(t)
	}
	var survivors []*node
	bases := map[*node]footprint{}
	changes := map[*node]float64{}
	for _, n := range c.nodes {
		if n == victim {
			continue
		}
		survivors = append(survivors, n)
		var err error
		if bases[n], err = footprintOf(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		if changes[n], err = metric(t.Context(), n.client, "deimos_server_leader_changes_total"); err != nil {
			t.Fatal(err)
		}
	}
	p := newPhobos(t, ttl, survivors[0])
	defer p.end()
	first := p.provide(survivors[0], "tcp@127.0.0.1:30001", map[string]string{"Arith": "weight=7&group=a b", "Hello": ""})
	p.provide(survivors[1], "tcp@[::1]:30002", map[string]string{"Arith": "", "Hello": "state=inactive"})
	var pinned []*consumer
	for _, n := range survivors {
		pinned = append(pinned, p.consume(n, "Arith"), p.consume(n, "Hello"))
	}
	if leader {
		p.consume(victim, "Arith")
	}
	p.waitReopened(reopened/3, pinned...)

	killedAt := time.Now()
	victim.kill(t)
	p.waitRenewed(killedAt)
	p.provide(survivors[1], "tcp@127.0.0.1:30003", map[string]string{"Arith": "late", "Hello": "late"})
	victim.start(t)
	victim.waitReady(t)
	p.waitRenewed(time.Now())
	p.waitFound()
	first.end()
	p.waitGone(first)
	p.waitReopened(reopened, pinned...)
	p.end()

	for key, count := range p.made {
		if count != 1 {
			t.Errorf("%d programs were told that they have made %s, want 1", count, key)
		}
	}
	for _, n := range survivors {
		wantNothingLeft(t, n, bases[n])
	}
	waitWatchers(t, 0, victim)
	if !leader {
		p.wantNoneRefused(survivors, changes)
	}
}

// wantNoneRefused fails the test for calls that had no answer below 500,
// unless the leader has changed: the death of another member is no excuse.
func (p *phobos) wantNoneRefused(nodes []*node, changes map[*node]float64) {
	p.t.Helper()
	for _, n := range nodes {
		got, err := metric(p.t.Context(), n.client, "deimos_server_leader_changes_total")
		if err != nil {
			p.t.Fatal(err)
		}
		if got != changes[n] {
			p.t.Logf("%s saw the leader change %v times", n.name, got-changes[n])
			return
		}
	}
	var refused int64
	for _, one := range p.providers {
		refused += one.c.refused.Load()
	}
	for _, one := range p.consumers {
		refused += one.c.refused.Load()
	}
	if refused != 0 {
		p.t.Errorf("%d calls were refused, want none while a member is down that none of them asks", refused)
	}
}
