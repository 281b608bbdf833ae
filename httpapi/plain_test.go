package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/store"
)

const textPlain = "text/plain; charset=utf-8"

func TestPlainEndpoints(t *testing.T) {
	b := newFake()
	b.members = []deimos.Member{
		{ID: 3, ClientURLs: []string{"http://10.0.0.3:4001", "http://10.0.0.2:4001"}},
		{ID: 1, ClientURLs: []string{"http://10.0.0.1:4001"}, IsLearner: true},
		{ID: 2},
	}
	h := newHandler(t, b, nil)
	const machines = "http://10.0.0.1:4001, http://10.0.0.2:4001, http://10.0.0.3:4001"
	for _, tt := range []struct {
		method, target string
		status         int
		contentType    string
		allow          string
		body           string
	}{
		{"GET", "/machines", 200, textPlain, "", machines},
		{"GET", "/v2/machines", 200, textPlain, "", machines},
		{"HEAD", "/v2/machines", 200, textPlain, "", ""},
		{"POST", "/machines", 405, textPlain, "GET,HEAD", "Method Not Allowed\n"},
		{"GET", "/machines/", 404, textPlain, "", "404 page not found\n"},
		{"GET", "/version", 200, "application/json", "", `{"etcdserver":"2.3.8","etcdcluster":"2.3.0","deimos":"1.0.0"}` + "\n"},
		{"HEAD", "/version", 405, textPlain, "GET", ""},
		{"PUT", "/version", 405, textPlain, "GET", "Method Not Allowed\n"},
		{"GET", "/health", 200, "application/json", "", `{"health":"true"}` + "\n"},
		{"HEAD", "/health", 200, "application/json", "", ""},
		{"POST", "/health", 405, textPlain, "GET,HEAD", "Method Not Allowed\n"},
		{"GET", "/livez", 200, textPlain, "", "ok\n"},
		{"DELETE", "/livez", 405, textPlain, "GET,HEAD", "Method Not Allowed\n"},
		{"GET", "/readyz", 200, textPlain, "", "ok\n"},
		{"get", "/readyz", 405, textPlain, "GET,HEAD", "Method Not Allowed\n"},
		{"PUT", "/metrics", 405, textPlain, "GET,HEAD", "Method Not Allowed\n"},
		{"GET", "/", 404, textPlain, "", "404 page not found\n"},
		{"GET", "/v2", 404, textPlain, "", "404 page not found\n"},
		{"GET", "/v2/stats", 404, textPlain, "", "404 page not found\n"},
		{"PATCH", "/raft/status", 404, textPlain, "", "404 page not found\n"},
		{"GET", "/debug/pprof/", 404, textPlain, "", "404 page not found\n"},
	} {
		t.Run(tt.method+" "+tt.target, func(t *testing.T) {
			w := do(h, testRequest{method: tt.method, target: tt.target})
			if w.Code != tt.status || w.Body.String() != tt.body {
				t.Errorf("%s %s = %d %q, want %d %q", tt.method, tt.target, w.Code, w.Body, tt.status, tt.body)
			}
			if got := w.Header().Get("Content-Type"); got != tt.contentType {
				t.Errorf("Content-Type = %q, want %q", got, tt.contentType)
			}
			if got := w.Header().Get("Allow"); got != tt.allow {
				t.Errorf("Allow = %q, want %q", got, tt.allow)
			}
			if got := w.Header().Get("X-Content-Type-Options"); (got == "nosniff") != (tt.contentType == textPlain) {
				t.Errorf("X-Content-Type-Options = %q for %s", got, tt.contentType)
			}
			if got := w.Header().Get("X-Etcd-Index"); got != "" {
				t.Errorf("X-Etcd-Index = %q, want none outside the keys API", got)
			}
			if got := w.Header().Get("Content-Length"); tt.method != "HEAD" && got != strconv.Itoa(len(tt.body)) {
				t.Errorf("Content-Length = %s, want %d", got, len(tt.body))
			}
		})
	}
}

