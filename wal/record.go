package wal

import (
	"encoding/binary"
	"hash/crc32"

	etcdwal "go.etcd.io/etcd/server/v3/storage/wal"
)

// The kinds of records.
const (
	kindMetadata = byte(etcdwal.MetadataType)
	kindEntry    = byte(etcdwal.EntryType)
	kindState    = byte(etcdwal.StateType)
	kindCRC      = byte(etcdwal.CrcType)
	kindSnapshot = byte(etcdwal.SnapshotType)
)

// frameBytes is the length word before each record. Records are padded so
// that the next word is aligned to as many bytes.
const frameBytes = 8

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// record is one record of a segment. Its data points into the segment.
type record struct {
	kind byte
	crc  uint32
	data []byte
	// size is the bytes that the record takes in the file, with length word
	// and padding.
	size int64
}

// follows reports whether the checksum of r continues that of prev, which
// proves with both together that they were written one after the other.
func (r record) follows(prev record) bool {
	return crc32.Update(prev.crc, castagnoli, r.data) == r.crc
}

// endsBatch reports whether the record is the last of what one fsync covers.
// The state record that begins a batch counts too: it repeats what is durable.
func (r record) endsBatch() bool { return r.kind == kindState || r.kind == kindSnapshot }

// isBody reports whether the record may stand behind the head of a segment.
func (r record) isBody() bool {
	return r.kind == kindEntry || r.kind == kindState || r.kind == kindSnapshot
}

// parseFrame splits a length word into the length of the record and that of
// its padding. It accepts exactly the words that are ever written.
func parseFrame(word uint64) (length, padding int64, ok bool) {
	length = int64(word & (1<<56 - 1))
	padding = -length & 7
	mark := word >> 56
	if padding == 0 {
		return length, padding, length > 0 && mark == 0
	}
	return length, padding, mark == uint64(0x80|padding)
}

// parseRecord reads a record without its frame and padding. It accepts exactly
// the bytes that are ever written: each field once, in order, and nothing else.
// The checksum is not looked at.
func parseRecord(b []byte) (r record, ok bool) {
	if len(b) < 4 || b[0] != 0x08 || b[1] < kindMetadata || b[1] > kindSnapshot || b[2] != 0x10 {
		return r, false
	}
	r.kind = b[1]
	crc, n := binary.Uvarint(b[3:])
	if n <= 0 || crc > 1<<32-1 {
		return r, false
	}
	r.crc = uint32(crc)
	b = b[3+n:]
	if r.kind == kindCRC {
		return r, len(b) == 0
	}
	r.data, ok = lastField(b, 0x1a)
	return r, ok
}

// lastField reads a field of bytes that ends a message.
func lastField(b []byte, tag byte) (data []byte, ok bool) {
	if len(b) < 2 || b[0] != tag {
		return nil, false
	}
	length, n := binary.Uvarint(b[1:])
	if n <= 0 || length != uint64(len(b)-1-n) {
		return nil, false
	}
	return b[1+n:], true
}

// isPayload reports whether b is what may follow the numbers of an entry: its
// data, or nothing.
func isPayload(b []byte) bool {
	_, ok := lastField(b, 0x22)
	return ok || len(b) == 0
}

// threeNumbers reads the fields 1, 2 and 3 of a message, all of them numbers
// and all present: term, vote and commit of a state, or type, term and index
// of an entry. It returns what follows them.
func threeNumbers(b []byte) (v [3]uint64, rest []byte, ok bool) {
	for i := range v {
		if len(b) < 2 || b[0] != byte(i+1)<<3 {
			return v, nil, false
		}
		value, n := binary.Uvarint(b[1:])
		if n <= 0 {
			return v, nil, false
		}
		v[i] = value
		b = b[1+n:]
	}
	return v, b, true
}

// recordSizeMax returns how many bytes a record with this much data takes at
// most; it may be a few bytes less when its checksum is a small number.
func recordSizeMax(data int) int64 {
	length := 2 + 6 + 1 + uvarintBytes(uint64(data)) + data
	return int64(frameBytes + length + (-length & 7))
}

func uvarintBytes(v uint64) int {
	n := 1
	for ; v >= 0x80; v >>= 7 {
		n++
	}
	return n
}
