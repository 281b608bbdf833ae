package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strings"
)

// staleMax is how many connections to one member may turn out to be dead
// before the member counts as failed.
const staleMax = 4

// What a client is told about a request that no member has answered.
var (
	errNobody   = errors.New("no reachable member")
	errLost     = errors.New("the member that had the request did not answer")
	errUnknown  = errors.New("the member that had the request did not answer; the request may or may not have been applied")
	errRefused  = errors.New("the members refuse the certificate of this proxy")
	errStopping = errors.New("this proxy is stopping")
	errLoop     = errors.New("a loop: the request has come back to this proxy")
	errChain    = fmt.Errorf("more than %d proxies in a chain", chainMax)
)

// unfitError says that a request cannot be put into words for a member.
type unfitError struct{ err error }

func (e *unfitError) Error() string { return fmt.Sprintf("the request cannot be forwarded: %v", e.err) }
func (e *unfitError) Unwrap() error { return e.err }

// isSafe reports whether a request with the method changes nothing, so that it
// may be sent any number of times.
func isSafe(method string) bool {
	return method == http.MethodGet || method == http.MethodHead || method == http.MethodOptions
}

// outgoing is a request as members get it.
type outgoing struct {
	// from is the client's address without the port, by which members are chosen.
	from   string
	method string
	// path and query are as the client wrote them; asked tells that there was a
	// question mark.
	path, query string
	asked       bool
	host        string
	header      http.Header
	body        *body
}

// newOutgoing makes of a client's request the one for a member; nil for a
// CONNECT.
func newOutgoing(r *http.Request, chain string) (*outgoing, error) {
	if r.Method == http.MethodConnect {
		return nil, nil
	}
	from, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		from = r.RemoteAddr
	}
	out := &outgoing{from: from, method: r.Method, host: r.Host}
	target := r.RequestURI
	if !strings.HasPrefix(target, "/") && target != "*" {
		_, rest, ok := strings.Cut(target, "://")
		if !ok {
			return nil, &unfitError{fmt.Errorf("target %q has no path", target)}
		}
		end := strings.IndexAny(rest, "/?")
		if end < 0 {
			end = len(rest)
		}
		target = rest[end:]
	}
	out.path, out.query, out.asked = strings.Cut(target, "?")
	if out.path == "" {
		out.path = "/"
	}
	out.header = make(http.Header, len(r.Header)+2)
	dropped := connectionHeaders(r.Header)
	for name, values := range r.Header {
		if !dropped(name) && name != "Content-Length" && name != "Expect" {
			out.header[name] = values
		}
	}
	out.header[headerProxy] = []string{chain}
	if _, ok := out.header["User-Agent"]; !ok {
		out.header["User-Agent"] = []string{""} // net/http would add its own
	}
	if !isSafe(r.Method) {
		// net/http takes these for a permission to send a request twice. In
		// lower case it does not see them, and members do.
		for _, name := range [...]string{"Idempotency-Key", "X-Idempotency-Key"} {
			if values, ok := out.header[name]; ok {
				delete(out.header, name)
				out.header[strings.ToLower(name)] = values
			}
		}
	}
	return out, nil
}

// connectionHeaders tells which headers of a message concern the connection
// that it came on.
func connectionHeaders(header http.Header) (dropped func(name string) bool) {
	var named []string
	for _, line := range header["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			named = append(named, textproto.CanonicalMIMEHeaderKey(textproto.TrimString(name)))
		}
	}
	return func(name string) bool {
		switch name {
		case "Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection",
			"Te", "Trailer", "Transfer-Encoding", "Upgrade":
			return true
		}
		for _, n := range named {
			if n == name {
				return true
			}
		}
		return false
	}
}

// request returns the request for one member.
func (o *outgoing) request(ctx context.Context, e *endpoint) (*http.Request, error) {
	u := &url.URL{Scheme: e.scheme, Host: e.host, Opaque: o.path, RawQuery: o.query, ForceQuery: o.asked}
	if strings.HasPrefix(o.path, "//") {
		// As an opaque part this would be another host.
		parsed, err := url.ParseRequestURI(o.path)
		if err != nil {
			return nil, &unfitError{err}
		}
		u.Opaque, u.Path, u.RawPath = "", parsed.Path, parsed.RawPath
	}
	r := (&http.Request{
		Method:     o.method,
		URL:        u,
		Host:       o.host,
		Header:     o.header,
		Proto:      "HTTP/1.1",
		ProtoMajor: 1,
		ProtoMinor: 1,
	}).WithContext(ctx)
	o.body.attach(r)
	return r, nil
}

// fate is what became of a request that was not answered.
type fate int

const (
	answered fate = iota
	// notSent: nothing of it was written to the member.
	notSent
	// stale: as notSent, on a connection that had been used before, which says
	// nothing about the member.
	stale
	// refused: the member refused the proxy's certificate and has read nothing.
	refused
	// sent: the member may have got it.
	sent
	// givenUp: as sent, and the member failed a probe meanwhile.
	givenUp
	// aside: the member was put aside before and failed another probe.
	aside
	// unfit: the fault is not the member's.
	unfit
)

// try sends a request to one member.
func (p *Proxy) try(ctx context.Context, e *endpoint, out *outgoing) (*http.Response, fate, error) {
	var conn *memberConn
	var mark int64
	var used bool
	r, err := out.request(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		// net/http calls this before it writes, on the goroutine of RoundTrip.
		GotConn: func(info httptrace.GotConnInfo) {
			conn, _ = info.Conn.(*memberConn)
			mark, used = conn.mark(), info.Reused
			if used && !isSafe(out.method) {
				conn.check()
			}
		},
	}), e)
	if err != nil {
		return nil, unfit, err
	}
	resp, err := p.transport.RoundTrip(r)
	if err == nil && resp.StatusCode == http.StatusSwitchingProtocols {
		err = errors.Join(errors.New("the member changed the protocol, which nobody asked for"), resp.Body.Close())
		return nil, sent, err
	}
	var dial *dialError
	switch {
	case err == nil:
		return resp, answered, nil
	case conn == nil && errors.As(err, &dial):
		return nil, notSent, noteRefusal(err)
	case conn == nil:
		return nil, unfit, err
	case conn.refusal() != nil:
		return nil, refused, noteRefusal(conn.refusal())
	case !conn.condemn(mark):
		return nil, sent, err
	case used && (conn.broken.Load() || errors.Is(err, errCondemned)):
		return nil, stale, err
	case conn.broken.Load():
		return nil, notSent, err
	default:
		return nil, unfit, err // net/http found no words for it
	}
}
