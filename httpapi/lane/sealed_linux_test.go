package lane

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// rigsAreSecure makes rigs speak TLS.
var rigsAreSecure bool

// clientTLS takes any certificate.
var clientTLS = &tls.Config{InsecureSkipVerify: true}

// serverTLS has a certificate, always the same.
var serverTLS = sync.OnceValue(func() *tls.Config {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
})

func secureRigs(t *testing.T) {
	rigsAreSecure = true
	t.Cleanup(func() { rigsAreSecure = false })
}

// Whether there is TLS makes no difference to what a loop does.
func TestLoopsWithTLS(t *testing.T) {
	secureRigs(t)
	for name, test := range map[string]func(*testing.T){
		"requests":                            TestRequestsInALoop,
		"a deadline":                          TestDeadlineOfAnAnswerEndsWithIt,
		"the end":                             TestTheEndOfAConnectionInALoop,
		"the end of a stream is not long ago": TestConnectionIsNotIdleSinceItsStreamBegan,
		"shutdown":                            TestShutdownOfALoop,
		"shutdown before the first request":   TestShutdownOfALoopLeavesAFirstRequestItsAnswer,
		"shutdown with a late one":            TestShutdownFindsConnectionsThatComeBackLate,
		"streams":                             TestStreamsInALoop,
		"the end of a stream":                 TestTheEndOfAStreamInALoop,
		"a slow reader of a stream":           TestStreamOfASlowReaderInALoop,
		"a reader that takes nothing":         TestStreamOfAReaderThatTakesNothingIsCut,
		"a stream that waits":                 TestStreamThatWaitsHoldsNoBuffer,
		"requests come between streams":       TestRequestsComeBetweenStreams,
	} {
		t.Run(name, test)
	}
}

// What a slow reader has not taken is sealed already.
func TestALoopDoesNotWaitForAReaderWithTLS(t *testing.T) {
	secureRigs(t)
	TestALoopDoesNotWaitForAReader(t)
}

