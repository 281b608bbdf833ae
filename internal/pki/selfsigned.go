package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/marsevilspirit/deimos/internal/fsx"
)

const (
	// selfSignedName is the name of the files, without .crt and .key.
	selfSignedName = "self-signed"

	// selfSignedValidity is how long a pair is valid, and selfSignedLeft what
	// must be left of that for it to be used once more.
	selfSignedValidity = 365 * 24 * time.Hour
	selfSignedLeft     = 30 * 24 * time.Hour
)

// SelfSigned returns a pair that no authority has signed, for trying TLS out:
// whoever takes it for right has an encrypted connection with somebody. It is
// kept in dir, which is made with mode 0700 if it is missing, as
// self-signed.crt and self-signed.key, and used again while it is valid for
// exactly these hosts and for more than 30 days; else it is made anew. Hosts are
// DNS names and addresses without ports, at least one.
func SelfSigned(dir string, hosts []string) (Files, error) {
	return selfSigned(fsx.OS{}, dir, hosts, time.Now())
}

func selfSigned(fsys fsx.FS, dir string, hosts []string, now time.Time) (Files, error) {
	if len(hosts) == 0 {
		return Files{}, errors.New("pki: a self-signed certificate needs a host")
	}
	for _, h := range hosts {
		if err := CheckHost(h); err != nil {
			return Files{}, fmt.Errorf("pki: self-signed certificate for host %q: %w", h, err)
		}
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "Deimos self-signed"},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(selfSignedValidity),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	setHosts(template, hosts)

	base := filepath.Join(dir, selfSignedName)
	cert, key := pairFiles(base)
	files := Files{Cert: cert, Key: key, Unverified: true}
	if reusable(files, template, now) {
		return files, nil
	}
	if err := fsys.MakeDir(dir); err != nil {
		return Files{}, fmt.Errorf("pki: make directory for %s: %w", key, err)
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Files{}, fmt.Errorf("pki: make key for %s: %w", key, err)
	}
	der, err := sign(template, nil, private, private)
	if err != nil {
		return Files{}, err
	}
	if err := writePair(fsys, base, der, private); err != nil {
		return Files{}, err
	}
	return files, nil
}

// reusable tells whether the pair of an earlier run will do for what is
// wanted. One that cannot be read is as good as none.
func reusable(f Files, want *x509.Certificate, now time.Time) bool {
	pair, err := parsePair(readFile(f.Cert), readFile(f.Key))
	if err != nil {
		return false
	}
	have := pair.Leaf
	return !now.Before(have.NotBefore) && have.NotAfter.Sub(now) > selfSignedLeft &&
		sameHosts(have, want)
}

// sameHosts tells whether two certificates are for the same hosts, in
// whatever order.
func sameHosts(a, b *x509.Certificate) bool {
	if len(a.DNSNames) != len(b.DNSNames) || len(a.IPAddresses) != len(b.IPAddresses) {
		return false
	}
	hosts := make(map[string]bool)
	for _, name := range a.DNSNames {
		hosts[name] = true
	}
	for _, ip := range a.IPAddresses {
		hosts[ip.String()] = true
	}
	for _, name := range b.DNSNames {
		if !hosts[name] {
			return false
		}
	}
	for _, ip := range b.IPAddresses {
		if !hosts[ip.String()] {
			return false
		}
	}
	return true
}
