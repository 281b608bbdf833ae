package httpapi

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/marsevilspirit/deimos"
)

// largeListing fills /big with about 3 MB below it, all of it with a TTL, and
// returns a handler. The cluster time moves with each look at it.
func largeListing(t *testing.T) (*fakeBackend, *Handler) {
	t.Helper()
	b := newFake()
	h := newHandler(t, b, func(c *Config) { c.Backend = movingClock{b} })
	value := strings.Repeat("v", 1000)
	for i := range 3000 {
		r := &deimos.Request{Op: deimos.OpSet, Key: fmt.Sprintf("/big/%03d/%04d", i%7, i), Value: value, HasTTL: true, TTLSeconds: 100}
		if _, err := b.store.Apply(r, 1); err != nil {
			t.Fatalf("Apply(%s) = %v, want nil", r.Key, err)
		}
	}
	b.store.Publish(10)
	return b, h
}

// movingClock makes every look at the clock a different one, by enough to change
// the number of digits.
type movingClock struct{ *fakeBackend }

func (m movingClock) ClusterTimeMS() int64 { return m.timeMS.Add(91_000) }

// parts records the writes of an answer, and fails after some.
type parts struct {
	discard
	sizes     []int
	failAfter int
}

func (p *parts) Write(b []byte) (int, error) {
	if p.failAfter > 0 && len(p.sizes) == p.failAfter {
		return 0, errors.New("the client is gone")
	}
	p.sizes = append(p.sizes, len(b))
	return len(b), nil
}

func (p *parts) sum() int {
	n := 0
	for _, size := range p.sizes {
		n += size
	}
	return n
}

func TestLargeListingIsSentInParts(t *testing.T) {
	_, h := largeListing(t)
	p := &parts{discard: discard{header: http.Header{}}}
	h.ServeHTTP(p, testRequest{method: "GET", target: "/keys/big?recursive=true"}.build())
	if got := p.header.Get("Content-Length"); got != strconv.Itoa(p.sum()) || p.sum() < 3_000_000 {
		t.Errorf("Content-Length = %s, want the %d bytes that were sent", got, p.sum())
	}
	for i, size := range p.sizes {
		if size > partBytes+bodyStepBytes {
			t.Errorf("part %d has %d bytes, want at most %d and one node", i, size, partBytes)
		}
	}
}

func TestHeadOfALargeListing(t *testing.T) {
	_, h := largeListing(t)
	get, head := &parts{discard: discard{header: http.Header{}}}, &parts{discard: discard{header: http.Header{}}}
	h.ServeHTTP(get, testRequest{method: "GET", target: "/keys/big?recursive=true"}.build())
	h.ServeHTTP(head, testRequest{method: "HEAD", target: "/keys/big?recursive=true"}.build())
	if len(head.sizes) > 0 || head.status != http.StatusOK {
		t.Errorf("HEAD = %d with %d writes, want 200 without a body", head.status, len(head.sizes))
	}
	// The clock has moved on, so the lengths may differ by the digits of the TTLs.
	if n, err := strconv.Atoi(head.header.Get("Content-Length")); err != nil || n < get.sum()-100_000 || n > get.sum()+100_000 {
		t.Errorf("Content-Length of HEAD = %d, %v, want about %d", n, err, get.sum())
	}
}

func TestLargeListingEndsWhenItsClientGoes(t *testing.T) {
	_, h := largeListing(t)
	p := &parts{discard: discard{header: http.Header{}}, failAfter: 2}
	h.ServeHTTP(p, testRequest{method: "GET", target: "/keys/big?recursive=true"}.build())
	if len(p.sizes) != 2 {
		t.Errorf("%d parts were sent, want 2", len(p.sizes))
	}
	// The handler and its buffers are of use afterwards.
	p = &parts{discard: discard{header: http.Header{}}}
	h.ServeHTTP(p, testRequest{method: "GET", target: "/keys/big?recursive=true"}.build())
	if got := p.header.Get("Content-Length"); got != strconv.Itoa(p.sum()) {
		t.Errorf("Content-Length = %s, want the %d bytes that were sent", got, p.sum())
	}
}
