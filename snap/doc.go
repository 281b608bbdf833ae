// Package snap keeps the snapshot files of one member: it writes them, takes
// over those that the transport received, and loads the newest that verifies.
//
// It refuses to know what is inside a snapshot, to hold one in memory, and to
// hand out a byte whose checksum it has not seen. A file gets its final name
// only when its content was synced and read back, and is reported as done only
// when its directory was synced; a file that turns out to be bad is kept under
// another name. The package starts no goroutine.
//
// # Names
//
// All numbers are 16 hex digits, index and term are raft's:
//
//	INDEX-TERM.snap           taken by this member
//	INDEX-TERM.received.snap  received from a peer and installed
//	INDEX.snap.db             being received: written by the transport, not trusted
//	*.tmp, tmp*               unfinished, removed by [Open]
//	*.broken                  did not verify; kept for the operator
//
// # Bytes
//
// Numbers are little-endian. Checksums are CRC-32C (Castagnoli), and each one
// continues the one before it, so that no part can be lost, repeated or moved.
//
//	header   8  magic "deimsnap"
//	         4  format version, now 1
//	         4  length n of the metadata, at most 64 KiB
//	         n  raftpb.SnapshotMetadata: raft index, raft term, configuration
//	         4  checksum of everything above
//	chunk    4  length n, 1 byte to 256 KiB
//	         n  data
//	         4  checksum, continued over length and data
//	...         more chunks
//	trailer  4  zero: no more chunks
//	         8  sum of the lengths of all chunks
//	         4  checksum, continued over the zero and the sum
//	         8  end mark "snapdone"
//
// Nothing follows the end mark. The header keeps its layout in all versions,
// so that an older binary can tell a newer file from a damaged one.
package snap
