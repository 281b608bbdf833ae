package pki

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
)

// fileSizeMax bounds the files that are read, in bytes. The largest bundles of
// authorities have a fifth of it.
const fileSizeMax = 1 << 20

// content is a file as it was read.
type content struct {
	name string
	data []byte
	err  error
}

// fingerprint tells one content of a file from another, also of a file that
// cannot be read.
type fingerprint struct {
	sum     [sha256.Size]byte
	problem string
}

func (c content) fingerprint() fingerprint {
	if c.err != nil {
		return fingerprint{problem: c.err.Error()}
	}
	return fingerprint{sum: sha256.Sum256(c.data)}
}

// readFile reads a small ordinary file. Content is compared rather than times
// and sizes, which miss a file that is rewritten within one tick of the clock
// of its file system.
func readFile(name string) content {
	data, err := readOrdinary(name)
	if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
		err = pathErr.Err // the name is in the sentence already
	}
	return content{name: name, data: data, err: err}
}

func readOrdinary(name string) ([]byte, error) {
	info, err := os.Stat(name)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular(): // reading a pipe could take forever
		return nil, errors.New("it is not an ordinary file")
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, fileSizeMax+1))
	if err != nil {
		return nil, err
	}
	if len(data) > fileSizeMax {
		return nil, fmt.Errorf("it has more than %d bytes", fileSizeMax)
	}
	return data, nil
}

// parsePair makes a certificate that can be presented of its two files.
func parsePair(cert, key content) (*tls.Certificate, error) {
	if cert.err != nil {
		return nil, fmt.Errorf("pki: the certificate file %s cannot be read: %w", cert.name, cert.err)
	}
	if key.err != nil {
		return nil, fmt.Errorf("pki: the key file %s cannot be read: %w", key.name, key.err)
	}
	certs, err := parseCertificates(cert.data)
	if err != nil {
		return nil, fmt.Errorf("pki: the certificate file %s is not usable: %w", cert.name, err)
	}
	if err := checkKey(key.data); err != nil {
		return nil, fmt.Errorf("pki: the key file %s is not usable: %w", key.name, err)
	}
	pair, err := tls.X509KeyPair(cert.data, key.data)
	if err != nil {
		if strings.Contains(err.Error(), "does not match") {
			return nil, fmt.Errorf("pki: the key file %s does not belong to the certificate file %s", key.name, cert.name)
		}
		return nil, fmt.Errorf("pki: the key file %s is not usable with the certificate file %s: %w", key.name, cert.name, err)
	}
	pair.Leaf = certs[0]
	return &pair, nil
}

// checkKey finds the usual mistakes with key files, for which crypto/tls has
// no plain words.
func checkKey(data []byte) error {
	for rest := data; ; {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		switch {
		case block == nil:
			return errors.New("it holds no private key in PEM form")
		case block.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED"):
			return errors.New("the key is encrypted with a passphrase, which is not supported")
		case strings.HasSuffix(block.Type, "PRIVATE KEY"):
			return nil
		}
	}
}

// parseRoots makes a set of authorities of a CA file.
func parseRoots(ca content) (*x509.CertPool, error) {
	if ca.err != nil {
		return nil, fmt.Errorf("pki: the CA file %s cannot be read: %w", ca.name, ca.err)
	}
	certs, err := parseCertificates(ca.data)
	if err != nil {
		return nil, fmt.Errorf("pki: the CA file %s is not usable: %w", ca.name, err)
	}
	pool := x509.NewCertPool()
	for _, c := range certs {
		pool.AddCert(c)
	}
	return pool, nil
}

// parseCertificates returns the certificates in PEM data, in order and at
// least one. Blocks of other kinds are passed over; text after the last block
// that looks like one more is an error, because the file was cut short.
func parseCertificates(data []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	rest := data
	for {
		block, after := pem.Decode(rest)
		if block == nil {
			break
		}
		rest = after
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d in it: %w", len(certs)+1, err)
		}
		certs = append(certs, c)
	}
	switch {
	case bytes.Contains(rest, []byte("-----BEGIN CERTIFICATE")):
		return nil, errors.New("its last certificate is cut short")
	case len(certs) == 0:
		return nil, errors.New("it holds no certificate in PEM form")
	}
	return certs, nil
}

// ReadCertificates returns the certificates of a PEM file, in order and at
// least one. The error is one sentence that names the file.
func ReadCertificates(name string) ([]*x509.Certificate, error) {
	c := readFile(name)
	if c.err != nil {
		return nil, fmt.Errorf("pki: the file %s cannot be read: %w", name, c.err)
	}
	certs, err := parseCertificates(c.data)
	if err != nil {
		return nil, fmt.Errorf("pki: the file %s is not usable: %w", name, err)
	}
	return certs, nil
}

// warnOfKeyMode warns about a key that is everybody's to read or change.
func (s *Source) warnOfKeyMode() {
	info, err := os.Stat(s.files.Key)
	if err != nil {
		return // it was read a moment ago, and will be missed at the next look
	}
	if mode := info.Mode().Perm(); mode&0o007 != 0 {
		s.opts.Log.Warn("the key file is open to every user of this machine, its mode should be 0600",
			"port", s.opts.Port, "file", s.files.Key, "mode", fmt.Sprintf("%04o", mode))
	}
}