func TestHealthChecksFollowTheReadIndexRound(t *testing.T) {
	for _, tt := range []struct {
		name   string
		err    error
		health string
		readyz string
	}{
		{"well", nil, "true", "ok\n"},
		{"behind", fmt.Errorf("server: %w", ErrBehind), "true", "not ready: behind\n"},
		{"stopping", ErrStopping, "false", "not ready: stopping\n"},
		{"stopping, as keys say it", &deimos.Error{Code: deimos.CodeRaftInternal, Cause: deimos.CauseStopping}, "false", "not ready: stopping\n"},
		{"removed", &deimos.Error{Code: deimos.CodeRaftInternal, Cause: deimos.CauseRemoved}, "false", "not ready: stopping\n"},
		{"no leader", &deimos.Error{Code: deimos.CodeLeaderElection}, "false", "not ready: no leader\n"},
		{"no quorum", context.DeadlineExceeded, "false", "not ready: no leader\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newFake()
			b.ready = func(context.Context) error { return tt.err }
			h := newHandler(t, b, nil)
			w := do(h, testRequest{method: "GET", target: "/health"})
			if want := `{"health":"` + tt.health + `"}` + "\n"; w.Body.String() != want || (w.Code == 200) != (tt.health == "true") {
				t.Errorf("GET /health = %d %s, want %s", w.Code, w.Body, want)
			}
			w = do(h, testRequest{method: "GET", target: "/readyz"})
			if w.Body.String() != tt.readyz || (w.Code == 200) != (tt.err == nil) || w.Code != 200 && w.Code != 503 {
				t.Errorf("GET /readyz = %d %s, want %s", w.Code, w.Body, tt.readyz)
			}
			if w := do(h, testRequest{method: "GET", target: "/livez"}); w.Code != 200 {
				t.Errorf("GET /livez = %d, want 200", w.Code)
			}
		})
	}
}

func TestHealthChecksTakeOneSecondAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFake()
		b.ready = func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		}
		h := newHandler(t, b, nil)
		for _, target := range []string{"/health", "/readyz"} {
			start := time.Now()
			w := do(h, testRequest{method: "GET", target: target})
			if took := time.Since(start); w.Code != 503 || took != time.Second {
				t.Errorf("GET %s = %d after %v, want 503 after 1s", target, w.Code, took)
			}
		}
	})
}

func TestMetricsPageIsTextWhateverIsAccepted(t *testing.T) {
	reg := prometheus.NewRegistry()
	h := newHandler(t, newFake(), func(c *Config) { c.Registerer, c.Gatherer = reg, reg })
	do(h, testRequest{method: "PUT", target: "/keys/a"})
	do(h, testRequest{method: "GET", target: "/keys/b"})
	do(h, testRequest{method: "BREW", target: "/keys/b"})
	w := do(h, testRequest{"GET", "/metrics", "", map[string]string{
		"Accept": "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited, application/openmetrics-text",
	}})
	if ct := w.Header().Get("Content-Type"); !strings.HasPrefix(ct, "text/plain; version=0.0.4") {
		t.Errorf("GET /metrics: Content-Type = %q, want text/plain; version=0.0.4", ct)
	}
	for _, want := range []string{
		`deimos_http_requests_total{code="201",method="PUT"} 1`,
		`deimos_http_requests_total{code="404",method="GET"} 1`,
		`deimos_http_requests_total{code="405",method="other"} 1`,
		`deimos_http_request_duration_seconds_count{method="PUT"} 1`,
		`deimos_http_watches 0`,
	} {
		if !strings.Contains(w.Body.String(), want+"\n") {
			t.Errorf("GET /metrics lacks %s", want)
		}
	}
	if w := do(h, testRequest{method: "HEAD", target: "/metrics"}); w.Code != 200 {
		t.Errorf("HEAD /metrics = %d, want 200", w.Code)
	}
	if _, err := New(Config{Backend: newFake(), Registerer: reg}); err == nil {
		t.Errorf("New() with metrics that exist already = nil, want an error")
	}
}

func TestConfigIsChecked(t *testing.T) {
	for name, cfg := range map[string]Config{
		"no backend":             {},
		"negative timeout":       {Backend: newFake(), Timeout: -1},
		"negative watch timeout": {Backend: newFake(), WatchTimeout: -1},
		"negative value size":    {Backend: newFake(), ValueMaxBytes: -1},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("New(%s) = nil, want an error", name)
		}
	}
	h, err := New(Config{Backend: newFake()})
	if err != nil {
		t.Fatalf("New() = %v, want nil", err)
	}
	if h.timeout != 5*time.Second || h.watchTimeout != 5*time.Minute || h.valueMaxBytes != 1048576 {
		t.Errorf("defaults = %v, %v, %d, want 5s, 5m, 1048576", h.timeout, h.watchTimeout, h.valueMaxBytes)
	}
	if h.limits.bodyBase != 10*time.Second || h.limits.bodyStep != time.Second || h.limits.write != 10*time.Second ||
		h.limits.heartbeat != 15*time.Second || h.limits.ready != time.Second {
		t.Errorf("limits = %+v, want those of the contract", h.limits)
	}
}

