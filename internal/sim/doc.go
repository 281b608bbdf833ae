// Package sim runs a whole cluster in one goroutine, from one seed, without
// real time: the deciding code of the product (raftnode.Core, server.Machine,
// store.Store) over a simulated network, simulated disks and simulated clocks.
// Members crash at named steps, lose what was not synced, are cut off, paused,
// wiped, rolled back, added and removed; clients write, read and watch all the
// while. After every step the promises that need no client are checked; at the
// end everything heals and the rest is: linearizability, watches, TTLs,
// liveness and the equality of all members.
//
// The same seed makes the same run on every machine. raft draws its election
// jitter from crypto/rand, so [Run] replaces that package's Reader while it
// runs: it must not be called twice at the same time, nor beside code that
// needs real randomness. It starts no goroutine; the linearizability checker
// starts some at the end and waits for them.
//
// What the package refuses to do: it does not run raftnode.Node, whose
// goroutines make no run repeatable, nor the packages wal, snap and transport.
// The driver here does the same steps in the same order, and a test holds its
// disk against a real log. The defects of that layer that a test may switch on
// are in [Defects].
package sim
