package faults

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// TestALeaderWithASlowDiskHandsOver: every fdatasync of the leader takes two
// seconds. It gives leadership to another member within three of them, and
// writes go on there.
func TestALeaderWithASlowDiskHandsOver(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("layer STRACE: strace is not installed")
	}
	const slow = 2 * time.Second
	ctx := t.Context()
	c := newCluster(t, setup{Seed: *seedFlag, Size: 3})
	old, err := waitLeader(ctx, c.inside())
	if err != nil {
		t.Fatal(err)
	}
	l := startLedger(ctx, c, 0, 2, c.inside()...)
	defer l.end()
	l.waitMore(t, 50, readyMax)
	before := leaderChanges(t, old)

	p, _ := old.process()
	detach := slowDisk(t, c, p.cmd.Process.Pid, slow)
	began := time.Now()
	// One more than the three, for the append that may have begun just before.
	most := 4*slow + time.Second
	err = within(ctx, most, func(ctx context.Context) error {
		now := leaderOf(ctx, c.inside())
		if now == nil || now == old {
			return fmt.Errorf("faults: %s still leads", old.name)
		}
		return nil
	})
	if err != nil {
		c.violate("slow disk", "after %v: %v", most, err)
	}
	took := time.Since(began)
	l.waitMore(t, 100, readyMax)
	changes := leaderChanges(t, old) - before
	if changes == 0 || changes > 2 {
		c.violate("slow disk", "%v changes of the leader at %s, want that it loses leadership and hears of the new leader", changes, old.name)
	}
	detach()
	l.waitMore(t, 100, readyMax)
	l.end()
	for _, m := range c.inside() {
		l.wantAll(ctx, m)
	}
	c.agree(ctx)
	t.Logf("another member led %v after fdatasync began to take %v", took, slow)
	c.verdict(t)
}

// leaderChanges is how often a member has seen the leader change.
func leaderChanges(t testing.TB, m *member) float64 {
	t.Helper()
	text, err := m.metric(t.Context(), "deimos_server_leader_changes_total")
	if err != nil {
		t.Fatal(err)
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// slowDisk makes every fdatasync of a running process take longer, until the
// result is called, which also wants that it was traced.
func slowDisk(t testing.TB, c *cluster, pid int, d time.Duration) (detach func()) {
	t.Helper()
	log := filepath.Join(c.dir, "strace.log")
	p, err := startProcess(log, "strace", "-f", "-qq", "-p", strconv.Itoa(pid), "-e", "trace=fdatasync",
		"-e", fmt.Sprintf("inject=fdatasync:delay_enter=%d", d.Microseconds()), "-o", filepath.Join(c.dir, "fdatasync.trace"))
	if err != nil {
		t.Fatal(err)
	}
	stop := func() {
		p.signal(syscall.SIGINT)
		if !p.wait(exitMax) {
			p.signal(syscall.SIGKILL)
		}
	}
	t.Cleanup(stop)
	traced := func() error { return lines(filepath.Join(c.dir, "fdatasync.trace"), "fdatasync(") }
	if err := within(t.Context(), readyMax, func(context.Context) error { return traced() }); err != nil {
		t.Fatalf("void: no fdatasync was delayed: %v", err)
	}
	return stop
}
