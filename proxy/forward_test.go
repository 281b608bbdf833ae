package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestRequestIsForwardedUnchanged(t *testing.T) {
	c := new(cluster)
	m := startMember(t, c, nil)
	c.set(m.URL)
	p := startProxy(t, nil, nil, m.URL)
	p.knows(t, 1)
	for _, tt := range []struct{ name, method, target, body string }{
		{"escapes", "PUT", "/keys/a%2Fb%20c%2e?x=%41&y=+", "value=1"},
		{"dots and slashes", "GET", "/keys//a/../b/./", ""},
		{"odd characters", "GET", "/keys/tcp@10.0.0.9:30000;x,y!$'()*", ""},
		{"empty query", "GET", "/keys/a?", ""},
		{"two slashes in front", "GET", "//keys/%2F", ""},
		{"delete with a body", "DELETE", "/keys/a", "prevValue=2"},
		{"post", "POST", "/v2/keys/q?ttl=5", "value=x%26"},
		{"invented method", "BREW", "/keys/a", ""},
		{"trace", "TRACE", "/keys/a", ""},
		{"options", "OPTIONS", "/nothing", ""},
		{"put without a body", "PUT", "/keys/a", ""},
		{"large body", "PUT", "/keys/a", "value=" + strings.Repeat("x", 300<<10)},
		{"members", "POST", "/v2/members/1/promote", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := len(m.requests())
			send := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: front.example:80\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nTE: trailers\r\n"+
				"Origin: http://o\r\nX-Request-Id: id-1\r\nIdempotency-Key: k\r\nContent-Length: %d\r\n\r\n%s", tt.method, tt.target, len(tt.body), tt.body)
			got := raw(t, p.addr, send)
			if !strings.HasPrefix(got, "HTTP/1.1 201 Created\r\n") || !strings.Contains(got, "X-Etcd-Index: 7\r\n") ||
				!strings.Contains(got, "X-Request-Id: id-1\r\n") || !strings.HasSuffix(got, `{"action":"set"}`+"\n") {
				t.Errorf("answer = %q, want that of the member with the request id", got)
			}
			seen := m.requests()
			if len(seen) != before+1 {
				t.Fatalf("%d requests reached the member, want 1", len(seen)-before)
			}
			s := seen[before]
			if s.method != tt.method || s.target != tt.target || s.body != tt.body || s.host != "front.example:80" {
				t.Errorf("member got %s %s %s with %d bytes, want %s %s front.example:80 with %d", s.method, s.target, s.host, len(s.body), tt.method, tt.target, len(tt.body))
			}
			if len(s.encoding) > 0 {
				t.Errorf("Transfer-Encoding = %q, want a length", s.encoding)
			}
			for name, want := range map[string]string{
				"Origin": "http://o", "X-Request-Id": "id-1", "Idempotency-Key": "k", headerProxy: p.run,
				"X-Hop": "", "Te": "", "User-Agent": "", "Accept-Encoding": "", "X-Forwarded-For": "", "Connection": "",
			} {
				if got := s.header.Get(name); got != want {
					t.Errorf("member got %s %q, want %q", name, got, want)
				}
			}
		})
	}
}

func FuzzTargetSurvives(f *testing.F) {
	for _, s := range []string{"/keys/a%2Fb", "/v2/keys/%e4%bd%a0?wait=true", "/keys/a?", "//x//%2f?a=b", "/keys/a#b", "*", "/keys/\"<>^`{|}", "/?%zz;&", "http://other/keys?x", "/keys/é"} {
		f.Add(s)
	}
	e, err := parseEndpoint("http://10.0.0.1:4001")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, target string) {
		head := "GET " + target + " HTTP/1.1\r\nHost: front\r\n\r\n"
		in, err := http.ReadRequest(bufio.NewReader(strings.NewReader(head)))
		if err != nil || in.RequestURI != target || len(in.Header) > 0 {
			return
		}
		out, err := newOutgoing(in, "run")
		if err != nil || out == nil {
			return
		}
		r, err := out.request(t.Context(), e)
		if err != nil {
			t.Fatalf("request(%q) = %v, want nil", target, err)
		}
		if r.URL.Host != e.host || r.URL.Scheme != "http" {
			t.Fatalf("request(%q) goes to %s://%s, want the member", target, r.URL.Scheme, r.URL.Host)
		}
		var wire strings.Builder
		if err := r.Write(&wire); err != nil {
			return // net/http refuses to write it
		}
		got, err := http.ReadRequest(bufio.NewReader(strings.NewReader(wire.String())))
		if err != nil {
			t.Fatalf("a member cannot read %q: %v", wire.String(), err)
		}
		if strings.HasPrefix(target, "/") && !strings.HasPrefix(target, "//") && got.RequestURI != target {
			t.Errorf("target = %q, want %q", got.RequestURI, target)
		}
		if got.URL.Path != in.URL.Path && in.URL.Path != "" || got.URL.RawQuery != in.URL.RawQuery {
			t.Errorf("path and query = %q %q, want %q %q", got.URL.Path, got.URL.RawQuery, in.URL.Path, in.URL.RawQuery)
		}
		if got.URL.Host != "" {
			t.Errorf("target %q names the host %q, want none", got.RequestURI, got.URL.Host)
		}
	})
}

