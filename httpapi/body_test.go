package httpapi

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// countingReader counts what is read from a body.
type countingReader struct {
	io.Reader
	n int64
}

func (r *countingReader) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	r.n += int64(n)
	return n, err
}

// A body that does not say how long it is must not be read to its end to find
// out that it is too long.
func TestBodyWithoutALengthIsBoundedToo(t *testing.T) {
	b := newFake()
	h := newHandler(t, b, nil)
	limit := h.bodyMaxBytes()
	body := &countingReader{Reader: io.LimitReader(zeros{}, 8*limit)}
	r := httptest.NewRequest(http.MethodPut, "/keys/a", body)
	r.ContentLength = -1
	r.Header.Set("Content-Type", typeURLEncoded)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != http.StatusRequestEntityTooLarge || !strings.Contains(w.Body.String(), `"errorCode":210`) {
		t.Errorf("PUT = %d %s, want 413 with code 210", w.Code, w.Body)
	}
	if body.n > limit+1 {
		t.Errorf("%d bytes of the body were read, want at most %d", body.n, limit+1)
	}
	if got := b.store.View().Len(); got != 0 {
		t.Errorf("%d nodes stored, want 0", got)
	}
}
