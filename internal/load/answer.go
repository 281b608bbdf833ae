package load

import (
	"bytes"
	"errors"
	"strconv"
)

// answer reads one HTTP/1.1 response after the other, in the pieces in which
// they arrive, and keeps no more than the beginning of a body. Once its buffers
// have grown, it allocates nothing.
type answer struct {
	state   answerState
	status  int
	chunked bool
	closing bool               // the server closes the connection after this response
	left    int64              // bytes of the body or of the chunk that have not arrived
	part    []byte             // a head or a line that has not arrived whole
	start   []byte             // the first bytes of the body, as many as it has room for
	body    func(piece []byte) // if not nil, is given the whole body
}

type answerState uint8

const (
	inHead answerState = iota
	inBody
	inChunkSize
	inChunk
	afterChunk
	inTrailer
	answerDone
)

// headMaxBytes bounds a head, and each line of a chunked body.
const headMaxBytes = 64 << 10

var (
	errHead   = errors.New("load: the answer is not HTTP/1.1")
	errLength = errors.New("load: the answer has no length")
	errChunk  = errors.New("load: the chunks of the answer are malformed")
	errLong   = errors.New("load: the head of the answer is too long")
)

var (
	endOfHead = []byte("\r\n\r\n")
	endOfLine = []byte("\r\n")
)

// reset makes it ready for the next response.
func (a *answer) reset() {
	a.state, a.status, a.chunked, a.closing, a.left = inHead, 0, false, false, 0
	a.part, a.start = a.part[:0], a.start[:0]
}

// feed takes what has arrived and returns how much of it belongs to the
// response, and whether that is complete now.
func (a *answer) feed(data []byte) (used int, done bool, err error) {
	for a.state != answerDone {
		rest := data[used:]
		if len(rest) == 0 {
			return used, false, nil
		}
		var n int
		switch a.state {
		case inHead:
			var head []byte
			if head, n, err = a.gather(rest, endOfHead); head != nil {
				err = a.readHead(head)
			}
		case inBody, inChunk:
			n = int(min(int64(len(rest)), a.left))
			a.take(rest[:n])
			if a.left -= int64(n); a.left == 0 && a.state == inBody {
				a.state = answerDone
			} else if a.left == 0 {
				a.state = afterChunk
			}
		default:
			var line []byte
			if line, n, err = a.gather(rest, endOfLine); line != nil {
				err = a.readLine(line[:len(line)-2])
			}
		}
		used += n
		if err != nil {
			return used, false, err
		}
	}
	return used, true, nil
}

// gather returns everything up to and with end, or nil if it has not arrived,
// and how much of data it took. The result counts until the next call.
func (a *answer) gather(data, end []byte) (whole []byte, used int, err error) {
	if len(a.part) == 0 {
		if i := bytes.Index(data, end); i >= 0 {
			return data[:i+len(end)], i + len(end), nil
		}
	}
	had := len(a.part)
	a.part = append(a.part, data...)
	from := max(0, had-len(end)+1)
	i := bytes.Index(a.part[from:], end)
	if i < 0 {
		if len(a.part) > headMaxBytes {
			return nil, len(data), errLong
		}
		return nil, len(data), nil
	}
	whole = a.part[:from+i+len(end)]
	a.part = a.part[:0]
	return whole, len(whole) - had, nil
}

// readHead reads the status line and the few header fields that matter.
func (a *answer) readHead(head []byte) error {
	if len(head) < len("HTTP/1.1 200") || string(head[:7]) != "HTTP/1." || head[8] != ' ' {
		return errHead
	}
	for _, c := range head[9:12] {
		if c < '0' || c > '9' {
			return errHead
		}
		a.status = a.status*10 + int(c-'0')
	}
	a.closing = head[7] == '0'
	length := int64(-1)
	for rest := head; ; {
		i := bytes.IndexByte(rest, '\n')
		if i < 0 || len(rest) == i+1 {
			break
		}
		rest = rest[i+1:]
		switch rest[0] | 0x20 {
		case 'c':
			if v, ok := field(rest, "content-length:"); ok {
				n, ok := numberOf(v, 10)
				if !ok {
					return errLength
				}
				length = n
			} else if v, ok := field(rest, "connection:"); ok && bytes.EqualFold(v, []byte("close")) {
				a.closing = true
			}
		case 't':
			if v, ok := field(rest, "transfer-encoding:"); ok && bytes.EqualFold(v, []byte("chunked")) {
				a.chunked = true
			}
		}
	}
	switch {
	case a.chunked:
		a.state = inChunkSize
	case length < 0:
		return errLength
	case length == 0:
		a.state = answerDone
	default:
		a.state, a.left = inBody, length
	}
	return nil
}

// field returns the value of a header field if lines begin with it. The name is
// in lower case and ends with the colon.
func field(lines []byte, name string) ([]byte, bool) {
	if len(lines) < len(name) {
		return nil, false
	}
	for i := range len(name) {
		c := lines[i]
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if c != name[i] {
			return nil, false
		}
	}
	value := lines[len(name):]
	if i := bytes.IndexByte(value, '\n'); i >= 0 {
		value = value[:i]
	}
	return bytes.TrimSpace(value), true
}

// readLine reads a line between the chunks of a body, without its end.
func (a *answer) readLine(line []byte) error {
	switch a.state {
	case afterChunk:
		if len(line) > 0 {
			return errChunk
		}
		a.state = inChunkSize
	case inChunkSize:
		if i := bytes.IndexByte(line, ';'); i >= 0 {
			line = line[:i]
		}
		n, ok := numberOf(bytes.TrimSpace(line), 16)
		if !ok {
			return errChunk
		}
		if a.state, a.left = inChunk, n; n == 0 {
			a.state = inTrailer
		}
	case inTrailer:
		if len(line) == 0 {
			a.state = answerDone
		}
	}
	return nil
}

// numberOf reads digits without allocating.
func numberOf(digits []byte, base int64) (int64, bool) {
	if len(digits) == 0 || len(digits) > 15 {
		return 0, false
	}
	var n int64
	for _, c := range digits {
		var d int64
		switch {
		case '0' <= c && c <= '9':
			d = int64(c - '0')
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			d = int64(c|0x20-'a') + 10
		default:
			return 0, false
		}
		if d >= base {
			return 0, false
		}
		n = n*base + d
	}
	return n, true
}

func (a *answer) take(piece []byte) {
	if room := cap(a.start) - len(a.start); room > 0 {
		a.start = append(a.start, piece[:min(room, len(piece))]...)
	}
	if a.body != nil {
		a.body(piece)
	}
}

var errorCodeField = []byte(`{"errorCode":`)

// errorCode returns the code in an error of the keys API, or 0.
func (a *answer) errorCode() int {
	rest, ok := bytes.CutPrefix(a.start, errorCodeField)
	if !ok {
		return 0
	}
	digits, _, _ := bytes.Cut(rest, []byte(","))
	code, err := strconv.Atoi(string(digits))
	if err != nil {
		return 0
	}
	return code
}
