package lane

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

const (
	socketBytes = 32 << 10         // that a socket holds in each direction, about
	largeBytes  = 300_000          // more than both sockets hold
	patience    = 30 * time.Second // it fails, and does not hang
)

func newWorld(t *rapid.T) *world {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	seed := rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "seed")
	w := &world{
		Rand:    rand.New(rand.NewChaCha8([32]byte(seed))),
		addr:    l.Addr().String(),
		served:  make(chan error, 1),
		scripts: make(map[string]*script),
	}
	full := &http.Server{Handler: w, ErrorLog: log.New(io.Discard, "", 0)}
	if w.secure = w.IntN(2) == 0; w.secure {
		full.TLSConfig = serverTLS()
	}
	w.server = New(full, func(path string) bool { return strings.HasPrefix(path, "/keys/") })
	go func() { w.served <- w.server.Serve(tellingListener{l, w}) }()
	return w
}

func (w *world) dial(t *rapid.T) *peer {
	nc, err := net.Dial("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{t: t, world: w, nc: nc.(*net.TCPConn)}
	if err := p.nc.SetReadBuffer(socketBytes); err != nil {
		t.Fatal(err)
	}
	if w.secure {
		nc = tls.Client(nc, clientTLS)
	}
	p.out, p.in = nc, bufio.NewReader(nc)
	return p
}

func (w *world) newScript(p *peer, kinds ...string) *script {
	s := &script{
		world:  w,
		peer:   p,
		path:   fmt.Sprintf("/keys/%d", len(w.scripts)),
		method: http.MethodGet,
		kind:   kinds[w.IntN(len(kinds))],
		slowly: w.IntN(2) == 0,
		gate:   make(chan struct{}),
		ended:  make(chan struct{}),
	}
	if s.kind != "stream" && s.kind != "plain" {
		s.method = []string{"GET", "HEAD", "PUT", "PUT"}[w.IntN(4)]
	}
	if s.kind != "stream" {
		s.text = w.filler(s.path)
	}
	if s.method == http.MethodPut {
		s.body = strings.Repeat("b", []int{0, 10, 1000, 6000}[w.IntN(4)])
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.scripts[s.path] = s
	return s
}

func (w *world) filler(name string) string {
	if w.IntN(12) == 0 {
		return name + strings.Repeat("x", largeBytes) + "\n"
	}
	return name + "\n"
}

// end ends the traffic, by the clients' leaving, or by Shutdown or Close under way.
func (w *world) end(t *rapid.T, peers []*peer, how string) {
	down := make(chan error, 1)
	for _, p := range peers {
		p.loose = p.loose || how != "clients"
		if len(p.asked) == 1 && p.rest == "" && !p.half {
			s := p.asked[0]
			s.mu.Lock()
			if s.opened && s.kind != "panic" && !s.cut && how == "Shutdown" {
				p.must = s
			}
			s.mu.Unlock()
		}
		if !p.sent { // its first request would be waited for
			p.leave()
		}
	}
	switch how {
	case "Shutdown":
		go func() { down <- w.server.Shutdown(context.Background()) }()
	case "Close":
		down <- w.server.Close()
	}
	for _, s := range w.scripts {
		s.release()
		if how == "Shutdown" || how == "clients" && !s.peer.half && !s.peer.lost || s.peer.other {
			s.finish()
		}
	}
	for _, p := range peers {
		if !p.lost {
			p.sendRest()
			p.ending = true
			p.drain(p.last || how != "clients")
		}
	}
	w.mu.Lock()
	closed := w.closed
	w.mu.Unlock()
	late := time.After(patience)
	for _, c := range closed {
		select {
		case <-c:
		case <-late:
			t.Fatal("a connection stays open without its client")
		}
	}
	for how == "clients" && w.server.connections() > 0 {
		select {
		case <-late:
			t.Fatal("the server does not forget a connection")
		default:
			runtime.Gosched()
		}
	}
	if how != "clients" {
		if err := <-down; err != nil {
			t.Fatalf("%s() = %v, want nil", how, err)
		}
	}
}

func (s *Server) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// stop waits for the end of the server, and looks at what it has done.
func (w *world) stop(t *rapid.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := w.server.Shutdown(ctx); err != nil {
		t.Fatalf("Shutdown() = %v, want nil", err)
	}
	if err := <-w.served; !errors.Is(err, http.ErrServerClosed) {
		t.Fatalf("Serve() = %v, want %v", err, http.ErrServerClosed)
	}
	if n := w.server.connections(); n > 0 {
		t.Fatalf("connections after the end = %d, want none", n)
	}
	for _, s := range w.scripts {
		s.mu.Lock()
		opened := s.opened
		s.mu.Unlock()
		if !opened {
			continue
		}
		select {
		case <-s.ended:
		case <-ctx.Done():
			w.fault("%s (%s): the call has not ended", s.path, s.kind)
		}
	}
	if len(w.faults) > 0 {
		t.Fatalf("faults:\n%s", strings.Join(w.faults, "\n"))
	}
}

// Whatever clients and calls do, and in whatever order, each client sees the answers
// to its requests in full and in their order, each stream all its events, and no
// more; each call has its steps as [Call] promises, one at a time, and exactly one
// end, for which a stream needs no event once its client has gone; a connection
// ends with its client; and after that, or a Shutdown or Close in the midst of all,
// nothing is left of the server. With -rapid.checks it can go on for longer.
func TestRandomTrafficInALoop(t *testing.T) {
	t.Cleanup(func() { goleak.VerifyNone(t) })
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		defer w.server.Close()
		var peers []*peer
		var scripts []*script
		for range 20 + w.IntN(200) {
			peers = slices.DeleteFunc(peers, func(p *peer) bool { return p.lost })
			scripts = slices.DeleteFunc(scripts, func(s *script) bool { return s.released && (s.kind != "stream" || s.over) })
			if len(peers) < 1+w.IntN(5) {
				peers = append(peers, w.dial(t))
			}
			p := peers[w.IntN(len(peers))]
			if act := w.IntN(24); act < 10 || len(scripts) == 0 {
				scripts = append(scripts, p.act(act)...)
			} else {
				scripts[w.IntN(len(scripts))].act(act - 10)
			}
		}
		w.end(t, peers, []string{"clients", "Shutdown", "Close"}[w.IntN(3)])
		w.stop(t)
	})
}

// act does one of fourteen things.
func (s *script) act(what int) {
	w := s.world
	switch {
	case what < 4:
		s.release()
	case s.kind != "stream" || s.over || s.cut:
	case what < 11:
		for range 1 + w.IntN(3) {
			s.emit(event{text: w.filler(fmt.Sprintf("%s at %d", s.path, len(s.text))), slow: w.IntN(4) == 0})
		}
	case what == 11:
		s.nudge()
	case w.IntN(4) == 0:
		s.emit(event{panics: true})
	case what == 12:
		s.finish()
	}
}
