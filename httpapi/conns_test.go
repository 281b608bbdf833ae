package httpapi

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/marsevilspirit/deimos/httpapi/lane"
)

// countedServer serves the keys API on the loopback interface within bounds.
// secure, when set, is the TLS configuration.
func countedServer(t *testing.T, cfg ConnsConfig, secure *tls.Config) (*Conns, string) {
	t.Helper()
	conns, err := NewConns(cfg)
	if err != nil {
		t.Fatalf("NewConns(%+v) = %v, want nil", cfg, err)
	}
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("Listen() = %v, want nil", err)
	}
	l := conns.Listener(inner)
	full := Server(newHandler(t, newFake(), nil), nil)
	full.TLSConfig, full.ConnState = secure, conns.ConnState
	srv := lane.New(full, IsEveryday)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	t.Cleanup(func() {
		if err := srv.Close(); err != nil {
			t.Errorf("Close() = %v, want nil", err)
		}
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("Serve() = %v, want %v", err, http.ErrServerClosed)
		}
		// Connections are closed by the goroutines that serve them.
		eventually(t, "no connection is open", func() bool { return testutil.ToFloat64(conns.open) == 0 && waiting(conns) == 0 })
	})
	return conns, inner.Addr().String()
}

// waiting is how many connections wait for a head.
func waiting(c *Conns) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	sum := 0
	for _, l := range c.byAddress {
		sum += l.Len()
	}
	if sum != c.heads.Len() {
		return -1
	}
	return sum
}

// eventually waits until a condition holds that other goroutines bring about.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s = false after 10s, want true", what)
		}
	}
}

// dialFrom opens a connection from an address of the loopback network.
func dialFrom(t *testing.T, from, to string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	nc, err := d.DialContext(t.Context(), "tcp", to)
	if err != nil {
		t.Fatalf("Dial(%s from %s) = %v, want nil", to, from, err)
	}
	t.Cleanup(func() { nc.Close() })
	if err := nc.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatalf("SetDeadline() = %v, want nil", err)
	}
	return nc
}

// get sends a request over a connection and reads the answer.
func get(nc net.Conn) error { return getPath(nc, "/keys") }

