package proxy

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/internal/hangup"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cluster is a member list that fake members share.
type cluster struct {
	mu      sync.Mutex
	id      string
	members []string // client URLs, by number
}

func (c *cluster) set(urls ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.members = urls
}

func (c *cluster) list() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	type member struct {
		ID         string   `json:"id"`
		ClientURLs []string `json:"clientURLs"`
	}
	list := []member{{ID: "ff", ClientURLs: []string{}}} // has not started
	for i, u := range c.members {
		list = append(list, member{ID: fmt.Sprintf("%x", i+1), ClientURLs: []string{u}})
	}
	b, err := json.Marshal(map[string]any{"members": list})
	if err != nil {
		panic(err)
	}
	return b
}

// fakeMember answers the member list and leaves the rest to handler. It keeps
// the requests that it was given.
type fakeMember struct {
	*httptest.Server
	cluster *cluster
	handler http.HandlerFunc

	mu     sync.Mutex
	seen   []seenRequest
	awake  chan struct{} // closed when the member no longer hangs; nil: it does not
	probed int           // requests for /livez
}

// hang makes the member accept requests and answer none until wake is called.
func (m *fakeMember) hang() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.awake = make(chan struct{})
}

func (m *fakeMember) wake() {
	m.mu.Lock()
	defer m.mu.Unlock()
	close(m.awake)
	m.awake = nil
}

// waits returns when the member does not hang, or false when nobody waits for
// the answer any more.
func (m *fakeMember) waits(r *http.Request) bool {
	m.mu.Lock()
	awake := m.awake
	m.mu.Unlock()
	if awake == nil {
		return true
	}
	select {
	case <-awake:
		return true
	case <-r.Context().Done():
		return false
	}
}

func (m *fakeMember) probes() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.probed
}

type seenRequest struct {
	method, target, host, body string
	header                     http.Header
	encoding                   []string
}

func startMember(t *testing.T, c *cluster, handler http.HandlerFunc) *fakeMember {
	t.Helper()
	m := &fakeMember{cluster: c, handler: handler}
	m.Server = httptest.NewUnstartedServer(m)
	m.Config.DisableGeneralOptionsHandler = true
	m.Start()
	t.Cleanup(m.Close)
	return m
}

func (m *fakeMember) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/livez" {
		m.mu.Lock()
		m.probed++
		m.mu.Unlock()
		if m.waits(r) {
			w.WriteHeader(http.StatusOK)
		}
		return
	}
	if r.URL.Path == "/v2/members" {
		if !m.waits(r) {
			return
		}
		m.cluster.mu.Lock()
		id := m.cluster.id
		m.cluster.mu.Unlock()
		if id != "" {
			w.Header().Set(deimos.HeaderClusterID, id)
		}
		if _, err := w.Write(m.cluster.list()); err != nil {
			return
		}
		return
	}
	s := seenRequest{method: r.Method, target: r.RequestURI, host: r.Host, header: r.Header.Clone(), encoding: r.TransferEncoding}
	if m.handler == nil {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		s.body = string(b)
	}
	m.mu.Lock()
	m.seen = append(m.seen, s)
	m.mu.Unlock()
	if !m.waits(r) {
		return
	}
	if m.handler != nil {
		m.handler(w, r)
		return
	}
	w.Header().Set("X-Etcd-Index", "7")
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	if _, err := io.WriteString(w, `{"action":"set"}`+"\n"); err != nil {
		return
	}
}

func (m *fakeMember) requests() []seenRequest {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]seenRequest(nil), m.seen...)
}

// quick are limits for tests.
func quick(l *limits) {
	l.pauseMin, l.pauseMax, l.lostMax = 10*time.Millisecond, 50*time.Millisecond, 20*time.Millisecond
	l.start, l.urgent = time.Hour, 20*time.Millisecond
}

// testProxy is a running proxy on the loopback interface.
type testProxy struct {
	*Proxy
	url, addr string
	server    *http.Server
	served    chan error
	client    *http.Client
	transport *http.Transport
}

