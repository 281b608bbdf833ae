package proxy

import (
	"context"
	"net/http"
	"strings"
	"testing"
)

func TestCloseEndsWatchesAndLetsOthersFinish(t *testing.T) {
	c := new(cluster)
	m, opened := watchMember(t, c, 5)
	watches := m.handler
	release := make(chan struct{})
	m.handler = func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "PUT" {
			<-release
			w.WriteHeader(http.StatusCreated)
			return
		}
		watches(w, r)
	}
	c.set(m.URL)
	p := startProxy(t, nil, nil, m.URL)
	p.knows(t, 1)
	stream := p.watch(t, "/keys/a?wait=true&stream=true")
	u := one(t, opened)
	u.send <- event(6)
	stream.want(t, event(6))
	wrote := make(chan answer, 1)
	go func() { wrote <- p.do(t, "PUT", "/keys/a", "value=1") }()
	until(t, "the write at the member", func() bool { return len(m.requests()) == 2 })
	closed := make(chan error, 1)
	go func() { closed <- p.Close(t.Context()) }()
	stream.wantEnd(t)
	<-u.gone
	if got := p.do(t, "GET", "/keys/a", ""); got.status != 503 || !strings.Contains(got.body, "stopping") {
		t.Errorf("GET of a closing proxy = %d %s, want 503", got.status, got.body)
	}
	select {
	case err := <-closed:
		t.Errorf("Close() = %v while a write runs, want it to wait", err)
	default:
	}
	close(release)
	if a := <-wrote; a.status != 201 {
		t.Errorf("PUT = %d, want 201", a.status)
	}
	if err := <-closed; err != nil {
		t.Errorf("Close() = %v, want nil", err)
	}
}

func TestCloseBreaksRequestsWhenItsContextEnds(t *testing.T) {
	c := new(cluster)
	m := startMember(t, c, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	c.set(m.URL)
	p := startProxy(t, nil, nil, m.URL)
	p.knows(t, 1)
	wrote := make(chan answer, 1)
	go func() { wrote <- p.do(t, "PUT", "/keys/a", "") }()
	until(t, "the write at the member", func() bool { return len(m.requests()) == 1 })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Close(ctx); err == nil {
		t.Error("Close() = nil, want that of the context")
	}
	if a := <-wrote; a.status != 502 || !strings.Contains(a.body, "may or may not") {
		t.Errorf("PUT = %d %s, want 502", a.status, a.body)
	}
}
