package client

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"sync"
	"testing"
)

// wire stands in for the network: it answers requests in the goroutine of the
// caller, so that tests with a fake clock work.
type wire struct {
	answer func(*http.Request) (*http.Response, error)

	mu   sync.Mutex
	seen []string // method, URL and body of each request
}

// RoundTrip implements [http.RoundTripper]. Whoever fails before the request is
// written says so with errRefused.
func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	text := r.Method + " " + r.URL.String()
	if r.Body != nil {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		text += " " + string(body)
	}
	w.mu.Lock()
	w.seen = append(w.seen, text)
	w.mu.Unlock()
	resp, err := w.answer(r)
	if trace := httptrace.ContextClientTrace(r.Context()); trace != nil && err != errRefused {
		trace.GotConn(httptrace.GotConnInfo{})
	}
	if err != nil && r.Context().Err() != nil {
		err = context.Cause(r.Context())
	}
	return resp, err
}

// requests returns what was sent, without the host of the default endpoint.
func (w *wire) requests() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []string
	for _, s := range w.seen {
		list = append(list, strings.Replace(s, DefaultEndpoint, "", 1))
	}
	return list
}

type wireError string

func (e wireError) Error() string { return string(e) }

const errRefused = wireError("connection refused")

// reply makes an answer. headers are pairs.
func reply(status int, body string, headers ...string) *http.Response {
	rec := httptest.NewRecorder()
	rec.Header().Set("Content-Type", typeJSON)
	for i := 0; i < len(headers); i += 2 {
		rec.Header().Set(headers[i], headers[i+1])
	}
	rec.WriteHeader(status)
	rec.WriteString(body)
	return rec.Result()
}

// newWired returns a client that speaks over w.
func newWired(t *testing.T, cfg Config, w *wire) *Client {
	t.Helper()
	cfg, err := cfg.check()
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(cfg, w)
	t.Cleanup(func() { c.Close() })
	return c
}

// open returns a client of servers.
func open(t *testing.T, cfg Config, endpoints ...string) *Client {
	t.Helper()
	cfg.Endpoints = endpoints
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}
