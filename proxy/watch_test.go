package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos"
)

// upstream is one watch at a fake member, played by the test.
type upstream struct {
	target string
	send   chan string
	end    chan struct{}
	gone   chan struct{}
}

// watchMember plays watches: each begins at once with index, and goes on as the
// test says.
func watchMember(t *testing.T, c *cluster, index uint64) (*fakeMember, chan *upstream) {
	t.Helper()
	opened := make(chan *upstream, 100)
	m := startMember(t, c, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("wait") != "true" {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		u := &upstream{target: r.RequestURI, send: make(chan string), end: make(chan struct{}), gone: make(chan struct{})}
		defer close(u.gone)
		w.Header().Set("Content-Type", "application/json")
		if strings.Contains(r.Header.Get("Accept"), "text/event-stream") {
			w.Header().Set("Content-Type", "text/event-stream")
		}
		w.Header().Set(deimos.HeaderEtcdIndex, fmt.Sprint(index))
		w.Header().Set(deimos.HeaderIndex, fmt.Sprint(index))
		if o := r.Header.Get("Origin"); o != "" {
			w.Header().Set("Access-Control-Allow-Origin", o)
		}
		rc := http.NewResponseController(w)
		if err := rc.Flush(); err != nil {
			return
		}
		opened <- u
		for {
			select {
			case s := <-u.send:
				if s == "break" {
					panic(http.ErrAbortHandler)
				}
				if _, err := io.WriteString(w, s); err != nil {
					return
				}
				if err := rc.Flush(); err != nil {
					return
				}
			case <-u.end:
				return
			case <-r.Context().Done():
				return
			}
		}
	})
	return m, opened
}

// event is the JSON line of a write with an index.
func event(index int) string {
	return fmt.Sprintf(`{"action":"set","node":{"key":"/a","value":"v","modifiedIndex":%d,"createdIndex":2}}`+"\n", index)
}

// block is the same in an event stream.
func block(index int) string {
	return fmt.Sprintf("id: %d\nevent: set\ndata: %s\n", index, event(index))
}

// watching is a proxy in front of one watchMember.
func watching(t *testing.T, limit func(*limits)) (*testProxy, chan *upstream) {
	t.Helper()
	c := new(cluster)
	m, opened := watchMember(t, c, 5)
	c.set(m.URL)
	p := startProxy(t, nil, limit, m.URL)
	p.knows(t, 1)
	return p, opened
}

// one returns the next upstream watch.
func one(t *testing.T, opened chan *upstream) *upstream {
	t.Helper()
	select {
	case u := <-opened:
		return u
	case <-time.After(10 * time.Second):
		t.Fatal("no upstream watch within 10 s")
		return nil
	}
}

func none(t *testing.T, opened chan *upstream) {
	t.Helper()
	select {
	case u := <-opened:
		t.Errorf("an upstream watch of %s, want none", u.target)
	default:
	}
}

// client is one watch of a client of the proxy.
type client struct {
	*http.Response
	in     *bufio.Reader
	cancel context.CancelFunc
}

func (p *testProxy) watch(t *testing.T, target string, header ...string) *client {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	resp := p.open(t, ctx, "GET", target, "", header...)
	c := &client{resp, bufio.NewReader(resp.Body), cancel}
	t.Cleanup(c.leave)
	return c
}

func (c *client) leave() {
	c.cancel()
	c.Body.Close()
}

func (c *client) wantIndex(t *testing.T, want string) {
	t.Helper()
	if a, b := c.Header.Get(deimos.HeaderIndex), c.Header.Get(deimos.HeaderEtcdIndex); a != want || b != want {
		t.Errorf("index headers = %s, %s, want %s", a, b, want)
	}
}

// want reads exactly what is given.
func (c *client) want(t *testing.T, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if _, err := io.ReadFull(c.in, b); err != nil || string(b) != want {
		t.Errorf("stream = %q, %v, want %q", b, err, want)
	}
}

// wantEnd reads the ordinary end of the body.
func (c *client) wantEnd(t *testing.T) {
	t.Helper()
	if b, err := io.ReadAll(c.in); err != nil || len(b) > 0 {
		t.Errorf("stream = %.200q, %v, want its end", b, err)
	}
}

