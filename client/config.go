package client

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The values that stand for the zero values of [Config].
const (
	DefaultEndpoint       = "http://127.0.0.1:4001"
	DefaultDialTimeout    = 2 * time.Second
	DefaultRequestTimeout = 10 * time.Second
	DefaultPrefix         = "/keys"
)

// EndpointsMax is how many endpoints a client uses.
const EndpointsMax = 256

// Config says everything a [Client] needs to know. The zero value of each
// field has the meaning written beside it.
type Config struct {
	// Endpoints are the client URLs of members, or of proxies in front of them:
	// http://host:port or https://host:port without path, query or user; a slash
	// at the end is dropped, and so are duplicates. Empty: DefaultEndpoint alone.
	Endpoints []string
	// TLS is used for https endpoints: the CA of the servers, and the certificate
	// by which the client proves itself. It is copied. Nil: the CAs of the
	// system, no certificate, TLS 1.2 at least.
	TLS *tls.Config
	// DialTimeout bounds the making of one connection, and again the TLS handshake
	// on it. 0: DefaultDialTimeout.
	DialTimeout time.Duration
	// RequestTimeout bounds one call with all its tries, and the wait for the
	// first answer to a watch. The deadline of a context counts as well; the
	// earlier one ends the call. 0: DefaultRequestTimeout.
	RequestTimeout time.Duration
	// Prefix is where the servers keep their keys. DefaultPrefix is that of
	// Deimos; "/v2/keys" works there as well as with etcd. The client says in each
	// read how fresh it has to be, so the prefix changes the meaning of none.
	// Empty: DefaultPrefix.
	Prefix string
	// SyncInterval is how often [Client.Sync] runs by itself, from New on. The
	// members must advertise client URLs that this client can reach. 0: never.
	SyncInterval time.Duration
	// Logger is told of endpoints that fail and return, and of watches that are
	// interrupted. Nil: discarded.
	Logger *slog.Logger
}

// check returns the configuration with its defaults filled in, and the
// endpoints in canonical form.
func (c Config) check() (Config, error) {
	if len(c.Endpoints) == 0 {
		c.Endpoints = []string{DefaultEndpoint}
	}
	var urls []string
	for _, given := range c.Endpoints {
		u, err := parseEndpoint(given)
		if err != nil {
			return Config{}, fmt.Errorf("client: config: Endpoints: %w", err)
		}
		if !slices.Contains(urls, u) {
			urls = append(urls, u)
		}
	}
	if len(urls) > EndpointsMax {
		return Config{}, invalidf("client: config: Endpoints: %d are given, at most %d are used", len(urls), EndpointsMax)
	}
	c.Endpoints = urls
	for _, d := range []struct {
		name  string
		value *time.Duration
		zero  time.Duration
	}{
		{"DialTimeout", &c.DialTimeout, DefaultDialTimeout},
		{"RequestTimeout", &c.RequestTimeout, DefaultRequestTimeout},
		{"SyncInterval", &c.SyncInterval, 0},
	} {
		if *d.value < 0 {
			return Config{}, invalidf("client: config: %s is %v, must not be negative", d.name, *d.value)
		}
		if *d.value == 0 {
			*d.value = d.zero
		}
	}
	if c.Prefix == "" {
		c.Prefix = DefaultPrefix
	}
	if clean := path.Clean(c.Prefix); clean != strings.TrimSuffix(c.Prefix, "/") || clean[0] != '/' || strings.ContainsAny(clean, "?#%") {
		return Config{}, invalidf("client: config: Prefix %q is not a path like %q or %q", c.Prefix, DefaultPrefix, "/v2/keys")
	}
	c.Prefix = strings.TrimSuffix(c.Prefix, "/")
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// parseEndpoint brings an endpoint into the form scheme://host:port.
func parseEndpoint(given string) (string, error) {
	wrong := func(what string) (string, error) {
		return "", invalidf("endpoint %q %s, want http://host:port or https://host:port", given, what)
	}
	scheme, rest, ok := strings.Cut(given, "://")
	scheme = strings.ToLower(scheme)
	if !ok || scheme != "http" && scheme != "https" {
		return wrong("has no scheme http or https")
	}
	if at, _, _ := strings.Cut(rest, "/"); strings.Contains(at, "@") {
		return wrong("names a user")
	}
	u, err := url.Parse(given)
	if err != nil {
		return wrong("is not a URL")
	}
	if u.Path != "" && u.Path != "/" || strings.ContainsAny(given, "?#") {
		return wrong("has more than host and port")
	}
	host := u.Hostname()
	if host == "" || strings.ContainsAny(host, ", ") {
		return wrong("has no valid host")
	}
	if strings.Contains(host, ":") {
		if _, err := netip.ParseAddr(host); err != nil {
			return wrong("has no valid host")
		}
		host = "[" + strings.ReplaceAll(host, "%", "%25") + "]"
	}
	if port, err := strconv.ParseUint(u.Port(), 10, 16); err != nil || port == 0 {
		return wrong("has no port between 1 and 65535")
	}
	return scheme + "://" + strings.ToLower(host) + ":" + u.Port(), nil
}