func getPath(nc net.Conn, path string) error {
	if _, err := io.WriteString(nc, "GET "+path+" HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != 200 {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}

// isClosed reports whether the other side has closed the connection, and waits
// for that.
func isClosed(nc net.Conn) bool {
	_, err := nc.Read(make([]byte, 1))
	var timeout net.Error
	return err != nil && (!errors.As(err, &timeout) || !timeout.Timeout())
}

func TestHeadThatWaitsLongestMakesRoom(t *testing.T) {
	for _, tt := range []struct {
		name string
		cfg  ConnsConfig
		// from are the addresses of connections that send half a head each.
		from []string
		// lost are the positions of those that are closed by the next one,
		// which comes from next.
		next string
		lost []int
	}{
		{"of its address", ConnsConfig{Max: 10, HeadsMax: 9, HeadsMaxPerAddress: 2}, []string{"127.0.0.2", "127.0.0.3", "127.0.0.3"}, "127.0.0.3", []int{1}},
		{"of an address with one", ConnsConfig{Max: 10, HeadsMax: 9, HeadsMaxPerAddress: 1}, []string{"127.0.0.2", "127.0.0.3"}, "127.0.0.3", []int{1}},
		{"of all", ConnsConfig{Max: 10, HeadsMax: 3, HeadsMaxPerAddress: 3}, []string{"127.0.0.2", "127.0.0.3", "127.0.0.3"}, "127.0.0.4", []int{0}},
		{"by default half of all", ConnsConfig{Max: 6}, []string{"127.0.0.2", "127.0.0.3", "127.0.0.3"}, "127.0.0.4", []int{0}},
		{"none", ConnsConfig{Max: 10, HeadsMax: 4, HeadsMaxPerAddress: 3}, []string{"127.0.0.3", "127.0.0.3"}, "127.0.0.3", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conns, addr := countedServer(t, tt.cfg, nil)
			var halves []net.Conn
			for i, from := range tt.from {
				nc := dialFrom(t, from, addr)
				if _, err := io.WriteString(nc, "GET /keys HTT"); err != nil {
					t.Fatalf("Write() = %v, want nil", err)
				}
				halves = append(halves, nc)
				eventually(t, "the connection waits for a head", func() bool { return waiting(conns) == i+1 })
			}
			if err := get(dialFrom(t, tt.next, addr)); err != nil {
				t.Errorf("a whole request beside them = %v, want an answer", err)
			}
			if got := testutil.ToFloat64(conns.refused); int(got) != len(tt.lost) {
				t.Errorf("refused = %v, want %d", got, len(tt.lost))
			}
			for i, nc := range halves {
				if slices.Contains(tt.lost, i) {
					if !isClosed(nc) {
						t.Errorf("connection %d is open, want closed", i)
					}
					continue
				}
				if _, err := io.WriteString(nc, "P/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"); err != nil {
					t.Errorf("Write() to connection %d = %v, want nil", i, err)
				}
				if answer, err := io.ReadAll(nc); err != nil || len(answer) == 0 {
					t.Errorf("answer on connection %d = %q, %v, want one", i, answer, err)
				}
			}
		})
	}
}

func TestConnectionsThatHaveAskedOnceCountAsGood(t *testing.T) {
	conns, addr := countedServer(t, ConnsConfig{Max: 10, HeadsMax: 1, HeadsMaxPerAddress: 1}, nil)
	var kept []net.Conn
	for range 5 {
		nc := dialFrom(t, "127.0.0.1", addr)
		if err := get(nc); err != nil {
			t.Fatalf("GET = %v, want an answer", err)
		}
		kept = append(kept, nc)
	}
	for i, nc := range kept {
		if err := get(nc); err != nil {
			t.Errorf("second GET on connection %d = %v, want an answer", i, err)
		}
	}
	if got := testutil.ToFloat64(conns.open); got != 5 {
		t.Errorf("open = %v, want 5", got)
	}
}

func TestAcceptingPausesAtTheLimitAndResumes(t *testing.T) {
	conns, addr := countedServer(t, ConnsConfig{Max: 2, HeadsMax: 2}, nil)
	first, second := dialFrom(t, "127.0.0.1", addr), dialFrom(t, "127.0.0.1", addr)
	for _, nc := range []net.Conn{first, second} {
		if err := get(nc); err != nil {
			t.Fatalf("GET = %v, want an answer", err)
		}
	}
	third := dialFrom(t, "127.0.0.1", addr) // waits in the backlog of the kernel
	answered := make(chan error, 1)
	go func() { answered <- get(third) }()
	if err := get(second); err != nil {
		t.Errorf("GET at the limit = %v, want an answer", err)
	}
	if got := testutil.ToFloat64(conns.open); got != 2 {
		t.Errorf("open = %v, want 2", got)
	}
	select {
	case err := <-answered:
		t.Errorf("GET beyond the limit = %v, want none yet", err)
	default:
	}
	if err := first.Close(); err != nil {
		t.Fatalf("Close() = %v, want nil", err)
	}
	if err := <-answered; err != nil {
		t.Errorf("GET once there is room = %v, want an answer", err)
	}
}

func TestClosingAListenerEndsAnAcceptThatWaitsForRoom(t *testing.T) {
	conns, err := NewConns(ConnsConfig{Max: 1})
	if err != nil {
		t.Fatalf("NewConns() = %v, want nil", err)
	}
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("Listen() = %v, want nil", err)
	}
	l := conns.Listener(inner)
	dialFrom(t, "127.0.0.1", inner.Addr().String())
	nc, err := l.Accept()
	if err != nil {
		t.Fatalf("Accept() = %v, want a connection", err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := l.Accept()
		ended <- err
	}()
	if err := l.Close(); err != nil {
		t.Errorf("Close() = %v, want nil", err)
	}
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept() = %v, want %v", err, net.ErrClosed)
	}
	for range 2 { // the second one must not give a second slot back
		_ = nc.Close()
	}
	if got := len(conns.slots); got != 0 {
		t.Errorf("%d slots are taken, want 0", got)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept() after Close() = %v, want %v", err, net.ErrClosed)
	}
	if got := len(conns.slots); got != 0 {
		t.Errorf("%d slots are taken after a failed Accept, want 0", got)
	}
}

