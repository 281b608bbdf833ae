package transport

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos"
)

// memberCertificate is one for 127.0.0.1 that vouches for itself, at both ends.
func memberCertificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, roots
}

// Goal: among members with certificates a new one may vouch for itself, because
// its certificate was verified; where none is asked for it may not.
func TestSenderWithACertificateVouchesForItself(t *testing.T) {
	for _, tt := range []struct {
		name string
		auth tls.ClientAuthType
		want bool
	}{
		{"verified", tls.RequireAndVerifyClientCert, true},
		{"not asked for", tls.NoClientCert, false},
		{"not verified", tls.RequireAnyClientCert, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			certificate, roots := memberCertificate(t)
			r := newHTTPRig(t)
			url := func(id uint64) string { return strings.Replace(r.url(t, id), "http://", "https://", 1) }
			for _, id := range []uint64{1, 2} {
				r.list(deimos.Member{ID: id, PeerURLs: []string{url(id)}})
			}
			r.change = func(c *Config) {
				c.PeerURLs = []string{url(c.MemberID)}
				c.TLS = func() *tls.Config {
					return &tls.Config{Certificates: []tls.Certificate{certificate}, RootCAs: roots}
				}
			}
			start := func(id, peer uint64) *node {
				n := &node{id: id, recv: newRecorder()}
				h, err := NewHTTP(r.config(t, id, n.recv))
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(h.Stop)
				n.sender = h
				l, err := net.Listen("tcp", strings.TrimPrefix(url(id), "https://"))
				if err != nil {
					t.Fatal(err)
				}
				srv := &http.Server{
					Handler: h.Handler(), ReadHeaderTimeout: time.Minute,
					ErrorLog:  slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
					TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}, ClientCAs: roots, ClientAuth: tt.auth},
				}
				go func() { _ = srv.ServeTLS(l, "", "") }()
				t.Cleanup(func() { _ = srv.Close() })
				if err := h.AddPeer(deimos.Member{ID: peer, PeerURLs: []string{url(peer)}}); err != nil {
					t.Fatal(err)
				}
				return n
			}
			old, fresh := start(1, 3), start(2, 1)
			meet(t, r, old, fresh, tt.want)
		})
	}
}
