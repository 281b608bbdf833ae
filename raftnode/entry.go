package raftnode

import (
	"encoding/binary"

	"go.etcd.io/raft/v3/raftpb"
)

// PrefixBytes is the length of the prefix that the package keeps at the start
// of every proposal: cluster time in milliseconds, the random number of the
// proposing process, and the number of the proposal in that process, each 8
// bytes, big endian. The leader writes the time when it appends the entry, so
// that forwarded proposals are stamped by the leader too.
const PrefixBytes = 24

func putOrigin(data []byte, run, seq uint64) {
	binary.BigEndian.PutUint64(data[8:], run)
	binary.BigEndian.PutUint64(data[16:], seq)
}

func stamp(data []byte, timeMS int64) {
	binary.BigEndian.PutUint64(data, uint64(timeMS))
}

// stampOf returns the cluster time of an entry, 0 for one without a prefix.
func stampOf(e *raftpb.Entry) int64 {
	if e.Type != raftpb.EntryNormal || len(e.Data) < PrefixBytes {
		return 0
	}
	return int64(binary.BigEndian.Uint64(e.Data) &^ (1 << 63))
}

// newestStamp returns the cluster time of the last stamped entry, 0 if there
// is none. Stamps never fall along a log, so the last one is the newest.
func newestStamp(entries []raftpb.Entry) int64 {
	for i := len(entries) - 1; i >= 0; i-- {
		if t := stampOf(&entries[i]); t > 0 {
			return t
		}
	}
	return 0
}

// decodeEntry splits a committed entry for the machine. An entry without a
// prefix, such as the empty one of a new leader, has no time and no origin.
func decodeEntry(e *raftpb.Entry) Entry {
	out := Entry{Index: e.Index, Term: e.Term, Data: e.Data}
	if e.Type == raftpb.EntryNormal && len(e.Data) >= PrefixBytes {
		out.TimeMS = stampOf(e)
		out.Run = binary.BigEndian.Uint64(e.Data[8:])
		out.Seq = binary.BigEndian.Uint64(e.Data[16:])
		out.Data = e.Data[PrefixBytes:]
	}
	return out
}

// addTime appends the cluster time to the context of a heartbeat, which raft
// uses for reads.
func addTime(m *raftpb.Message, timeMS int64) {
	context := make([]byte, 0, len(m.Context)+timeBytes)
	m.Context = binary.BigEndian.AppendUint64(append(context, m.Context...), uint64(timeMS))
}

// takeTime removes it again, and returns it. judgeForm has made sure that it is
// there.
func takeTime(m *raftpb.Message) int64 {
	at := len(m.Context) - timeBytes
	timeMS := int64(binary.BigEndian.Uint64(m.Context[at:]) &^ (1 << 63))
	m.Context = m.Context[:at:at]
	if at == 0 {
		m.Context = nil
	}
	return timeMS
}

const timeBytes = 8
