package discovery

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/marsevilspirit/deimos"
)

// ParseURL reports why text cannot name a directory, or nil. Such a URL is
// http or https with a host and a path that begins with /keys/ or /v2/keys/
// and goes on with the key of the directory, without query, fragment or user.
func ParseURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return errors.New("not a URL")
	case u.Scheme != "http" && u.Scheme != "https":
		return errors.New("a discovery URL begins with http:// or https://")
	case u.Hostname() == "":
		return errors.New("a discovery URL has a host")
	case u.User != nil || strings.ContainsAny(text, "?#"):
		return errors.New("a discovery URL has no query, fragment or user")
	}
	key, ok := strings.CutPrefix(u.Path, "/v2/keys/")
	if !ok {
		key, ok = strings.CutPrefix(u.Path, "/keys/")
	}
	key = strings.TrimSuffix(key, "/")
	if !ok || key == "" {
		return errors.New("the path of a discovery URL is /keys/ or /v2/keys/ and the key of a directory")
	}
	if "/"+key != path.Clean("/"+key) {
		return errors.New("the key in a discovery URL has no empty, '.' or '..' element")
	}
	return nil
}

// value writes the registration the way the directory keeps it.
func (r Registration) value() string {
	parts := make([]string, 0, len(r.PeerURLs))
	for _, u := range r.PeerURLs {
		parts = append(parts, r.Name+"="+u)
	}
	return strings.Join(parts, "&")
}

// equal compares the URLs as sets: their order means nothing.
func (r Registration) equal(o Registration) bool {
	return r.ID == o.ID && r.Name == o.Name &&
		slices.Equal(slices.Sorted(slices.Values(r.PeerURLs)), slices.Sorted(slices.Values(o.PeerURLs)))
}

// check reports why the registration cannot be written and read back.
func (r Registration) check() error {
	if r.ID == 0 {
		return errors.New("a member has an id")
	}
	if err := checkName(r.Name); err != nil {
		return err
	}
	if len(r.PeerURLs) == 0 {
		return errors.New("a member has a peer URL")
	}
	for i, u := range r.PeerURLs {
		if err := checkPeerURL(u); err != nil {
			return fmt.Errorf("peer URL %q: %w", u, err)
		}
		if slices.Contains(r.PeerURLs[:i], u) {
			return fmt.Errorf("peer URL %q is there twice", u)
		}
	}
	return nil
}

// parseRegistration reads an entry of a directory: the last element of its key
// and its value.
func parseRegistration(key, value string) (Registration, error) {
	id, err := strconv.ParseUint(key, 16, 64)
	if err != nil || deimos.FormatID(id) != key {
		return Registration{}, errors.New("the key is not a member id in lower-case hex")
	}
	r := Registration{ID: id}
	for i, part := range strings.Split(value, "&") {
		name, u, ok := strings.Cut(part, "=")
		if !ok {
			return Registration{}, fmt.Errorf("the value %q is not name=URL&name=URL", shorten(value))
		}
		if i == 0 {
			r.Name = name
		}
		if name != r.Name {
			return Registration{}, fmt.Errorf("the value %q has more than one name", shorten(value))
		}
		r.PeerURLs = append(r.PeerURLs, u)
	}
	if err := r.check(); err != nil {
		return Registration{}, fmt.Errorf("the value %q: %w", shorten(value), err)
	}
	return r, nil
}

func checkName(name string) error {
	switch {
	case name == "":
		return errors.New("a name is not empty")
	case !utf8.ValidString(name):
		return errors.New("a name is valid UTF-8")
	case strings.ContainsFunc(name, func(r rune) bool {
		return r == '=' || r == ',' || r == '&' || unicode.IsSpace(r) || unicode.IsControl(r)
	}):
		return errors.New("a name in a discovery directory has no '=', ',', '&', space or control character")
	}
	return nil
}

func checkPeerURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return errors.New("not a URL")
	case u.Scheme != "http" && u.Scheme != "https":
		return errors.New("a peer URL begins with http:// or https://")
	case u.User != nil || u.Path != "" || strings.ContainsAny(text, "?#@"):
		return errors.New("a peer URL has no path, query or user")
	case strings.ContainsAny(text, "&, "):
		return errors.New("a peer URL has no '&', ',' or space")
	case u.Hostname() == "" || u.Port() == "":
		return errors.New("a peer URL has host:port")
	}
	if port, err := strconv.ParseUint(u.Port(), 10, 16); err != nil || port == 0 {
		return errors.New("a port is a number from 1 to 65535")
	}
	return nil
}

// shorten keeps a text of others short enough for a line of the log.
func shorten(text string) string {
	const most = 200
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}
