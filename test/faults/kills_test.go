package faults

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// TestAMemberKilledOverAndOverLosesNothing: a cluster of one is killed with
// signal 9 in the middle of writes, again and again. Every acknowledged write is
// there each time.
func TestAMemberKilledOverAndOverLosesNothing(t *testing.T) {
	t.Parallel()
	killOverAndOver(t, 1)
}

// TestThreeMembersKilledOverAndOverLoseNothing does the same with the leader, a
// follower, and all members in turn.
func TestThreeMembersKilledOverAndOverLoseNothing(t *testing.T) {
	t.Parallel()
	killOverAndOver(t, 3)
}

func killOverAndOver(t *testing.T, size int) {
	ctx := t.Context()
	c := newCluster(t, setup{Seed: *seedFlag, Size: size, Flags: []string{"--heartbeat-interval=50ms", "--election-timeout=500ms", "--snapshot-count=500"}})
	rng := rand.New(rand.NewPCG(*seedFlag, uint64(size)))
	kills, acks := 0, 0
	for round := range *killsFlag {
		members := c.inside()
		l := startLedger(ctx, c, round, 4, members...)
		l.waitMore(t, 20, readyMax)
		letPass(ctx, time.Duration(rng.IntN(100))*time.Millisecond)
		victims := members
		if leader := leaderOf(ctx, members); round%3 != 2 && leader != nil {
			i := slices.Index(members, leader)
			if round%3 == 1 {
				i = (i + 1) % len(members)
			}
			victims = members[i : i+1]
		}
		for _, m := range victims {
			if m.kill() {
				kills++
			}
		}
		if len(victims) == len(members) {
			l.end()
		}
		for _, m := range victims {
			if err := m.start(goesOn); err != nil {
				t.Fatal(err)
			}
		}
		for _, m := range victims {
			if err := m.waitReady(ctx, readyMax); err != nil {
				c.violate("liveness", "round %d: %v", round, err)
			}
		}
		l.end()
		l.wantAll(ctx, members[round%len(members)])
		acks += l.count()
		if c.broken > 0 {
			break
		}
	}
	c.agree(ctx)
	t.Logf("%d kills in %d rounds, %d acknowledged writes", kills, *killsFlag, acks)
	if kills < *killsFlag {
		t.Errorf("void: %d kills in %d rounds", kills, *killsFlag)
	}
	c.verdict(t)
}

// TestWritesComeBackAfterALeaderWasKilled measures how long clients have no
// leader, with the default timing.
func TestWritesComeBackAfterALeaderWasKilled(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := newCluster(t, setup{Seed: *seedFlag, Size: 3})
	rng := rand.New(rand.NewPCG(*seedFlag, 5))
	var times []time.Duration
	for i := range *recoveriesFlag {
		leader, err := waitLeader(ctx, c.inside())
		if err != nil {
			t.Fatal(err)
		}
		others := slices.DeleteFunc(c.inside(), func(m *member) bool { return m == leader })
		l := startLedger(ctx, c, i, 8, others...)
		l.waitMore(t, 100, readyMax)
		letPass(ctx, time.Duration(rng.IntN(300))*time.Millisecond)
		killed := time.Now()
		if !leader.kill() {
			t.Fatalf("void: the leader %s was not there to be killed", leader.name)
		}
		first, err := l.ackAfter(ctx, killed, 2*recoveryMax)
		if took := first.Sub(killed); err != nil || took > recoveryMax {
			c.violate("recovery", "the first write after the death of %s was acknowledged after %v (%v), want at most %v", leader.name, took, err, recoveryMax)
		} else {
			times = append(times, took)
		}
		if err := leader.start(goesOn); err != nil {
			t.Fatal(err)
		}
		if err := leader.waitReady(ctx, readyMax); err != nil {
			c.violate("liveness", "%v", err)
		}
		l.end()
		l.wantAll(ctx, leader)
	}
	slices.Sort(times)
	t.Log(percentiles(times))
	c.agree(ctx)
	c.verdict(t)
}

// percentiles describes times that are sorted.
func percentiles(times []time.Duration) string {
	if len(times) == 0 {
		return "nothing was measured"
	}
	at := func(p int) time.Duration { return times[min(len(times)-1, len(times)*p/100)] }
	return fmt.Sprintf("writes were back after p50 %v, p99 %v, at most %v, of %d", at(50), at(99), times[len(times)-1], len(times))
}
