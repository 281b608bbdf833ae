package lane

import (
	"io"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// sealed is the connection below TLS. While a loop has the connection, TLS does
// not wait here: what has not come is errNotYet, and what it writes is gathered
// until [sealed.seal] sends it. It belongs to who has the connection, but for
// reads and writes at the same time while that is a goroutine.
type sealed struct {
	net.Conn
	conn *conn
	// looped tells that a loop has the connection, and drained that there is
	// nothing to read before epoll(7) tells of more.
	looped, drained bool
	// out are the records that are to be sent.
	out    []byte
	pooled *[bufferBytes]byte // that out began in
}

// belowTLS returns what TLS is to read from and write to.
func (c *conn) belowTLS() net.Conn {
	c.sealed = &sealed{Conn: c.socket, conn: c}
	return c.sealed
}

// notYet is the error of a read that would have to wait. crypto/tls goes on after
// an error that is temporary, with what it has read of a record so far.
type notYet struct{}

var errNotYet net.Error = notYet{}

func (notYet) Error() string   { return "lane: nothing to read yet" }
func (notYet) Timeout() bool   { return false }
func (notYet) Temporary() bool { return true }

// Read implements [net.Conn].
func (s *sealed) Read(p []byte) (int, error) {
	if !s.looped {
		return s.Conn.Read(p)
	}
	if s.drained && !s.conn.hungUp {
		return 0, errNotYet
	}
	switch n, err := s.conn.receive(p); {
	case err == unix.EAGAIN:
		s.drained = true
		return 0, errNotYet
	case err != nil:
		return 0, err
	case n == 0:
		return 0, io.EOF
	default:
		s.drained = n < len(p)
		return n, nil
	}
}

// Write implements [net.Conn].
func (s *sealed) Write(p []byte) (int, error) {
	if s.looped {
		if s.out == nil {
			s.pooled = buffers.Get().(*[bufferBytes]byte)
			s.out = s.pooled[:0]
		}
		s.out = append(s.out, p...)
		return len(p), nil
	}
	if err := s.sendRest(); err != nil {
		return 0, err
	}
	return s.Conn.Write(p)
}

// Close implements [net.Conn]. TLS has written its farewell before.
func (s *sealed) Close() error {
	if s.looped {
		_ = s.Conn.SetWriteDeadline(time.Time{}) // TLS lets nothing be written after it
		_ = s.sendNow()                          // a client that does not read goes without it
	}
	return s.Conn.Close()
}

// NetConn returns the connection below.
func (s *sealed) NetConn() net.Conn { return s.Conn }

// open reads what there is without waiting: several records, as there may be for one
// request. An error after the bytes comes again.
func (s *sealed) open(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var more int
		more, err = s.conn.nc.Read(p[n:])
		n += more
	}
	switch {
	case err != errNotYet:
		return n, err
	case n == 0:
		return 0, unix.EAGAIN
	}
	return n, nil
}

// seal makes records of p, and sends what can be sent without waiting.
func (s *sealed) seal(p []byte) error {
	if _, err := s.conn.nc.Write(p); err != nil {
		return err
	}
	return s.sendNow()
}

// sendNow sends what can be sent of the records without waiting.
func (s *sealed) sendNow() error {
	if len(s.out) == 0 {
		return nil
	}
	n, err := s.conn.transmit(s.out)
	switch {
	case err == unix.EAGAIN:
	case err != nil:
		return err
	default:
		s.sent(n)
	}
	return nil
}

// sendRest sends what is left of the records, and waits for the client to take it.
func (s *sealed) sendRest() error {
	if len(s.out) == 0 {
		return nil
	}
	n, err := s.Conn.Write(s.out)
	s.sent(n)
	return err
}

// sent drops n bytes, and the buffer with the last one.
func (s *sealed) sent(n int) {
	if s.out = s.out[n:]; len(s.out) > 0 {
		return
	}
	if s.pooled != nil {
		buffers.Put(s.pooled)
	}
	s.out, s.pooled = nil, nil
}
