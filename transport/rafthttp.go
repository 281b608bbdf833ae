package transport

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/xiang90/probing"
	"go.etcd.io/etcd/server/v3/etcdserver/api/rafthttp"
	"go.etcd.io/raft/v3/raftpb"
)

// This file replaces what rafthttp connects with. Its own round trippers are
// meant to give up a stream that is silent for 5 s, but the timeouts are set
// where net/http does not look (Transport.Dial beside Transport.DialContext),
// so that a connection which died without a word is noticed after minutes. They
// also follow the proxy variables of the environment, and the process ends when
// an answer names a version that does not parse, or when a stream carries an
// entry that does not. The probers ask without any timeout for what the streams
// know already.
//
// rafthttp offers no door for this, so the unexported fields are set by name. A
// version of rafthttp in which they have changed is refused by NewHTTP, and
// therefore by every test.

const (
	// answerMaxBytes is how much of an answer is read; the words of rafthttp are
	// shorter.
	answerMaxBytes = 64 << 10
	// msgappPrefix begins the paths of the streams for append messages.
	msgappPrefix = "/raft/stream/msgapp/"
)

// clients are the connections that this member opens to its peers.
type clients struct {
	// streams carry what peers send to us. A read without a byte for
	// idleTimeout ends one; rafthttp writes a heartbeat three times as often.
	streams *http.Transport
	// messages carry single messages while no stream is open.
	messages *http.Transport
	// snapshots have no timeout: the monitor looks after them.
	snapshots *http.Transport
	// calls have none either: their contexts bound them.
	calls *http.Transport
}

func newClients(dialTimeout time.Duration, tlsConfig func() *tls.Config) *clients {
	if tlsConfig == nil {
		tlsConfig = func() *tls.Config { return &tls.Config{MinVersion: tls.VersionTLS13} }
	}
	d := &peerDialer{net.Dialer{Timeout: dialTimeout, KeepAlive: idleTimeout}, tlsConfig}
	return &clients{
		streams: &http.Transport{
			DialContext:           d.dial(idleTimeout, idleTimeout),
			DialTLSContext:        d.dialTLS(idleTimeout, idleTimeout),
			ResponseHeaderTimeout: idleTimeout,
			MaxIdleConnsPerHost:   -1, // a stream's connection is not fit for a second one
		},
		messages: &http.Transport{
			DialContext:           d.dial(0, idleTimeout),
			DialTLSContext:        d.dialTLS(0, idleTimeout),
			ResponseHeaderTimeout: idleTimeout,
			MaxIdleConnsPerHost:   4, // rafthttp posts with four workers
			IdleConnTimeout:       time.Minute,
		},
		snapshots: &http.Transport{
			DialContext:           d.dial(0, 0),
			DialTLSContext:        d.dialTLS(0, 0),
			ExpectContinueTimeout: idleTimeout,
			MaxIdleConnsPerHost:   -1,
		},
		calls: &http.Transport{
			DialContext:       d.dial(0, idleTimeout),
			DialTLSContext:    d.dialTLS(0, idleTimeout),
			DisableKeepAlives: true, // it must be known whether a request has left
		},
	}
}

// close ends the connections that no request uses.
func (c *clients) close() {
	for _, t := range []*http.Transport{c.streams, c.messages, c.snapshots, c.calls} {
		t.CloseIdleConnections()
	}
}

// peerDialer opens the connections to peers.
type peerDialer struct {
	net.Dialer
	config func() *tls.Config // of one connection
}

type dialFunc = func(ctx context.Context, network, addr string) (net.Conn, error)

// dial returns a function that opens plain connections with these timeouts.
func (d *peerDialer) dial(readTimeout, writeTimeout time.Duration) dialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := d.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return timedConn{c, readTimeout, writeTimeout}, nil
	}
}

