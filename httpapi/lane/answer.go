package lane

import (
	"errors"
	"net/http"
	"strconv"
	"time"
)

// gatherMaxBytes is how much of an answer is gathered for one write.
const gatherMaxBytes = 64 << 10

// An answer for which the handler sets no deadline has to be taken within takeTime
// to begin with and takeStep more for each takeBytes, or a quarter more than that.
const (
	takeTime  = 10 * time.Second
	takeStep  = time.Second
	takeBytes = 16 << 10
)

// answer is the [http.ResponseWriter] of a connection. It gathers head and
// body and sends them with one write, unless they are large, or flushed.
type answer struct {
	conn   *conn
	header http.Header
	began  time.Time
	// wrote tells that the head is in out or sent.
	wrote bool
	// bare tells that the answer has no body, whatever is written.
	bare bool
	// chunked tells that the body's length was not known at its beginning.
	chunked bool
	// closes tells that the connection ends with this answer.
	closes bool
	// held tells that nothing may be sent before the end, and late that the answer
	// was waited for.
	held   bool
	late   bool
	out    []byte
	pooled *[bufferBytes]byte // that out began in
	err    error
	// writeBy is the deadline of the next write, and bound the one that the
	// connection has. Moving it is dear.
	writeBy, bound time.Time
}

// begin prepares for the next request.
func (a *answer) begin() {
	clear(a.header)
	a.began = time.Now()
	a.wrote, a.bare, a.chunked, a.closes, a.held, a.late, a.err = false, false, false, false, false, false, nil
	a.writeBy = time.Time{}
	a.conn.body.by = time.Time{}
}

// Header implements [http.ResponseWriter].
func (a *answer) Header() http.Header { return a.header }

// WriteHeader implements [http.ResponseWriter].
func (a *answer) WriteHeader(status int) { a.WriteHead(status, nil) }

// WriteHead implements [HeadWriter]. The fields may be nil.
func (a *answer) WriteHead(status int, fields []byte) {
	if a.wrote {
		return
	}
	a.wrote = true
	c := a.conn
	a.bare = c.request.Method == http.MethodHead || status == http.StatusNoContent || status == http.StatusNotModified
	a.grow()
	a.out = appendStatus(a.out, status)
	for name, values := range a.header {
		for _, value := range values {
			a.out = append(a.out, name...)
			a.out = append(a.out, ": "...)
			a.out = append(a.out, value...)
			a.out = append(a.out, "\r\n"...)
		}
	}
	a.out = append(a.out, fields...)
	if fields == nil && a.header["Content-Length"] == nil && status != http.StatusNoContent && status != http.StatusNotModified {
		a.chunked = !a.bare
		a.out = append(a.out, "Transfer-Encoding: chunked\r\n"...)
	}
	if len(a.header["Connection"]) > 0 {
		a.closes = true
	} else if c.head.closes || c.server.closing.Load() || c.body.left > int64(c.end-c.start) {
		a.closes = true
		a.out = append(a.out, "Connection: close\r\n"...)
	}
	now := a.began
	if a.late || !a.held {
		now = time.Now()
	}
	a.out = append(a.out, "Date: "...)
	a.out = append(a.out, c.server.date.at(now)...)
	a.out = append(a.out, "\r\n\r\n"...)
}

func appendStatus(dst []byte, status int) []byte {
	switch status {
	case http.StatusOK:
		return append(dst, "HTTP/1.1 200 OK\r\n"...)
	case http.StatusCreated:
		return append(dst, "HTTP/1.1 201 Created\r\n"...)
	}
	dst = append(dst, "HTTP/1.1 "...)
	dst = strconv.AppendInt(dst, int64(status), 10)
	dst = append(dst, ' ')
	dst = append(dst, http.StatusText(status)...)
	return append(dst, "\r\n"...)
}

