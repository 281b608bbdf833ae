package client

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// idleConnsMax is how many unused connections are kept to one endpoint, and
	// idleConnTime how long: shorter than a member keeps them, so that a request
	// seldom meets a connection that the member is closing.
	idleConnsMax = 64
	idleConnTime = 30 * time.Second
	// headMaxBytes bounds the head of an answer, answerMaxBytes its body.
	headMaxBytes   = 64 << 10
	answerMaxBytes = 1 << 30
)

const (
	typeForm   = "application/x-www-form-urlencoded"
	typeJSON   = "application/json"
	typeEvents = "text/event-stream"
)

// newTransport returns the way to the endpoints. HTTP/2 stays off: what is sent
// twice by itself is known of HTTP/1 only, see [Client.try].
func newTransport(cfg Config) *http.Transport {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if cfg.TLS != nil {
		config = cfg.TLS.Clone()
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	dialer := &net.Dialer{
		Timeout: cfg.DialTimeout,
		// A machine that is gone is noticed within half a minute.
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3},
	}
	return &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &countingConn{Conn: conn}, nil
		},
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    cfg.DialTimeout,
		Protocols:              protocols,
		DisableCompression:     true,
		MaxIdleConnsPerHost:    idleConnsMax,
		IdleConnTimeout:        idleConnTime,
		MaxResponseHeaderBytes: headMaxBytes,
	}
}

// request is a call in the form in which any endpoint may get it.
type request struct {
	method      string
	path        string // not escaped
	query       url.Values
	body        string
	contentType string
	accept      string
}

// op names the request in errors.
func (r *request) op() string { return r.method + " " + r.path }

// isRead reports whether the request changes nothing, so that it may be sent
// any number of times.
func (r *request) isRead() bool { return r.method == http.MethodGet || r.method == http.MethodHead }

// at returns the request for one endpoint.
func (r *request) at(ctx context.Context, e *endpoint) (*http.Request, error) {
	u, err := url.Parse(e.url)
	if err != nil {
		return nil, err
	}
	u.Path, u.RawQuery = r.path, r.query.Encode()
	var body io.Reader
	if r.body != "" {
		body = strings.NewReader(r.body) // net/http can rewind it
	}
	req, err := http.NewRequestWithContext(ctx, r.method, u.String(), body)
	if err != nil {
		return nil, err
	}
	if r.contentType != "" {
		req.Header.Set("Content-Type", r.contentType)
	}
	if r.accept != "" {
		req.Header.Set("Accept", r.accept)
	}
	return req, nil
}

// countingConn is a connection that knows how many bytes the system took.
type countingConn struct {
	net.Conn
	written atomic.Int64
}

// Write implements [net.Conn].
func (c *countingConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.written.Add(int64(n))
	return n, err
}

// delivery follows a request to an endpoint, to tell whether it has got there.
type delivery struct {
	mu        sync.Mutex
	connected bool
	reused    bool
	answered  bool
	conn      *countingConn // nil: unknown
	mark      int64         // what was written before the request
}

// trace returns what net/http has to call.
func (d *delivery) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		// This is called before anything is written, and again when net/http takes
		// another connection.
		GotConn: func(info httptrace.GotConnInfo) {
			conn := info.Conn
			if secured, ok := conn.(*tls.Conn); ok {
				conn = secured.NetConn()
			}
			d.mu.Lock()
			defer d.mu.Unlock()
			d.connected, d.reused = true, info.Reused
			if d.conn, _ = conn.(*countingConn); d.conn != nil {
				d.mark = d.conn.written.Load()
			}
		},
		GotFirstResponseByte: func() {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.answered = true
		},
	}
}

// possible reports whether the endpoint may have got the request, which failed
// with err. ended tells that the context had ended: the request may still be
// written then, else net/http has given the connection up.
func (d *delivery) possible(err error, ended bool) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case !d.connected:
		return false
	case !d.reused && !d.answered && isRefusal(err):
		// With TLS 1.3 a request can be written before the server has looked at the
		// certificate. It dies with the handshake.
		return false
	default:
		return ended || d.conn == nil || d.conn.written.Load() != d.mark
	}
}

// try sends a request to one endpoint and returns the head of the answer. With
// an error, sent tells whether the endpoint may have got the request.
//
// net/http itself sends a request again in two cases only: when not a byte of it
// was written to the connection, and, for reads, when a connection that had been
// idle turns out to be closed. Neither is a second write.
func (c *Client) try(ctx context.Context, e *endpoint, r *request) (resp *http.Response, sent bool, err error) {
	d := new(delivery)
	req, err := r.at(httptrace.WithClientTrace(ctx, d.trace()), e)
	if err != nil {
		return nil, false, invalidf("client: %s: %v", r.op(), err)
	}
	c.endpoints.asked(e)
	resp, err = c.transport.RoundTrip(req)
	c.endpoints.settled(e, err == nil)
	if err != nil {
		return nil, d.possible(err, ctx.Err() != nil), endOf(ctx, err)
	}
	return resp, true, nil
}

// endOf returns why ctx ended if it has, else err.
func endOf(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

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

// isRefusal reports whether a server has refused the client's certificate.
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