func TestWatchIsRelayedPieceByPiece(t *testing.T) {
	p, opened := watching(t, nil)
	for _, tt := range []struct {
		name, target, accept string
		frame                func(int) string
		frames               int
	}{
		{"long poll", "/keys/a?wait=true", "", event, 1},
		{"long poll with an index", "/v2/keys/a?wait=true&waitIndex=3", "", event, 1},
		{"stream", "/keys/a?wait=true&stream=true", "", event, 3},
		{"stream from history", "/keys/a?wait=true&stream=true&waitIndex=2", "", event, 3},
		{"event stream", "/keys/a?wait=true&recursive=true", "text/event-stream", block, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := p.watch(t, tt.target, "Accept", tt.accept) // returns with the headers, before any event
			u := one(t, opened)
			c.wantIndex(t, "5")
			for i := range tt.frames {
				frame := tt.frame(6 + i)
				u.send <- frame[:10] // a piece of a line does not pass
				u.send <- frame[10:]
				c.want(t, frame)
			}
			close(u.end)
			c.wantEnd(t)
		})
	}
}

func TestIdenticalWatchesShareAnUpstream(t *testing.T) {
	p, opened := watching(t, nil)
	const target = "/keys/a?wait=true&recursive=true&waitIndex=6"
	first := p.watch(t, target, headerRequestID, "one")
	u := one(t, opened)
	clients := []*client{first}
	for i := range 20 {
		// The order of parameters and the name of the program do not matter.
		clients = append(clients, p.watch(t, "/keys/%61?waitIndex=6&recursive=true&wait=true", "User-Agent", fmt.Sprint("p", i), headerRequestID, fmt.Sprint("id", i)))
	}
	none(t, opened)
	u.send <- event(6)
	close(u.end)
	for i, c := range clients {
		c.wantIndex(t, "5")
		c.want(t, event(6))
		c.wantEnd(t)
		if i > 0 && c.Header.Get(headerRequestID) != fmt.Sprint("id", i-1) {
			t.Errorf("request id = %q, want its own", c.Header.Get(headerRequestID))
		}
	}
}

func TestWatchesThatDifferAreNotShared(t *testing.T) {
	for _, tt := range []struct {
		name, target string
		header       []string
	}{
		{"another key", "/keys/b?wait=true", nil},
		{"another prefix", "/v2/keys/a?wait=true", nil},
		{"recursive", "/keys/a?wait=true&recursive=true", nil},
		{"index", "/keys/a?wait=true&waitIndex=9", nil},
		{"stream", "/keys/a?wait=true&stream=true", nil},
		{"event stream", "/keys/a?wait=true", []string{"Accept", "text/event-stream"}},
		{"origin", "/keys/a?wait=true", []string{"Origin", "http://o"}},
		{"credentials", "/keys/a?wait=true", []string{"Authorization", "Basic x"}},
		{"unknown header", "/keys/a?wait=true", []string{"X-New", "1"}},
		{"another proxy", "/keys/a?wait=true", []string{headerProxy, "other"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, opened := watching(t, nil)
			p.watch(t, "/keys/a?wait=true")
			one(t, opened)
			c := p.watch(t, tt.target, tt.header...)
			u := one(t, opened)
			if len(tt.header) > 0 && tt.header[0] == "Origin" && c.Header.Get("Access-Control-Allow-Origin") != "http://o" {
				t.Errorf("CORS headers = %v, want those for the origin", c.Header)
			}
			if u.target != tt.target {
				t.Errorf("upstream = %s, want %s", u.target, tt.target)
			}
		})
	}
}

func TestDeliveredLongPollIsNotJoined(t *testing.T) {
	p, opened := watching(t, func(l *limits) { l.watchClose = time.Hour })
	c := p.watch(t, "/keys/a?wait=true")
	u := one(t, opened)
	u.send <- event(6)
	c.want(t, event(6)) // the member has not ended it yet
	p.watch(t, "/keys/a?wait=true")
	one(t, opened)
	close(u.end)
}