var statusLine = regexp.MustCompile(`HTTP/1\.[01] \d\d\d `)

func TestRawRequestsHaveOneReading(t *testing.T) {
	const smuggled = "PUT /keys/smuggled HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
	chunked := func(s string) string { return fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(s), s) }
	for _, tt := range []struct {
		name, send string
		want       string // how the answer begins
		target     string // what the member was asked, if anything
		body       string
	}{
		{"length and chunked", "PUT /keys/a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + chunked("value="+smuggled), "HTTP/1.1 201 ", "/keys/a", "value=" + smuggled},
		{"two lengths", "PUT /keys/a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n" + smuggled, "HTTP/1.1 400 ", "", ""},
		{"unknown coding", "PUT /keys/a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n" + smuggled, "HTTP/1.1 501 ", "", ""},
		{"malformed chunk", "PUT /keys/a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n" + smuggled, "HTTP/1.1 400 ", "", ""},
		{"chunked", "PUT /keys/a HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked("value=x"), "HTTP/1.1 201 ", "/keys/a", "value=x"},
		{"h2c upgrade", "GET /keys HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n", "HTTP/1.1 201 ", "/keys", ""},
		{"websocket upgrade", "GET /keys HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n", "HTTP/1.1 201 ", "/keys", ""},
		{"absolute form", "GET http://elsewhere:9/keys/b?x=1 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "HTTP/1.1 201 ", "/keys/b?x=1", ""},
		{"body of a get", fmt.Sprintf("GET /keys HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: %d\r\n\r\n", len(smuggled)) + smuggled, "HTTP/1.1 201 ", "/keys", ""},
		{"server-wide options", "OPTIONS * HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "HTTP/1.1 201 ", "*", ""},
		{"connect", "CONNECT h:80 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "HTTP/1.1 404 ", "", ""},
		{"target without a path", "GET mailto:x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "HTTP/1.1 400 ", "", ""},
		{"old protocol", "PUT /keys/a HTTP/1.0\r\nContent-Length: 7\r\n\r\nvalue=1", "HTTP/1.0 201 ", "/keys/a", "value=1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := new(cluster)
			m := startMember(t, c, nil)
			c.set(m.URL)
			p := startProxy(t, nil, nil, m.URL)
			p.knows(t, 1)
			got := raw(t, p.addr, tt.send)
			if !strings.HasPrefix(got, tt.want) || len(statusLine.FindAllString(got, -1)) != 1 {
				t.Errorf("answer = %.400q, want one, %s", got, tt.want)
			}
			seen := m.requests()
			if tt.target == "" {
				if len(seen) != 0 {
					t.Errorf("the member got %+v, want nothing", seen)
				}
				return
			}
			if len(seen) != 1 || seen[0].target != tt.target || seen[0].body != tt.body {
				t.Fatalf("the member got %+v, want %s with %q", seen, tt.target, tt.body)
			}
			if seen[0].header.Get("Upgrade") != "" || seen[0].header.Get("Http2-Settings") != "" {
				t.Errorf("the member got the headers %v, want no upgrade", seen[0].header)
			}
		})
	}
}

func TestReadOnlyProxyRefusesWrites(t *testing.T) {
	c := new(cluster)
	m := startMember(t, c, nil)
	c.set(m.URL)
	p := startProxy(t, func(cfg *Config) { cfg.ReadOnly = true }, nil, m.URL)
	p.knows(t, 1)
	for method, want := range map[string]int{"GET": 201, "HEAD": 201, "OPTIONS": 201, "PUT": 501, "POST": 501, "DELETE": 501, "PATCH": 501, "CONNECT": 501} {
		got := raw(t, p.addr, method+" /keys/a HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx")
		if !strings.HasPrefix(got, fmt.Sprintf("HTTP/1.1 %d ", want)) {
			t.Errorf("%s = %.60q, want %d", method, got, want)
		}
		if want == 501 && (!strings.HasSuffix(got, "\r\n\r\n{\"message\":\"this proxy is read-only\"}\n") || !strings.Contains(got, "Content-Type: application/json\r\n")) {
			t.Errorf("%s = %q, want the message as JSON", method, got)
		}
	}
}

func TestLoopIsCutAtItsFirstTurn(t *testing.T) {
	var urls []string
	p := startProxy(t, func(cfg *Config) {
		cfg.Bootstrap = func(context.Context) ([]string, error) { return urls, nil }
	}, nil)
	// The proxy is told its own address as that of a member, and cannot know.
	p.members.learn([]string{p.url})
	for _, target := range []string{"/keys/a", "/keys/a?wait=true"} {
		got := p.do(t, "GET", target, "")
		if got.status != 508 || !strings.Contains(got.body, `{"message":"a loop`) {
			t.Errorf("GET %s = %d %q, want 508", target, got.status, got.body)
		}
	}
}

func TestChainOfProxiesIsBounded(t *testing.T) {
	c := new(cluster)
	m := startMember(t, c, nil)
	c.set(m.URL)
	p := startProxy(t, nil, nil, m.URL)
	p.knows(t, 1)
	for _, tt := range []struct {
		name, passed string
		want         int
	}{
		{"none", "", 201},
		{"three", "a, b,c", 201},
		{"four", "a,b,c,d", 508},
		{"itself", "a, " + p.run, 508},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := p.do(t, "PUT", "/keys/a", "value=1", headerProxy, tt.passed); got.status != tt.want {
				t.Errorf("status = %d, want %d: %s", got.status, tt.want, got.body)
			}
		})
	}
	seen := m.requests()
	if got, want := seen[len(seen)-1].header.Get(headerProxy), "a, b, c, "+p.run; got != want {
		t.Errorf("%s = %q, want %q", headerProxy, got, want)
	}
}

func TestOwnAddressIsNotUsed(t *testing.T) {
	c := new(cluster)
	m := startMember(t, c, nil)
	self := "http://127.0.0.1:4999"
	c.set(self, m.URL)
	p := startProxy(t, func(cfg *Config) { cfg.Self = []string{self} }, nil, m.URL)
	until(t, "the member of the list", func() bool {
		all := p.members.candidates("")
		return len(all) == 1 && all[0].member == "2"
	})
}

func TestWriteIsSentAgainOnlyWhenNothingWasSent(t *testing.T) {
	bodies := map[string]string{"no body": "", "small body": "value=1", "large body": "value=" + strings.Repeat("x", 1<<20)}
	for name, body := range bodies {
		t.Run("refused connection, "+name, func(t *testing.T) {
			c := new(cluster)
			m := startMember(t, c, nil)
			dead := deadURL(t)
			c.set(dead, m.URL)
			p := startProxy(t, nil, func(l *limits) { l.pauseMin, l.pauseMax = time.Hour, time.Hour }, m.URL)
			p.knows(t, 2)
			for i := range 10 {
				for _, e := range p.members.candidates("") {
					p.members.up(e) // each write meets the dead one first
				}
				p.members.prefer(dead)
				if got := p.do(t, "PUT", "/keys/a", body); got.status != 201 {
					t.Fatalf("PUT = %d %s, want 201", got.status, got.body)
				}
				if seen := m.requests(); len(seen) != i+1 || seen[i].body != body {
					t.Fatalf("%d requests reached the member, want %d with the whole body", len(seen), i+1)
				}
			}
		})
		t.Run("connection breaks after the request, "+name, func(t *testing.T) {
			c := new(cluster)
			var got atomic.Int32
			breaks := func(net.Conn, *http.Request, *bufio.Reader) bool { got.Add(1); return false }
			c.set(rawMember(t, c, breaks), rawMember(t, c, breaks))
			p := startProxy(t, nil, nil, c.members...)
			p.knows(t, 2)
			a := p.do(t, "PUT", "/keys/a", body, "Idempotency-Key", "k")
			if a.status != 502 || !strings.Contains(a.body, "may or may not have been applied") {
				t.Errorf("PUT = %d %s, want 502", a.status, a.body)
			}
			if n := got.Load(); n != 1 {
				t.Errorf("the write reached members %d times, want once", n)
			}
		})
	}
}

func TestReadIsSentAgainAfterItReachedAMember(t *testing.T) {
	c := new(cluster)
	m := startMember(t, c, nil)
	var broken atomic.Int32
	bad := rawMember(t, c, func(net.Conn, *http.Request, *bufio.Reader) bool { broken.Add(1); return false })
	c.set(bad, m.URL)
	p := startProxy(t, nil, func(l *limits) { l.pauseMin, l.pauseMax = 10*time.Second, 10*time.Second }, m.URL)
	p.knows(t, 2)
	for range 30 {
		p.members.prefer(bad)
		if got := p.do(t, "GET", "/keys/a", ""); got.status != 201 {
			t.Errorf("GET = %d %s, want 201", got.status, got.body)
		}
	}
	if n := broken.Load(); n != 1 {
		t.Errorf("%d requests went to the broken member, want 1: it is put aside", n)
	}
}

func TestDeadIdleConnectionsDoNotFailWrites(t *testing.T) {
	c := new(cluster)
	m := startMember(t, c, nil)
	c.set(m.URL)
	p := startProxy(t, nil, nil, m.URL)
	p.knows(t, 1)
	for i := range 100 {
		if got := p.do(t, "PUT", "/keys/a", "value=1"); got.status != 201 {
			t.Fatalf("write %d = %d %s, want 201", i, got.status, got.body)
		}
		m.CloseClientConnections() // the kept connection is dead before its next use
	}
	if n := len(m.requests()); n != 100 {
		t.Errorf("%d writes reached the member, want 100", n)
	}
}

func TestCondemnedConnectionWritesNothing(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	conn := &memberConn{Conn: near, limit: time.Second}
	if !conn.condemn(conn.mark()) {
		t.Error("condemn() of an unused connection = false, want true")
	}
	if n, err := conn.Write([]byte("x")); n != 0 || err == nil {
		t.Errorf("Write() = %d, %v, want an error", n, err)
	}
	used := &memberConn{Conn: near, limit: time.Second}
	mark := used.mark()
	go func() {
		if _, err := far.Read(make([]byte, 1)); err != nil {
			t.Errorf("Read() = %v, want nil", err)
		}
	}()
	if _, err := used.Write([]byte("x")); err != nil {
		t.Fatalf("Write() = %v, want nil", err)
	}
	if used.condemn(mark) {
		t.Error("condemn() after a write = true, want false")
	}
	if !used.condemn(used.mark()) {
		t.Error("condemn() before the next request = false, want true")
	}
}

func TestNobodyReachable(t *testing.T) {
	p := startProxy(t, nil, nil, deadURL(t))
	for _, target := range []string{"/keys/a", "/v2/keys/a?wait=true", "/version"} {
		got := p.do(t, "GET", target, "", headerRequestID, "r1")
		if got.status != 503 || got.body != `{"message":"no reachable member"}`+"\n" || got.header.Get("Retry-After") != "1" ||
			got.header.Get("Content-Type") != "application/json" || got.header.Get(headerRequestID) != "r1" {
			t.Errorf("GET %s = %d %q %v, want 503", target, got.status, got.body, got.header)
		}
	}
}

func TestMemberThatDoesNotAnswerIsGivenUp(t *testing.T) {
	for _, tt := range []struct {
		method string
		want   int
		has    string
	}{
		{"GET", 502, "did not answer"},
		{"PUT", 502, "may or may not have been applied"},
	} {
		t.Run(tt.method, func(t *testing.T) {
			c := new(cluster)
			m := startMember(t, c, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
			c.set(m.URL)
			p := startProxy(t, nil, func(l *limits) { l.head = 50 * time.Millisecond }, m.URL)
			p.knows(t, 1)
			if got := p.do(t, tt.method, "/keys/a", ""); got.status != tt.want || !strings.Contains(got.body, tt.has) {
				t.Errorf("%s = %d %s, want %d with %q", tt.method, got.status, got.body, tt.want, tt.has)
			}
		})
	}
}

func TestAnswersOfMembersAreRelayedAsTheyAre(t *testing.T) {
	c := new(cluster)
	m := startMember(t, c, func(w http.ResponseWriter, r *http.Request) {
		status := 0
		if _, err := fmt.Sscanf(r.URL.Path, "/%d", &status); err != nil {
			status = 400
		}
		w.Header().Set("Retry-After", "5")
		w.Header()["X-Two"] = []string{"a", "b"}
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.Header()["Content-Type"] = nil
		w.WriteHeader(status)
	})
	c.set(m.URL)
	p := startProxy(t, nil, nil, m.URL)
	p.knows(t, 1)
	p.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	for _, status := range []int{200, 204, 302, 404, 413, 500, 503, 507} {
		got := p.do(t, "GET", fmt.Sprintf("/%d", status), "")
		if got.status != status || got.header.Get("Retry-After") != "5" || len(got.header["X-Two"]) != 2 || got.header.Get("Access-Control-Allow-Origin") != "*" || got.header["Content-Type"] != nil {
			t.Errorf("GET /%d = %d %v, want the member's", status, got.status, got.header)
		}
	}
}

func TestEarlyAnswerDoesNotWaitForTheBody(t *testing.T) {
	c := new(cluster)
	m := startMember(t, c, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		w.WriteHeader(http.StatusRequestEntityTooLarge)
	})
	c.set(m.URL)
	p := startProxy(t, nil, nil, m.URL)
	p.knows(t, 1)
	// The body is announced, begun and never finished.
	got := raw(t, p.addr, "PUT /keys/a HTTP/1.1\r\nHost: h\r\nContent-Length: 9000000\r\n\r\n"+strings.Repeat("x", 100<<10))
	if !strings.HasPrefix(got, "HTTP/1.1 413 ") || !strings.Contains(got, "Connection: close\r\n") {
		t.Errorf("answer = %.200q, want 413 and the end of the connection", got)
	}
}

func TestSlowBodyIsCutWith408(t *testing.T) {
	for _, tt := range []struct{ name, head string }{
		{"at its head", "Content-Length: 100\r\n\r\nvalue="},
		{"behind its head", "Content-Length: 100000\r\n\r\n" + strings.Repeat("x", headBodyBytes+100)},
		{"of a read", "Content-Length: 100\r\n\r\nvalue="},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := new(cluster)
			m := startMember(t, c, nil)
			c.set(m.URL)
			p := startProxy(t, nil, func(l *limits) { l.bodyBase, l.bodyStep = 50*time.Millisecond, time.Millisecond }, m.URL)
			p.knows(t, 1)
			method := "PUT"
			if tt.name == "of a read" {
				method = "GET"
			}
			got := raw(t, p.addr, method+" /keys/a HTTP/1.1\r\nHost: h\r\n"+tt.head)
			if !strings.HasPrefix(got, "HTTP/1.1 408 ") || !strings.Contains(got, "too slowly") {
				t.Errorf("answer = %.200q, want 408", got)
			}
		})
	}
}

