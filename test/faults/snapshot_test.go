package faults

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos/internal/faultproxy"
)

// TestASnapshotThatIsCutOffOnTheWayIsSentAgain: a follower was away for so long
// that it needs a snapshot. The connections to it are slow, and closed in the
// middle of the transfer, again and again. When that is over the follower has
// everything, and it never loads half a snapshot.
func TestASnapshotThatIsCutOffOnTheWayIsSentAgain(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := newCluster(t, setup{Seed: *seedFlag, Size: 3, Flags: []string{"--snapshot-count=500"}})
	leader, err := waitLeader(ctx, c.inside())
	if err != nil {
		t.Fatal(err)
	}
	others := c.inside()
	behind := others[(slices.Index(others, leader)+1)%len(others)]
	others = slices.DeleteFunc(others, func(m *member) bool { return m == behind })

	behind.kill()
	client := newHTTP()
	defer client.CloseIdleConnections()
	value := strings.Repeat("0123456789abcdef", 4096)
	for i := range 48 { // 3 MiB, which take a while on a slow connection
		o := &op{Kind: kindSet, Key: fmt.Sprintf("/large/%d", i), Value: value}
		if o.do(ctx, client, leader.client, c.since); o.Outcome != acked {
			t.Fatalf("write %d = %v", i, o)
		}
	}
	// More entries than a leader keeps in memory for members that are behind.
	l := startLedger(ctx, c, 0, 24, others...)
	l.waitMore(t, 6500, 2*time.Minute)

	c.net.each(func(p *faultproxy.Proxy) { p.Trickle(1 << 20) })
	if err := behind.start(goesOn); err != nil {
		t.Fatal(err)
	}
	const cuts = 3
	for i := range cuts {
		if err := within(ctx, readyMax, func(context.Context) error {
			return countLines(c.members, "sending snapshot", i+1)
		}); err != nil {
			t.Fatalf("void: %d snapshots were sent, want %d: %v", i, i+1, err)
		}
		letPass(ctx, 300*time.Millisecond) // into the transfer
		if countLines([]*member{behind}, "snapshot installed", 1) == nil {
			t.Fatal("void: the snapshot was there before it could be cut off")
		}
		c.net.each((*faultproxy.Proxy).CloseAll)
	}
	c.net.heal()
	healed := time.Now()
	if err := behind.waitReady(ctx, readyMax); err != nil {
		c.violate("liveness", "%v", err)
	}
	l.end()
	c.agree(ctx)
	l.wantAll(ctx, behind)
	if err := countLines([]*member{behind}, "snapshot installed", 1); err != nil {
		t.Errorf("void: %s caught up without a snapshot", behind.name)
	}
	t.Logf("%d acknowledged writes; %s was ready %v after the last cut of %d", l.count(), behind.name, time.Since(healed), cuts)
	c.verdict(t)
}

// countLines returns an error while the logs of members have fewer lines with a
// text.
func countLines(members []*member, text string, want int) error {
	found := 0
	for _, m := range members {
		read, err := os.ReadFile(m.logPath)
		if err != nil && !os.IsNotExist(err) {
			return err
		}
		found += strings.Count(string(read), text)
	}
	if found < want {
		return fmt.Errorf("faults: %d lines of the logs have %q, want %d", found, text, want)
	}
	return nil
}