// dialTLS does the same with TLS on top.
func (d *peerDialer) dialTLS(readTimeout, writeTimeout time.Duration) dialFunc {
	dial := d.dial(readTimeout, writeTimeout)
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		config := d.config()
		if config.ServerName == "" {
			if config.ServerName, _, err = net.SplitHostPort(addr); err != nil {
				return nil, errors.Join(err, c.Close())
			}
		}
		config.MinVersion = max(config.MinVersion, tls.VersionTLS13)
		tc := tls.Client(c, config)
		ctx, cancel := context.WithTimeout(ctx, idleTimeout)
		defer cancel()
		if err := tc.HandshakeContext(ctx); err != nil {
			_ = c.Close() // the handshake's error says what is wrong
			return nil, fmt.Errorf("TLS handshake with %s: %w", addr, err)
		}
		return tc, nil
	}
}

// install makes a started rafthttp use our round trippers and no probers.
func install(rt *rafthttp.Transport, openStream, post roundTripper) error {
	for name, value := range map[string]any{
		"streamRt":       openStream,
		"pipelineRt":     post,
		"streamProber":   noProber{},
		"pipelineProber": noProber{},
	} {
		field := reflect.ValueOf(rt).Elem().FieldByName(name)
		if !field.IsValid() || field.Kind() != reflect.Interface || !reflect.TypeOf(value).Implements(field.Type()) {
			return fmt.Errorf("transport: this version of rafthttp has no field %s for a %T", name, value)
		}
		reflect.NewAt(field.Type(), field.Addr().UnsafePointer()).Elem().Set(reflect.ValueOf(value))
	}
	return nil
}

// openStream asks a peer for a stream. Not a byte of it is read before it is
// known who sends it.
func (t *HTTP) openStream(r *http.Request) (*http.Response, error) {
	to, ok := parseID(r.Header.Get(headerReceiver))
	if !ok {
		return nil, fmt.Errorf("transport: stream from %s for nobody", r.URL.Host)
	}
	resp, a, err := t.opener.do(t.clients.streams, r, to, nil)
	if err != nil {
		return nil, err
	}
	err = t.judge(r.Context(), to, urlOf(r), a)
	if v := resp.Header.Get(headerVersion); err == nil && !isVersion(v) {
		err = fmt.Errorf("transport: %s answers with the version %.20q", r.URL.Host, v)
	}
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("transport: %s answers with status %d", r.URL.Host, resp.StatusCode)
	}
	if err != nil {
		_ = resp.Body.Close() // it is of no use
		return nil, err
	}
	s := newStream(resp.Body, strings.HasPrefix(r.URL.Path, msgappPrefix))
	s.sender = to
	if a.run != "" {
		s.speaker = t.runs.of(to)
		if s.speaker == nil || s.speaker.run != a.run {
			_ = resp.Body.Close() // it is of no use
			return nil, fmt.Errorf("transport: another process speaks for member %x now than that at %s", to, urlOf(r))
		}
		s.leave = s.speaker.enter()
	}
	s.onRefused = func(err error) {
		t.refused(&raftpb.Message{From: to}, refusedSender, err)
	}
	resp.Body = s
	return resp, nil
}

// post sends a message or a snapshot. rafthttp does not say to whom, but the
// message does.
func (t *HTTP) post(r *http.Request) (*http.Response, error) {
	var to uint64
	var covered []byte
	client := t.clients.messages
	if r.URL.Path == rafthttp.RaftSnapshotPrefix {
		m, head, err := readSnapshotMessage(r.Body)
		if err != nil {
			return nil, fmt.Errorf("transport: snapshot to send: %w", err)
		}
		client, to, covered = t.clients.snapshots, m.To, head
		held := &heldBody{body: io.MultiReader(bytes.NewReader(head), r.Body)}
		r.Body, r.GetBody = held.first(), held.again
		r.Header.Set("Expect", "100-continue") // a body can be sent once only
	} else {
		var err error
		if to, covered, err = recipient(r); err != nil {
			return nil, fmt.Errorf("transport: message to send: %w", err)
		}
	}
	resp, a, err := t.opener.do(client, r, to, covered)
	if err != nil {
		return nil, err
	}
	if err := t.judge(r.Context(), to, urlOf(r), a); err != nil {
		_ = resp.Body.Close() // it is of no use
		return nil, err
	}
	if resp.StatusCode != http.StatusNoContent {
		_ = resp.Body.Close() // it is of no use
		return nil, fmt.Errorf("transport: %s answers with status %d", r.URL.Host, resp.StatusCode)
	}
	resp.Body = limitedBody{io.LimitReader(resp.Body, answerMaxBytes), resp.Body}
	return resp, nil
}

