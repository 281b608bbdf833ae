package load

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"time"
)

// endpoint is a server as the connections see it.
type endpoint struct {
	url    string
	host   string // for the Host header
	dialTo string
	tls    *tls.Config    // nil: plain
	addr   netip.AddrPort // what dialTo was when it was first reached

	// pipe makes connections instead of the network, for tests.
	pipe func(context.Context) (net.Conn, error)
}

// parseEndpoints returns a [*ConfigError] for what is no endpoint.
func parseEndpoints(t Target) ([]*endpoint, error) {
	if len(t.Endpoints) == 0 || len(t.Endpoints) > EndpointsMax {
		return nil, invalid("endpoints", "there must be 1 … %d, not %d", EndpointsMax, len(t.Endpoints))
	}
	var all []*endpoint
	for _, text := range t.Endpoints {
		u, err := url.Parse(text)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" || u.User != nil ||
			(u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.Fragment != "" {
			return nil, invalid("endpoints", "%q is not of the form http://host:port or https://host:port", text)
		}
		e := &endpoint{url: u.Scheme + "://" + u.Host, host: u.Host, dialTo: u.Host}
		if u.Port() == "" {
			e.dialTo = net.JoinHostPort(u.Hostname(), u.Scheme) // a name of a port, too
		}
		if u.Scheme == "https" {
			e.tls = &tls.Config{}
			if t.TLS != nil {
				e.tls = t.TLS.Clone()
			}
			if e.tls.ServerName == "" {
				e.tls.ServerName = u.Hostname()
			}
			e.tls.NextProtos = []string{"http/1.1"}
		}
		all = append(all, e)
	}
	return all, nil
}

// dial opens a connection, with its TLS handshake.
func (e *endpoint) dial(ctx context.Context, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	switch {
	case e.pipe != nil:
		return e.pipe(ctx)
	case e.tls == nil:
		return new(net.Dialer).DialContext(ctx, "tcp", e.dialTo)
	}
	return (&tls.Dialer{Config: e.tls}).DialContext(ctx, "tcp", e.dialTo)
}

// dialMax bounds the first connection to each endpoint.
const dialMax = 5 * time.Second

// reach connects to each endpoint once, so that a mistyped one is noticed before
// there is any load.
func reach(ctx context.Context, endpoints []*endpoint, timeout time.Duration) error {
	var failures []error
	for _, e := range endpoints {
		conn, err := e.dial(ctx, min(timeout, dialMax))
		if err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", e.url, err))
			continue
		}
		if tcp, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
			e.addr = tcp.AddrPort()
		}
		if err := conn.Close(); err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", e.url, err))
		}
	}
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("load: connect: %w", ctx.Err())
	case len(failures) > 0:
		return fmt.Errorf("load: %w: %w", ErrNoConnection, errors.Join(failures...))
	}
	return nil
}