func TestRunningStreamIsJoinedFromNowOn(t *testing.T) {
	p, opened := watching(t, nil)
	const target = "/keys/a?wait=true&stream=true"
	first := p.watch(t, target)
	u := one(t, opened)
	u.send <- event(6)
	first.want(t, event(6))
	u.send <- event(9)
	first.want(t, event(9))
	u.send <- event(10)[:20]
	second := p.watch(t, target+"&waitIndex=0") // as if it were absent, but spelt otherwise
	other := one(t, opened)
	other.send <- event(10)
	second.want(t, event(10))
	third := p.watch(t, target)
	none(t, opened)
	third.wantIndex(t, "9")
	u.send <- event(10)[20:]
	for _, c := range []*client{first, third} {
		c.want(t, event(10))
	}
	close(u.end)
	first.wantEnd(t)
	third.wantEnd(t)
}

func TestRunningEventStreamIsJoinedWithAHeartbeat(t *testing.T) {
	p, opened := watching(t, nil)
	const target = "/keys/a?wait=true"
	sse := []string{"Accept", "text/event-stream"}
	first := p.watch(t, target, sse...)
	u := one(t, opened)
	u.send <- string(heartbeat)
	first.want(t, string(heartbeat))
	second := p.watch(t, target, sse...)
	second.wantIndex(t, "5")
	second.want(t, string(heartbeat))
	u.send <- block(8)
	first.want(t, block(8))
	second.want(t, block(8))
	third := p.watch(t, target, sse...)
	third.wantIndex(t, "8")
	third.want(t, string(heartbeat))
	none(t, opened)
	u.send <- string(heartbeat) + block(9)
	for _, c := range []*client{first, second, third} {
		c.want(t, string(heartbeat)+block(9))
	}
}

func TestStreamWithAnIndexIsSharedOnlyBeforeItsFirstEvent(t *testing.T) {
	for _, tt := range []struct {
		name, target string
		header       []string
		frame        func(int) string
	}{
		{"JSON", "/keys/a?wait=true&stream=true&waitIndex=6", nil, event},
		{"events", "/keys/a?wait=true&waitIndex=6", []string{"Accept", "text/event-stream"}, block},
		{"events after an id", "/keys/a?wait=true&waitIndex=1", []string{"Accept", "text/event-stream", "Last-Event-ID", "5"}, block},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, opened := watching(t, nil)
			first := p.watch(t, tt.target, tt.header...)
			u := one(t, opened)
			second := p.watch(t, tt.target, tt.header...)
			none(t, opened)
			u.send <- tt.frame(6)
			first.want(t, tt.frame(6))
			second.want(t, tt.frame(6))
			third := p.watch(t, tt.target, tt.header...)
			other := one(t, opened)
			other.send <- tt.frame(6)
			third.want(t, tt.frame(6))
		})
	}
}

func TestReplayIsNotSharedAndNotCut(t *testing.T) {
	p, opened := watching(t, nil)
	const target = "/keys/a?wait=true&stream=true&waitIndex=2"
	first := p.watch(t, target)
	u := one(t, opened)
	second := p.watch(t, target)
	other := one(t, opened)
	other.send <- event(3)
	second.want(t, event(3))
	// More than the queue of a client holds, and nobody reads.
	const frames = 3 * queueMax
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for i := range frames {
			select {
			case u.send <- event(10 + i):
			case <-u.gone:
				return
			}
		}
	}()
	for i := range frames {
		first.want(t, event(10+i))
	}
	<-sent
}

func TestSlowReaderOfASharedStreamIsCutAndOthersAreNot(t *testing.T) {
	p, opened := watching(t, nil)
	const target = "/keys/a?wait=true&stream=true"
	quick := p.watch(t, target)
	u := one(t, opened)
	slow := p.watch(t, target)
	none(t, opened)
	big := strings.Repeat("x", 64<<10)
	line := func(i int) string {
		return fmt.Sprintf(`{"action":"set","node":{"key":"/a","value":"%s","modifiedIndex":%d,"createdIndex":2}}`+"\n", big, i)
	}
	const frames = 400 // 25 MiB: more than sockets and queue hold
	for i := range frames {
		u.send <- line(6 + i)
		quick.want(t, line(6+i))
	}
	got, err := io.ReadAll(slow.in)
	if err != nil {
		t.Fatalf("reading the slow stream = %v, want an ordinary end", err)
	}
	lines := strings.SplitAfter(string(got), "\n")
	if len(lines) < 2 || len(lines) > frames || lines[len(lines)-1] != "" {
		t.Fatalf("%d lines, the last of %d bytes, want some and a whole last one", len(lines), len(lines[len(lines)-1]))
	}
	for i, l := range lines[:len(lines)-1] {
		if l != line(6+i) {
			t.Fatalf("line %d = %.100q, want event %d", i, l, 6+i)
		}
	}
}

