package daemon

import (
	"net/netip"
	"net/url"
)

// validatePorts refuses two URLs to listen on of which the second could not be
// opened because of the first.
func (c *Config) validatePorts() error {
	type place struct{ flag, url string }
	var places []place
	for _, u := range c.URLs.ListenClient {
		places = append(places, place{"listen-client-urls", u})
	}
	if !c.isProxy() && c.Network == nil {
		for _, u := range c.URLs.ListenPeer {
			places = append(places, place{"listen-peer-urls", u})
		}
	}
	for i, a := range places {
		for _, b := range places[:i] {
			if !samePort(a.url, b.url) {
				continue
			}
			if a.flag == b.flag {
				return Usagef("--%s: %s and %s are the same port: leave one of them out", a.flag, b.url, a.url)
			}
			return Usagef("--%s %s and --%s %s are the same port: give each its own", b.flag, b.url, a.flag, a.url)
		}
	}
	return nil
}

// samePort reports whether one listener excludes another. What a name other than
// localhost means is not looked up.
func samePort(a, b string) bool {
	hostA, portA, okA := listenAddress(a)
	hostB, portB, okB := listenAddress(b)
	if !okA || !okB || portA != portB || portA == "0" {
		return false
	}
	return hostA == hostB || isEveryAddress(hostA) || isEveryAddress(hostB)
}

// listenAddress returns host and port of a URL in one form.
func listenAddress(text string) (host, port string, ok bool) {
	u, err := url.Parse(text)
	if err != nil {
		return "", "", false
	}
	host = u.Hostname()
	if host == "localhost" {
		host = "127.0.0.1"
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		host = addr.Unmap().String()
	}
	return host, u.Port(), true
}

// isEveryAddress tells whether a listener there has the port on every address.
// Either form does, for both kinds of addresses.
func isEveryAddress(host string) bool {
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsUnspecified()
}
