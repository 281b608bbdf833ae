package pki

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestOpenSaysWhichFileIsWrong(t *testing.T) {
	r := newRig()
	now := r.clock.Now()
	ca := newIssuer(t, now, "CA", nil)
	dir := t.TempDir()
	put := func(name string, data []byte) string {
		name = filepath.Join(dir, name)
		writeFile(t, name, data)
		return name
	}
	certPEM, keyPEM := ca.issue(t, now, leaf{})
	_, otherKeyPEM := ca.issue(t, now, leaf{})
	cert, key, other := put("n.crt", certPEM), put("n.key", keyPEM), put("other.key", otherKeyPEM)
	authority := put("ca.crt", ca.pem())
	text := put("text", []byte("hello\n"))
	empty := put("empty", nil)
	cut := put("cut.crt", append(bytes.Clone(certPEM), ca.pem()[:100]...))
	garbled := put("garbled.crt", pemBlock("CERTIFICATE", []byte("hello")))
	garbledKey := put("garbled.key", pemBlock("PRIVATE KEY", []byte("hello")))
	encrypted := put("encrypted.key", pemBlock("ENCRYPTED PRIVATE KEY", []byte("hello")))
	oldEncrypted := put("old-encrypted.key", pem.EncodeToMemory(&pem.Block{
		Type: "EC PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-128-CBC,00"}, Bytes: []byte("x")}))
	huge := put("huge", make([]byte, fileSizeMax+1))
	missing := filepath.Join(dir, "missing")

	for _, tt := range []struct {
		name  string
		files Files
		want  []string
	}{
		{"certificate missing", Files{Cert: missing, Key: key}, []string{missing, "no such file"}},
		{"key missing", Files{Cert: cert, Key: missing}, []string{missing, "no such file"}},
		{"CA missing", Files{CA: missing}, []string{missing, "no such file"}},
		{"certificate without key", Files{Cert: cert}, []string{cert, "one needs the other"}},
		{"key without certificate", Files{Key: key}, []string{key, "one needs the other"}},
		{"key of another certificate", Files{Cert: cert, Key: other}, []string{cert, other, "does not belong"}},
		{"key and certificate swapped", Files{Cert: key, Key: cert}, []string{key, "no certificate"}},
		{"certificate as key", Files{Cert: cert, Key: cert}, []string{cert, "no private key"}},
		{"key encrypted", Files{Cert: cert, Key: encrypted}, []string{encrypted, "passphrase"}},
		{"key encrypted the old way", Files{Cert: cert, Key: oldEncrypted}, []string{oldEncrypted, "passphrase"}},
		{"key garbled", Files{Cert: cert, Key: garbledKey}, []string{garbledKey}},
		{"certificate is text", Files{Cert: text, Key: key}, []string{text, "no certificate"}},
		{"certificate empty", Files{Cert: empty, Key: key}, []string{empty, "no certificate"}},
		{"certificate garbled", Files{Cert: garbled, Key: key}, []string{garbled, "certificate 1"}},
		{"certificate cut short", Files{Cert: cut, Key: key}, []string{cut, "cut short"}},
		{"CA empty", Files{CA: empty}, []string{empty, "no certificate"}},
		{"CA is a key", Files{CA: key}, []string{key, "no certificate"}},
		{"CA cut short", Files{CA: cut}, []string{cut, "cut short"}},
		{"CA is a directory", Files{CA: dir}, []string{dir, "ordinary file"}},
		{"CA too large", Files{CA: huge}, []string{huge, "more than"}},
		{"allowed names without CA", Files{Cert: cert, Key: key, AllowedNames: []string{"n1"}}, []string{"need a CA"}},
		{"CA and not verified", Files{CA: authority, Unverified: true}, []string{authority}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Open(tt.files, r.options(PortClient))
			if err == nil {
				t.Fatalf("Open(%+v): no error", tt.files)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("Open(%+v) = %q, want %q in it", tt.files, err, want)
				}
			}
			if strings.Contains(err.Error(), "\n") || strings.Count(err.Error(), tt.want[0]) > 2 {
				t.Errorf("Open(%+v) = %q, want one sentence", tt.files, err)
			}
			for line := range strings.Lines(string(keyPEM)) {
				if line = strings.TrimSpace(line); !strings.HasPrefix(line, "-") && strings.Contains(err.Error(), line) {
					t.Errorf("Open(%+v) = %q, which holds a part of the key", tt.files, err)
				}
			}
		})
	}
}