// grow gets a buffer to gather in.
func (a *answer) grow() {
	if a.out == nil {
		a.pooled = buffers.Get().(*[bufferBytes]byte)
		a.out = a.pooled[:0]
	}
}

// Write implements [http.ResponseWriter].
func (a *answer) Write(p []byte) (int, error) {
	if !a.wrote {
		a.WriteHeader(http.StatusOK)
	}
	if a.err != nil {
		return 0, a.err
	}
	if a.bare || len(p) == 0 {
		return len(p), nil
	}
	if len(a.out)+len(p) > gatherMaxBytes && !a.held && a.send() != nil {
		return 0, a.err
	}
	a.grow()
	if a.chunked {
		a.out = strconv.AppendInt(a.out, int64(len(p)), 16)
		a.out = append(a.out, "\r\n"...)
	}
	if len(p) > gatherMaxBytes && !a.held {
		if a.send() == nil {
			a.transmit(p)
		}
		a.grow()
	} else {
		a.out = append(a.out, p...)
	}
	if a.chunked {
		a.out = append(a.out, "\r\n"...)
	}
	if a.err != nil {
		return 0, a.err
	}
	return len(p), nil
}

// FlushError sends what was gathered; by it [http.ResponseController] flushes.
// From now on the answer is a stream, and its client is watched.
func (a *answer) FlushError() error {
	if !a.wrote {
		a.WriteHeader(http.StatusOK)
	}
	if a.send() != nil {
		return a.err
	}
	a.conn.client.start(a.conn)
	return nil
}

// SetReadDeadline bounds waiting for the body; by it [http.ResponseController]
// does.
func (a *answer) SetReadDeadline(t time.Time) error {
	a.conn.body.by = t
	return nil
}

// SetWriteDeadline bounds the writes that follow in this answer; by it
// [http.ResponseController] does.
func (a *answer) SetWriteDeadline(t time.Time) error {
	a.writeBy = t
	return nil
}

// send writes what was gathered.
func (a *answer) send() error {
	if a.err == nil && len(a.out) > 0 {
		a.transmit(a.out)
	}
	a.release()
	return a.err
}

func (a *answer) transmit(p []byte) {
	if a.err = a.setBound(a.takenBy(len(p))); a.err == nil {
		_, a.err = a.conn.nc.Write(p)
	}
}

// takenBy returns when the client must have taken n bytes: the handler's deadline, or
// one as generous as that for a body that comes slowly. It may be that which the
// connection has.
func (a *answer) takenBy(n int) time.Time {
	if !a.writeBy.IsZero() {
		return a.writeBy
	}
	now := time.Now()
	limit := takeTime + time.Duration(n/takeBytes)*takeStep
	if left := a.bound.Sub(now); left >= limit && left <= 2*limit {
		return a.bound
	}
	return now.Add(limit + limit/4)
}

// setBound bounds writing; the zero time lifts the bound.
func (a *answer) setBound(t time.Time) error {
	if t.Equal(a.bound) {
		return nil
	}
	a.bound = t
	return a.conn.nc.SetWriteDeadline(t)
}

// release gives the buffer back.
func (a *answer) release() {
	if a.pooled != nil {
		buffers.Put(a.pooled)
	}
	a.pooled, a.out = nil, nil
}

// end sends the rest of the answer. It returns false when it could not be sent.
func (a *answer) end() bool {
	a.complete()
	err := a.send()
	a.writeBy = time.Time{}
	return err == nil
}

// complete makes what was gathered end the answer.
func (a *answer) complete() {
	if !a.wrote {
		a.WriteHeader(http.StatusOK)
	}
	if a.chunked {
		a.grow()
		a.out = append(a.out, "0\r\n\r\n"...)
	}
}

// errAbandoned stands for a handler that has given up.
var errAbandoned = errors.New("lane: the answer was given up")

// abandon drops what was gathered: half an answer is none.
func (a *answer) abandon() {
	a.err = errAbandoned
	a.release()
}
