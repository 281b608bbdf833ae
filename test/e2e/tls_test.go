package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// authority is a certificate authority that the program made, with the
// certificates of members and of a client in the same directory.
type authority struct{ dir string }

// newAuthority makes an authority, the certificates of members, and that of
// the client alice.
func newAuthority(t testing.TB, members ...string) authority {
	t.Helper()
	a := authority{filepath.Join(t.TempDir(), "deimos-ca")}
	mustRun(t, "ca", "create", "--dir", a.dir)
	mustRun(t, append([]string{"ca", "issue", "--dir", a.dir}, members...)...)
	mustRun(t, "ca", "issue", "--dir", a.dir, "--client", "alice")
	return a
}

// mustRun runs a command of the program that ends by itself, with 0.
func mustRun(t testing.TB, args ...string) {
	t.Helper()
	if p := startProcess(t, args...); p.wait(t, exitMax) != 0 {
		t.Fatalf("deimos %v = exit code %d\n%s", args, p.code, p.stderr.tail())
	}
}

func (a authority) file(name string) string { return filepath.Join(a.dir, name) }

// flags are those of a member with TLS on both ports.
func (a authority) flags(name string) []string {
	cert, key, ca := a.file(name+".crt"), a.file(name+".key"), a.file("ca.crt")
	return []string{
		"--cert-file", cert, "--key-file", key, "--ca-file", ca,
		"--peer-cert-file", cert, "--peer-key-file", key, "--peer-ca-file", ca,
	}
}

// config is that of a caller with the certificate of that name, "" for none.
func (a authority) config(t testing.TB, name string) *tls.Config {
	t.Helper()
	config := &tls.Config{RootCAs: x509.NewCertPool()}
	if !config.RootCAs.AppendCertsFromPEM([]byte(readText(t, a.file("ca.crt")))) {
		t.Fatalf("%s holds no certificate", a.file("ca.crt"))
	}
	if name != "" {
		pair, err := tls.LoadX509KeyPair(a.file(name+".crt"), a.file(name+".key"))
		if err != nil {
			t.Fatal(err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config
}

// signed is the configuration of a caller with a certificate that the program
// would not issue.
func (a authority) signed(t testing.TB, usage x509.ExtKeyUsage, from, until time.Duration) *tls.Config {
	t.Helper()
	ca, err := tls.LoadX509KeyPair(a.file("ca.crt"), a.file("ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "n1"},
		NotBefore:    time.Now().Add(from),
		NotAfter:     time.Now().Add(until),
		ExtKeyUsage:  []x509.ExtKeyUsage{usage},
	}, ca.Leaf, &key.PublicKey, ca.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	config := a.config(t, "")
	config.Certificates = []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}
	return config
}

func readText(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// secure gives a node https URLs. Its client URL becomes that of a tunnel, so
// that everything that speaks plain HTTP works with it; its own is returned.
func secure(t testing.TB, n *node, config *tls.Config) (direct string) {
	t.Helper()
	https := func(url string) string { return strings.Replace(url, "http://", "https://", 1) }
	for i, arg := range n.args {
		n.args[i] = https(arg)
	}
	direct, n.peer = https(n.client), https(n.peer)
	n.client = "http://" + tunnel(t, strings.TrimPrefix(direct, "https://"), config)
	return direct
}

// startSecureNode starts a single member with TLS on both ports.
func startSecureNode(t testing.TB, flags ...string) (n *node, direct string, ca authority) {
	t.Helper()
	ca = newAuthority(t, "n1")
	n = newNode(t, "n1", append(ca.flags("n1"), flags...)...)
	direct = secure(t, n, ca.config(t, "alice"))
	n.start(t)
	n.waitReady(t)
	return n, direct, ca
}

// secureCluster is a cluster with TLS on both ports, in which everybody proves
// himself by a certificate.
type secureCluster struct {
	*cluster
	ca     authority
	direct []string // the client URLs of the members
}

func startSecureCluster(t testing.TB, flags ...string) *secureCluster {
	t.Helper()
	c := &secureCluster{cluster: &cluster{}, ca: newAuthority(t, "n1", "n2", "n3")}
	var members []string
	for _, name := range []string{"n1", "n2", "n3"} {
		n := newNode(t, name, append(c.ca.flags(name), flags...)...)
		c.direct = append(c.direct, secure(t, n, c.ca.config(t, "alice")))
		c.nodes = append(c.nodes, n)
		members = append(members, name+"="+n.peer)
	}
	for _, n := range c.nodes {
		n.args = append(n.args, "--bootstrap-config", strings.Join(members, ","))
	}
	c.start(t)
	return c
}

// tunnel listens without TLS, forwards to an address with it until the test
// ends, and returns where it listens.
func tunnel(t testing.TB, address string, config *tls.Config) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer in.Close()
				out, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", address)
				if err != nil {
					return // as if nobody had answered
				}
				join(ctx, in, out)
			})
		}
	})
	t.Cleanup(func() {
		cancel()
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
	})
	return l.Addr().String()
}