func TestOpenKeepsToTheOldestVersion(t *testing.T) {
	for _, tt := range []struct {
		port    string
		version uint16
		ok      bool
		want    uint16
	}{
		{PortClient, 0, true, tls.VersionTLS12},
		{PortClient, tls.VersionTLS11, false, 0},
		{PortClient, tls.VersionTLS13, true, tls.VersionTLS13},
		{PortPeer, 0, true, tls.VersionTLS13},
		{PortPeer, tls.VersionTLS12, false, 0},
	} {
		s, err := Open(Files{}, Options{Port: tt.port, MinVersion: tt.version})
		if (err == nil) != tt.ok {
			t.Errorf("Open(%s, %#x): error = %v, want none: %t", tt.port, tt.version, err, tt.ok)
			continue
		}
		if err != nil {
			continue
		}
		if got := s.ServerConfig().MinVersion; got != tt.want {
			t.Errorf("ServerConfig(%s, %#x).MinVersion = %#x, want %#x", tt.port, tt.version, got, tt.want)
		}
		if got := s.ClientConfig().MinVersion; got != tt.want {
			t.Errorf("ClientConfig(%s, %#x).MinVersion = %#x, want %#x", tt.port, tt.version, got, tt.want)
		}
	}
}

func TestOpenWarnsAboutCertificatesAndKeys(t *testing.T) {
	for _, tt := range []struct {
		name string
		leaf leaf
		mode os.FileMode
		want string
	}{
		{"all right", leaf{to: ExpiryWarning + time.Second}, 0o640, ""},
		{"expires soon", leaf{to: ExpiryWarning - time.Second}, 0o600, "expires soon"},
		{"expired", leaf{to: -time.Second}, 0o600, "has expired"},
		{"not yet valid", leaf{from: time.Second}, 0o600, "not valid yet"},
		{"key for everybody", leaf{}, 0o604, "mode=0604"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig()
			now := r.clock.Now()
			files := newIssuer(t, now, "CA", nil).files(t, now, &tt.leaf, nil)
			if err := os.Chmod(files.Key, tt.mode); err != nil {
				t.Fatal(err)
			}
			r.open(t, files, PortClient)
			got := r.log.String()
			if tt.want == "" && got != "" || !strings.Contains(got, tt.want) || r.log.count("\n") > 1 {
				t.Errorf("Open logged %q, want %q", got, tt.want)
			}
		})
	}
}

func TestExpiryIsWarnedAboutOnceADay(t *testing.T) {
	r := newRig()
	now := r.clock.Now()
	s := r.open(t, newIssuer(t, now, "CA", nil).files(t, now, &leaf{to: 8 * dayLong}, nil), PortClient)
	for hour := range 10 * 24 {
		r.clock.advance(time.Hour)
		s.latest()
		if got := r.log.count("\n"); hour < 23 && got != 0 {
			t.Fatalf("after %d hours: %q, want nothing", hour+1, r.log)
		}
	}
	if got := r.log.count("expires soon"); got != 7 {
		t.Errorf("warned %d times of the end to come, want 7", got)
	}
	if got := r.log.count("has expired"); got != 2 {
		t.Errorf("warned %d times of the end, want 2", got)
	}
}

func TestMetricsOfTwoPortsShareARegistry(t *testing.T) {
	r := newRig()
	now := r.clock.Now()
	ca := newIssuer(t, now, "CA", nil)
	r.open(t, ca.files(t, now, &leaf{to: 10 * dayLong}, nil), PortClient)
	r.open(t, ca.files(t, now, &leaf{to: 20 * dayLong}, nil), PortPeer)
	ErrorLog(r.options(PortPeer))
	want := `
# HELP deimos_tls_certificate_expiry_timestamp_seconds When the certificate in use ends, in seconds since 1970.
# TYPE deimos_tls_certificate_expiry_timestamp_seconds gauge
deimos_tls_certificate_expiry_timestamp_seconds{port="client"} 1.89432e+09
deimos_tls_certificate_expiry_timestamp_seconds{port="peer"} 1.895184e+09
# HELP deimos_tls_handshake_failures_total Incoming connections whose TLS handshake failed.
# TYPE deimos_tls_handshake_failures_total counter
deimos_tls_handshake_failures_total{port="peer"} 0
# HELP deimos_tls_reload_failures_total Changed certificate files that could not be used, so that the old certificates stayed.
# TYPE deimos_tls_reload_failures_total counter
deimos_tls_reload_failures_total{port="client"} 0
deimos_tls_reload_failures_total{port="peer"} 0
`
	if err := testutil.GatherAndCompare(r.registry, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}

func TestOpenReportsARegistryThatRefusesItsMetrics(t *testing.T) {
	r := newRig()
	r.registry.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "deimos_tls_reload_failures_total", Help: "another"}))
	if _, err := Open(Files{}, r.options(PortClient)); err == nil {
		t.Error("Open with a metric of the same name: no error")
	}
	ErrorLog(r.options(PortClient)).Print("http: TLS handshake error from 10.0.0.1:1: EOF")
	if got := r.log.count("will not be counted"); got != 1 {
		t.Errorf("ErrorLog said %q, want that nothing is counted, once", r.log)
	}
	if got := r.log.count("TLS handshake failed"); got != 1 {
		t.Errorf("ErrorLog said %q, want the failed handshake all the same", r.log)
	}
}

