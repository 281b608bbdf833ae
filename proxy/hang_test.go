package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos"
)

// alert are limits by which a member that hangs is noticed soon, and by nothing
// but probes.
func alert(l *limits) {
	l.overdue, l.probe, l.watchProbe = 30*time.Millisecond, 500*time.Millisecond, 50*time.Millisecond
	l.head, l.search = time.Minute, time.Minute
}

// patient are such limits for members that live, however slow the machine is.
func patient(l *limits) {
	alert(l)
	l.probe = time.Minute
}

// pair is a proxy in front of two members; its clients go to the first.
func pair(t *testing.T, limit func(*limits), one, two http.HandlerFunc) (*testProxy, *fakeMember, *fakeMember) {
	t.Helper()
	c := new(cluster)
	a, b := startMember(t, c, one), startMember(t, c, two)
	c.set(a.URL, b.URL)
	p := startProxy(t, nil, limit, a.URL)
	p.knows(t, 2)
	p.members.prefer(a.URL)
	return p, a, b
}

func TestReadMovesOnFromAMemberThatHangs(t *testing.T) {
	for _, method := range []string{"GET", "HEAD", "OPTIONS"} {
		t.Run(method, func(t *testing.T) {
			p, a, b := pair(t, alert, nil, nil)
			a.hang()
			if got := p.do(t, method, "/keys/a", ""); got.status != 201 {
				t.Errorf("%s = %d %s, want 201", method, got.status, got.body)
			}
			if x, y := len(a.requests()), len(b.requests()); x != 1 || y != 1 {
				t.Errorf("%d and %d requests at the members, want 1 and 1", x, y)
			}
		})
	}
}

func TestFirstOfTwoSlowAnswersCounts(t *testing.T) {
	release, gone := make(chan struct{}), make(chan struct{})
	p, _, b := pair(t, patient, func(w http.ResponseWriter, _ *http.Request) {
		<-release
		w.WriteHeader(http.StatusNotFound)
	}, func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		close(gone)
	})
	got := make(chan answer, 1)
	go func() { got <- p.do(t, "GET", "/keys/a", "") }()
	until(t, "the request at the other member", func() bool { return len(b.requests()) == 1 })
	close(release)
	if a := <-got; a.status != 404 {
		t.Errorf("GET = %d %s, want the 404 of the first member", a.status, a.body)
	}
	<-gone // the slower one is ended
	if _, healthy := p.members.count(); healthy != 2 {
		t.Errorf("%d healthy members, want 2", healthy)
	}
}

func TestReadIsAtFewMembersAtOnce(t *testing.T) {
	c := new(cluster)
	var all []*fakeMember
	var urls []string
	for range racersMax + 2 {
		m := startMember(t, c, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		all, urls = append(all, m), append(urls, m.URL)
	}
	c.set(urls...)
	p := startProxy(t, nil, patient, urls[0])
	p.knows(t, len(urls))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r := httptest.NewRequestWithContext(ctx, "GET", "/keys/a", nil)
		defer func() {
			if err := recover(); err != http.ErrAbortHandler {
				t.Errorf("ServeHTTP() ended with %v, want %v", err, http.ErrAbortHandler)
			}
		}()
		p.ServeHTTP(httptest.NewRecorder(), r)
	}()
	busy := func() (n, probed int) {
		for _, m := range all {
			n += len(m.requests())
			if k := m.probes(); k > 1 {
				probed++
			}
		}
		return n, probed
	}
	until(t, "probes of the members that are slow", func() bool { _, probed := busy(); return probed == racersMax })
	if n, _ := busy(); n != racersMax {
		t.Errorf("the request is at %d members, want %d", n, racersMax)
	}
	cancel()
	<-ended
}

func TestReadHasASecondTryWhenTheTimeIsOver(t *testing.T) {
	c := new(cluster)
	good := startMember(t, c, nil)
	bad := rawMember(t, c, func(net.Conn, *http.Request, *bufio.Reader) bool { return false })
	c.set(bad, good.URL)
	p := startProxy(t, nil, func(l *limits) { l.search = -time.Second }, good.URL)
	p.knows(t, 2)
	p.members.prefer(bad)
	if got := p.do(t, "GET", "/keys/a", ""); got.status != 201 {
		t.Errorf("GET = %d %s, want 201", got.status, got.body)
	}
}