// recipient reads for whom a message is that is about to be posted.
func recipient(r *http.Request) (uint64, []byte, error) {
	body, err := r.GetBody()
	if err != nil {
		return 0, nil, err
	}
	data, err := io.ReadAll(body)
	if err != nil {
		return 0, nil, err
	}
	var m raftpb.Message
	if err := m.Unmarshal(data); err != nil {
		return 0, nil, err
	}
	return m.To, data, nil
}

func urlOf(r *http.Request) string { return r.URL.Scheme + "://" + r.URL.Host }

// errBodyRead tells that a body cannot be sent again.
var errBodyRead = errors.New("transport: a part of the body was sent already")

// heldBody is a body that can be sent again as long as nothing of it was read.
// Its users cannot close it, and one that was replaced cannot read it.
type heldBody struct {
	body io.Reader

	mu   sync.Mutex
	read bool
	user *bodyUser
}

func (b *heldBody) first() io.ReadCloser {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.user = &bodyUser{b}
	return b.user
}

// again is the GetBody of a request.
func (b *heldBody) again() (io.ReadCloser, error) {
	b.mu.Lock()
	read := b.read
	b.mu.Unlock()
	if read {
		return nil, errBodyRead
	}
	return b.first(), nil
}

type bodyUser struct{ held *heldBody }

// Read implements io.Reader.
func (u *bodyUser) Read(p []byte) (int, error) {
	u.held.mu.Lock()
	defer u.held.mu.Unlock()
	if u.held.user != u {
		return 0, errBodyRead
	}
	u.held.read = true
	return u.held.body.Read(p)
}

// Close implements io.Closer. rafthttp closes the body itself.
func (u *bodyUser) Close() error { return nil }

// limitedBody is the body of an answer, of which rafthttp reads all there is.
type limitedBody struct {
	io.Reader
	io.Closer
}

type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// isVersion accepts the versions that rafthttp can parse without ending the
// process, and of those only three plain numbers.
func isVersion(s string) bool {
	parts := strings.Split(s, ".")
	for _, p := range parts {
		if p == "" || len(p) > 9 || strings.Trim(p, "0123456789") != "" {
			return false
		}
	}
	return len(parts) == 3
}

// timedConn fails a read or write that makes no progress within its timeout; 0
// is none.
type timedConn struct {
	net.Conn
	readTimeout, writeTimeout time.Duration
}

// Read implements net.Conn.
func (c timedConn) Read(p []byte) (int, error) {
	if c.readTimeout > 0 {
		if err := c.SetReadDeadline(time.Now().Add(c.readTimeout)); err != nil {
			return 0, err
		}
	}
	return c.Conn.Read(p)
}

// Write implements net.Conn.
func (c timedConn) Write(p []byte) (int, error) {
	if c.writeTimeout > 0 {
		if err := c.SetWriteDeadline(time.Now().Add(c.writeTimeout)); err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(p)
}

// noProber takes the place of rafthttp's probers.
type noProber struct{}

// AddHTTP implements probing.Prober.
func (noProber) AddHTTP(string, time.Duration, []string) error { return nil }

// Remove implements probing.Prober.
func (noProber) Remove(string) error { return nil }

// RemoveAll implements probing.Prober.
func (noProber) RemoveAll() {}

// Reset implements probing.Prober.
func (noProber) Reset(string) error { return nil }

// Status implements probing.Prober. Its error keeps rafthttp from watching.
func (noProber) Status(string) (probing.Status, error) { return nil, probing.ErrNotFound }