func TestBrokenAnswerBreaksTheClientsConnection(t *testing.T) {
	c := new(cluster)
	bad := rawMember(t, c, func(conn net.Conn, _ *http.Request, _ *bufio.Reader) bool {
		_, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
		return err != nil
	})
	c.set(bad)
	p := startProxy(t, nil, nil, bad)
	p.knows(t, 1)
	resp, err := p.client.Get(p.url + "/keys/a")
	if err != nil {
		return // nothing of the answer had left yet
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("body = %q and its end, want an error", b)
	}
}

func TestMemberThatFallsSilentInAnAnswerIsGivenUp(t *testing.T) {
	c := new(cluster)
	m := startMember(t, c, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		if _, err := io.WriteString(w, "half"); err != nil {
			return
		}
		if err := http.NewResponseController(w).Flush(); err != nil {
			return
		}
		<-r.Context().Done()
	})
	c.set(m.URL)
	p := startProxy(t, nil, func(l *limits) { l.memberIO = 50 * time.Millisecond }, m.URL)
	p.knows(t, 1)
	got := raw(t, p.addr, "GET /keys/a HTTP/1.1\r\nHost: h\r\n\r\n") // to the end of the connection
	if strings.Contains(got, "half\r\n0\r\n") {
		t.Errorf("answer = %q, want none that looks whole", got)
	}
}