// startProxy starts a proxy whose bootstrap peers tell urls.
func startProxy(t *testing.T, change func(*Config), limit func(*limits), urls ...string) *testProxy {
	t.Helper()
	cfg := Config{Bootstrap: func(context.Context) ([]string, error) { return urls, nil }}
	if change != nil {
		change(&cfg)
	}
	p, err := open(cfg, func(l *limits) {
		quick(l)
		if limit != nil {
			limit(l)
		}
	})
	if err != nil {
		t.Fatalf("open() = %v, want nil", err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("Listen() = %v, want nil", err)
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	tp := &testProxy{
		Proxy:     p,
		addr:      listener.Addr().String(),
		url:       "http://" + listener.Addr().String(),
		server:    &http.Server{Handler: p, DisableGeneralOptionsHandler: true, Protocols: protocols, ConnContext: hangup.ConnContext},
		served:    make(chan error, 1),
		transport: &http.Transport{DisableCompression: true},
	}
	tp.client = &http.Client{Transport: tp.transport}
	go func() { tp.served <- tp.server.Serve(listener) }()
	p.Start()
	t.Cleanup(func() {
		tp.transport.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := p.Close(ctx); err != nil {
			t.Errorf("Close() = %v, want nil", err)
		}
		if err := tp.server.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown() = %v, want nil", err)
		}
		if err := <-tp.served; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("Serve() = %v, want %v", err, http.ErrServerClosed)
		}
	})
	return tp
}

// until waits for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

// knows waits until the proxy has that many healthy members.
func (p *testProxy) knows(t *testing.T, healthy int) {
	t.Helper()
	until(t, fmt.Sprintf("%d healthy members", healthy), func() bool { _, n := p.members.count(); return n == healthy })
}

// answer is an answer that was read to its end.
type answer struct {
	status int
	header http.Header
	body   string
}

// do sends a request; header are names and values.
func (p *testProxy) do(t *testing.T, method, target, body string, header ...string) answer {
	t.Helper()
	resp := p.open(t, t.Context(), method, target, body, header...)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("reading the answer to %s %s = %v, want nil", method, target, err)
	}
	return answer{resp.StatusCode, resp.Header, string(b)}
}

// open sends a request and returns when the answer has begun.
func (p *testProxy) open(t *testing.T, ctx context.Context, method, target, body string, header ...string) *http.Response {
	t.Helper()
	var content io.Reader
	if body != "" {
		content = strings.NewReader(body)
	}
	r, err := http.NewRequestWithContext(ctx, method, p.url+target, content)
	if err != nil {
		t.Fatalf("NewRequest(%s %s) = %v, want nil", method, target, err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := p.client.Do(r)
	if err != nil {
		t.Fatalf("%s %s = %v, want an answer", method, target, err)
	}
	return resp
}

// raw sends bytes and returns everything that comes back until the other side
// closes.
func raw(t *testing.T, addr, send string) string {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatalf("Dial(%s) = %v, want nil", addr, err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatalf("SetDeadline() = %v, want nil", err)
	}
	if _, err := io.WriteString(conn, send); err != nil {
		t.Logf("sending: %v", err) // the answer tells why
	}
	b, err := io.ReadAll(conn)
	if err != nil && len(b) == 0 {
		t.Fatalf("reading the answer to %.60q = %v, want an answer", send, err)
	}
	return string(b)
}

// rawMember is a member of which each connection is handled by a function,
// after the member list was asked for or not. handle returns when the
// connection is to be closed.
func rawMember(t *testing.T, c *cluster, handle func(conn net.Conn, r *http.Request, in *bufio.Reader) (more bool)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("Listen() = %v, want nil", err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	conns := make(map[net.Conn]bool)
	serve := func(conn net.Conn) {
		defer func() {
			conn.Close()
			mu.Lock()
			delete(conns, conn)
			mu.Unlock()
		}()
		in := bufio.NewReader(conn)
		for {
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			if r.URL.Path != "/v2/members" && r.URL.Path != "/livez" {
				if !handle(conn, r, in) {
					return
				}
				continue
			}
			list := c.list()
			if _, err := fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(list), list); err != nil {
				return
			}
		}
	}
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns[conn] = true
			mu.Unlock()
			wg.Go(func() { serve(conn) })
		}
	})
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("Close() = %v, want nil", err)
		}
		mu.Lock()
		for conn := range conns {
			conn.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return "http://" + l.Addr().String()
}

// deadURL is a client URL where nobody listens.
func deadURL(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("Listen() = %v, want nil", err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatalf("Close() = %v, want nil", err)
	}
	return "http://" + addr
}

// prefer makes a client URL the first one for clients of the loopback interface,
// unless it has failed.
func (m *members) prefer(url string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for {
		first, least := "", uint64(math.MaxUint64)
		for _, e := range m.endpoints {
			if w := m.weight("127.0.0.1", e); w <= least {
				first, least = e.url(), w
			}
		}
		if first == url {
			return
		}
		m.seed = maphash.MakeSeed()
	}
}
