package httpapi

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/marsevilspirit/deimos"
)

// The etcd versions that /version claims, for tools that ask for an etcd of at
// least 2.x.
const (
	etcdServerVersion  = "2.3.8"
	etcdClusterVersion = "2.3.0"
)

// servePlain routes the paths beside the keys API.
func (c *call) servePlain() {
	switch c.r.URL.Path {
	case "/machines", "/v2/machines":
		if c.allowed("GET,HEAD") {
			c.text(http.StatusOK, c.h.machines())
		}
	case "/v2/stats/self", "/v2/stats/leader", "/v2/stats/store":
		c.serveStats(strings.TrimPrefix(c.r.URL.Path, "/v2/stats/"))
	case "/version":
		if c.allowed("GET") {
			c.json(http.StatusOK, c.h.version)
		}
	case "/health":
		if c.allowed("GET,HEAD") {
			c.health()
		}
	case "/livez":
		if c.allowed("GET,HEAD") {
			c.text(http.StatusOK, "ok\n")
		}
	case "/readyz":
		if c.allowed("GET,HEAD") {
			c.readyz()
		}
	case "/metrics":
		if c.allowed("GET,HEAD") {
			c.status = http.StatusOK
			c.h.metricsPage.ServeHTTP(c.w, c.r)
		}
	default:
		c.text(http.StatusNotFound, "404 page not found\n")
	}
}

// allowed reports whether the path has the method of the request, and answers
// if it has not. allow is the list as the Allow header shows it.
func (c *call) allowed(allow string) bool {
	for m := range strings.SplitSeq(allow, ",") {
		if m == c.r.Method {
			return true
		}
	}
	c.notAllowed(allow)
	return false
}

// json answers with a body that is JSON already.
func (c *call) json(status int, body []byte) {
	header := c.w.Header()
	header["Content-Type"] = contentJSON
	header["Content-Length"] = []string{strconv.Itoa(len(body))}
	c.begin(status)
	c.write(body)
}

// machines lists the client URLs of all members.
func (h *Handler) machines() string {
	var urls []string
	for _, m := range h.backend.Members() {
		urls = append(urls, m.ClientURLs...)
	}
	slices.Sort(urls)
	return strings.Join(urls, ", ")
}

// versionBody is the answer of /version.
func versionBody(version string) []byte {
	b := []byte(`{"etcdserver":"` + etcdServerVersion + `","etcdcluster":"` + etcdClusterVersion + `","deimos":`)
	return append(appendString(b, version), '}', '\n')
}

// ready asks the backend for a read-index round, for a short time.
func (c *call) ready() error {
	ctx, cancel := context.WithTimeout(c.r.Context(), c.h.limits.ready)
	defer cancel()
	return c.h.backend.Ready(ctx)
}

// health answers whether the cluster serves linearizable reads. A member that
// has yet to apply what it was told can still reach its quorum.
func (c *call) health() {
	if err := c.ready(); err != nil && !errors.Is(err, ErrBehind) {
		c.json(http.StatusServiceUnavailable, []byte(`{"health":"false"}`+"\n"))
		return
	}
	c.json(http.StatusOK, []byte(`{"health":"true"}`+"\n"))
}

// readyz answers whether this member should get requests.
func (c *call) readyz() {
	err := c.ready()
	var e *deimos.Error
	switch {
	case err == nil:
		c.text(http.StatusOK, "ok\n")
	case errors.Is(err, ErrBehind):
		c.text(http.StatusServiceUnavailable, "not ready: behind\n")
	case errors.Is(err, ErrStopping),
		errors.As(err, &e) && (e.Cause == deimos.CauseStopping || e.Cause == deimos.CauseRemoved):
		c.text(http.StatusServiceUnavailable, "not ready: stopping\n")
	default:
		c.text(http.StatusServiceUnavailable, "not ready: no leader\n")
	}
}
