package daemon

import (
	"errors"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// TLS says what one port proves itself with and what it demands of the other
// side. The files are PEM and are opened when the daemon starts, not by
// [Config.Validate].
type TLS struct {
	// CertFile and KeyFile are the certificate, with its chain, and its key; both
	// or neither. They are presented to those who call and to those who are
	// called.
	CertFile string
	KeyFile  string
	// CAFile holds the authorities that have to have signed the certificates of
	// the other side, which are demanded then. It needs CertFile and KeyFile.
	// Empty: nobody has to present a certificate.
	CAFile string
	// Auto makes a self-signed certificate, kept in DataDir. It encrypts and
	// proves nothing, and does not go together with the files.
	Auto bool
	// AllowedNames are those of which a certificate of the other side has to
	// carry one, as DNS name or common name; see [CheckCertName]. They need
	// CAFile. Empty: any name.
	AllowedNames []string
}

// Enabled tells whether the port speaks TLS.
func (t TLS) Enabled() bool { return t.Auto || t.CertFile != "" }

// verifies tells whether the other side has to prove itself.
func (t TLS) verifies() bool { return t.CertFile != "" && t.CAFile != "" }

// flag names the option that switched TLS on; the prefix is that of the port.
func (t TLS) flag(prefix string) string {
	if t.Auto {
		return "--" + prefix + "auto-tls"
	}
	return "--" + prefix + "cert-file"
}

func (t TLS) validate(prefix string) error {
	flag := func(name string) string { return "--" + prefix + name }
	cert, key := flag("cert-file"), flag("key-file")
	switch {
	case t.Auto && (t.CertFile != "" || t.KeyFile != ""):
		return Usagef("%s makes a certificate of its own: leave out %s and %s, or %s",
			flag("auto-tls"), cert, key, flag("auto-tls"))
	case t.CAFile != "" && (t.CertFile == "" || t.KeyFile == ""):
		return Usagef("%s needs %s and %s", flag("ca-file"), cert, key)
	case t.CertFile != "" && t.KeyFile == "":
		return Usagef("%s needs %s", cert, key)
	case t.KeyFile != "" && t.CertFile == "":
		return Usagef("%s needs %s", key, cert)
	case len(t.AllowedNames) > 0 && t.CAFile == "":
		return Usagef("%s needs %s, without which certificates are not asked for", flag("allowed-names"), flag("ca-file"))
	}
	for _, name := range t.AllowedNames {
		if err := CheckCertName(name); err != nil {
			return Usagef("%sallowed-names: name %q: %v", prefix, name, err)
		}
	}
	return nil
}

// CheckCertName reports why no certificate could carry name, or nil. See
// [TLS.AllowedNames].
func CheckCertName(name string) error {
	switch {
	case name == "":
		return errors.New("a name is not empty")
	case !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl):
		return errors.New("a name has no control characters")
	}
	return nil
}

// portConfig is what is said about one of the two ports, and what the options
// that say it are called.
type portConfig struct {
	kind      string // "client" or "peer"
	prefix    string // of the options about TLS
	tls       TLS
	advertise []string
	listen    []string
}

// ports returns those that the daemon opens: a proxy has no peer port.
func (c *Config) ports() []portConfig {
	client := portConfig{"client", "", c.ClientTLS, c.URLs.AdvertiseClient, c.URLs.ListenClient}
	if c.isProxy() {
		return []portConfig{client}
	}
	return []portConfig{client, {"peer", "peer-", c.PeerTLS, c.URLs.AdvertisePeer, c.URLs.ListenPeer}}
}

// validateTLS checks what is said about certificates, apart from the URLs.
func (c *Config) validateTLS() error {
	if err := c.ClientTLS.validate(""); err != nil {
		return err
	}
	return c.PeerTLS.validate("peer-")
}

// validateSchemes demands https where there is a certificate, and a
// certificate where there is https. The URLs are passed as they were given, to
// tell which option the listening ones came from.
func (c *Config) validateSchemes(given URLs) error {
	sources := map[string]string{"client": "listen-client-urls", "peer": "listen-peer-urls"}
	if len(given.ListenClient) == 0 {
		sources["client"] = "advertise-client-urls"
	}
	if len(given.ListenPeer) == 0 {
		sources["peer"] = "advertise-peer-urls"
		if !slices.Equal(given.AdvertisePeer, c.URLs.AdvertisePeer) {
			sources["peer"] = "bootstrap-config"
		}
	}
	for _, p := range c.ports() {
		if !p.tls.Enabled() && slices.ContainsFunc(p.listen, isHTTPS) {
			return Usagef("https needs --%scert-file and --%skey-file", p.prefix, p.prefix)
		}
		plain := slices.IndexFunc(p.listen, func(u string) bool { return !isHTTPS(u) })
		if p.tls.Enabled() && plain >= 0 {
			return Usagef("%s needs https URLs to listen on: change %s in %s to https, or leave out %s",
				p.tls.flag(p.prefix), p.listen[plain], sources[p.kind], p.tls.flag(p.prefix))
		}
	}
	return nil
}

// validatePeerTrust refuses peers that cannot prove themselves on a network
// where others may speak.
func (c *Config) validatePeerTrust() error {
	if c.isProxy() || c.InsecurePeers || c.PeerSecretFile != "" {
		return nil
	}
	urls := slices.Concat(c.URLs.ListenPeer, c.URLs.AdvertisePeer)
	for _, m := range c.Bootstrap {
		urls = append(urls, m.PeerURLs...)
	}
	urls = slices.DeleteFunc(urls, isLoopback)
	if len(urls) == 0 {
		return nil
	}
	if c.PeerTLS.verifies() {
		// A call to http would trust whoever answers it.
		if i := slices.IndexFunc(urls, func(u string) bool { return !isHTTPS(u) }); i >= 0 {
			return Usagef("peer URL %s is not https, without which --peer-ca-file proves nothing: use https, or --peer-secret-file", urls[i])
		}
		return nil
	}
	why := ""
	switch {
	case c.PeerTLS.Auto:
		why = ", which --peer-auto-tls alone does not change"
	case c.PeerTLS.Enabled():
		why = ", which --peer-cert-file without --peer-ca-file does not change"
	}
	return Usagef("peer URL %s is not a loopback address and the members do not prove themselves%s: "+
		"give --peer-cert-file, --peer-key-file and --peer-ca-file, or --peer-secret-file, "+
		"or --insecure-peers if the network between the members is trusted", urls[0], why)
}
