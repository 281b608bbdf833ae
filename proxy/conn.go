package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// idleConnsMax is how many unused connections are kept to one URL, and
	// idleConnTime how long: shorter than a member keeps them, so that a request
	// seldom meets a connection that the member is closing.
	idleConnsMax = 256
	idleConnTime = 30 * time.Second
	// headMaxBytes bounds the head of a member's answer.
	headMaxBytes = 64 << 10
)

// errCondemned is the answer to a write that was given up.
var errCondemned = errors.New("proxy: the request was given up")

// refusals are the alerts that a TLS server sends about a client's certificate
// and about nothing else.
var refusals = [...]tls.AlertError{
	42,  // bad certificate
	43,  // unsupported certificate
	44,  // revoked
	45,  // expired
	46,  // unknown
	48,  // unknown certificate authority
	49,  // access denied
	51,  // wrong signature
	116, // certificate required
}

// isRefusal reports whether a connection failed because the member refused the
// proxy's certificate.
func isRefusal(err error) bool {
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "remote error" {
		return false
	}
	for _, alert := range refusals {
		// The type of such an alert is crypto/tls's own.
		if op.Err.Error() == alert.Error() {
			return true
		}
	}
	return false
}

// noteRefusal makes errors.Is know a refusal as errRefused.
func noteRefusal(err error) error {
	if isRefusal(err) {
		return fmt.Errorf("%w: %w", errRefused, err)
	}
	return err
}

// dialError says that there was no connection to send a request over.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// newTransport returns the way to members. It uses no proxy of the environment
// and asks for no compression.
func newTransport(config func() *tls.Config, l *limits) *http.Transport {
	if config == nil {
		config = func() *tls.Config { return &tls.Config{MinVersion: tls.VersionTLS12} }
	}
	dial := func(ctx context.Context, network, addr string) (*memberConn, error) {
		d := net.Dialer{
			Timeout: l.dial,
			// A member that falls silent is noticed within half a minute.
			KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3},
		}
		conn, err := d.DialContext(ctx, network, addr)
		if err != nil {
			return nil, &dialError{err}
		}
		return &memberConn{Conn: conn, plain: conn, limit: l.memberIO}, nil
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dial(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return conn, nil
		},
		DialTLSContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dial(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return conn.secure(ctx, config(), addr, l.handshake)
		},
		Protocols:              protocols,
		DisableCompression:     true,
		MaxIdleConnsPerHost:    idleConnsMax,
		IdleConnTimeout:        idleConnTime,
		ResponseHeaderTimeout:  l.head,
		MaxResponseHeaderBytes: headMaxBytes,
	}
}

// memberConn is a connection to a member. It carries one request at a time and
// knows whether any part of it was handed to the system, so that a request that
// was not sent is told from one that may have been.
type memberConn struct {
	net.Conn
	plain net.Conn      // the same below TLS
	limit time.Duration // for one write
	// broken tells that the connection failed or ended, as opposed to a request
	// that could not be put into words.
	broken atomic.Bool

	mu        sync.Mutex
	writing   bool
	sent      int64 // bytes that the system took
	condemned bool
	got       bool  // anything that the member said
	refused   error // the refusal of the proxy's certificate, if that came first
}

// secure puts TLS on a fresh connection, and closes it if that fails.
func (c *memberConn) secure(ctx context.Context, cfg *tls.Config, addr string, limit time.Duration) (net.Conn, error) {
	cfg.NextProtos = []string{"http/1.1"}
	if cfg.ServerName == "" {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			host = addr
		}
		cfg.ServerName = host
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	secured := tls.Client(c.Conn, cfg)
	if err := secured.HandshakeContext(ctx); err != nil {
		return nil, &dialError{errors.Join(fmt.Errorf("TLS handshake with %s: %w", addr, err), closeFailed(c.Conn))}
	}
	c.Conn = secured
	return c, nil
}

// closeFailed closes a connection that is of no use. That it is closed already
// is no news.
func closeFailed(c net.Conn) error {
	if err := c.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// Read implements [net.Conn].
func (c *memberConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.note(err)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.got = c.got || n > 0; !c.got && isRefusal(err) {
		c.refused = err
	}
	return n, err
}

// refusal returns the alert by which the member refused the proxy's certificate
// before it said anything else, or nil. With TLS 1.3 that comes when requests
// can be written already; but it is part of the handshake, and a server hands
// on nothing of what it got before its handshake has ended well.
func (c *memberConn) refusal() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.refused
}

// Write implements [net.Conn].
func (c *memberConn) Write(b []byte) (int, error) {
	if !c.beginWrite() {
		return 0, errCondemned
	}
	n, err := 0, c.SetWriteDeadline(time.Now().Add(c.limit))
	if err == nil {
		// Of a TLS record that fails, n counts nothing, and the other side can
		// make nothing of it.
		n, err = c.Conn.Write(b)
	}
	c.note(err)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writing = false
	c.sent += int64(n)
	return n, err
}

// note remembers that the connection failed. Its own end does not count.
func (c *memberConn) note(err error) {
	if err != nil && !errors.Is(err, net.ErrClosed) {
		c.broken.Store(true)
	}
}

func (c *memberConn) beginWrite() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writing = !c.condemned
	return c.writing
}

// mark returns the state of the connection before a request, for condemn.
func (c *memberConn) mark() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sent
}

// check condemns a connection that had been idle if the member has closed it,
// which net/http may not have noticed yet.
func (c *memberConn) check() {
	if hasInput(c.plain) {
		c.condemn(c.mark())
	}
}

// condemn reports whether nothing was written since mark, and if so makes sure
// that nothing ever will be.
func (c *memberConn) condemn(mark int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writing || c.sent != mark {
		return false
	}
	c.condemned = true
	return true
}