// serials connects and returns the serial numbers that each side sees of the
// other.
func serials(t *testing.T, server *tls.Config, client *Source) (ofServer, ofClient string) {
	t.Helper()
	out := connect(t, server, dialAs(client, "127.0.0.1"))
	if err := errors.Join(out.server, out.client); err != nil {
		t.Fatalf("connect: %v", err)
	}
	return out.state.PeerCertificates[0].SerialNumber.String(), out.seen.SerialNumber.String()
}

func serial(t *testing.T, file string) string {
	t.Helper()
	certs, err := ReadCertificates(file)
	if err != nil {
		t.Fatal(err)
	}
	return certs[0].SerialNumber.String()
}

func TestReplacedCertificatesAreUsedByTheNextHandshake(t *testing.T) {
	r := newRig()
	now := r.clock.Now()
	ca := newIssuer(t, now, "CA", nil)
	serverFiles, clientFiles := ca.files(t, now, &leaf{}, ca), ca.files(t, now, &leaf{}, ca)
	server, client := r.open(t, serverFiles, PortPeer), r.open(t, clientFiles, PortPeer)
	config := server.ServerConfig()
	old, _ := serials(t, config, client)

	for _, f := range []Files{serverFiles, clientFiles} {
		cert, key := ca.issue(t, now, leaf{})
		writeFile(t, f.Cert, cert)
		writeFile(t, f.Key, key)
	}
	r.clock.advance(ReloadInterval - 1)
	if got, _ := serials(t, config, client); got != old {
		t.Errorf("before the interval the server presents %s, want the old %s", got, old)
	}
	r.clock.advance(1)
	gotServer, gotClient := serials(t, config, client)
	if want := serial(t, serverFiles.Cert); gotServer != want {
		t.Errorf("the server presents %s, want the new %s", gotServer, want)
	}
	if want := serial(t, clientFiles.Cert); gotClient != want {
		t.Errorf("the client presents %s, want the new %s", gotClient, want)
	}
	if got := r.log.count("certificates reloaded"); got != 2 {
		t.Errorf("logged %d reloads, want 2:\n%s", got, r.log)
	}
	if got := r.reloadFailures(t, server); got != 0 {
		t.Errorf("reload failures = %v, want 0", got)
	}
}

