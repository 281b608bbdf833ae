package main

import (
	"fmt"
	"time"
)

// Most mutants are caught by a test that was written for the very promise that
// they break. The simulator is to find those that it can see without being told
// what to look for; with -sim, it alone has to catch them. It does itself what
// the loops of raftnode and the packages wal and snap do, so it sees the core of
// raftnode, raft, server.Machine and store only; its own tests show that it
// catches defects of the rest.

const (
	simPackage = "internal/sim"
	simTest    = "TestSeedsKeepAllPromises"
	// simStep is how many seeds are run before it is looked whether one has
	// failed.
	simStep = 20
)

// blind returns the mutants in code that the simulator runs and that 200 of its
// seeds do not catch.
func blind() []waiting {
	return []waiting{
		{"M13b", "shows only when a restored member leads before it has seen a newer stamp"},
		{"M14a", "members are compared by their snapshots, all of which lack the removed ids"},
		{"M16a", "its clusters begin with three members and stay so large; another test of it begins with one"},
		{"M16b", "as M16a"},
		{"M16d", "as M16a"},
		{"M18", "needs an answer that outlives a retry and a change of leader"},
		{"M19", "nothing is lost or read wrongly by it: a leader without a quorum only goes on in vain"},
		{"M20", "nothing is lost or read wrongly by it: there are only more elections"},
		{"M46e", "a learner is full whenever the followers are"},
		{"M46f", "nobody is silent when full disks are looked at"},
		{"M46h", "shows for the one heartbeat after an election only"},
		{"F1", "a TTL ends early only by what two clocks drift apart while one member leads"},
	}
}

// simulated returns the mutants that the simulator sees, each to be caught by it
// within a number of seeds.
func simulated(all []mutant, seeds int) []mutant {
	var chosen []mutant
	for _, m := range all {
		if !m.sim {
			continue
		}
		m.catchers = nil
		for from := 1; from <= seeds; from += simStep {
			m.catchers = append(m.catchers, catcher{
				pkg: simPackage, run: "^" + simTest + "$", limit: 5 * time.Minute,
				args: []string{fmt.Sprintf("-from=%d", from), fmt.Sprintf("-seeds=%d", min(simStep, seeds-from+1))},
			})
		}
		chosen = append(chosen, m)
	}
	return chosen
}