func TestMemberThatHangsIsPutAsideForAll(t *testing.T) {
	p, a, b := pair(t, alert, nil, nil)
	a.hang()
	wrote := make(chan answer, 1)
	go func() { wrote <- p.do(t, "PUT", "/keys/a", "value=1") }()
	p.knows(t, 1)
	for range 5 {
		if got := p.do(t, "PUT", "/keys/a", "value=2"); got.status != 201 {
			t.Errorf("PUT = %d %s, want 201", got.status, got.body)
		}
	}
	if x, y := len(a.requests()), len(b.requests()); x != 1 || y != 5 {
		t.Errorf("%d and %d writes at the members, want 1 and 5", x, y)
	}
	select {
	case got := <-wrote:
		t.Errorf("PUT = %d %s while the member may wake, want it to wait", got.status, got.body)
	default:
	}
	a.wake()
	if got := <-wrote; got.status != 201 {
		t.Errorf("PUT after the member woke = %d %s, want 201", got.status, got.body)
	}
	p.knows(t, 2)
}

func TestWriteAtAMemberThatHangsEndsAtItsTimeout(t *testing.T) {
	p, a, b := pair(t, func(l *limits) { alert(l); l.head = 300 * time.Millisecond }, nil, nil)
	a.hang()
	if got := p.do(t, "PUT", "/keys/a", "value=1"); got.status != 502 || !strings.Contains(got.body, "may or may not") {
		t.Errorf("PUT = %d %s, want 502", got.status, got.body)
	}
	if n := len(b.requests()); n != 0 {
		t.Errorf("%d writes at the other member, want 0", n)
	}
}

func TestSlowMemberThatLivesIsNotPutAside(t *testing.T) {
	release := make(chan struct{})
	p, a, _ := pair(t, patient, func(w http.ResponseWriter, _ *http.Request) {
		<-release
		w.WriteHeader(http.StatusOK)
	}, nil)
	wrote := make(chan answer, 1)
	go func() { wrote <- p.do(t, "PUT", "/keys/a", "value=1") }()
	until(t, "probes again and again", func() bool { return a.probes() >= 3 })
	if _, healthy := p.members.count(); healthy != 2 {
		t.Errorf("%d healthy members, want 2", healthy)
	}
	close(release)
	if got := <-wrote; got.status != 200 {
		t.Errorf("PUT = %d %s, want 200", got.status, got.body)
	}
	until(t, "the end of the probes", func() bool {
		p.sentry.mu.Lock()
		defer p.sentry.mu.Unlock()
		return len(p.sentry.posts) == 0
	})
}

func TestMemberThatWasPutAsideGetsNothingBeforeAProbe(t *testing.T) {
	c := new(cluster)
	m := startMember(t, c, nil)
	c.set(m.URL)
	p := startProxy(t, nil, func(l *limits) { alert(l); l.pauseMin, l.pauseMax = time.Hour, time.Hour }, m.URL)
	p.knows(t, 1)
	until(t, "the end of the look at the list", func() bool {
		p.members.mu.Lock()
		defer p.members.mu.Unlock()
		return !p.members.lookedAt.IsZero()
	})
	m.hang()
	p.members.down(p.members.candidates("")[0], errors.New("x"))
	for _, method := range []string{"PUT", "GET"} {
		if got := p.do(t, method, "/keys/a", ""); got.status != 503 {
			t.Errorf("%s = %d %s, want 503", method, got.status, got.body)
		}
	}
	if n := len(m.requests()); n != 0 {
		t.Errorf("%d requests at the member that hangs, want 0", n)
	}
	m.wake()
	if got := p.do(t, "PUT", "/keys/a", "value=1"); got.status != 201 {
		t.Errorf("PUT after the member woke = %d %s, want 201", got.status, got.body)
	}
	p.knows(t, 1) // its answer has brought it back
}

