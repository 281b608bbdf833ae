package pki

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestErrorLogCountsEveryFailureAndLogsOneAMinute(t *testing.T) {
	r := newRig()
	log := ErrorLog(r.options(PortClient))
	const eof = "http: TLS handshake error from 10.0.0.1:%d: EOF"
	const authority = "http: TLS handshake error from 10.0.0.2:%d: tls: failed to verify certificate: x509: certificate signed by unknown authority"
	said := func(want string) {
		t.Helper()
		got := r.log.String()
		r.log.Reset()
		if want == "" && got != "" || !strings.Contains(got, want) || strings.Count(got, "\n") > 1 {
			t.Errorf("logged %q, want %q", got, want)
		}
	}
	log.Printf(eof, 1)
	said(`level=WARN msg="TLS handshake failed" port=client address=10.0.0.1:1 reason=EOF` + "\n")
	log.Printf(eof, 2)
	said("")
	log.Printf(authority, 3)
	said("unknown authority")
	r.clock.advance(failureLogInterval - 1)
	log.Printf(eof, 4)
	log.Printf(authority, 5)
	said("")
	r.clock.advance(1)
	log.Printf(eof, 6)
	said("address=10.0.0.1:6 reason=EOF unlogged=2\n")
	r.clock.advance(failureLogInterval)
	log.Printf(eof, 7)
	said("address=10.0.0.1:7 reason=EOF\n")
	log.Print("http: TLS handshake error from 10.0.0.1:8: read tcp 10.0.0.9:1->10.0.0.1:8: use of closed network connection")
	said("level=DEBUG")
	log.Print("http: Server closed")
	said(`level=DEBUG msg="http server" port=client message="http: Server closed"` + "\n")

	m, err := newMetrics(r.registry)
	if err != nil {
		t.Fatal(err)
	}
	if got := testutil.ToFloat64(m.handshakeFailures); got != 7 {
		t.Errorf("handshake failures = %v, want 7", got)
	}
}

func TestReasonsOfOneKindDifferInDetailsOnly(t *testing.T) {
	for _, tt := range []struct {
		reason string
		want   failureKind
	}{
		{"EOF", failureClosed},
		{"read tcp 127.0.0.1:1->127.0.0.1:2: read: connection reset by peer", failureClosed},
		{"read tcp 127.0.0.1:1->127.0.0.1:2: i/o timeout", failureTimeout},
		{"client sent an HTTP request to an HTTPS server", failurePlainHTTP},
		{"tls: client didn't provide a certificate", failureNoCertificate},
		{"tls: client offered only unsupported versions: [302 301]", failureVersion},
		{"tls: failed to verify certificate: x509: certificate signed by unknown authority (possibly because of \"x\")", failureAuthority},
		{"tls: failed to verify certificate: x509: certificate has expired or is not yet valid: current time ...", failureValidity},
		{"tls: failed to verify certificate: x509: certificate specifies an incompatible key usage", failureUsage},
		{(&NameError{Names: []string{"n9"}}).Error(), failureName},
		{"remote error: tls: bad certificate", failureTheirs},
		{"tls: first record does not look like a TLS handshake", failureOther},
	} {
		if got := kindOf(tt.reason); got != tt.want {
			t.Errorf("kindOf(%q) = %d, want %d", tt.reason, got, tt.want)
		}
	}
}

// lines is a writer that hands each log line to a test.
type lines chan string

func (l lines) Write(p []byte) (int, error) {
	l <- string(p)
	return len(p), nil
}

func TestAServerLogsWhyHandshakesFail(t *testing.T) {
	r := newRig()
	now := r.clock.Now()
	ca, stranger := newIssuer(t, now, "CA", nil), newIssuer(t, now, "other CA", nil)
	source := r.open(t, ca.files(t, now, &leaf{}, ca), PortClient)
	logged := make(lines, 16)
	options := r.options(PortClient)
	options.Log = slog.New(slog.NewTextHandler(logged, nil))
	server := &http.Server{TLSConfig: source.ServerConfig(), ErrorLog: ErrorLog(options), ReadHeaderTimeout: time.Minute}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.ServeTLS(listener, "", "") }()
	defer func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("ServeTLS = %v", err)
		}
	}()
	address := listener.Addr().String()

	dial := func(f Files) {
		t.Helper()
		conn, err := dialTLS(r.open(t, f, PortClient), new(net.Dialer).DialContext)(t.Context(), "tcp", address)
		if err != nil {
			return
		}
		defer conn.Close()
		if _, err := io.ReadAll(conn); err == nil {
			t.Error("the server keeps the connection without an error")
		}
	}
	for _, tt := range []struct {
		name, want string
		connect    func()
	}{
		{"plain HTTP", "HTTP request to an HTTPS server", func() {
			response, err := http.Get("http://" + address)
			if err != nil {
				t.Error(err)
				return
			}
			defer response.Body.Close()
			if response.StatusCode != http.StatusBadRequest {
				t.Errorf("status = %d, want %d", response.StatusCode, http.StatusBadRequest)
			}
		}},
		{"other authority", "unknown authority", func() { dial(stranger.files(t, now, &leaf{}, ca)) }},
		{"no certificate", "didn't provide a certificate", func() { dial(ca.files(t, now, nil, ca)) }},
		{"client that trusts another", "bad certificate", func() { dial(stranger.files(t, now, nil, stranger)) }},
		{"TLS 1.1", "unsupported versions", func() {
			old := &tls.Config{MinVersion: tls.VersionTLS11, MaxVersion: tls.VersionTLS11, InsecureSkipVerify: true}
			if _, err := dialWith(old)(t.Context(), address); err == nil {
				t.Error("TLS 1.1: no error")
			}
		}},
	} {
		tt.connect()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		select {
		case got := <-logged:
			if !strings.Contains(got, tt.want) || !strings.Contains(got, "address=127.0.0.1:") {
				t.Errorf("%s: logged %q, want %q and the address", tt.name, got, tt.want)
			}
		case <-ctx.Done():
			t.Fatalf("%s: nothing logged", tt.name)
		}
		cancel()
	}
}

func FuzzErrorLog(f *testing.F) {
	f.Add("http: TLS handshake error from 10.0.0.1:1: EOF\n")
	f.Add("http: TLS handshake error from \n")
	f.Add("http: TLS handshake error from [::1]:1: remote error: tls: x\n")
	f.Add("")
	f.Fuzz(func(t *testing.T, line string) {
		r := newRig()
		w := ErrorLog(r.options(PortPeer)).Writer()
		if n, err := w.Write([]byte(line)); n != len(line) || err != nil {
			t.Errorf("Write(%q) = %d, %v, want %d, nil", line, n, err, len(line))
		}
		if got := r.log.count("\n"); got != 1 {
			t.Errorf("Write(%q) logged %d lines, want 1", line, got)
		}
	})
}
