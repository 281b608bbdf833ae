package snap

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos/internal/fsx"
)

const (
	magic         = "deimsnap"
	endMark       = "snapdone"
	formatVersion = 1
	metaMaxBytes  = 64 << 10
	chunkMaxBytes = 256 << 10

	prefixBytes  = len(magic) + 4 + 4
	trailerBytes = 4 + 8 + 4 + len(endMark)
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encoder writes one snapshot file. Its first error is final.
type encoder struct {
	w     io.Writer
	crc   uint32
	total uint64
	// buf is one chunk as it will be written: length, data, room for the
	// checksum.
	buf []byte
	err error
}

func newEncoder(w io.Writer, meta raftpb.SnapshotMetadata) (*encoder, error) {
	header, err := encodeHeader(meta)
	if err != nil {
		return nil, err
	}
	e := &encoder{w: w, buf: make([]byte, 4, 4+chunkMaxBytes+4)}
	e.crc = binary.LittleEndian.Uint32(header[len(header)-4:])
	if _, e.err = w.Write(header); e.err != nil {
		return e, nil
	}
	return e, nil
}

func encodeHeader(meta raftpb.SnapshotMetadata) ([]byte, error) {
	data, err := meta.Marshal()
	if err != nil {
		return nil, err
	}
	if len(data) > metaMaxBytes {
		return nil, fmt.Errorf("metadata of %d bytes is longer than %d", len(data), metaMaxBytes)
	}
	b := make([]byte, 0, prefixBytes+len(data)+4)
	b = append(b, magic...)
	b = binary.LittleEndian.AppendUint32(b, formatVersion)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(data)))
	b = append(b, data...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli)), nil
}

// Write implements [io.Writer] for the body.
func (e *encoder) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 && e.err == nil {
		n := min(len(p), 4+chunkMaxBytes-len(e.buf))
		e.buf = append(e.buf, p[:n]...)
		p = p[n:]
		written += n
		if len(e.buf) == 4+chunkMaxBytes {
			e.flush()
		}
	}
	return written, e.err
}

func (e *encoder) flush() {
	n := len(e.buf) - 4
	if n == 0 || e.err != nil {
		return
	}
	binary.LittleEndian.PutUint32(e.buf, uint32(n))
	e.crc = crc32.Update(e.crc, castagnoli, e.buf)
	e.total += uint64(n)
	_, e.err = e.w.Write(binary.LittleEndian.AppendUint32(e.buf, e.crc))
	e.buf = e.buf[:4]
}

// finish writes what is buffered and the trailer.
func (e *encoder) finish() error {
	e.flush()
	if e.err != nil {
		return e.err
	}
	b := binary.LittleEndian.AppendUint64(make([]byte, 4, trailerBytes), e.total)
	b = binary.LittleEndian.AppendUint32(b, crc32.Update(e.crc, castagnoli, b))
	_, e.err = e.w.Write(append(b, endMark...))
	return e.err
}

// decoder reads one snapshot file and is the [io.Reader] of its body. It
// holds one chunk in memory. Its first error is final; [io.EOF] is one, and
// comes only after the trailer was found right.
type decoder struct {
	name  string
	r     *bufio.Reader
	size  int64
	at    int64 // offset of the next byte to read
	meta  raftpb.SnapshotMetadata
	crc   uint32
	total uint64
	buf   []byte
	rest  []byte // verified bytes that were not handed out yet
	err   error
}

// newDecoder reads and checks the header.
func newDecoder(f fsx.File, name string) (*decoder, error) {
	size, err := f.Size()
	if err != nil {
		return nil, ioError("measure", name, err)
	}
	d := &decoder{name: name, r: bufio.NewReaderSize(f, 4096), size: size}
	return d, d.header()
}