// join copies both ways until one way, or ctx, ends, and closes both ends.
func join(ctx context.Context, a, b net.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	for _, way := range [][2]net.Conn{{a, b}, {b, a}} {
		wg.Go(func() {
			defer cancel()
			_, _ = io.Copy(way[0], way[1]) // how it ends does not matter
		})
	}
	<-ctx.Done()
	_ = a.Close()
	_ = b.Close()
	wg.Wait()
}

// getTLS sends a request on a connection of its own, and returns the status and
// the certificate of the other side.
func getTLS(ctx context.Context, url string, config *tls.Config) (int, *x509.Certificate, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
	res, err := client.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil || res.TLS == nil {
		return res.StatusCode, nil, err
	}
	return res.StatusCode, res.TLS.PeerCertificates[0], nil
}

// linesOf counts the lines of a log that hold all of the words.
func linesOf(log string, words ...string) int {
	count := 0
lines:
	for line := range strings.Lines(log) {
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue lines
			}
		}
		count++
	}
	return count
}

// untilWithin fails the test when a condition does not come true in time.
func untilWithin(t testing.TB, most time.Duration, try func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), most)
	defer cancel()
	if err := until(ctx, func() error { return try(ctx) }); err != nil {
		t.Errorf("after %v: %v", most, err)
	}
}