func TestCountedConnectionsCloseInHalves(t *testing.T) {
	_, addr := countedServer(t, ConnsConfig{Max: 2}, nil)
	got := raw(t, addr, "PUT /keys/a HTTP/1.1\r\nHost: h\r\nContent-Type: "+typeURLEncoded+"\r\nContent-Length: 99999999\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 413 ") {
		t.Errorf("answer = %q, want 413", got)
	}
	client, server := net.Pipe()
	defer client.Close()
	if err := (&conn{Conn: server}).CloseWrite(); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("CloseWrite() of a pipe = %v, want %v", err, errors.ErrUnsupported)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("Listen() = %v, want nil", err)
	}
	defer l.Close()
	far := dialFrom(t, "127.0.0.1", l.Addr().String())
	near, err := l.Accept()
	if err != nil {
		t.Fatalf("Accept() = %v, want nil", err)
	}
	defer near.Close()
	if err := (&conn{Conn: near}).CloseWrite(); err != nil {
		t.Errorf("CloseWrite() = %v, want nil", err)
	}
	if b, err := io.ReadAll(far); err != nil || len(b) != 0 {
		t.Errorf("read after CloseWrite() = %q, %v, want the end", b, err)
	}
	if _, err := io.WriteString(far, "x"); err != nil {
		t.Errorf("Write() after CloseWrite() = %v, want nil", err)
	}
	if _, err := near.Read(make([]byte, 1)); err != nil {
		t.Errorf("Read() after CloseWrite() = %v, want nil", err)
	}
}

func TestHeadsCountBehindTLS(t *testing.T) {
	issuer := httptest.NewUnstartedServer(nil)
	issuer.StartTLS()
	issuer.Close()
	roots := x509.NewCertPool()
	roots.AddCert(issuer.Certificate())
	conns, addr := countedServer(t, ConnsConfig{Max: 10, HeadsMax: 1}, &tls.Config{Certificates: issuer.TLS.Certificates})
	for _, path := range []string{"/keys", "/version"} { // the second one by net/http
		silent := dialFrom(t, "127.0.0.1", addr) // never shakes hands
		eventually(t, "the silent connection waits", func() bool { return waiting(conns) == 1 })
		good := tls.Client(dialFrom(t, "127.0.0.1", addr), &tls.Config{RootCAs: roots, ServerName: "example.com"})
		if err := getPath(good, path); err != nil {
			t.Errorf("GET %s over TLS = %v, want an answer", path, err)
		}
		if !isClosed(silent) {
			t.Errorf("the silent connection is open, want closed")
		}
		if got := waiting(conns); got != 0 {
			t.Errorf("after GET %s %d connections wait for a head, want 0", path, got)
		}
	}
}

func TestLimitsOfConnectionsAreChecked(t *testing.T) {
	for _, cfg := range []ConnsConfig{{}, {Max: -1}, {Max: 1, HeadsMax: -1}, {Max: 1, HeadsMaxPerAddress: -1}} {
		if _, err := NewConns(cfg); err == nil {
			t.Errorf("NewConns(%+v) = nil, want an error", cfg)
		}
	}
	reg := prometheus.NewRegistry()
	if _, err := NewConns(ConnsConfig{Max: 1, Registerer: reg}); err != nil {
		t.Errorf("NewConns() = %v, want nil", err)
	}
	if _, err := NewConns(ConnsConfig{Max: 1, Registerer: reg}); err == nil {
		t.Errorf("NewConns() with metrics that are registered = nil, want an error")
	}
}
