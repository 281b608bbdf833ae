package pki

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/marsevilspirit/deimos/internal/syncbuf"
)

// clock is turned by hand.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// logBuffer is where a slog handler writes and a test reads.
type logBuffer struct{ syncbuf.Buffer }

func (b *logBuffer) count(text string) int { return strings.Count(b.String(), text) }

// rig is what a test of a source needs besides certificates.
type rig struct {
	clock    *clock
	log      *logBuffer
	registry *prometheus.Registry
}

func newRig() *rig {
	return &rig{clock: newClock(), log: &logBuffer{}, registry: prometheus.NewRegistry()}
}

func (r *rig) options(port string) Options {
	handler := slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})
	return Options{Port: port, Log: slog.New(handler), Metrics: r.registry, now: r.clock.Now}
}

func (r *rig) open(t testing.TB, f Files, port string) *Source {
	t.Helper()
	s, err := Open(f, r.options(port))
	if err != nil {
		t.Fatalf("Open(%+v) = %v", f, err)
	}
	return s
}

func (r *rig) reloadFailures(t testing.TB, s *Source) float64 {
	t.Helper()
	return testutil.ToFloat64(s.metrics.reloadFailures.WithLabelValues(s.opts.Port))
}

// issuer is an authority of a test, without files.
type issuer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	// chain is what a holder of a certificate presents besides it.
	chain [][]byte
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// newIssuer makes an authority that parent has signed, or that has signed
// itself.
func newIssuer(t testing.TB, now time.Time, name string, parent *issuer) *issuer {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: name},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(3650 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	var above *x509.Certificate
	signer := key
	if parent != nil {
		above, signer = parent.cert, parent.key
	}
	der, err := sign(template, above, key, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	i := &issuer{cert: cert, key: key}
	if parent != nil {
		i.chain = [][]byte{der}
	}
	return i
}

// leaf is a certificate that a test wants; its zero value, given a time by
// [issuer.issue], is right for everything.
type leaf struct {
	cn        string
	hosts     []string // nil: localhost and 127.0.0.1
	usage     []x509.ExtKeyUsage
	from, to  time.Duration // from now; 0: an hour ago, in a year
	self      bool          // signed by itself
	withChain bool
}

var (
	onlyServer = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	onlyClient = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
)

func pemBlock(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// issue returns the two files of a certificate.
func (i *issuer) issue(t testing.TB, now time.Time, l leaf) (cert, key []byte) {
	t.Helper()
	if l.hosts == nil {
		l.hosts = []string{"localhost", "127.0.0.1"}
	}
	if l.usage == nil {
		l.usage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
	if l.from == 0 {
		l.from = -time.Hour
	}
	if l.to == 0 {
		l.to = 365 * 24 * time.Hour
	}
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: l.cn},
		NotBefore: now.Add(l.from), NotAfter: now.Add(l.to),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: l.usage, BasicConstraintsValid: true,
	}
	setHosts(template, l.hosts)
	private := newKey(t)
	parent, signer := i.cert, i.key
	if l.self {
		parent, signer = nil, private
	}
	der, err := sign(template, parent, private, signer)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert = pemBlock("CERTIFICATE", der)
	if l.withChain {
		for _, c := range i.chain {
			cert = append(cert, pemBlock("CERTIFICATE", c)...)
		}
	}
	return cert, pemBlock("PRIVATE KEY", keyDER)
}

func (i *issuer) pem() []byte { return pemBlock("CERTIFICATE", i.cert.Raw) }

func writeFile(t testing.TB, name string, data []byte) {
	t.Helper()
	temp := name + ".new"
	if err := os.WriteFile(temp, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(temp, name); err != nil {
		t.Fatal(err)
	}
}

// files writes a certificate of i and its CA file, or any of the two.
func (i *issuer) files(t testing.TB, now time.Time, l *leaf, ca *issuer) Files {
	t.Helper()
	dir := t.TempDir()
	var f Files
	if l != nil {
		f.Cert, f.Key = filepath.Join(dir, "n.crt"), filepath.Join(dir, "n.key")
		cert, key := i.issue(t, now, *l)
		writeFile(t, f.Cert, cert)
		writeFile(t, f.Key, key)
	}
	if ca != nil {
		f.CA = filepath.Join(dir, "ca.crt")
		writeFile(t, f.CA, ca.pem())
	}
	return f
}

// outcome is how a connection went for its two sides.
type outcome struct {
	server, client error
	// state is what the client knows, if its handshake was right.
	state tls.ConnectionState
	// seen is the certificate that the server saw, nil if it saw none.
	seen *x509.Certificate
}

// connect lets a client dial a server that uses config, on a loopback socket.
// A byte goes from the server to the client and back, because in TLS 1.3 a
// client learns only then what the server thinks of its certificate.
func connect(t testing.TB, config *tls.Config, dial func(ctx context.Context, address string) (net.Conn, error)) outcome {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()

	var out outcome
	done := make(chan struct{})
	go func() {
		defer close(done)
		raw, err := listener.Accept()
		if err != nil {
			out.server = err
			return
		}
		defer raw.Close()
		conn := tls.Server(raw, config)
		if out.server = conn.HandshakeContext(ctx); out.server != nil {
			return
		}
		if certs := conn.ConnectionState().PeerCertificates; len(certs) > 0 {
			out.seen = certs[0]
		}
		_, err = conn.Write([]byte("x"))
		_, readErr := io.ReadFull(conn, make([]byte, 1))
		out.server = errors.Join(err, readErr)
	}()

	out.client = func() error {
		conn, err := dial(ctx, listener.Addr().String())
		if err != nil {
			return err
		}
		defer conn.Close()
		out.state = conn.(*tls.Conn).ConnectionState()
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			return err
		}
		_, err = conn.Write([]byte("x"))
		return err
	}()
	listener.Close()
	<-done
	return out
}

// dialAs returns the dialling side of connect: it asks s for host, wherever
// the server is.
func dialAs(s *Source, host string) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, address string) (net.Conn, error) {
		dial := dialTLS(s, func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		})
		return dial(ctx, "tcp", net.JoinHostPort(host, "443"))
	}
}

// dialWith is the dialling side of connect with any configuration.
func dialWith(config *tls.Config) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, address string) (net.Conn, error) {
		return (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", address)
	}
}

// checkError compares an error with a part of its text; "" wants none and "*"
// any.
func checkError(t testing.TB, who string, err error, want string) {
	t.Helper()
	switch {
	case want == "*" && err != nil:
	case want == "" && err != nil:
		t.Errorf("%s: error = %v, want none", who, err)
	case want != "" && err == nil:
		t.Errorf("%s: no error, want %q", who, want)
	case want != "" && !strings.Contains(err.Error(), want):
		t.Errorf("%s: error = %v, want %q", who, err, want)
	}
}

// dialTLS returns a function that opens a connection and does the handshake as
// a new ClientConfig asks for, the way those do who use this package.
func dialTLS(s *Source, dial dialFunc) dialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		raw, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		config := s.ClientConfig()
		if config.ServerName, _, err = net.SplitHostPort(address); err != nil {
			return nil, err
		}
		conn := tls.Client(raw, config)
		if err := conn.HandshakeContext(ctx); err != nil {
			return nil, errors.Join(err, raw.Close())
		}
		return conn, nil
	}
}

type dialFunc = func(ctx context.Context, network, address string) (net.Conn, error)