func TestSecureClusterServesAndRefusesWhoDoesNotProveHimself(t *testing.T) {
	t.Parallel()
	c := startSecureCluster(t)
	n := c.nodes[0]
	load := startLoad(t, 4, c.others(nil)...)
	load.waitAcks(t, 200)

	other := newAuthority(t, "n1")
	stranger := other.config(t, "n1")
	stranger.RootCAs = c.ca.config(t, "").RootCAs
	version := func(name string, v uint16) *tls.Config {
		config := c.ca.config(t, name)
		config.MinVersion, config.MaxVersion = tls.VersionTLS10, v
		return config
	}
	weak := version("alice", tls.VersionTLS12)
	weak.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}
	client, peer := c.direct[0]+"/keys/", n.peer+"/members"
	for _, tt := range []struct {
		name, port, url string
		config          *tls.Config
		reason          string // in the log
	}{
		{"no certificate", "client", client, c.ca.config(t, ""), "provide a certificate"},
		{"another authority", "client", client, stranger, "unknown authority"},
		{"TLS 1.1", "client", client, version("alice", tls.VersionTLS11), "unsupported versions"},
		{"a cipher suite without authentication", "client", client, weak, "no cipher suite"},
		{"a certificate that has expired", "client", client, c.ca.signed(t, x509.ExtKeyUsageClientAuth, -48*time.Hour, -24*time.Hour), "expired"},
		{"a certificate for servers only", "client", client, c.ca.signed(t, x509.ExtKeyUsageServerAuth, -time.Hour, time.Hour), "incompatible key usage"},
		{"no certificate", "peer", peer, c.ca.config(t, ""), "provide a certificate"},
		{"another authority", "peer", peer, stranger, "unknown authority"},
		{"TLS 1.2", "peer", peer, version("n2", tls.VersionTLS12), "unsupported versions"},
		{"a certificate that is not valid yet", "peer", peer, c.ca.signed(t, x509.ExtKeyUsageClientAuth, 24*time.Hour, 48*time.Hour), "not yet valid"},
		{"a certificate for servers only", "peer", peer, c.ca.signed(t, x509.ExtKeyUsageServerAuth, -time.Hour, time.Hour), "incompatible key usage"},
		{"a client of the same authority", "peer", peer, c.ca.config(t, "alice"), "one of a client"},
	} {
		t.Run(tt.port+" port/"+tt.name, func(t *testing.T) {
			counter := fmt.Sprintf("deimos_tls_handshake_failures_total{port=%q}", tt.port)
			before, err := metric(t.Context(), n.client, counter)
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				if status, _, err := getTLS(t.Context(), tt.url, tt.config); err == nil {
					t.Errorf("GET %s = %d, want no answer", tt.url, status)
				}
			}
			untilWithin(t, 5*time.Second, func(ctx context.Context) error {
				now, err := metric(ctx, n.client, counter)
				if err == nil && now < before+3 {
					err = fmt.Errorf("%s = %v, want at least 3 more than %v", counter, now, before)
				}
				return err
			})
			if got := linesOf(n.run.stderr.String(), "TLS handshake failed", "port="+tt.port, tt.reason); got != 1 {
				t.Errorf("%d log lines with %q, want 1 for 3 failures:\n%s", got, tt.reason, n.run.stderr.tail())
			}
		})
	}
	for _, tt := range []struct {
		name, url string
		config    *tls.Config
	}{
		{"a client", client, c.ca.config(t, "alice")},
		{"a client with TLS 1.2", client, version("alice", tls.VersionTLS12)},
		{"a member", peer, c.ca.config(t, "n2")},
	} {
		if status, _, err := getTLS(t.Context(), tt.url, tt.config); err != nil || status != http.StatusOK {
			t.Errorf("GET %s of %s = %d, %v, want 200", tt.url, tt.name, status, err)
		}
	}
	load.waitAcks(t, load.acks()+200)
	load.stop(t)
	c.wantAgreement(t)
	for _, n := range c.nodes {
		load.wantAll(t, n.client)
	}
}

func TestAMemberWhoseNameIsNotAllowedStaysOut(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "n1", "n2", "n3")
	c := &cluster{}
	var members []string
	for _, name := range []string{"n1", "n2", "n3"} {
		n := newNode(t, name, ca.flags(name)...)
		if name != "n3" {
			n.args = append(n.args, "--peer-allowed-names", "n1,n2")
		}
		secure(t, n, ca.config(t, "alice"))
		c.nodes = append(c.nodes, n)
		members = append(members, name+"="+n.peer)
	}
	for _, n := range c.nodes {
		n.args = append(n.args, "--bootstrap-config", strings.Join(members, ","))
		n.start(t)
	}
	for _, n := range c.nodes[:2] {
		n.waitReady(t)
	}
	load := startLoad(t, 2, c.nodes[0].client, c.nodes[1].client)
	load.waitAcks(t, 100)
	out := c.nodes[2]
	for _, n := range c.nodes[:2] {
		untilWithin(t, 10*time.Second, func(context.Context) error {
			if linesOf(n.run.stderr.String(), "TLS handshake failed", "port=peer", "n3", "none of which is allowed") == 0 {
				return fmt.Errorf("%s does not say why it refuses n3:\n%s", n.name, n.run.stderr.tail())
			}
			return nil
		})
	}
	if has, err := metric(t.Context(), out.client, "deimos_server_has_leader"); err != nil || has != 0 {
		t.Errorf("deimos_server_has_leader of the member that is not allowed = %v, %v, want 0", has, err)
	}
	load.waitAcks(t, load.acks()+100)
	load.stop(t)
	load.wantAll(t, c.nodes[0].client)
}