func TestAFileRewrittenInPlaceWithItsOldTimeIsSeen(t *testing.T) {
	r := newRig()
	now := r.clock.Now()
	ca, next := newIssuer(t, now, "CA", nil), newIssuer(t, now, "CA", nil)
	files := ca.files(t, now, nil, ca)
	s := r.open(t, files, PortClient)
	info, err := os.Stat(files.CA)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files.CA, next.pem(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(files.CA, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	r.clock.advance(ReloadInterval)
	want := x509.NewCertPool()
	want.AddCert(next.cert)
	if got := s.ClientConfig().RootCAs; !got.Equal(want) {
		t.Error("ClientConfig().RootCAs is not the new authority")
	}
}

func TestUnusableContentLeavesTheOldCertificates(t *testing.T) {
	r := newRig()
	now := r.clock.Now()
	ca := newIssuer(t, now, "CA", nil)
	files := ca.files(t, now, &leaf{}, ca)
	s := r.open(t, files, PortPeer)
	config := s.ServerConfig()
	old := serial(t, files.Cert)
	goodCert, goodKey := ca.issue(t, now, leaf{})
	_, otherKey := ca.issue(t, now, leaf{})

	failures := 0.0
	for _, tt := range []struct {
		name    string
		destroy func()
		want    string
	}{
		{"garbled certificate", func() { writeFile(t, files.Cert, []byte("hello")) }, files.Cert},
		{"empty certificate", func() { writeFile(t, files.Cert, nil) }, files.Cert},
		{"certificate without its key yet", func() { writeFile(t, files.Cert, goodCert) }, "does not belong"},
		{"key of another", func() { writeFile(t, files.Key, otherKey) }, "does not belong"},
		{"key removed", func() {
			if err := os.Remove(files.Key); err != nil {
				t.Fatal(err)
			}
		}, "cannot be read"},
		{"CA emptied", func() { writeFile(t, files.CA, nil) }, files.CA},
	} {
		tt.destroy()
		before := r.log.String()
		failures++
		for range 3 { // the problem is found once
			r.clock.advance(ReloadInterval)
			if got, _ := serials(t, config, s); got != old {
				t.Fatalf("%s: the server presents %s, want the old %s", tt.name, got, old)
			}
		}
		said := strings.TrimPrefix(r.log.String(), before)
		if strings.Count(said, "\n") != 1 || !strings.Contains(said, tt.want) || !strings.Contains(said, "level=WARN") {
			t.Errorf("%s: logged %q, want one warning with %q", tt.name, said, tt.want)
		}
		if got := r.reloadFailures(t, s); got != failures {
			t.Errorf("%s: reload failures = %v, want %v", tt.name, got, failures)
		}
	}

	writeFile(t, files.Key, goodKey)
	r.clock.advance(ReloadInterval)
	if got, want := first(serials(t, config, s)), serial(t, files.Cert); got != want {
		t.Errorf("after the repair the server presents %s, want %s", got, want)
	}
	if got := testutil.ToFloat64(s.metrics.expiry); got != float64(now.Add(365*dayLong).Unix()) {
		t.Errorf("expiry = %v, want that of the new certificate", got)
	}
	for line := range strings.Lines(string(goodKey) + string(otherKey)) {
		if line = strings.TrimSpace(line); !strings.HasPrefix(line, "-") && r.log.count(line) > 0 {
			t.Error("the log holds a part of a key")
		}
	}
}

func first[T any](a, _ T) T { return a }

// A broken pair must not keep a member from forgetting an authority.
func TestCAIsFollowedWhileThePairIsBroken(t *testing.T) {
	r := newRig()
	now := r.clock.Now()
	ca, next := newIssuer(t, now, "old CA", nil), newIssuer(t, now, "new CA", nil)
	files := ca.files(t, now, &leaf{}, ca)
	server := r.open(t, files, PortPeer)
	client := r.open(t, ca.files(t, now, &leaf{}, ca), PortPeer)
	writeFile(t, files.Key, []byte("hello"))
	writeFile(t, files.CA, next.pem())
	r.clock.advance(ReloadInterval)
	out := connect(t, server.ServerConfig(), dialAs(client, "localhost"))
	checkError(t, "server", out.server, "unknown authority")
}

func TestCAIsReplacedInThreeStepsWithoutARefusal(t *testing.T) {
	r := newRig()
	now := r.clock.Now()
	oldCA, newCA := newIssuer(t, now, "old CA", nil), newIssuer(t, now, "new CA", nil)
	var all []Files
	var sources []*Source
	for range 2 {
		f := oldCA.files(t, now, &leaf{}, oldCA)
		all = append(all, f)
		sources = append(sources, r.open(t, f, PortPeer))
	}
	stale := r.open(t, oldCA.files(t, now, &leaf{}, oldCA), PortPeer)
	check := func(step string) {
		t.Helper()
		r.clock.advance(ReloadInterval)
		for i, server := range sources {
			out := connect(t, server.ServerConfig(), dialAs(sources[1-i], "127.0.0.1"))
			checkError(t, step+", server", out.server, "")
			checkError(t, step+", client", out.client, "")
		}
	}
	check("at first")
	for i, f := range all {
		writeFile(t, f.CA, append(oldCA.pem(), newCA.pem()...))
		check([]string{"first member trusts both", "both members trust both"}[i])
	}
	for i, f := range all {
		cert, key := newCA.issue(t, now, leaf{})
		writeFile(t, f.Key, key)
		writeFile(t, f.Cert, cert)
		check([]string{"first member has its new pair", "both members have new pairs"}[i])
	}
	for i, f := range all {
		writeFile(t, f.CA, newCA.pem())
		check([]string{"first member forgets the old authority", "both members forget it"}[i])
	}
	out := connect(t, sources[0].ServerConfig(), dialAs(stale, "127.0.0.1"))
	checkError(t, "a client of the old authority", out.client, "unknown authority")
	out = connect(t, stale.ServerConfig(), dialAs(sources[0], "127.0.0.1"))
	checkError(t, "a server of the old authority", out.client, "unknown authority")
}

func TestAClientConfigThatWasKeptForgetsARemovedCA(t *testing.T) {
	r := newRig()
	now := r.clock.Now()
	ca, next := newIssuer(t, now, "old CA", nil), newIssuer(t, now, "new CA", nil)
	middle := newIssuer(t, now, "intermediate", ca)
	server := r.open(t, middle.files(t, now, &leaf{withChain: true}, nil), PortPeer)
	files := ca.files(t, now, nil, ca)
	kept := r.open(t, files, PortPeer).ClientConfig()
	kept.ServerName = "127.0.0.1"
	dial := func(want string) {
		t.Helper()
		r.clock.advance(ReloadInterval)
		out := connect(t, server.ServerConfig(), dialWith(kept.Clone()))
		checkError(t, "client", out.client, want)
	}
	dial("")
	writeFile(t, files.CA, append(ca.pem(), next.pem()...))
	dial("")
	writeFile(t, files.CA, next.pem())
	dial(files.CA)
}

func TestHandshakesDuringReplacementsSeeAWholePair(t *testing.T) {
	r := newRig()
	now := r.clock.Now()
	ca := newIssuer(t, now, "CA", nil)
	files := ca.files(t, now, &leaf{}, ca)
	s := r.open(t, files, PortPeer)
	config := s.ServerConfig()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				out := connect(t, config, dialAs(s, "localhost"))
				if err := errors.Join(out.server, out.client); err != nil {
					t.Errorf("connect: %v", err)
					return
				}
			}
		})
	}
	for range 20 {
		cert, key := ca.issue(t, now, leaf{})
		writeFile(t, files.Key, key)
		r.clock.advance(ReloadInterval)
		s.latest()
		writeFile(t, files.Cert, cert)
		r.clock.advance(ReloadInterval)
		s.latest()
	}
	close(stop)
	wg.Wait()
}

