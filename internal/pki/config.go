package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// cipherSuites are those of TLS 1.2 that authenticate what they encrypt and
// keep old traffic secret when a key is lost. TLS 1.3 has no others.
var cipherSuites = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

// ServerConfig returns the configuration of a listener. It follows the files
// for as long as it is used, and may be shared and cloned.
func (s *Source) ServerConfig() *tls.Config {
	config := s.current.Load().server.Clone()
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return s.latest().server, nil
	}
	return config
}

// serverConfig is the configuration of handshakes with what m holds.
func (s *Source) serverConfig(m *material) *tls.Config {
	config := s.baseConfig()
	if m.pair != nil {
		config.Certificates = []tls.Certificate{*m.pair}
	}
	if m.roots != nil {
		config.ClientAuth = tls.RequireAndVerifyClientCert
		config.ClientCAs = m.roots
		config.VerifyConnection = s.checkCaller
	}
	return config
}

// errNotAMember refuses the certificate of a client on the peer port, although
// the same authority may have signed it.
var errNotAMember = errors.New("pki: the certificate is one of a client: those of members are good for servers too")

// checkCaller checks the verified certificate of whoever calls. Members are
// called too, so their certificates are good for servers; without this rule a
// client could pose as a member where both ports have one CA.
func (s *Source) checkCaller(state tls.ConnectionState) error {
	if s.opts.Port == PortPeer && len(state.PeerCertificates) > 0 {
		usage := state.PeerCertificates[0].ExtKeyUsage
		if len(usage) > 0 && !slices.Contains(usage, x509.ExtKeyUsageServerAuth) && !slices.Contains(usage, x509.ExtKeyUsageAny) {
			return errNotAMember
		}
	}
	return s.checkNames(state)
}

// ClientConfig returns the configuration of one connection to be opened now:
// it verifies the certificate of the server and its name or address with the
// CA as it is now. A handshake with it presents the newest certificate, if
// there is one, and fails when the authority of the server has been taken out
// of the CA file since; an authority that was added since it does not know.
// Whoever opens connections for longer asks for a new one each time.
func (s *Source) ClientConfig() *tls.Config {
	m := s.latest()
	config := s.baseConfig()
	config.RootCAs = m.roots
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if pair := s.latest().pair; pair != nil {
			return pair, nil
		}
		return &tls.Certificate{}, nil
	}
	if s.files.Unverified {
		config.InsecureSkipVerify = true
		return config
	}
	config.VerifyConnection = func(state tls.ConnectionState) error {
		if roots := s.latest().roots; roots != m.roots {
			if err := s.verifyChain(state.PeerCertificates, roots); err != nil {
				return err
			}
		}
		return s.checkNames(state)
	}
	return config
}

// verifyChain checks that the certificate of a server, whose name has been
// checked, still has an authority.
func (s *Source) verifyChain(certs []*x509.Certificate, roots *x509.CertPool) error {
	intermediates := x509.NewCertPool()
	for _, c := range certs[1:] {
		intermediates.AddCert(c)
	}
	_, err := certs[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: s.opts.now()})
	if err != nil {
		return fmt.Errorf("pki: failed to verify certificate with the CA file %s as it is now: %w", s.files.CA, err)
	}
	return nil
}

// baseConfig is what servers and clients have in common. Sessions are not
// resumed: a resumed one would skip what has changed about the certificates.
func (s *Source) baseConfig() *tls.Config {
	return &tls.Config{
		MinVersion:             s.opts.MinVersion,
		CipherSuites:           cipherSuites,
		NextProtos:             []string{"http/1.1"},
		SessionTicketsDisabled: true,
		Time:                   s.opts.now,
	}
}

// NameError tells that the certificate of the other side is right but for its
// names, none of which is allowed.
type NameError struct {
	// Names are the DNS names of the certificate and its common name.
	Names []string
}

// Error implements the error interface.
func (e *NameError) Error() string {
	return fmt.Sprintf("pki: the certificate has the names %q, none of which is allowed", e.Names)
}

// checkNames checks a certificate that has been verified, on either side.
func (s *Source) checkNames(state tls.ConnectionState) error {
	if len(s.files.AllowedNames) == 0 {
		return nil
	}
	if len(state.VerifiedChains) == 0 || len(state.PeerCertificates) == 0 {
		return errors.New("pki: a name is demanded of a side that has no verified certificate")
	}
	leaf := state.PeerCertificates[0]
	names := slices.Clone(leaf.DNSNames)
	if cn := leaf.Subject.CommonName; cn != "" && !slices.Contains(names, cn) {
		names = append(names, cn)
	}
	for _, name := range names {
		if slices.ContainsFunc(s.files.AllowedNames, func(a string) bool { return strings.EqualFold(a, name) }) {
			return nil
		}
	}
	return &NameError{Names: names}
}
