package transport

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/xiang90/probing"
	"go.etcd.io/etcd/server/v3/etcdserver/api/rafthttp"
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
}

func newClients(dialTimeout time.Duration) *clients {
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: idleTimeout}
	dial := func(readTimeout, writeTimeout time.Duration) func(context.Context, string, string) (net.Conn, error) {
		return func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return timedConn{c, readTimeout, writeTimeout}, nil
		}
	}
	return &clients{
		streams: &http.Transport{
			DialContext:           dial(idleTimeout, idleTimeout),
			TLSHandshakeTimeout:   idleTimeout,
			ResponseHeaderTimeout: idleTimeout,
			MaxIdleConnsPerHost:   -1, // a stream's connection is not fit for a second one
		},
		messages: &http.Transport{
			DialContext:           dial(0, idleTimeout),
			TLSHandshakeTimeout:   idleTimeout,
			ResponseHeaderTimeout: idleTimeout,
			MaxIdleConnsPerHost:   4, // rafthttp posts with four workers
			IdleConnTimeout:       time.Minute,
		},
		snapshots: &http.Transport{
			DialContext:         dial(0, 0),
			TLSHandshakeTimeout: idleTimeout,
			MaxIdleConnsPerHost: -1,
		},
	}
}

// install makes a started rafthttp use the clients and no probers.
func (c *clients) install(rt *rafthttp.Transport) error {
	for name, value := range map[string]any{
		"streamRt":       roundTripper(c.openStream),
		"pipelineRt":     roundTripper(c.post),
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

// close ends the connections that no request uses.
func (c *clients) close() {
	c.streams.CloseIdleConnections()
	c.messages.CloseIdleConnections()
	c.snapshots.CloseIdleConnections()
}

// openStream asks a peer for a stream.
func (c *clients) openStream(r *http.Request) (*http.Response, error) {
	resp, err := c.streams.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if v := resp.Header.Get(headerVersion); v != "" && !isVersion(v) {
		_ = resp.Body.Close() // it is of no use
		return nil, fmt.Errorf("transport: %s answers with the version %.20q", r.URL.Host, v)
	}
	if resp.StatusCode == http.StatusOK {
		resp.Body = newStream(resp.Body, strings.HasPrefix(r.URL.Path, msgappPrefix))
	} else {
		resp.Body = limitedBody{io.LimitReader(resp.Body, answerMaxBytes), resp.Body}
	}
	return resp, nil
}

// post sends a message or a snapshot.
func (c *clients) post(r *http.Request) (*http.Response, error) {
	client := c.messages
	if r.URL.Path == rafthttp.RaftSnapshotPrefix {
		client = c.snapshots
	}
	resp, err := client.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = limitedBody{io.LimitReader(resp.Body, answerMaxBytes), resp.Body}
	return resp, nil
}

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