func TestPanicIsLoggedAndAnswered500(t *testing.T) {
	b := newFake()
	b.read = func(context.Context, bool) (store.View, error) { panic("broken invariant 7") }
	var log logBuffer
	h := newHandler(t, b, func(c *Config) { c.Log = log.logger() })
	w := do(h, testRequest{method: "GET", target: "/v2/keys/a"})
	want := `{"errorCode":300,"message":"Raft Internal Error","cause":"internal error","index":0}` + "\n"
	if w.Code != 500 || w.Body.String() != want {
		t.Errorf("GET = %d %s, want 500 %s", w.Code, w.Body, want)
	}
	keysHeadersOf(t, w.Header())
	if got := log.String(); !strings.Contains(got, "broken invariant 7") || !strings.Contains(got, "plain_test.go") {
		t.Errorf("log = %s, want the panic and its stack", got)
	}
	b.read = nil
	if w := do(h, testRequest{method: "GET", target: "/v2/keys"}); w.Code != 200 {
		t.Errorf("GET after a panic = %d, want 200", w.Code)
	}
}

// failing is a response writer whose client is gone.
type failing struct{ http.ResponseWriter }

func (failing) Write([]byte) (int, error) { return 0, errors.New("gone") }

func TestLostClientsAndHalfAnswers(t *testing.T) {
	b := newFake()
	h := newHandler(t, b, nil)
	h.ServeHTTP(failing{httptest.NewRecorder()}, testRequest{method: "GET", target: "/keys"}.build())

	defer func() {
		if v := recover(); v != http.ErrAbortHandler {
			t.Errorf("panic after the answer began = %v, want http.ErrAbortHandler", v)
		}
	}()
	h.metricsPage = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("half way") })
	do(h, testRequest{method: "GET", target: "/metrics"})
}

// FuzzEveryAnswerIsWhole sends whatever the fuzzer makes up. On the keys API
// every answer but a 405 is one line of JSON with all headers; elsewhere it is
// text, or JSON for a foreign origin.
func FuzzEveryAnswerIsWhole(f *testing.F) {
	f.Add("PUT", "/keys/a", "ttl=5", typeURLEncoded, "value=1", "")
	f.Add("GET", "/v2/keys", "recursive=true", "", "", "http://x")
	f.Add("DELETE", "/keys/a/b", "prevIndex=1", "multipart/form-data; boundary=b", "--b\r\n", "null")
	f.Add("POST", "/keys/\u2028", "waitIndex=-", "text/plain;;", "x", "")
	f.Add("HEAD", "/machines", "wait=true", "", "", "")
	f.Add("PUT", "/keys/a", "prev\xff=1", "\xff/\"", "%", "")
	f.Fuzz(func(t *testing.T, method, path, query, contentType, body, origin string) {
		if strings.Contains(query, "wait") {
			query = strings.ReplaceAll(query, "wait", "want") // a watch would wait
		}
		b := newFake()
		h := newHandler(t, b, nil)
		r := &http.Request{
			Method: method, URL: &url.URL{Path: path, RawQuery: query}, RequestURI: path, Host: "h",
			Header: http.Header{"Content-Type": {contentType}}, ContentLength: int64(len(body)), Body: io.NopCloser(strings.NewReader(body)),
		}
		if origin != "" {
			r.Header.Set("Origin", origin)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		isKeys := w.Header().Get("X-Etcd-Index") != ""
		if _, _, want := cutPrefix(path); isKeys != want && method != "OPTIONS" && len(path) <= targetMaxBytes {
			t.Errorf("%q %q: keys headers = %t, want %t", method, path, isKeys, want)
		}
		if isKeys {
			keysHeadersOf(t, w.Header())
		}
		if method == "HEAD" {
			return
		}
		if got := w.Header().Get("Content-Length"); path != "/metrics" && got != strconv.Itoa(w.Body.Len()) {
			t.Errorf("%q %q: Content-Length = %s, want %d", method, path, got, w.Body.Len())
		}
		isJSON := w.Header().Get("Content-Type") == "application/json"
		if isKeys && isJSON == (w.Code == 405) {
			t.Errorf("%q %q = %d as %s", method, path, w.Code, w.Header().Get("Content-Type"))
		}
		if line := w.Body.Bytes(); isJSON && (!json.Valid(line) || bytes.Count(line, []byte("\n")) != 1 || !utf8.Valid(line)) {
			t.Errorf("%q %q = %q, want one line of JSON", method, path, line)
		}
	})
}