func TestUpstreamEndsWithItsLastClient(t *testing.T) {
	for _, target := range []string{"/keys/a?wait=true", "/keys/a?wait=true&stream=true", "/keys/a?wait=true&stream=true&waitIndex=2"} {
		t.Run(target, func(t *testing.T) {
			p, opened := watching(t, nil)
			first := p.watch(t, target)
			u := one(t, opened)
			second := p.watch(t, target)
			first.leave()
			if strings.HasSuffix(target, "=2") {
				second.leave()
				one(t, opened)
			} else {
				until(t, "one client less", func() bool { u.send <- "{\"half\":"; return p.viewers() == 1 })
			}
			start := time.Now()
			second.leave()
			<-u.gone
			if d := time.Since(start); d > time.Second {
				t.Errorf("the upstream watch ended after %v, want 1 s at most", d)
			}
			until(t, "no upstream watch", func() bool { return p.flights() == 0 })
		})
	}
}

func (p *testProxy) flights() int {
	p.watches.mu.Lock()
	defer p.watches.mu.Unlock()
	return len(p.watches.all)
}

func (p *testProxy) viewers() int {
	p.watches.mu.Lock()
	defer p.watches.mu.Unlock()
	n := 0
	for f := range p.watches.all {
		f.mu.Lock()
		n += len(f.viewers)
		f.mu.Unlock()
	}
	return n
}

func TestWatchOfALostMemberGoesOnAtAnother(t *testing.T) {
	sse := []string{"Accept", "text/event-stream"}
	for _, tt := range []struct {
		name, target  string
		header        []string
		before, after string
		again         string // what the other member is asked
	}{
		{"long poll", "/keys/a?wait=true", nil, "", event(6), "/keys/a?wait=true&waitIndex=6"},
		{"long poll with an index", "/keys/a?wait=true&waitIndex=3", nil, "", event(6), "/keys/a?wait=true&waitIndex=3"},
		{"stream", "/keys/a?stream=true&wait=true", nil, event(6) + event(8), event(9), "/keys/a?stream=true&wait=true&waitIndex=9"},
		{"replay", "/keys/a?stream=true&wait=true&waitIndex=2", nil, event(3), event(4), "/keys/a?stream=true&wait=true&waitIndex=4"},
		{"event stream", "/keys/a?wait=true", sse, string(heartbeat) + block(6), block(7), "/keys/a?wait=true&waitIndex=7"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, opened := watching(t, nil)
			c := p.watch(t, tt.target, tt.header...)
			u := one(t, opened)
			u.send <- tt.before + tt.after[:30] // half an event is not passed on
			c.want(t, tt.before)
			u.send <- "break"
			u = one(t, opened)
			if u.target != tt.again {
				t.Errorf("watch at the other member = %s, want %s", u.target, tt.again)
			}
			u.send <- tt.after
			c.want(t, tt.after)
			close(u.end)
			c.wantEnd(t)
		})
	}
}

func TestWatchThatCannotGoOnEndsAfterAWholeEvent(t *testing.T) {
	c := new(cluster)
	m, opened := watchMember(t, c, 5)
	watches := m.handler
	m.handler = func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("waitIndex") != "" {
			w.WriteHeader(http.StatusBadRequest) // the history is gone
			return
		}
		watches(w, r)
	}
	c.set(m.URL)
	p := startProxy(t, nil, nil, m.URL)
	p.knows(t, 1)
	w := p.watch(t, "/keys/a?wait=true&stream=true")
	u := one(t, opened)
	u.send <- event(6) + event(7)[:30]
	w.want(t, event(6))
	u.send <- "break"
	w.wantEnd(t)
}