func TestManyRequestsShareAProbe(t *testing.T) {
	c := new(cluster)
	m := startMember(t, c, nil)
	c.set(m.URL)
	p := startProxy(t, nil, func(l *limits) { l.pauseMin, l.pauseMax, l.probe = time.Hour, time.Hour, time.Minute }, m.URL)
	p.knows(t, 1)
	m.hang()
	e := p.members.candidates("")[0]
	p.members.down(e, errors.New("x"))
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if err := p.sentry.ask(t.Context(), e); err != nil {
				t.Errorf("ask() = %v, want nil", err)
			}
		})
	}
	until(t, "the probe", func() bool { return m.probes() == 1 })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.sentry.ask(ctx, e); !errors.Is(err, context.Canceled) {
		t.Errorf("ask() = %v, want that of its context", err)
	}
	if n := m.probes(); n != 1 {
		t.Errorf("%d probes, want 1", n)
	}
	m.wake()
	all.Wait()
	p.sentry.close()
	if err := p.sentry.ask(t.Context(), e); !errors.Is(err, errStopping) {
		t.Errorf("ask() after close() = %v, want %v", err, errStopping)
	}
}

func TestWatchMovesFromAMemberThatHangs(t *testing.T) {
	for _, tt := range []struct{ name, target, again string }{
		{"long poll", "/keys/a?wait=true", "/keys/a?wait=true&waitIndex=6"},
		{"stream", "/keys/a?wait=true&stream=true", "/keys/a?stream=true&wait=true&waitIndex=6"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := new(cluster)
			a, first := watchMember(t, c, 5)
			b, second := watchMember(t, c, 5)
			c.set(a.URL, b.URL)
			p := startProxy(t, nil, alert, a.URL)
			p.knows(t, 2)
			p.members.prefer(a.URL)
			watch := p.watch(t, tt.target)
			u := one(t, first)
			until(t, "probes of the silent watch", func() bool { return a.probes() >= 2 })
			none(t, second)
			a.hang()
			next := one(t, second)
			if next.target != tt.again {
				t.Errorf("watch at the other member = %s, want %s", next.target, tt.again)
			}
			<-u.gone
			next.send <- event(6)
			watch.want(t, event(6))
			close(next.end)
			watch.wantEnd(t)
		})
	}
}

// tlsMember is a member that demands certificates of clients.
func tlsMember(t *testing.T, c *cluster) (*fakeMember, *tls.Config) {
	t.Helper()
	m := &fakeMember{cluster: c}
	m.Server = httptest.NewUnstartedServer(m)
	m.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	m.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS13}
	m.StartTLS()
	t.Cleanup(m.Close)
	roots := x509.NewCertPool()
	roots.AddCert(m.Certificate())
	return m, &tls.Config{RootCAs: roots}
}

func TestWriteIsNotInDoubtWhenTheCertificateIsRefused(t *testing.T) {
	for name, body := range map[string]string{"small body": "value=1", "no body": ""} {
		t.Run(name, func(t *testing.T) {
			c := new(cluster)
			m, trusting := tlsMember(t, c)
			p, err := New(Config{TLS: trusting.Clone, Bootstrap: func(context.Context) ([]string, error) { return nil, nil }})
			if err != nil {
				t.Fatalf("New() = %v, want nil", err)
			}
			defer p.Close(t.Context())
			put := func() *httptest.ResponseRecorder {
				w, r := httptest.NewRecorder(), httptest.NewRequest("PUT", "/keys/a", strings.NewReader(body))
				r.RemoteAddr = "127.0.0.1:1"
				p.ServeHTTP(w, r)
				return w
			}
			p.members.learn([]string{m.URL})
			// Nobody looks at the member before the first write: it is sent.
			for range 3 {
				if got := put(); got.Code != 503 || !strings.Contains(got.Body.String(), "refuse the certificate of this proxy") {
					t.Errorf("PUT = %d %s, want 503", got.Code, got.Body)
				}
			}
			other := startMember(t, c, nil)
			p.members.learn([]string{other.URL})
			for _, e := range p.members.candidates("") {
				p.members.up(e)
			}
			p.members.prefer(m.URL)
			if got := put(); got.Code != 201 {
				t.Errorf("PUT with a member that accepts = %d %s, want 201", got.Code, got.Body)
			}
			if n := len(m.requests()); n != 0 {
				t.Errorf("%d requests at the member that refuses, want 0", n)
			}
		})
	}
}

