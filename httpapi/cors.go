package httpapi

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Header values of the CORS layer. net/http only reads them.
var (
	corsAny     = []string{"*"}
	corsMethods = []string{"POST, GET, OPTIONS, PUT, DELETE"}
	corsHeaders = []string{"accept, content-type, authorization"}
	corsVary    = []string{"Origin"}
)

// cors knows whose web pages may use the API.
type cors struct {
	any     bool
	origins []string
}

// newCORS checks the configured origins.
func newCORS(origins []string) (cors, error) {
	var c cors
	for _, o := range origins {
		if o == "*" {
			c.any = true
			continue
		}
		u, err := url.Parse(o)
		if err != nil {
			return cors{}, fmt.Errorf("httpapi: config: CORS origin %q: %w", o, err)
		}
		if u.Scheme == "" || u.Host == "" || o != u.Scheme+"://"+u.Host {
			return cors{}, fmt.Errorf("httpapi: config: CORS origin %q: not of the form scheme://host[:port]", o)
		}
		c.origins = append(c.origins, o)
	}
	return c, nil
}

// listed reports whether pages of origin may use the API.
func (c *cors) listed(origin string) bool {
	return c.any || slices.Contains(c.origins, origin)
}

// setHeaders sets the CORS headers that the answer to r carries.
func (c *cors) setHeaders(header http.Header, r *http.Request) {
	switch {
	case c.any:
		header["Access-Control-Allow-Origin"] = corsAny
	case len(c.origins) == 0:
		return
	default:
		origin := r.Header["Origin"]
		if len(origin) != 1 || !c.listed(origin[0]) {
			return
		}
		header["Access-Control-Allow-Origin"] = []string{origin[0]}
		header["Vary"] = corsVary
	}
	header["Access-Control-Allow-Methods"] = corsMethods
	header["Access-Control-Allow-Headers"] = corsHeaders
}

// foreign reports whether r is a write that the web page of a stranger made a
// browser send. Programs that are no browsers send neither header.
func (c *cors) foreign(r *http.Request) bool {
	switch r.Method {
	case http.MethodPut, http.MethodPost, http.MethodDelete:
	default:
		return false
	}
	if c.any {
		return false
	}
	origins := r.Header["Origin"]
	for _, o := range origins {
		if !c.listed(o) && !ownOrigin(o, r.Host, r.TLS != nil) {
			return true
		}
	}
	return len(origins) == 0 && strings.EqualFold(r.Header.Get("Sec-Fetch-Site"), "cross-site")
}

// ownOrigin reports whether origin is that of a page which the member itself
// served under host. A page that came over https may have passed a proxy where
// TLS ends, so it counts on a plain connection too; a page that came in the
// clear, where anybody may have changed it, does not count on a TLS one.
func ownOrigin(origin, host string, secure bool) bool {
	scheme, originHost, ok := strings.Cut(origin, "://")
	if !ok || host == "" {
		return false
	}
	var port string
	switch {
	case scheme == "https":
		port = ":443"
	case scheme == "http" && !secure:
		port = ":80"
	default:
		return false
	}
	return strings.EqualFold(strings.TrimSuffix(originHost, port), strings.TrimSuffix(host, port))
}