func TestWrongSchemeIsAnsweredWith400(t *testing.T) {
	t.Parallel()
	safe, direct, ca := startSecureNode(t)
	plain := startNode(t)
	for _, tt := range []struct{ port, url string }{
		{"client", direct}, {"peer", safe.peer},
	} {
		for range 3 {
			status, body, err := get(t.Context(), strings.Replace(tt.url, "https", "http", 1)+"/members")
			if err != nil || status != http.StatusBadRequest || !strings.Contains(body, "HTTPS") {
				t.Errorf("http to the %s port with TLS = %d %q, %v, want 400 and a word about HTTPS", tt.port, status, body, err)
			}
		}
		if got := linesOf(safe.run.stderr.String(), "TLS handshake failed", "port="+tt.port, "HTTP request to an HTTPS server"); got != 1 {
			t.Errorf("%d log lines about http on the %s port, want 1", got, tt.port)
		}
	}
	before := strings.Count(plain.run.stderr.String(), "\n")
	for port, url := range map[string]string{"client": plain.client, "peer": plain.peer} {
		for range 20 {
			_, err := tls.Dial("tcp", strings.TrimPrefix(url, "http://"), ca.config(t, ""))
			var wrong tls.RecordHeaderError
			if !errors.As(err, &wrong) || !strings.HasPrefix(string(wrong.RecordHeader[:]), "HTTP/") {
				t.Errorf("https to the %s port without TLS = %v, want an answer in HTTP", port, err)
			}
		}
	}
	if got := strings.Count(plain.run.stderr.String(), "\n") - before; got > 2 {
		t.Errorf("%d log lines about https on ports without TLS, want at most one a port", got)
	}
	for _, n := range []*node{safe, plain} {
		n.waitReady(t)
	}
}

func TestSilentTLSConnectionsHurtNobody(t *testing.T) {
	t.Parallel()
	n, direct, ca := startSecureNode(t)
	base := readGauges(t, n)
	var silent []net.Conn
	for _, url := range []string{direct, n.peer} {
		for i := range 300 {
			conn, err := net.Dial("tcp", strings.TrimPrefix(url, "https://"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if i%2 == 1 { // the head of a record that never comes
				if _, err := conn.Write([]byte("\x16\x03\x01\x02\x00\x01")); err != nil {
					t.Fatal(err)
				}
			}
			silent = append(silent, conn)
		}
	}
	opened := time.Now()
	for range 100 {
		began := time.Now()
		status, _, err := getTLS(t.Context(), direct+"/keys/", ca.config(t, "alice"))
		if took := time.Since(began); err != nil || status != http.StatusOK || took > 2*time.Second {
			t.Errorf("GET beside silent connections = %d after %v, %v, want 200 soon", status, took, err)
		}
	}
	if since := time.Since(opened); since > 5*time.Second {
		t.Logf("the good requests took %v, longer than the silent connections last", since)
	}
	for _, conn := range silent {
		if err := conn.SetReadDeadline(opened.Add(8 * time.Second)); err != nil {
			t.Fatal(err)
		}
		_, err := io.Copy(io.Discard, conn)
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			t.Fatalf("a silent connection is open after %v, want it closed after 5 s", time.Since(opened))
		}
	}
	untilWithin(t, 5*time.Second, func(context.Context) error {
		if got := readGauges(t, n); got.goroutines > base.goroutines+10 || got.files > base.files+10 {
			return fmt.Errorf("goroutines = %v and open files = %v, want at most 10 more than %v and %v", got.goroutines, got.files, base.goroutines, base.files)
		}
		return nil
	})
}
