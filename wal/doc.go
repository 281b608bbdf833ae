// Package wal is the durable log of one member. It wraps etcd's write-ahead
// log: that package writes the bytes, and this one decides what a bad byte
// means before that package is allowed to open the log for writing.
//
// It refuses to guess. A batch that a crash cut short is cut off, because it
// was never acknowledged; anything else that is wrong is a [DamageError], and
// nothing is changed. A failed write or fsync is final: no later call writes,
// syncs or acknowledges. The package never ends the process, whatever etcd's
// package wants.
//
// Append, SaveSnapshot and Close are called by one goroutine, and Release by
// another one at any time. An open log has one goroutine, that of etcd's package
// which allocates the next segment; Close and Abandon wait for it. An inspection
// has one that reads the newest segment, and copies it if the log is being
// opened; Inspect and Open wait for it.
//
// # Files
//
// For a log in the directory wal (numbers are 16 hex digits):
//
//	wal.lock                locked by the process that uses the log; holds its number
//	wal.new, wal.new.tmp    a log that is being created; not a log yet
//	wal/SEQ-INDEX.wal       segments; INDEX is the raft index that comes next
//	wal/clean-stop          the marker of a clean stop
//	wal/*.wal.broken*       what was cut off the end of a segment, for the operator
//	wal/*.tmp               unfinished or allocated in advance; removed by [Open]
//
// # Bytes of a segment
//
// A segment is a sequence of records and, if it is the newest, zeros up to the
// size that was allocated. The next few hundred kilobytes of them are written, so
// that an fsync need not write the file system's journal too; what the log writes
// goes to the disk twice therefore. Numbers are little-endian. A record is
//
//	8  length word: the low 56 bits are the length n; if padding follows, the
//	   high byte is 0x80 plus its length
//	n  walpb.Record: field 1 type, field 2 checksum, field 3 data
//	p  padding to a multiple of 8; its content means nothing
//
// The checksum is CRC-32C over the data of all records so far, across segments,
// so two records that follow each other prove each other. It does not cover the
// type; each record is therefore held against the rules of raft as well.
// The types are
//
//	4  checksum: first record of a segment, the checksum so far, no data
//	1  metadata: second record of a segment, walmeta.Identity
//	2  entry: raftpb.Entry
//	3  state: raftpb.HardState
//	5  snapshot: walpb.Snapshot; a snapshot file of this raft index and term exists
//
// # Batches
//
// A batch is what one fsync covers, and no byte of it is written before the
// fsync of the batch before it has returned. It is one of
//
//	state entry … state
//	state state
//	state snapshot
//	snapshot state    (repeats the newest snapshot record when the log is opened)
//
// The state that begins a batch repeats term and vote of the last one, with the
// newest commit index. So wherever a batch is damaged, the next one is seen to
// be a later one: a state, or a snapshot, is followed by another record. A bad
// record with such a pair behind it is damage; without one it is a torn write,
// and the log is cut where its batch begins. A changed commit index alone is
// not written: it waits for the next batch.
//
// A segment that is not the newest has no torn end, and neither has any after a
// clean stop. The marker of a clean stop holds name, length and checksum of the
// newest segment; it is written last and removed before the first write.
//
// Three limits of this rule: damage inside the very last batch before a crash
// looks like a torn write. So does damage that covers several batches and all
// but the end of the last one. And a value that was made to look like two
// records, torn in a crash just before them, makes a start be refused that
// could have gone on; nothing is lost by that.
package wal
