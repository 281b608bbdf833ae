package faults

import (
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// faultKind is one thing that is done to a cluster.
type faultKind string

const (
	killLeader   faultKind = "kill leader"
	killOne      faultKind = "kill one"
	killAll      faultKind = "kill all"
	stopLeader   faultKind = "stop leader"
	stopOne      faultKind = "stop one"
	stopAndKill  faultKind = "stop one, kill another"
	isolate      faultKind = "cut one off"
	isolateLead  faultKind = "cut the leader off"
	oneWay       faultKind = "cut one way"
	halfSwitch   faultKind = "cut between two halves that share one"
	cutAndKill   faultKind = "cut one off, kill another"
	reset        faultKind = "close all connections"
	delay        faultKind = "delay"
	trickle      faultKind = "trickle"
	rollingTerm  faultKind = "rolling SIGTERM"
	terminateOne faultKind = "SIGTERM"
)

// alone are the faults that one member can have, together those that take
// several.
var (
	alone = []faultKind{killOne, killOne, killAll, stopOne, terminateOne}
	many  = []faultKind{
		killLeader, killLeader, killOne, killAll, stopLeader, stopOne, stopAndKill, isolate, isolateLead, oneWay,
		halfSwitch, cutAndKill, reset, delay, trickle, rollingTerm, terminateOne,
	}
)

// fault is one step of a plan. What it means for which member is decided when
// it happens, from its random numbers and from who leads then.
type fault struct {
	Kind  faultKind     `json:"kind"`
	Pause time.Duration `json:"pauseNS"` // before it
	Last  time.Duration `json:"lastNS"`  // how long it lasts
	// Pick chooses members, Drop whether bytes are thrown away or kept back.
	Pick uint64 `json:"pick"`
	Drop bool   `json:"drop"`
}

// plan draws the faults of a run. Every kind comes up before one comes up
// again, so that long runs have them all and short ones differ.
func (s setup) plan() []fault {
	rng := rand.New(rand.NewPCG(s.Seed, 7))
	kinds := many
	if s.Size == 1 {
		kinds = alone
	}
	var faults []fault
	for planned := time.Duration(0); planned < s.Duration; {
		for _, i := range rng.Perm(len(kinds)) {
			f := fault{
				Kind:  kinds[i],
				Pause: time.Duration(50+rng.IntN(700)) * time.Millisecond,
				Last:  time.Duration(100+rng.IntN(1900)) * time.Millisecond,
				Pick:  rng.Uint64(),
				Drop:  rng.IntN(2) == 0,
			}
			faults = append(faults, f)
			planned += f.Pause + f.Last
		}
	}
	return faults
}

// operatorStep is one thing that an operator does meanwhile.
type operatorStep string

const (
	stepWipe    operatorStep = "wipe a member and replace it"
	stepReplace operatorStep = "remove a member and add it again"
	stepGrow    operatorStep = "add a member, then remove it"
	stepLearner operatorStep = "add a learner, promote it, then remove it"
	stepUpdate  operatorStep = "update a member to the URLs it has"
	stepLead    operatorStep = "hand leadership over"
)

// operatorSteps are what an operator does in a run, in order; he begins at
// another place with each seed, so that two short runs have most of it.
func (s setup) operatorSteps() []operatorStep {
	if s.Size == 1 {
		return nil
	}
	all := []operatorStep{stepLead, stepWipe, stepUpdate, stepLearner, stepLead, stepReplace, stepGrow}
	at := int(s.Seed * 2 % uint64(len(all)))
	return slices.Concat(all[at:], all[:at])
}

// election is the election timeout of the members.
func (s setup) election() time.Duration {
	for _, f := range s.Flags {
		if text, ok := strings.CutPrefix(f, "--election-timeout="); ok {
			if d, err := time.ParseDuration(text); err == nil {
				return d
			}
		}
	}
	return time.Second
}

// setupOf is the setup of a run, which follows from its seed.
func setupOf(seed uint64, size int, duration time.Duration) setup {
	rng := rand.New(rand.NewPCG(seed, 3))
	s := setup{Seed: seed, Size: size, Duration: duration, Secret: rng.IntN(2) == 0}
	if rng.IntN(3) > 0 {
		s.Flags = append(s.Flags, "--heartbeat-interval=50ms", "--election-timeout=500ms")
	}
	if rng.IntN(2) == 0 {
		s.Flags = append(s.Flags, "--timeout=1s")
	}
	if rng.IntN(2) == 0 {
		s.Flags = append(s.Flags, "--watch-timeout=2s")
	}
	// Snapshots are taken often, so that members that were away get them.
	counts := []string{"50", "200", "1000"}
	s.Flags = append(s.Flags, "--snapshot-count="+counts[rng.IntN(len(counts))])
	return s
}