// A client takes the index in the head, and then silence, for a promise that no
// event up to there concerns it. So a member that has not come that far must not
// go on with the replay of another; and where nobody can, the end is none that a
// client could take for the ordinary one.
func TestMemberThatIsBehindDoesNotGoOnWithAReplay(t *testing.T) {
	sse := []string{"Accept", "text/event-stream"}
	for _, tt := range []struct {
		name, target string
		header       []string
		before       string
		after        string // what the member that is behind may bring; empty: nothing
	}{
		{"long poll", "/keys/a?wait=true&waitIndex=5", nil, "", ""},
		{"stream", "/keys/a?wait=true&stream=true&waitIndex=5", nil, "", ""},
		{"event stream", "/keys/a?wait=true&waitIndex=5", sse, string(heartbeat), ""},
		{"event stream after an id", "/keys/a?wait=true", append(sse, "Last-Event-ID", "4"), string(heartbeat), ""},
		{"a part was replayed", "/keys/a?wait=true&stream=true&waitIndex=5", nil, event(50), ""},
		{"all was replayed", "/keys/a?wait=true&stream=true&waitIndex=5", nil, event(50) + event(100), event(101)},
		{"nothing to replay", "/keys/a?wait=true&stream=true&waitIndex=101", nil, "", event(101)},
		{"from now on", "/keys/a?wait=true", sse, string(heartbeat), block(101)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := new(cluster)
			a, first := watchMember(t, c, 100)
			b, second := watchMember(t, c, 4)
			c.set(a.URL, b.URL)
			p := startProxy(t, nil, alert, a.URL)
			p.knows(t, 2)
			p.members.prefer(a.URL)
			watch := p.watch(t, tt.target, tt.header...)
			watch.wantIndex(t, "100")
			u := one(t, first)
			if tt.before != "" {
				u.send <- tt.before
				watch.want(t, tt.before)
			}
			a.hang()
			u = one(t, second)
			if tt.after != "" {
				u.send <- tt.after
				watch.want(t, tt.after)
				close(u.end)
				watch.wantEnd(t)
				return
			}
			select {
			case <-u.gone:
			case <-time.After(10 * time.Second):
				t.Fatal("the watch goes on at a member that is behind")
			}
			if b, err := io.ReadAll(watch.in); err == nil || len(b) > 0 {
				t.Errorf("stream = %.200q, %v, want it to break", b, err)
			}
		})
	}
}

func TestWatchErrorIsGivenToAllWhoShare(t *testing.T) {
	const body = `{"errorCode":401,"message":"The event in requested index is outdated and cleared","index":30}` + "\n"
	c := new(cluster)
	release := make(chan struct{})
	m := startMember(t, c, func(w http.ResponseWriter, _ *http.Request) {
		<-release
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		if _, err := io.WriteString(w, body); err != nil {
			return
		}
	})
	c.set(m.URL)
	p := startProxy(t, nil, nil, m.URL)
	p.knows(t, 1)
	answers := make(chan answer)
	for range 5 {
		go func() { answers <- p.do(t, "GET", "/keys/a?wait=true&waitIndex=2", "") }()
	}
	until(t, "five clients", func() bool { return p.viewers() == 5 })
	close(release)
	for range 5 {
		if a := <-answers; a.status != 400 || a.body != body || a.header.Get("Content-Length") != fmt.Sprint(len(body)) {
			t.Errorf("answer = %d %q, want 400 and the member's words", a.status, a.body)
		}
	}
	if n := len(m.requests()); n != 1 {
		t.Errorf("%d upstream watches, want 1", n)
	}
}

func TestVanishedWatchersLeaveNothing(t *testing.T) {
	p, opened := watching(t, nil)
	var conns []net.Conn
	for i := range 100 {
		conn, err := net.Dial("tcp", p.addr)
		if err != nil {
			t.Fatalf("Dial() = %v, want nil", err)
		}
		conns = append(conns, conn)
		if _, err := fmt.Fprintf(conn, "GET /keys/%d?wait=true HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc", i%10); err != nil {
			t.Fatalf("Write() = %v, want nil", err)
		}
	}
	until(t, "all watches", func() bool { return p.viewers() == 100 })
	if n := p.flights(); n != 10 {
		t.Errorf("%d upstream watches, want 10", n)
	}
	for range 10 {
		one(t, opened)
	}
	for i, conn := range conns {
		if i%2 == 1 && runtime.GOOS == "linux" {
			// At this net/http stops looking after the connection.
			if _, err := conn.Write([]byte("\r\n")); err != nil {
				t.Fatalf("Write() = %v, want nil", err)
			}
		}
		conn.Close()
	}
	until(t, "no watch", func() bool { return p.viewers() == 0 && p.flights() == 0 })
}
