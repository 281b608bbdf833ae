package daemon

import (
	"errors"
	"log/slog"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// CheckName reports why name cannot be the name of a member, or nil. See
// [Config.Name] for the rule.
func CheckName(name string) error {
	switch {
	case name == "":
		return errors.New("a name is not empty")
	case len(name) > NameMaxBytes:
		return errors.New("a name has at most " + strconv.Itoa(NameMaxBytes) + " bytes")
	case !utf8.ValidString(name):
		return errors.New("a name is valid UTF-8")
	case strings.ContainsFunc(name, forbiddenInName):
		return errors.New("a name has no '=', ',', space or control character")
	}
	return nil
}

func forbiddenInName(r rune) bool {
	return r == '=' || r == ',' || unicode.IsSpace(r) || unicode.IsControl(r)
}

// ParseURL checks that text is a URL a member can listen on or be reached at,
// and returns it in one form: scheme and host in lower case, the port without
// leading zeros. Two texts for the same host and port then compare equal.
func ParseURL(text string) (string, error) {
	if !strings.Contains(text, "://") {
		return "", errors.New("a URL begins with http:// or https://")
	}
	u, err := url.Parse(text)
	if err != nil {
		return "", errors.New("not a URL")
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return "", errors.New("a URL begins with http:// or https://")
	}
	if u.User != nil || strings.ContainsAny(text, "?#@") || u.Path != "" {
		return "", errors.New("a URL has no path, query or user")
	}
	host, port := u.Hostname(), u.Port()
	if host == "" || port == "" || strings.ContainsAny(host, ", ") {
		return "", errors.New("a URL has host:port")
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return "", errors.New("a port is a number up to 65535")
	}
	if !strings.Contains(host, "%") { // the zone of an address is the name of an interface
		host = strings.ToLower(host)
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	u.Host = host + ":" + strconv.FormatUint(number, 10)
	return u.String(), nil
}

// ParseOrigin checks that text is "*" or the origin of a web page and returns
// it in lower case, as browsers send it.
func ParseOrigin(text string) (string, error) {
	if text == "*" {
		return text, nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme == "" || u.Hostname() == "" || strings.ContainsAny(text, "?#@, ") ||
		u.Path != "" || strings.HasSuffix(u.Host, ":") {
		return "", errors.New("an origin is scheme://host or scheme://host:port, or * for all")
	}
	return strings.ToLower(text), nil
}

// parseURLs checks the four lists of URLs as they were given.
func (c *Config) parseURLs() error {
	u := &c.URLs
	for _, list := range []struct {
		flag string
		urls *[]string
		use  urlUse
	}{
		{"advertise-peer-urls", &u.AdvertisePeer, mustBeReachable},
		{"advertise-client-urls", &u.AdvertiseClient, mustBeReachable},
		{"listen-peer-urls", &u.ListenPeer, mayPickPort},
		{"listen-client-urls", &u.ListenClient, mayPickPort},
	} {
		parsed, err := parseList(list.flag, *list.urls, list.use)
		if err != nil {
			return err
		}
		*list.urls = parsed
	}
	return nil
}

// resolveURLs fills the lists that were not given: from the bootstrap list,
// from each other, and from the defaults. The URLs that the bootstrap list has
// for this member are what the other members know, so they win. Default URLs
// are https where the port has a certificate.
func (c *Config) resolveURLs() {
	u := &c.URLs
	advertised, listened := u.AdvertisePeer, len(u.ListenPeer) > 0
	for _, m := range c.Bootstrap {
		if m.Name == c.Name && !c.isProxy() {
			u.AdvertisePeer = slices.Clone(m.PeerURLs)
		}
	}
	setDefaultURLs(&u.AdvertisePeer, defaultURLs(DefaultPeerURLs, c.PeerTLS))
	setDefaultURLs(&u.AdvertiseClient, defaultURLs(DefaultClientURLs, c.ClientTLS))
	setDefaultURLs(&u.ListenPeer, u.AdvertisePeer)
	if !slices.Equal(advertised, u.AdvertisePeer) {
		c.derived.AdvertisePeer = u.AdvertisePeer
	}
	if !listened {
		c.derived.ListenPeer = u.ListenPeer
	}
	setDefaultURLs(&u.ListenClient, u.AdvertiseClient)
	if len(c.Bootstrap) == 0 && !c.Discovery.Enabled() {
		c.Bootstrap = []BootstrapMember{{Name: c.Name, PeerURLs: slices.Clone(u.AdvertisePeer)}}
	}
}

// warn logs what a valid configuration has that may be a mistake. The URLs are
// passed as they were given, before they were resolved.
func (c *Config) warn(given URLs) {
	for _, p := range c.ports() {
		if p.tls.Auto {
			c.Log.Warn("a self-signed certificate encrypts and proves nothing; it is for trying out",
				"flag", p.tls.flag(p.prefix))
		}
	}
	if c.isProxy() {
		return // it advertises nothing
	}
	if c.InsecurePeers && (c.PeerSecretFile != "" || c.PeerTLS.verifies()) {
		c.Log.Warn("insecure-peers is given and not needed, for the members prove themselves")
	}
	if len(given.AdvertiseClient) == 0 && len(given.ListenClient) > 0 && c.Network == nil {
		c.Log.Warn("clients are told of advertise-client-urls, which was not given and is not what is listened on",
			"advertise-client-urls", c.URLs.AdvertiseClient, "listen-client-urls", c.URLs.ListenClient)
	}
	if len(given.AdvertisePeer) > 0 && !sameURLs(given.AdvertisePeer, c.URLs.AdvertisePeer) {
		c.Log.Warn("advertise-peer-urls differs from bootstrap-config, whose URLs are used",
			"name", c.Name, "given", given.AdvertisePeer, "used", c.URLs.AdvertisePeer)
	}
	for _, p := range c.ports() {
		advertised := slog.Any("advertise-"+p.kind+"-urls", p.advertise)
		listened := slog.Any("listen-"+p.kind+"-urls", p.listen)
		switch {
		case !p.tls.Enabled() && slices.ContainsFunc(p.advertise, isHTTPS):
			c.Log.Warn("https is advertised and http is listened on; TLS has to end before this member", advertised, listened)
		case p.tls.Enabled() && slices.ContainsFunc(p.advertise, func(u string) bool { return !isHTTPS(u) }):
			c.Log.Warn("http is advertised and https is listened on; TLS has to begin before this member", advertised, listened)
		}
	}
}

// urlUse says what a URL is for, which decides about port 0.
type urlUse bool

const (
	mustBeReachable urlUse = false
	mayPickPort     urlUse = true
)

// parseList returns the list in one form and without duplicates, as a new
// slice; an empty one becomes nil.
func parseList(flag string, texts []string, use urlUse) ([]string, error) {
	var urls []string
	for _, text := range texts {
		u, err := ParseURL(text)
		if err != nil {
			return nil, Usagef("%s: URL %q: %v", flag, text, err)
		}
		if use == mustBeReachable && strings.HasSuffix(u, ":0") {
			return nil, Usagef("%s: URL %q: port 0 is for listening only", flag, text)
		}
		if !slices.Contains(urls, u) {
			urls = append(urls, u)
		}
	}
	return urls, nil
}

// defaultURLs splits one of the default lists, for a port with that TLS.
func defaultURLs(list string, tls TLS) []string {
	if tls.Enabled() {
		list = strings.ReplaceAll(list, "http://", "https://")
	}
	return strings.Split(list, ",")
}

func setDefaultURLs(urls *[]string, value []string) {
	if len(*urls) == 0 {
		*urls = slices.Clone(value)
	}
}

// sameURLs compares lists as sets; neither has duplicates. localhost and
// 127.0.0.1 are the same place.
func sameURLs(a, b []string) bool {
	place := func(urls []string) []string {
		out := make([]string, 0, len(urls))
		for _, u := range urls {
			out = append(out, strings.Replace(u, "://localhost:", "://127.0.0.1:", 1))
		}
		slices.Sort(out)
		return out
	}
	return slices.Equal(place(a), place(b))
}

func isHTTPS(u string) bool { return strings.HasPrefix(u, "https://") }

// isLoopback looks at the text only: what a name other than localhost means is
// up to whoever answers the look-up.
func isLoopback(text string) bool {
	u, err := url.Parse(text)
	if err != nil {
		return false
	}
	if u.Hostname() == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(u.Hostname())
	return err == nil && addr.Unmap().IsLoopback()
}
