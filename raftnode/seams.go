package raftnode

import (
	"io"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// Log is the durable raft log. Its methods are called by one goroutine, the
// append loop, except Release, which may run beside Append. Any error is
// final: the node stops and acknowledges nothing after it.
type Log interface {
	// Append makes entries and the hard state durable before it returns, with
	// one fsync for all of them. A hard state that differs from the last one in
	// its commit index alone need not be written before the next batch.
	// An empty hard state means "unchanged".
	Append(hs raftpb.HardState, entries []raftpb.Entry) error
	// SaveCommit makes durable that the log is committed up to raftIndex, which it
	// holds, if that is not known yet.
	SaveCommit(raftIndex uint64) error
	// SaveSnapshot records durably that a verified snapshot file exists.
	SaveSnapshot(meta raftpb.SnapshotMetadata) error
	// Release tells that entries up to raftIndex are not needed any more, so
	// that whole segments below it may be removed.
	Release(raftIndex uint64) error
}

// Snapshots keeps snapshot files. Save, Discard, Prune and Install are never
// called at the same time; Load is called by the apply loop, Open and Check
// from any goroutine.
type Snapshots interface {
	// Save streams a snapshot into a file that is complete, verified and
	// durable when it returns.
	Save(meta raftpb.SnapshotMetadata, write func(io.Writer) error) error
	// Check verifies the file that the transport received for meta, and removes
	// it if it is not sound. It may be called from any goroutine.
	Check(meta raftpb.SnapshotMetadata) error
	// Install verifies the received file for meta and makes it durable under its
	// final name.
	Install(meta raftpb.SnapshotMetadata) error
	// Load reads the body of the snapshot with exactly this raft index.
	Load(raftIndex uint64, read func(io.Reader) error) error
	// Open opens the newest snapshot for sending to a peer. The caller closes
	// the body, which stays readable when the file is pruned meanwhile.
	Open() (meta raftpb.SnapshotMetadata, size int64, body io.ReadCloser, err error)
	// Discard removes a saved snapshot that the log will never name.
	Discard(meta raftpb.SnapshotMetadata) error
	// Prune removes old snapshots, and received ones that were never installed,
	// and returns the raft index up to which the
	// log is no longer needed by any snapshot that is kept: the index of the
	// second-newest one, 0 while there is only one.
	Prune() (releaseTo uint64, err error)
}

// Sender carries messages to peers. Its methods are called by the loop and by
// the append loop, never block, and may drop what they carry: raft asks again.
type Sender interface {
	// Send takes ownership of the messages. None is a MsgSnap.
	Send(messages []raftpb.Message)
	// SendSnapshot streams a snapshot of size bytes to m.To beside the ordinary
	// messages, closes body, and reports the outcome through
	// [Node.ReportSnapshot].
	SendSnapshot(m raftpb.Message, size int64, body io.ReadCloser)
}

// Receiver is the side of a [Node] that a transport delivers to. All methods
// may be called from any goroutine and do not block on a disk.
type Receiver interface {
	// Process hands in one message from a peer. It takes ownership of m.
	// An error means that the message was refused and the sender's connection
	// is not worth keeping.
	Process(m raftpb.Message) error
	// ReportUnreachable tells that messages to the peer were dropped.
	ReportUnreachable(id uint64)
	// ReportSnapshot tells how a snapshot transfer to the peer ended.
	ReportSnapshot(id uint64, status raft.SnapshotStatus)
}

// Machine is the replicated state machine. Apply, ApplyConfChange and Restore
// are called by one goroutine, the apply loop, in log order, and must be
// deterministic: the same calls leave the same state on every member.
type Machine interface {
	// Apply applies a batch of committed entries, publishes the new state once,
	// and fills results[i] with what the proposer of entries[i] is to be told.
	// It keeps neither slice. An error means an entry that this version does
	// not know; it stops the node, for skipping it would make members differ.
	Apply(entries []Entry, results []any) error
	// ApplyConfChange applies a committed configuration change and publishes.
	// It returns false when the change is void (a removed id, say), and the
	// result for the proposer. An error is as that of Apply.
	ApplyConfChange(entry Entry, cc raftpb.ConfChange) (accepted bool, result any, err error)
	// Capture pins the state that Apply last published and returns a function
	// that writes it. Capture must be cheap; the function runs later, once, on
	// another goroutine, while Apply goes on.
	Capture() func(io.Writer) error
	// Restore replaces the state with what a captured function wrote, publishes
	// it, and returns the cluster time of that state in milliseconds. After an
	// error the old state is still there.
	Restore(raftIndex uint64, r io.Reader) (timeMS int64, err error)
}

// Entry is one committed log entry as the machine sees it.
type Entry struct {
	// Index and Term are raft's.
	Index, Term uint64
	// TimeMS is the cluster time in milliseconds at which the leader appended
	// the entry, never falling from one to the next; 0 for an entry that is not
	// stamped (a new leader's empty one, a configuration change).
	TimeMS int64
	// Run and Seq name the proposal: Run is the random number of the proposing
	// process, Seq counts its proposals from 1. Both are 0 for entries that no
	// one proposed. A proposal that the network duplicated appears twice with
	// the same pair.
	Run, Seq uint64
	// Data is what was proposed; nil for the empty entry of a new leader.
	Data []byte
}
