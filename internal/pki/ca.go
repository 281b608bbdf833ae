package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"path/filepath"
	"time"

	"github.com/marsevilspirit/deimos/internal/fsx"
)

// How long an authority and the certificates that it issues are valid, unless
// they are asked for otherwise.
const (
	DefaultCAValidity = 3650 * 24 * time.Hour
	DefaultValidity   = 825 * 24 * time.Hour
)

const (
	// caName is the name of the files of an authority, without .crt and .key.
	caName = "ca"

	// clockSkew is how long before it is made a certificate is valid already,
	// for machines whose clocks are behind.
	clockSkew = 5 * time.Minute

	serialBits = 128
)

// Usage says what a certificate is for.
type Usage int

const (
	// UsageMember is for a member of a cluster: as a server on both ports, and as
	// a client when it calls the other members.
	UsageMember Usage = iota
	// UsageClient is for whoever calls a client port.
	UsageClient
)

// CA is a certificate authority that lives in a directory, as ca.crt and
// ca.key. Its methods may be called from any goroutine; the files of one name
// are written by one process at a time.
type CA struct {
	dir  string
	fsys fsx.FS
	cert *x509.Certificate
	key  crypto.Signer
	now  func() time.Time
}

// CreateCA makes an authority with a new key in dir, which is made with mode
// 0700 if it is missing. Its certificates are valid until validity from now has
// passed; 0 stands for DefaultCAValidity. An authority that is there already
// is never overwritten: the error names its file and matches [fs.ErrExist].
func CreateCA(dir, commonName string, validity time.Duration) (*CA, error) {
	return createCA(&CA{dir: dir, fsys: fsx.OS{}, now: time.Now}, commonName, validity)
}

func createCA(ca *CA, commonName string, validity time.Duration) (*CA, error) {
	if err := checkCommonName(commonName); err != nil {
		return nil, err
	}
	if validity == 0 {
		validity = DefaultCAValidity
	}
	if validity < 0 {
		return nil, fmt.Errorf("pki: create authority in %s: validity %s is negative", ca.dir, validity)
	}
	now := ca.now()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("pki: create authority in %s: %w", ca.dir, err)
	}
	der, err := sign(&x509.Certificate{
		Subject:               pkix.Name{CommonName: commonName},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(validity),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true, // it signs no authorities
	}, nil, key, key)
	if err != nil {
		return nil, err
	}
	if ca.cert, err = x509.ParseCertificate(der); err != nil {
		return nil, fmt.Errorf("pki: create authority in %s: %w", ca.dir, err)
	}
	ca.key = key
	if _, err := writeNewPair(ca.fsys, filepath.Join(ca.dir, caName), der, key); err != nil {
		return nil, err
	}
	return ca, nil
}

// OpenCA opens the authority that CreateCA made in dir. The error is one
// sentence that names the file.
func OpenCA(dir string) (*CA, error) {
	cert, key := pairFiles(filepath.Join(dir, caName))
	pair, err := parsePair(readFile(cert), readFile(key))
	if err != nil {
		return nil, err
	}
	if !pair.Leaf.IsCA || !pair.Leaf.BasicConstraintsValid {
		return nil, fmt.Errorf("pki: the certificate file %s is not that of an authority", cert)
	}
	signer, ok := pair.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("pki: the key file %s holds a key that cannot sign", key)
	}
	return &CA{dir: dir, fsys: fsx.OS{}, cert: pair.Leaf, key: signer, now: time.Now}, nil
}

// Certificate returns the certificate of the authority, which is not to be
// changed.
func (c *CA) Certificate() *x509.Certificate { return c.cert }

// CertFile returns the name of the file with the certificate of the authority,
// the one that everybody who trusts it needs.
func (c *CA) CertFile() string {
	cert, _ := pairFiles(filepath.Join(c.dir, caName))
	return cert
}

// IssueRequest asks for a certificate.
type IssueRequest struct {
	// Name is the common name, and that of the files without .crt and .key: at
	// most 64 letters, digits, dots, dashes and underscores, the first of them a
	// letter or a digit, and not "ca".
	Name string
	// Hosts are the DNS names and addresses that a member is reached by, without
	// ports; a member needs one. A client needs none.
	Hosts []string
	Usage Usage
	// Validity is how long the certificate is valid from now, at most until the
	// authority ends. 0: DefaultValidity.
	Validity time.Duration
	// Dir is where the files are written; it is made with mode 0700 if it is
	// missing. Empty: the directory of the authority.
	Dir string
}

