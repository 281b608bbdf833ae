package proxy

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/marsevilspirit/deimos"
)

// frameMaxBytes bounds one event: two values of the largest size that a member
// can be set to, every byte escaped, and room for the rest.
const frameMaxBytes = 128 << 20

// frameReader cuts a stream into events: JSON lines, or the blocks of an event
// stream.
type frameReader struct {
	r      *bufio.Reader
	events bool
}

var errFrameTooLarge = errors.New("an event is larger than " + strconv.Itoa(frameMaxBytes) + " bytes")

// next returns the next whole frame, which the caller may keep. The end of a
// stream inside a frame is [io.ErrUnexpectedEOF].
func (r *frameReader) next() ([]byte, error) {
	var frame []byte
	lineStart := 0
	for {
		piece, err := r.r.ReadSlice('\n')
		if len(frame)+len(piece) > frameMaxBytes {
			return nil, errFrameTooLarge
		}
		frame = append(frame, piece...)
		switch {
		case err == bufio.ErrBufferFull:
			continue
		case err == io.EOF && len(frame) == 0:
			return nil, io.EOF
		case err == io.EOF:
			return nil, io.ErrUnexpectedEOF
		case err != nil:
			return nil, fmt.Errorf("reading a stream: %w", err)
		}
		if !r.events || len(frame) == lineStart+1 {
			return frame, nil
		}
		lineStart = len(frame)
	}
}

// frameIndex returns the index of the event in a frame.
func frameIndex(frame []byte, events bool) (uint64, bool) {
	if events {
		for line := range bytes.Lines(frame) {
			if id, ok := bytes.CutPrefix(line, []byte("id: ")); ok {
				index, err := strconv.ParseUint(string(bytes.TrimSuffix(id, []byte("\n"))), 10, 64)
				return index, err == nil
			}
		}
		return 0, false
	}
	var event deimos.Event
	if err := json.Unmarshal(frame, &event); err != nil || event.Node == nil {
		return 0, false
	}
	return event.Node.ModifiedIndex, event.Node.ModifiedIndex > 0
}