func TestUnforwardableRequestHurtsNoMember(t *testing.T) {
	c := new(cluster)
	m := startMember(t, c, nil)
	c.set(m.URL)
	p := startProxy(t, nil, func(l *limits) { l.pauseMin = time.Hour }, m.URL)
	p.knows(t, 1)
	// No server of ours lets these through.
	header := httptest.NewRequest("PUT", "/keys/a", strings.NewReader("value=1"))
	header.Header["X-A"] = []string{"a\nb"}
	target := httptest.NewRequest("PUT", "/keys/a", nil)
	target.RequestURI = "/keys/a\x01"
	for _, r := range []*http.Request{header, target} {
		w := httptest.NewRecorder()
		p.ServeHTTP(w, r)
		if w.Code != http.StatusBadRequest {
			t.Errorf("status = %d %s, want 400", w.Code, w.Body)
		}
	}
	if _, healthy := p.members.count(); healthy != 1 {
		t.Errorf("%d healthy members, want 1", healthy)
	}
}

func TestGoneClientEndsTheUpstreamRequest(t *testing.T) {
	c := new(cluster)
	gone := make(chan struct{})
	m := startMember(t, c, func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		close(gone)
	})
	c.set(m.URL)
	p := startProxy(t, nil, nil, m.URL)
	p.knows(t, 1)
	conn, err := net.Dial("tcp", p.addr)
	if err != nil {
		t.Fatalf("Dial() = %v, want nil", err)
	}
	if _, err := io.WriteString(conn, "GET /keys/a HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil {
		t.Fatalf("Write() = %v, want nil", err)
	}
	until(t, "the request at the member", func() bool { return len(m.requests()) == 1 })
	conn.Close()
	select {
	case <-gone:
	case <-time.After(time.Second):
		t.Error("the member's request goes on 1 s after the client left")
	}
	if _, healthy := p.members.count(); healthy != 1 {
		t.Errorf("%d healthy members, want 1", healthy)
	}
}

