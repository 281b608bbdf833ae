package daemon

import (
	"crypto/tls"
	"fmt"
	"log"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/marsevilspirit/deimos/internal/pki"
	"github.com/marsevilspirit/deimos/transport"
)

// security is what a daemon proves itself with, and what it demands of others.
type security struct {
	client, peer port
	secret       *transport.Secret // nil: none
}

// port is the TLS of one port.
type port struct {
	source *pki.Source // nil: no TLS
	// errors gets what net/http says of connections.
	errors *log.Logger
}

// openSecurity reads certificates and secret. What is wrong with them is a
// usage error that names the file.
func openSecurity(cfg *Config, metrics prometheus.Registerer) (*security, error) {
	s := &security{}
	var err error
	u := &cfg.URLs
	if s.client, err = openPort("client", cfg, cfg.ClientTLS, tls.VersionTLS12, metrics, u.ListenClient, u.AdvertiseClient); err != nil {
		return nil, err
	}
	if s.peer, err = openPort("peer", cfg, cfg.PeerTLS, tls.VersionTLS13, metrics, u.ListenPeer, u.AdvertisePeer); err != nil {
		return nil, err
	}
	if cfg.PeerSecretFile != "" {
		if s.secret, err = transport.LoadSecret(cfg.PeerSecretFile); err != nil {
			return nil, Usagef("peer-secret-file: %v", err)
		}
		if info, err := os.Stat(cfg.PeerSecretFile); err == nil && info.Mode().Perm()&0o077 != 0 {
			cfg.Log.Warn("the peer secret can be read by others; chmod 600 is advised", "file", cfg.PeerSecretFile,
				"mode", fmt.Sprintf("%04o", info.Mode().Perm()))
		}
	}
	return s, nil
}

func openPort(name string, cfg *Config, t TLS, minVersion uint16, metrics prometheus.Registerer, urls ...[]string) (port, error) {
	options := pki.Options{Port: name, MinVersion: minVersion, Log: cfg.Log, Metrics: metrics}
	p := port{errors: pki.ErrorLog(options)}
	if !t.Enabled() {
		return p, nil
	}
	files := pki.Files{Cert: t.CertFile, Key: t.KeyFile, CA: t.CAFile, AllowedNames: t.AllowedNames}
	var err error
	if t.Auto {
		if files, err = pki.SelfSigned(filepath.Join(cfg.DataDir, "tls", name), hostsOf(urls...)); err != nil {
			return p, dirFailure(cfg.DataDir, err)
		}
	}
	if p.source, err = pki.Open(files, options); err != nil {
		return p, Usagef("TLS on the %s port: %v", name, err)
	}
	return p, nil
}

// watch looks after the certificates of the port until done is closed.
func (p port) watch(done <-chan struct{}) {
	if p.source == nil {
		return
	}
	ticker := time.NewTicker(certificateInterval)
	defer ticker.Stop()
	for {
		select {
		case <-done:
			return
		case <-ticker.C:
			p.source.Refresh()
		}
	}
}

// certificateInterval is the time between looks at certificates that no
// handshake has asked for.
const certificateInterval = time.Minute

// serverConfig is what connections to the port are secured with; nil: no TLS.
func (p port) serverConfig() *tls.Config {
	if p.source == nil {
		return nil
	}
	return p.source.ServerConfig()
}

// listener puts TLS on top of a listener, if the port has it.
func (p port) listener(l net.Listener) net.Listener {
	config := p.serverConfig()
	if config == nil {
		return l
	}
	return tls.NewListener(l, config)
}

// dial returns what gives the configuration of each connection to others, under
// the certificates of the port as they are then; nil for the defaults.
func (p port) dial() func() *tls.Config {
	if p.source == nil {
		return nil
	}
	return p.source.ClientConfig
}

// hostsOf returns the hosts of URLs.
func hostsOf(lists ...[]string) []string {
	var hosts []string
	for _, list := range lists {
		for _, text := range list {
			if u, err := url.Parse(text); err == nil {
				hosts = append(hosts, u.Hostname())
			}
		}
	}
	return hosts
}
