package lane

import (
	"crypto/tls"
	"errors"
	"net"
	"sync"
)

// handover is the listener from which net/http gets the connections of others.
type handover struct {
	addr  net.Addr
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newHandover(addr net.Addr) *handover {
	return &handover{addr: addr, conns: make(chan net.Conn), done: make(chan struct{})}
}

// give hands a connection over, together with what was read of it. Once
// net/http has stopped, the connection is closed instead.
func (h *handover) give(nc net.Conn, read []byte) {
	secure, _ := nc.(*tls.Conn)
	switch {
	case len(read) > 0 && secure != nil:
		nc = &replayedSecure{replayed{Conn: nc, read: read}, secure}
	case len(read) > 0:
		nc = &replayed{Conn: nc, read: read}
	}
	select {
	case h.conns <- nc:
	case <-h.done:
		_ = nc.Close() // the client sees that it was not answered
	}
}

// Accept implements [net.Listener].
func (h *handover) Accept() (net.Conn, error) {
	select {
	case nc := <-h.conns:
		return nc, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener].
func (h *handover) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

// Addr implements [net.Listener]: the address of the first listener.
func (h *handover) Addr() net.Addr { return h.addr }

// replayed is a connection of which something was read already.
type replayed struct {
	net.Conn
	read []byte
}

// Read implements [net.Conn].
func (r *replayed) Read(p []byte) (int, error) {
	if len(r.read) == 0 {
		return r.Conn.Read(p)
	}
	n := copy(p, r.read)
	if r.read = r.read[n:]; len(r.read) == 0 {
		r.read = nil // the garbage collector may have it
	}
	return n, nil
}

// NetConn returns the connection below.
func (r *replayed) NetConn() net.Conn { return r.Conn }

// CloseWrite ends the sending side alone, as net/http wants it.
func (r *replayed) CloseWrite() error { return closeWrite(r.Conn) }

// replayedSecure is the same with TLS, of which net/http asks.
type replayedSecure struct {
	replayed
	secure *tls.Conn
}

// ConnectionState returns what the handshake has settled.
func (r *replayedSecure) ConnectionState() tls.ConnectionState { return r.secure.ConnectionState() }

func closeWrite(nc net.Conn) error {
	half, ok := nc.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return half.CloseWrite()
}