func TestReadCertificatesNamesTheFile(t *testing.T) {
	now := time.Now()
	ca := newIssuer(t, now, "CA", nil)
	name := filepath.Join(t.TempDir(), "certs")
	if _, err := ReadCertificates(name); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), name) {
		t.Errorf("ReadCertificates(%s) = %v, want the file missing", name, err)
	}
	writeFile(t, name, []byte("hello"))
	if _, err := ReadCertificates(name); err == nil || !strings.Contains(err.Error(), name) {
		t.Errorf("ReadCertificates(%s) = %v, want the file named", name, err)
	}
	cert, key := ca.issue(t, now, leaf{cn: "n1"})
	writeFile(t, name, bytes.Join([][]byte{[]byte("a remark\n"), key, cert, ca.pem()}, nil))
	certs, err := ReadCertificates(name)
	if err != nil || len(certs) != 2 || certs[0].Subject.CommonName != "n1" || certs[1].Subject.CommonName != "CA" {
		t.Errorf("ReadCertificates(%s) = %v, %v, want n1 and CA", name, certs, err)
	}
}

func FuzzParsePair(f *testing.F) {
	now := time.Now()
	ca := newIssuer(f, now, "CA", nil)
	cert, key := ca.issue(f, now, leaf{})
	other, otherKey := ca.issue(f, now, leaf{})
	f.Add(cert, key)
	f.Add(append(cert, ca.pem()...), key)
	f.Add(other, key)
	f.Add(cert[:len(cert)/2], key)
	f.Add(cert, otherKey[:len(otherKey)/2])
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"), []byte{})
	f.Fuzz(func(t *testing.T, cert, key []byte) {
		pair, err := parsePair(content{name: "a.crt", data: cert}, content{name: "a.key", data: key})
		if (pair == nil) == (err == nil) {
			t.Fatalf("parsePair = %v, %v, want either", pair, err)
		}
		if pair != nil && (pair.Leaf == nil || !bytes.Equal(pair.Leaf.Raw, pair.Certificate[0])) {
			t.Error("the leaf is not the first certificate")
		}
		if _, err := parseRoots(content{name: "ca.crt", data: cert}); pair != nil && err != nil {
			t.Errorf("parseRoots of a usable certificate file = %v", err)
		}
	})
}