func TestMetricsCountRequestsAndMembers(t *testing.T) {
	c := new(cluster)
	m := startMember(t, c, nil)
	dead := deadURL(t)
	c.set(m.URL, dead)
	registry := prometheus.NewRegistry()
	p := startProxy(t, func(cfg *Config) { cfg.Metrics = registry }, func(l *limits) { l.pauseMin, l.pauseMax = time.Hour, time.Hour }, m.URL)
	p.knows(t, 2)
	for range 30 {
		p.members.prefer(dead)
		p.do(t, "PUT", "/keys/a", "value=1")
	}
	p.do(t, "BREW", "/keys/a", "")
	until(t, "the counts", func() bool {
		err := testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP deimos_proxy_members Members that the proxy knows, and those of them that answered last time.
# TYPE deimos_proxy_members gauge
deimos_proxy_members{state="healthy"} 1
deimos_proxy_members{state="known"} 2
# HELP deimos_proxy_requests_total Requests answered by the proxy; a watch counts when it ends.
# TYPE deimos_proxy_requests_total counter
deimos_proxy_requests_total{code="201",method="PUT"} 30
deimos_proxy_requests_total{code="201",method="other"} 1
# HELP deimos_proxy_upstream_failures_total Requests to members, the proxy's own among them, that brought no answer.
# TYPE deimos_proxy_upstream_failures_total counter
deimos_proxy_upstream_failures_total 1
`), "deimos_proxy_members", "deimos_proxy_requests_total", "deimos_proxy_upstream_failures_total")
		return err == nil
	})
	if _, err := New(Config{Bootstrap: p.bootstrap, Metrics: registry}); err == nil {
		t.Error("New() with a registry that has the metrics = nil, want an error")
	}
}
