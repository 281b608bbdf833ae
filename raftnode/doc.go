// Package raftnode owns a raft.RawNode: it feeds it with proposals, messages,
// reads and ticks, and carries out what it asks for, so that many proposals
// share one message, many entries share one fsync, and many reads share one
// round of heartbeats.
//
// It is built in two halves. [Core] decides: it is a synchronous state machine
// (input → output) without goroutine, clock, disk or randomness of its own, so
// that a simulator can drive it. [Node] is the thin driver that gives a Core
// goroutines:
//
//	loop        owns the Core; never touches a disk, so heartbeats never wait
//	append loop owns the Log; group commit: all queued appends, one fsync
//	apply loop  owns the Machine; completes the waiters after publication
//	snapshotter writes captured states to disk, one at a time
//
// The rules of the asynchronous driver: appends are done strictly in order;
// their responses are delivered only after the fsync; appends are never merged
// across a snapshot; the last non-empty hard state of a merged batch counts;
// messages to the local append and apply loops are never dropped, messages to
// peers may be.
//
// The package knows bytes only. It refuses to look into proposals, to open a
// file or a socket, to propose anything twice, and to answer a read from a
// lease: every linearizable read is covered by a heartbeat round that a quorum
// confirmed after the read arrived, unless this member makes up the cluster
// alone and has nobody to ask. The first error of the Log or the
// Snapshots is final: nothing is acknowledged, voted or answered after it.
package raftnode
