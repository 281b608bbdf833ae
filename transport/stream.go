package transport

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// The kinds of frames of rafthttp's msgapp stream, by their first byte:
//
//	0  heartbeat of the link: nothing follows
//	1  entries: count, then length and bytes of each entry, then commit index
//	2  message: length, then its bytes
//
// The frames of the message stream have no kind: length, then the bytes of a
// message. All numbers are 8 bytes, big-endian.
const (
	frameLink    = 0
	frameEntries = 1
	frameMessage = 2

	// entriesMax bounds the entries of one frame, for which rafthttp takes
	// memory at once. A message of 1 MiB has fewer, even if all are empty.
	entriesMax = 1 << 18
)

// errFrame ends a stream on which a peer sends what rafthttp would take too
// much memory for, or end the process for.
var errFrame = errors.New("transport: invalid frame in a stream")

// errOver ends a stream of a process in whose place another one speaks now.
var errOver = errors.New("transport: another process speaks for the member now")

// stream hands on the bytes of a stream from a peer once they are known to be
// harmless. It is used by one goroutine, except that Close may be called beside
// a read.
type stream struct {
	body   io.ReadCloser
	r      *bufio.Reader
	msgapp bool // the stream for append messages
	// sender is who the stream comes from: he can only speak for himself. 0:
	// not checked.
	sender uint64
	// onRefused, if set, is told when he does not.
	onRefused func(error)
	// speaker, if set, is the process that the stream comes from, and leave is
	// called when the stream ends.
	speaker *tenure
	leave   func()

	piece   []byte // checked bytes, of which those before at are handed on
	at      int
	entries uint64 // still to come in this frame
	commit  bool   // the commit index comes next
	budget  uint64 // bytes that the entries of this frame may still have
	entry   raftpb.Entry
	err     error // the end of the stream, once it was met
}

func newStream(body io.ReadCloser, msgapp bool) *stream {
	return &stream{body: body, r: bufio.NewReaderSize(body, 32<<10), msgapp: msgapp}
}

// Close implements io.Closer.
func (s *stream) Close() error {
	if s.leave != nil {
		s.leave()
	}
	return s.body.Close()
}

// Read implements io.Reader.
func (s *stream) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if s.err != nil {
		return 0, s.err
	}
	if s.at == len(s.piece) {
		s.piece, s.at = s.piece[:0], 0
		if s.err = s.next(); s.err == nil {
			s.err = s.hear()
		}
		if s.err != nil {
			return 0, s.err
		}
	}
	n := copy(p, s.piece[s.at:])
	s.at += n
	return n, nil
}

// hear notes that its process is alive, which must speak for the member still.
func (s *stream) hear() error {
	if s.speaker == nil {
		return nil
	}
	if s.speaker.over.Load() {
		return errOver
	}
	s.speaker.hear()
	return nil
}

// next reads and checks the next piece.
func (s *stream) next() error {
	switch {
	case s.entries > 0:
		return s.nextEntry()
	case s.commit:
		s.commit = false
		_, err := s.number()
		return err
	case !s.msgapp:
		if _, err := s.r.Peek(1); err != nil {
			return err // io.EOF between frames
		}
		return s.nextMessage()
	}
	kind, err := s.r.ReadByte()
	if err != nil {
		return err
	}
	s.piece = append(s.piece, kind)
	switch kind {
	case frameLink:
		return nil
	case frameEntries:
		return s.startEntries()
	case frameMessage:
		return s.nextMessage()
	default:
		return fmt.Errorf("%w: kind %d", errFrame, kind)
	}
}

func (s *stream) nextMessage() error {
	data, err := s.sized(messageMaxBytes)
	if err != nil {
		return err
	}
	var m raftpb.Message
	if err := m.Unmarshal(data); err != nil {
		return fmt.Errorf("%w: %w", errFrame, err)
	}
	if s.sender == 0 || isLinkHeartbeat(&m) {
		return nil
	}
	if err := speaksFor(s.sender, &m); err != nil {
		if s.onRefused != nil {
			s.onRefused(err)
		}
		return fmt.Errorf("%w: %w", errFrame, err)
	}
	return nil
}

// isLinkHeartbeat tells what rafthttp keeps a silent message stream alive with
// and does not hand on.
func isLinkHeartbeat(m *raftpb.Message) bool {
	return m.Type == raftpb.MsgHeartbeat && m.From == raft.None && m.To == raft.None
}

func (s *stream) startEntries() error {
	n, err := s.number()
	if err != nil {
		return err
	}
	if n > entriesMax {
		return fmt.Errorf("%w: %d entries, at most %d are taken", errFrame, n, entriesMax)
	}
	s.entries, s.commit, s.budget = n, true, messageMaxBytes
	return nil
}

func (s *stream) nextEntry() error {
	data, err := s.sized(s.budget)
	if err != nil {
		return err
	}
	s.entries--
	s.budget -= uint64(len(data))
	s.entry = raftpb.Entry{Data: s.entry.Data[:0]} // decoding reuses the memory
	if err := s.entry.Unmarshal(data); err != nil {
		return fmt.Errorf("%w: entry: %w", errFrame, err)
	}
	return nil
}

// sized reads a length of at most limit and that many bytes, and returns the
// bytes.
func (s *stream) sized(limit uint64) ([]byte, error) {
	size, err := s.number()
	if err != nil {
		return nil, err
	}
	if size > limit {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are taken", errFrame, size, limit)
	}
	return s.take(int(size))
}

func (s *stream) number() (uint64, error) {
	data, err := s.take(8)
	if err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint64(data), nil
}

// take appends n bytes to the piece and returns them. Memory grows with the
// bytes that arrive, not with what a length promises.
func (s *stream) take(n int) ([]byte, error) {
	const step = 1 << 20
	start := len(s.piece)
	for left := n; left > 0; {
		end := len(s.piece)
		more := min(left, step)
		if cap(s.piece)-end < more {
			s.piece = append(make([]byte, 0, max(2*cap(s.piece), end+more)), s.piece...)
		}
		s.piece = s.piece[:end+more]
		if _, err := io.ReadFull(s.r, s.piece[end:]); err != nil {
			return nil, cutShort(err)
		}
		left -= more
	}
	return s.piece[start:], nil
}

// cutShort tells an end inside a frame from one between frames.
func cutShort(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
