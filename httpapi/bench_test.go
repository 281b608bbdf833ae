package httpapi

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos"
)

// discard is a response writer that costs nothing.
type discard struct {
	header http.Header
	status int
	body   []byte
	keep   bool
}

func (d *discard) Header() http.Header { return d.header }
func (d *discard) WriteHeader(s int)   { d.status = s }

func (d *discard) WriteHead(s int, _ []byte) { d.status = s }

func (d *discard) SetReadDeadline(time.Time) error  { return nil }
func (d *discard) SetWriteDeadline(time.Time) error { return nil }

func (d *discard) Write(b []byte) (int, error) {
	if d.keep {
		d.body = append(d.body, b...)
	}
	return len(b), nil
}

// again is a body that can be read once a request, for ever.
type again struct{ strings.Reader }

func (*again) Close() error { return nil }

// reusable is a request without the cost of making it.
type reusable struct {
	r    *http.Request
	body string
	in   again
}

func newReusable(method, path, query, body string) *reusable {
	q := &reusable{body: body}
	target := path
	if query != "" {
		target += "?" + query
	}
	q.r = &http.Request{
		Method: method, URL: &url.URL{Path: path, RawQuery: query}, RequestURI: target,
		Header: http.Header{}, ContentLength: int64(len(body)), Body: http.NoBody, Host: "localhost",
	}
	if body != "" {
		q.r.Header.Set("Content-Type", typeURLEncoded)
	}
	return q
}

func (q *reusable) request() *http.Request {
	if q.body != "" {
		q.in.Reset(q.body)
		q.r.Body = &q.in
	}
	return q.r
}

var _ io.ReadCloser = (*again)(nil)

// TestAllocations bounds what a request costs in the handler: without net/http,
// and for writes without the store, whose event is made beforehand.
func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools forget")
	}
	b := newFake()
	h := newHandler(t, b, nil)
	mustPut(t, h, "/keys/some/key", "value="+strings.Repeat("v", 128))
	event, err := b.store.Apply(&deimos.Request{Op: deimos.OpSet, Key: "/some/key", Value: strings.Repeat("v", 128)}, 1)
	if err != nil {
		t.Fatalf("Apply() = %v, want nil", err)
	}
	b.event = event
	for _, tt := range []struct {
		name string
		q    *reusable
		max  float64
	}{
		{"local get", newReusable("GET", "/v2/keys/some/key", "", ""), 0},
		{"local get with parameters", newReusable("GET", "/v2/keys/some/key", "recursive=false&sorted=true&quorum=false", ""), 0},
		{"linearizable get", newReusable("GET", "/keys/some/key", "", ""), 0},
		{"put", newReusable("PUT", "/keys/some/key", "", "value="+strings.Repeat("v", 128)), 2},
		{"put with escapes and conditions", newReusable("PUT", "/keys/some/key", "prevExist=true", "ttl=60&value=%3C%3E+x"), 2},
		{"delete with condition", newReusable("DELETE", "/keys/some/key", "", "prevValue=me"), 2},
		{"refused", newReusable("GET", "/v2/keys/some/key", "quorum=x", ""), 5},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := &discard{header: http.Header{}}
			got := testing.AllocsPerRun(500, func() { h.ServeHTTP(w, tt.q.request()) })
			if got > tt.max {
				t.Errorf("%s allocates %.0f times (status %d), want at most %.0f", tt.name, got, w.status, tt.max)
			}
			t.Logf("%s: %.0f allocations", tt.name, got)
		})
	}
}

func BenchmarkHandler(b *testing.B) {
	fake := newFake()
	h := newHandler(b, fake, nil)
	value := strings.Repeat("v", 128)
	for i := range 1000 {
		r := &deimos.Request{Op: deimos.OpSet, Key: fmt.Sprintf("/list/%04d", i), Value: value}
		if _, err := fake.store.Apply(r, 1); err != nil {
			b.Fatalf("Apply(%s) = %v, want nil", r.Key, err)
		}
	}
	fake.store.Publish(10)
	for _, bb := range []struct {
		name string
		q    *reusable
	}{
		{"get local", newReusable("GET", "/v2/keys/list/0500", "", "")},
		{"get linearizable", newReusable("GET", "/keys/list/0500", "", "")},
		{"put", newReusable("PUT", "/keys/list/0500", "", "value="+value)},
		{"list 1000", newReusable("GET", "/v2/keys/list", "", "")},
		{"tree 1000", newReusable("GET", "/v2/keys", "recursive=true", "")},
	} {
		b.Run(bb.name, func(b *testing.B) {
			w := &discard{header: http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				h.ServeHTTP(w, bb.q.request())
			}
		})
	}
}
