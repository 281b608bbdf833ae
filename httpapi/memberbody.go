package httpapi

import (
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/marsevilspirit/deimos"
)

// memberBodyMaxBytes limits the body of a request to the members API.
const memberBodyMaxBytes = 64 << 10

const typeJSON = "application/json"

// memberBody is what a client says of a member it adds or updates.
type memberBody struct {
	PeerURLs  []string `json:"peerURLs"`
	IsLearner bool     `json:"isLearner"`
}

// parseMember reads and checks the body. The peer URLs that it returns are in
// canonical form, sorted and without duplicates. learner tells whether
// isLearner has a meaning; without it, whatever stands there is ignored. Only
// status and cause of the refusal are of use.
func (c *call) parseMember(learner bool) (memberBody, *refusal) {
	contentType, _, _ := strings.Cut(c.r.Header.Get("Content-Type"), ";")
	contentType = strings.ToLower(strings.TrimSpace(contentType))
	if contentType != typeJSON {
		return memberBody{}, &refusal{
			status: http.StatusUnsupportedMediaType,
			err:    deimos.Error{Cause: "Bad Content-Type " + contentType + ", accept " + typeJSON},
		}
	}
	in := bodyReader{call: c, buf: c.buffers.body[:0], limit: memberBodyMaxBytes}
	defer func() { c.buffers.body = in.buf[:0] }()
	size := c.r.ContentLength
	if size > in.limit {
		return memberBody{}, c.bodyRefusal(errBodyTooLarge, in.limit)
	}
	if size < 0 {
		size = in.limit
	}
	if err := in.fill(in.limit+1, size); err != nil {
		return memberBody{}, c.bodyRefusal(err, in.limit)
	}
	c.setReadDeadline(time.Time{})
	return decodeMember(in.buf, learner)
}

// decodeMember makes the checks of parseMember on a body that has been read.
func decodeMember(body []byte, learner bool) (memberBody, *refusal) {
	var m memberBody
	target := any(&m)
	if !learner {
		target = &struct {
			PeerURLs *[]string `json:"peerURLs"`
		}{&m.PeerURLs}
	}
	if err := json.Unmarshal(body, target); err != nil {
		return memberBody{}, refuseMemberBody(err.Error())
	}
	if len(m.PeerURLs) == 0 {
		return memberBody{}, refuseMemberBody("no valid URLs given")
	}
	for i, given := range m.PeerURLs {
		u, problem := peerURL(given)
		if problem != "" {
			return memberBody{}, refuseMemberBody(problem + ": " + given)
		}
		m.PeerURLs[i] = u
	}
	slices.Sort(m.PeerURLs)
	m.PeerURLs = slices.Compact(m.PeerURLs)
	return m, nil
}

func refuseMemberBody(cause string) *refusal {
	return &refusal{status: http.StatusBadRequest, err: deimos.Error{Cause: cause}}
}

// The three things that can be wrong with a peer URL.
const (
	problemScheme = "URL scheme must be http or https"
	problemHost   = "URL must have the form host:port"
	problemPath   = "URL must not have a path"
)

// peerURL brings a peer URL into the one form in which URLs are compared: lower
// case, the port as a plain number. problem is empty when it is one.
func peerURL(given string) (canonical, problem string) {
	u, err := url.Parse(given)
	if err != nil {
		// What a parser dislikes behind a good scheme is the host, nearly always.
		scheme, _, _ := strings.Cut(given, "://")
		if scheme = strings.ToLower(scheme); scheme != "http" && scheme != "https" {
			return "", problemScheme
		}
		return "", problemHost
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return "", problemScheme
	}
	host := u.Hostname()
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil || port == 0 || u.User != nil || !isHost(host) {
		return "", problemHost
	}
	if u.Path != "" || strings.ContainsAny(given, "?#") {
		return "", problemPath
	}
	if !strings.Contains(host, "%") { // the zone of an address is the name of an interface
		host = strings.ToLower(host)
	}
	u = &url.URL{Scheme: u.Scheme, Host: net.JoinHostPort(host, strconv.FormatUint(port, 10))}
	return u.String(), ""
}

// isHost reports whether s is a host name or an address. It is stricter than
// the parser of URLs, which lets pass what separates the URLs of a list, and
// what breaks the form host:port.
func isHost(s string) bool {
	if strings.Contains(s, ":") {
		if _, err := netip.ParseAddr(s); err != nil {
			return false
		}
		_, s, _ = strings.Cut(s, "%")
	} else if s == "" {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return r > '~' || !isAlphanumeric(byte(r)) && !strings.ContainsRune("._-:", r)
	})
}

func isAlphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}