// Issued is a certificate that was issued.
type Issued struct {
	CertFile, KeyFile string
	Certificate       *x509.Certificate
}

// Issue makes a key and a certificate and writes both, durably, with mode
// 0600. Files that are there already are never overwritten: the error names
// the file and matches [fs.ErrExist]. When it fails, it leaves no file behind,
// unless removing what it had written fails as well.
func (c *CA) Issue(r IssueRequest) (Issued, error) {
	if err := r.check(); err != nil {
		return Issued{}, err
	}
	now := c.now()
	end := c.cert.NotAfter
	if now.After(end) {
		return Issued{}, fmt.Errorf("pki: issue %s: the authority %s ended on %s", r.Name, c.CertFile(), end.UTC().Format(time.DateOnly))
	}
	if r.Validity == 0 {
		r.Validity = DefaultValidity
	}
	if until := now.Add(r.Validity); until.Before(end) {
		end = until
	}
	from := now.Add(-clockSkew)
	if from.Before(c.cert.NotBefore) {
		from = c.cert.NotBefore
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: r.Name},
		NotBefore:             from,
		NotAfter:              end,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	if r.Usage == UsageMember {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
	setHosts(template, r.Hosts)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Issued{}, fmt.Errorf("pki: issue %s: %w", r.Name, err)
	}
	der, err := sign(template, c.cert, key, c.key)
	if err != nil {
		return Issued{}, err
	}
	if r.Dir == "" {
		r.Dir = c.dir
	}
	return writeNewPair(c.fsys, filepath.Join(r.Dir, r.Name), der, key)
}

// sign makes a certificate for the key; a nil parent signs itself.
func sign(template, parent *x509.Certificate, key *ecdsa.PrivateKey, signer crypto.Signer) ([]byte, error) {
	if parent == nil {
		parent = template
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), serialBits))
	if err != nil {
		return nil, fmt.Errorf("pki: make certificate %s: %w", template.Subject.CommonName, err)
	}
	// RFC 5280 asks for a positive number; 0 comes once in 2^128.
	template.SerialNumber = serial.Add(serial, big.NewInt(1))
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		return nil, fmt.Errorf("pki: make certificate %s: %w", template.Subject.CommonName, err)
	}
	return der, nil
}

// pairFiles returns the names of the two files of a pair.
func pairFiles(base string) (cert, key string) { return base + ".crt", base + ".key" }

// writeNewPair writes a pair of which neither file may exist. The key comes
// first: a certificate without its key is of no use to anybody.
func writeNewPair(fsys fsx.FS, base string, der []byte, key *ecdsa.PrivateKey) (Issued, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return Issued{}, fmt.Errorf("pki: make certificate for %s: %w", base, err)
	}
	certFile, keyFile := pairFiles(base)
	if err := fsys.MakeDir(filepath.Dir(base)); err != nil {
		return Issued{}, fmt.Errorf("pki: make directory for %s: %w", keyFile, err)
	}
	for _, name := range []string{keyFile, certFile} {
		if err := mustBeNew(fsys, name); err != nil {
			return Issued{}, err
		}
	}
	if err := writePair(fsys, base, der, key); err != nil {
		return Issued{}, err
	}
	return Issued{CertFile: certFile, KeyFile: keyFile, Certificate: cert}, nil
}

// mustBeNew refuses a name that a file has.
func mustBeNew(fsys fsx.FS, name string) error {
	f, err := fsys.Open(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("pki: look whether %s exists: %w", name, err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("pki: look whether %s exists: %w", name, err)
	}
	return &existsError{name}
}

// existsError says that a file is in the way.
type existsError struct{ name string }

func (e *existsError) Error() string {
	return fmt.Sprintf("pki: the file %s exists and is not overwritten", e.name)
}

func (e *existsError) Unwrap() error { return fs.ErrExist }

// writePair writes a key and then its certificate. It removes the key again
// when the certificate cannot be written.
func writePair(fsys fsx.FS, base string, der []byte, key *ecdsa.PrivateKey) error {
	certFile, keyFile := pairFiles(base)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("pki: encode key for %s: %w", keyFile, err)
	}
	if err := fsx.WriteFile(fsys, keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})); err != nil {
		return fmt.Errorf("pki: %w", errors.Join(err, fsx.RemoveIfExists(fsys, keyFile)))
	}
	if err := fsx.WriteFile(fsys, certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})); err != nil {
		return fmt.Errorf("pki: %w", errors.Join(err, fsx.RemoveIfExists(fsys, certFile), fsx.RemoveIfExists(fsys, keyFile)))
	}
	return nil
}