// Whether there is TLS makes no difference to a connection that no loop has.
func TestGoroutinesWithTLS(t *testing.T) {
	secureRigs(t)
	r := newLoopRig(t, func(s *http.Server) { s.Handler = http.HandlerFunc(s.Handler.ServeHTTP) })
	c := r.connect()
	for range 3 {
		c.get("quick", "[alone]")
		c.say("PUT /keys/quick HTTP/1.1\r\nHost: h\r\nContent-Length: 10000\r\n\r\n" + strings.Repeat("x", 10000))
		c.want("[alone]", "PUT", strings.Repeat("x", 10000))
	}
	c.say("GET /keys/quick HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
	c.want("[alone]", "GET", "")
	c.ended()
}

// A handler is told of TLS on both ways, in the first request and in later ones.
func TestHandlerIsToldOfTLS(t *testing.T) {
	secureRigs(t)
	r := newLoopRig(t, nil)
	told := make(chan *tls.ConnectionState, 1)
	r.handler.seen = func(c *stepCall) { told <- c.r.TLS }
	c := r.connect()
	for _, path := range []string{"/keys/quick", "/keys/quick", "/quick", "/keys/quick"} {
		c.say("GET " + path + " HTTP/1.1\r\nHost: h\r\n\r\n")
		c.answer()
		if state := <-told; state == nil || !state.HandshakeComplete || state.Version != tls.VersionTLS13 {
			t.Errorf("TLS of %s = %+v, want what was settled", path, state)
		}
	}
}

// cutting is a connection below TLS that sends records in pieces, or several in one.
type cutting struct {
	net.Conn
	bytewise, holds bool
	held            []byte
}

func (c *cutting) Write(p []byte) (int, error) {
	if c.holds {
		c.held = append(c.held, p...)
		return len(p), nil
	}
	size := len(p)
	if c.bytewise {
		size = 1
	}
	for piece := range slices.Chunk(p, size) {
		if _, err := c.Conn.Write(piece); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// send sends what was held, in one piece.
func (c *cutting) send() error {
	if err := c.SetWriteDeadline(time.Time{}); err != nil { // TLS has set one with its farewell
		return err
	}
	_, err := c.Conn.Write(c.held)
	return err
}

// cut connects by such a connection.
func (r *loopRig) cut(version uint16) (*client, *cutting) {
	r.t.Helper()
	below := &cutting{Conn: r.connect().tcp()}
	config := clientTLS.Clone()
	config.MaxVersion = version
	secure := tls.Client(below, config)
	return &client{Conn: secure, t: r.t, in: bufio.NewReader(secure)}, below
}

// A record that comes in pieces is one all the same, and those that come in one
// piece are several.
func TestRecordsInPieces(t *testing.T) {
	secureRigs(t)
	r := newLoopRig(t, nil)
	c, below := r.cut(tls.VersionTLS13)
	c.get("quick", "[]")
	below.holds = true
	for range 20 { // more than a turn answers
		c.say(request("quick"))
	}
	if err := below.send(); err != nil {
		t.Fatal(err)
	}
	for range 20 { // more than a turn answers
		c.want("[]", "GET", "")
	}
	below.holds, below.bytewise = false, true
	for range 20 {
		c.get("quick", "[]")
	}
	c.say("PUT /keys/quick HTTP/1.1\r\nHost: h\r\nContent-Length: 10000\r\n\r\n" + strings.Repeat("x", 10000))
	c.want("[alone]", "PUT", strings.Repeat("x", 10000))
	c.get("quick", "[]")
}

// What a goroutine has read beyond its request is with TLS, where epoll(7) does not
// see it.
func TestRequestThatWasReadWithABody(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // one loop
	secureRigs(t)
	r := newLoopRig(t, nil)
	other := r.dial()
	c, below := r.cut(tls.VersionTLS13)
	c.get("quick", "[]")
	c.say("PUT /keys/paused HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nab")
	goOn := <-r.handler.paused // elsewhere
	other.say(request("begun"))
	release := <-r.handler.paused // meanwhile the loop stands still
	below.holds = true
	c.say("c")
	c.say(request("quick"))
	if err := below.send(); err != nil {
		t.Fatal(err)
	}
	goOn()
	c.want("[paused alone]", "PUT", "abc")
	release()
	other.want("[]", "GET", "")
	c.want("[]", "GET", "")
}

// What TLS has written while a loop had the connection, and the loop has not sent, as
// it is when a client has asked for new keys, comes before what is written later.
func TestRecordsKeepTheirOrder(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	s := &sealed{Conn: far, looped: true}
	if _, err := io.WriteString(s, "keys, "); err != nil {
		t.Fatal(err)
	}
	s.looped = false
	go func() {
		_, _ = io.WriteString(s, "answer")
		_ = s.Close()
	}()
	if got, err := io.ReadAll(near); string(got) != "keys, answer" || err != nil {
		t.Errorf("written = %q, %v, want keys before the answer", got, err)
	}
}

// A client that says farewell at once has its answer, as one that closes its side
// has without TLS; one that does while it has a stream, and waits for the server to
// say the same, has gone.
func TestFarewellOfTLS(t *testing.T) {
	secureRigs(t)
	for name, before := range map[string]func(*client){
		"after the first request": func(c *client) {
			if err := c.Conn.(*tls.Conn).Handshake(); err != nil {
				t.Error(err)
			}
		},
		"after a later request": func(c *client) { c.get("quick", "[]") },
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} { // they are read in different ways
			t.Run(name+", "+tls.VersionName(version), func(t *testing.T) {
				r := newLoopRig(t, nil)
				c, below := r.cut(version)
				before(c)
				below.holds = true // both come at once
				c.say(request("quick"))
				if err := errors.Join(c.Conn.(*tls.Conn).CloseWrite(), below.send()); err != nil {
					t.Fatal(err)
				}
				c.want("[]", "GET", "")
				c.ended()
			})
		}
	}
	for _, path := range []string{"stream", "slow/stream"} {
		t.Run("during a "+path, func(t *testing.T) {
			r := newLoopRig(t, nil)
			c := r.dial()
			body, _ := c.open(r, path)
			if err := c.Conn.(*tls.Conn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if err := <-r.handler.ended; err != context.Canceled {
				t.Errorf("context at the end of the stream = %v, want %v", err, context.Canceled)
			}
			_, _ = io.Copy(io.Discard, body) // the stream ends, well or not
			c.ended()
		})
	}
}

// Close does not wait for clients to be told, so that they see the end of the
// connection only.
func TestCloseOfALoopWithTLS(t *testing.T) {
	secureRigs(t)
	r := newLoopRig(t, nil)
	idle, busy := r.dial(), r.dial()
	busy.say(request("paused"))
	resume := <-r.handler.paused
	if err := r.server.Close(); err != nil {
		t.Errorf("Close() = %v, want nil", err)
	}
	for _, c := range []*client{idle, busy} {
		if b, err := c.in.ReadByte(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("after Close() = %q, %v, want the connection's end", b, err)
		}
	}
	resume()
}

// Who does not know TLS is told so by net/http, whether it sends too much or
// nothing; what is wrong later ends the connection, and nobody else's.
func TestBrokenTLS(t *testing.T) {
	secureRigs(t)
	t.Run("a request in the clear", func(t *testing.T) {
		r := newLoopRig(t, nil)
		nc := r.connect().tcp()
		c := &client{Conn: nc, t: t, in: bufio.NewReader(nc)}
		c.say(request("quick"))
		if resp, text := c.answer(); resp.StatusCode != http.StatusBadRequest || !strings.Contains(text, "HTTP request to an HTTPS server") {
			t.Errorf("answer = %d %q, want 400 that says that this is HTTPS", resp.StatusCode, text)
		}
		r.dial().get("quick", "[]")
		r.wantLogged("TLS handshake error from " + nc.LocalAddr().String() + ": client sent an HTTP request")
	})
	t.Run("silence", func(t *testing.T) {
		r := newLoopRig(t, func(s *http.Server) { s.ReadHeaderTimeout = 50 * time.Millisecond })
		nc := r.connect().tcp()
		if _, err := nc.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("reading without a handshake = %v, want the end", err)
		}
		r.wantLogged("TLS handshake error from " + nc.LocalAddr().String())
	})
	t.Run("another protocol", func(t *testing.T) {
		r := newLoopRig(t, func(s *http.Server) {
			s.TLSConfig = s.TLSConfig.Clone()
			s.TLSConfig.NextProtos = []string{"h2", "http/1.1"}
		})
		tr := &http.Transport{TLSClientConfig: clientTLS.Clone(), ForceAttemptHTTP2: true}
		defer tr.CloseIdleConnections()
		resp, err := (&http.Client{Transport: tr}).Get(fmt.Sprintf("https://%s/keys/quick", r.addr))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.ProtoMajor != 2 || resp.StatusCode != http.StatusOK {
			t.Errorf("answer = %s, %d, want 200 by HTTP/2", resp.Proto, resp.StatusCode)
		}
	})
	t.Run("a broken record", func(t *testing.T) {
		r := newLoopRig(t, nil)
		c, other := r.dial(), r.dial()
		if _, err := io.WriteString(c.tcp(), "no record at all"); err != nil {
			t.Fatal(err)
		}
		if b, err := c.in.ReadByte(); err == nil || !strings.Contains(err.Error(), "remote error: tls") {
			t.Errorf("after a broken record = %q, %v, want to be told", b, err)
		}
		other.get("quick", "[]")
	})
}

func (r *loopRig) wantLogged(text string) {
	r.t.Helper()
	for late := time.Now().Add(10 * time.Second); !strings.Contains(r.logged.String(), text); runtime.Gosched() {
		if time.Now().After(late) { // it fails, and does not hang
			r.t.Fatalf("log = %q, want %q in it", r.logged.String(), text)
		}
	}
}