func (d *decoder) header() error {
	prefix := make([]byte, prefixBytes)
	if err := d.read(prefix); err != nil {
		return err
	}
	if string(prefix[:len(magic)]) != magic {
		return d.damage(0, "the file does not begin as a snapshot")
	}
	version := binary.LittleEndian.Uint32(prefix[len(magic):])
	n := binary.LittleEndian.Uint32(prefix[len(magic)+4:])
	if n > metaMaxBytes || int64(n) > d.size-d.at {
		return d.damage(int64(len(magic)+4), fmt.Sprintf("metadata of %d bytes is too long", n))
	}
	b := make([]byte, n+4)
	if err := d.read(b); err != nil {
		return err
	}
	d.crc = crc32.Update(crc32.Checksum(prefix, castagnoli), castagnoli, b[:n])
	if binary.LittleEndian.Uint32(b[n:]) != d.crc {
		return d.damage(0, "the header does not match its checksum")
	}
	if version != formatVersion {
		return fmt.Errorf("snap: %s: %w: the file has version %d, this binary reads version %d; start the version that wrote it",
			d.name, ErrVersion, version, formatVersion)
	}
	if err := d.meta.Unmarshal(b[:n]); err != nil {
		return d.damage(int64(prefixBytes), err.Error())
	}
	return nil
}

// Read implements [io.Reader].
func (d *decoder) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(d.rest) == 0 {
		if d.err == nil {
			d.err = d.next()
		}
		if d.err != nil {
			return 0, d.err
		}
	}
	n := copy(p, d.rest)
	d.rest = d.rest[n:]
	return n, nil
}

// next reads and checks one chunk, or the trailer, after which it returns
// [io.EOF].
func (d *decoder) next() error {
	start := d.at
	var length [4]byte
	if err := d.read(length[:]); err != nil {
		return err
	}
	n := binary.LittleEndian.Uint32(length[:])
	if n == 0 {
		return d.trailer(start)
	}
	if n > chunkMaxBytes || int64(n) > d.size-d.at {
		return d.damage(start, fmt.Sprintf("chunk of %d bytes is too long", n))
	}
	if cap(d.buf) < int(n)+4 {
		d.buf = make([]byte, n+4)
	}
	b := d.buf[:n+4]
	if err := d.read(b); err != nil {
		return err
	}
	d.crc = crc32.Update(crc32.Update(d.crc, castagnoli, length[:]), castagnoli, b[:n])
	if binary.LittleEndian.Uint32(b[n:]) != d.crc {
		return d.damage(start, "a chunk does not match its checksum")
	}
	d.total += uint64(n)
	d.rest = b[:n]
	return nil
}

func (d *decoder) trailer(start int64) error {
	b := make([]byte, trailerBytes)
	if err := d.read(b[4:]); err != nil {
		return err
	}
	switch {
	case binary.LittleEndian.Uint32(b[12:]) != crc32.Update(d.crc, castagnoli, b[:12]):
		return d.damage(start, "the trailer does not match its checksum")
	case binary.LittleEndian.Uint64(b[4:]) != d.total:
		return d.damage(start, "the trailer names another length")
	case string(b[16:]) != endMark:
		return d.damage(start, "the end mark is missing")
	case d.at != d.size:
		return d.damage(d.at, "bytes follow the end mark")
	}
	return io.EOF
}

// read fills b.
func (d *decoder) read(b []byte) error {
	start := d.at
	n, err := io.ReadFull(d.r, b)
	d.at += int64(n)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return d.damage(start, "the file ends too early")
	default:
		return ioError("read", d.name, err)
	}
}

// drain checks what was not read yet, to the end mark.
func (d *decoder) drain() error {
	_, err := io.Copy(io.Discard, struct{ io.Reader }{d})
	return err
}

func (d *decoder) damage(offset int64, what string) error {
	return &DamageError{File: d.name, Offset: offset, Err: errors.New(what)}
}

// verify reads a whole file and returns its metadata. With sync set it also
// makes the content durable.
func verify(fsys fsx.FS, name string, sync bool) (meta raftpb.SnapshotMetadata, err error) {
	f, err := fsys.Open(name)
	if err != nil {
		return meta, ioError("open", name, err)
	}
	defer func() {
		if cerr := f.Close(); err == nil && cerr != nil {
			err = ioError("close", name, cerr)
		}
	}()
	if sync {
		if err := f.Sync(); err != nil {
			return meta, ioError("sync", name, err)
		}
	}
	d, err := newDecoder(f, name)
	if err != nil {
		return meta, err
	}
	return d.meta, d.drain()
}