func TestRefusalCountsOnlyAsTheFirstWord(t *testing.T) {
	refusal := &net.OpError{Op: "remote error", Err: tls.AlertError(116)}
	for _, tt := range []struct {
		name  string
		reads []any
		want  bool
	}{
		{"certificate required", []any{refusal}, true},
		{"certificate expired", []any{&net.OpError{Op: "remote error", Err: tls.AlertError(45)}}, true},
		{"after an answer", []any{"HTTP/1.1 200 OK\r\n", refusal}, false},
		{"another alert", []any{&net.OpError{Op: "remote error", Err: tls.AlertError(20)}}, false},
		{"an error of ours", []any{&net.OpError{Op: "local error", Err: tls.AlertError(116)}}, false},
		{"the end", []any{io.EOF}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn := &memberConn{Conn: &script{reads: tt.reads}}
			for range tt.reads {
				if _, err := conn.Read(make([]byte, 100)); err != nil {
					break
				}
			}
			if len(tt.reads) > 1 { // the error is still to come
				if _, err := conn.Read(make([]byte, 100)); err == nil {
					t.Fatal("Read() = nil, want the error")
				}
			}
			if got := conn.refusal() != nil; got != tt.want {
				t.Errorf("refusal() = %v, want one: %t", conn.refusal(), tt.want)
			}
		})
	}
}

func TestRefusedWriteIsSentAgainOnlyWithItsWholeBody(t *testing.T) {
	p, err := New(Config{Bootstrap: func(context.Context) ([]string, error) { return nil, nil }})
	if err != nil {
		t.Fatalf("New() = %v, want nil", err)
	}
	for _, tt := range []struct {
		name string
		body *body
		want error
	}{
		{"no body", nil, nil},
		{"whole body kept", &body{err: io.EOF}, nil},
		{"body under way", &body{}, errRefused},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &search{p: p, out: &outgoing{method: "PUT", body: tt.body}, failure: errNobody}
			a := &attempt{e: new(endpoint), cancel: func(error) {}, fate: refused, err: fmt.Errorf("x: %w", errRefused)}
			if got := s.failed(t.Context(), a); got != tt.want || s.failure != errRefused {
				t.Errorf("failed() = %v, then %v, want %v, then %v", got, s.failure, tt.want, errRefused)
			}
		})
	}
}

// script is a connection that reads what it was given.
type script struct {
	net.Conn
	reads []any
}

func (s *script) Read(b []byte) (int, error) {
	if len(s.reads) == 0 {
		return 0, io.EOF
	}
	next := s.reads[0]
	s.reads = s.reads[1:]
	if err, ok := next.(error); ok {
		return 0, err
	}
	return copy(b, next.(string)), nil
}

// notes keeps the messages of a log, each with one attribute.
type notes struct {
	mu  sync.Mutex
	all []string
}

func (n *notes) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }
func (n *notes) WithAttrs([]slog.Attr) slog.Handler               { return n }
func (n *notes) WithGroup(string) slog.Handler                    { return n }
func (n *notes) Handle(_ context.Context, r slog.Record) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	text := r.Level.String() + " " + r.Message
	r.Attrs(func(a slog.Attr) bool { text += " " + a.Value.String(); return false })
	n.all = append(n.all, text)
	return nil
}

func TestLogTellsEachChangeOfTheListOnce(t *testing.T) {
	log := new(notes)
	l := defaultLimits(DefaultTimeout)
	m, err := newMembers([]string{"http://h:9"}, &l, slog.New(log))
	if err != nil {
		t.Fatalf("newMembers() = %v, want nil", err)
	}
	list := func(urls ...string) {
		var all []deimos.Member
		for i, u := range urls {
			all = append(all, deimos.Member{ID: uint64(i + 1), ClientURLs: []string{u}})
		}
		if err := m.replace("", all); err != nil {
			t.Fatalf("replace(%q) = %v, want nil", urls, err)
		}
	}
	m.learn([]string{"http://h:1", "http://h:2", "http://h:9"})
	for range 3 { // the same, by other ids and in another order
		list("http://h:2", "http://h:1", "http://h:9")
		list("http://h:9", "http://h:1", "http://h:2")
		m.learn([]string{"http://h:9"})
	}
	list("http://h:1")
	list("http://h:1", "http://h:9")
	want := []string{
		"WARN client URL not used http://h:9", "INFO members found [http://h:1 http://h:2]",
		"INFO members found [http://h:1]", "WARN client URL not used http://h:9",
	}
	if !slices.Equal(log.all, want) {
		t.Errorf("log = %q, want %q", log.all, want)
	}
}
