package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/marsevilspirit/deimos"
)

func TestClientsAreSpreadOverMembersAndStayWithOne(t *testing.T) {
	c := new(cluster)
	var all []*fakeMember
	var urls []string
	for range 3 {
		m := startMember(t, c, nil)
		all, urls = append(all, m), append(urls, m.URL)
	}
	c.set(urls...)
	p := startProxy(t, nil, nil, urls[0])
	p.knows(t, 3)
	const clients, requests = 60, 3
	for i := range clients {
		for port := range requests {
			r := httptest.NewRequest("PUT", fmt.Sprintf("/keys/%d", i), strings.NewReader("value=1"))
			r.RemoteAddr = fmt.Sprintf("10.0.0.%d:%d", i, 1000+port)
			w := httptest.NewRecorder()
			if p.ServeHTTP(w, r); w.Code != 201 {
				t.Fatalf("PUT = %d %s, want 201", w.Code, w.Body)
			}
		}
	}
	for i, m := range all {
		served := make(map[string]int)
		for _, s := range m.requests() {
			served[s.target]++
		}
		if n := len(served); n < clients/10 {
			t.Errorf("member %d serves %d clients of %d, want a fair share", i, n, clients)
		}
		for target, n := range served {
			if n != requests {
				t.Errorf("member %d got %d requests for %s, want all %d of their client", i, n, target, requests)
			}
		}
	}
}

func TestFailedMemberMovesOnlyItsOwnClients(t *testing.T) {
	l := defaultLimits(DefaultTimeout)
	m, err := newMembers(nil, &l, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatalf("newMembers() = %v, want nil", err)
	}
	m.learn([]string{"http://h:1", "http://h:2", "http://h:3"})
	before := make(map[string]*endpoint)
	for i := range 100 {
		from := fmt.Sprintf("10.0.0.%d", i)
		before[from] = m.candidates(from)[0]
	}
	failed := before["10.0.0.0"]
	m.down(failed, errors.New("x"))
	for from, e := range before {
		if now := m.candidates(from)[0]; (now == e) != (e != failed) {
			t.Errorf("client %s went from %s to %s while %s failed", from, e.url(), now.url(), failed.url())
		}
	}
}

func TestStoppedMemberCostsNoRequest(t *testing.T) {
	c := new(cluster)
	a, b := startMember(t, c, nil), startMember(t, c, nil)
	c.set(a.URL, b.URL)
	p := startProxy(t, nil, nil, a.URL)
	p.knows(t, 2)
	first := p.members.candidates("127.0.0.1")[0].url()
	for i := range 40 {
		if i == 20 {
			for _, m := range []*fakeMember{a, b} {
				if m.URL == first {
					m.Close()
				}
			}
		}
		if got := p.do(t, "PUT", "/keys/a", "value=1"); got.status != 201 {
			t.Errorf("PUT %d = %d %s, want 201", i, got.status, got.body)
		}
	}
	p.knows(t, 1)
}

func TestMembersAreFoundAgain(t *testing.T) {
	c := new(cluster)
	old := startMember(t, c, nil)
	c.set(old.URL)
	var asked atomic.Int32
	where := atomic.Pointer[string]{}
	where.Store(&old.URL)
	p := startProxy(t, func(cfg *Config) {
		cfg.Bootstrap = func(context.Context) ([]string, error) {
			if asked.Add(1) <= 3 {
				return nil, errors.New("nobody there")
			}
			return []string{*where.Load(), "ftp://no", "http://noport", "http://h:1/path"}, nil
		}
		cfg.Refresh = time.Hour
	}, nil)
	p.knows(t, 1)
	// All members move away; only the bootstrap peers know where to.
	next := startMember(t, c, nil)
	c.set(next.URL)
	where.Store(&next.URL)
	old.Close()
	until(t, "an answer", func() bool { return p.do(t, "PUT", "/keys/a", "value=1").status == 201 })
	until(t, "the new list", func() bool {
		all := p.members.candidates("")
		return len(all) == 1 && all[0].url() == next.URL
	})
}

func TestListIsRefreshed(t *testing.T) {
	c := new(cluster)
	a, b := startMember(t, c, nil), startMember(t, c, nil)
	c.set(a.URL)
	p := startProxy(t, func(cfg *Config) { cfg.Refresh = 5 * time.Millisecond }, nil, a.URL)
	p.knows(t, 1)
	c.set(a.URL, b.URL)
	p.knows(t, 2)
	c.set(b.URL)
	until(t, "the other member alone", func() bool {
		all := p.members.candidates("")
		return len(all) == 1 && all[0].url() == b.URL
	})
	c.set() // a list without any client URL is not believed
	if got := p.do(t, "PUT", "/keys/a", "value=1"); got.status != 201 {
		t.Errorf("PUT = %d, want 201", got.status)
	}
}

func TestMemberThatHasYetToStartIsFoundSoon(t *testing.T) {
	c := new(cluster)
	a, b := startMember(t, c, nil), startMember(t, c, nil)
	c.set(a.URL)
	hour := func(cfg *Config) { cfg.Refresh = time.Hour }
	p := startProxy(t, hour, func(l *limits) { l.start = 5 * time.Millisecond }, a.URL)
	p.knows(t, 1)
	c.set(a.URL, b.URL)
	p.knows(t, 2)
}

func TestMemberOfAnotherClusterIsDropped(t *testing.T) {
	c, stranger := &cluster{id: "aa"}, &cluster{id: "bb"}
	a, b := startMember(t, c, nil), startMember(t, stranger, nil)
	c.set(a.URL)
	p := startProxy(t, func(cfg *Config) { cfg.Refresh = 5 * time.Millisecond }, nil, a.URL)
	p.knows(t, 1)
	c.set(a.URL, b.URL) // the address of a former member belongs to somebody else
	stranger.set(b.URL, deadURL(t))
	p.knows(t, 2)
	for range 5 {
		if err := p.members.replace("bb", []deimos.Member{{ID: 1, ClientURLs: []string{b.URL}}}); !errors.Is(err, errOtherCluster) {
			t.Fatalf("replace() = %v, want %v", err, errOtherCluster)
		}
	}
	p.members.learn(nil) // the bootstrap peers have the last word
	if err := p.members.replace("bb", []deimos.Member{{ID: 1, ClientURLs: []string{b.URL}}}); err != nil {
		t.Errorf("replace() after a bootstrap = %v, want nil", err)
	}
}

func TestPauseOfAFailedMemberGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := defaultLimits(DefaultTimeout)
		m, err := newMembers(nil, &l, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatalf("newMembers() = %v, want nil", err)
		}
		m.learn([]string{"http://h:1", "http://h:2"})
		e := m.candidates("")[0]
		var pauses []string
		for range 9 {
			m.down(e, errors.New("x"))
			m.down(e, errors.New("a request that was on its way"))
			at := m.next()
			if at.IsZero() { // the look at the list, which nobody has had
				m.looked(time.Now(), time.Hour)
				at = m.next()
			}
			pauses = append(pauses, time.Until(at).String())
			if due := m.due(time.Now()); len(due) != 0 {
				t.Errorf("due() = %d within the pause, want 0", len(due))
			}
			<-time.After(time.Until(at))
			if due := m.due(time.Now()); len(due) != 1 || due[0] != e {
				t.Errorf("due() = %d after the pause, want the member", len(due))
			}
			if all := m.candidates(""); len(all) != 2 || all[1] != e {
				t.Error("candidates() do not have the failed member last")
			}
		}
		if got, want := strings.Join(pauses, " "), "100ms 200ms 400ms 800ms 1.6s 3.2s 6.4s 10s 10s"; got != want {
			t.Errorf("pauses = %s, want %s", got, want)
		}
		m.up(e)
		m.down(e, errors.New("x"))
		if got := time.Until(m.next()); got != 100*time.Millisecond {
			t.Errorf("pause after an answer = %v, want 100ms", got)
		}
	})
}

func TestEachMemberComesFirstInTurn(t *testing.T) {
	l := defaultLimits(DefaultTimeout)
	m, err := newMembers([]string{"http://me:1"}, &l, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatalf("newMembers() = %v, want nil", err)
	}
	if err := m.replace("", []deimos.Member{
		{ID: 1, ClientURLs: []string{"http://a:1", "http://a:2"}},
		{ID: 2, ClientURLs: []string{"http://b:1", "http://me:1", "http://ME:1/"}, IsLearner: true},
		{ID: 3},
	}); err != nil {
		t.Fatalf("replace() = %v, want nil", err)
	}
	var got []string
	for range 4 {
		var hosts []string
		for _, e := range m.candidates("") {
			hosts = append(hosts, e.host)
		}
		got = append(got, strings.Join(hosts, ","))
	}
	if want := []string{"b:1,a:1,a:2", "a:1,b:1,a:2"}; got[0] != want[0] || got[1] != want[1] || got[2] != want[0] || got[3] != want[1] {
		t.Errorf("candidates() = %q, want %q in turn", got, want)
	}
	if known, healthy := m.count(); known != 2 || healthy != 2 {
		t.Errorf("count() = %d, %d, want 2, 2", known, healthy)
	}
}

func TestEndpointsAreBounded(t *testing.T) {
	l := defaultLimits(DefaultTimeout)
	m, err := newMembers(nil, &l, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatalf("newMembers() = %v, want nil", err)
	}
	var urls []string
	for i := range 2 * endpointsMax {
		urls = append(urls, fmt.Sprintf("http://h:%d", i+1))
	}
	m.learn(urls)
	m.learn(urls)
	if n := len(m.candidates("")); n != endpointsMax {
		t.Errorf("%d endpoints, want %d", n, endpointsMax)
	}
}

func TestConfigIsChecked(t *testing.T) {
	none := func(context.Context) ([]string, error) { return nil, nil }
	for _, tt := range []struct {
		name string
		cfg  Config
	}{
		{"no bootstrap", Config{}},
		{"refresh", Config{Bootstrap: none, Refresh: -1}},
		{"timeout", Config{Bootstrap: none, Timeout: -1}},
		{"self without a port", Config{Bootstrap: none, Self: []string{"http://h"}}},
		{"self without a scheme", Config{Bootstrap: none, Self: []string{"h:1"}}},
		{"self with a path", Config{Bootstrap: none, Self: []string{"http://h:1/keys"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if p, err := New(tt.cfg); err == nil {
				t.Errorf("New() = %v, nil, want an error", p)
			}
		})
	}
	p, err := New(Config{Bootstrap: none})
	if err != nil {
		t.Fatalf("New() = %v, want nil", err)
	}
	w := httptest.NewRecorder()
	p.ServeHTTP(w, httptest.NewRequest("GET", "/keys/a", nil))
	if w.Code != http.StatusServiceUnavailable {
		t.Errorf("GET before Start = %d, want 503", w.Code)
	}
	for range 2 {
		if err := p.Close(t.Context()); err != nil {
			t.Errorf("Close() = %v, want nil", err)
		}
	}
}

func TestMembersAreReachedOverTLS(t *testing.T) {
	c := new(cluster)
	m := &fakeMember{cluster: c}
	m.Server = httptest.NewUnstartedServer(m)
	m.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	m.StartTLS()
	defer m.Close()
	c.set(m.URL)
	roots := x509.NewCertPool()
	roots.AddCert(m.Certificate())
	p := startProxy(t, func(cfg *Config) { cfg.TLS = func() *tls.Config { return &tls.Config{RootCAs: roots} } }, nil, m.URL)
	p.knows(t, 1)
	large := strings.Repeat("x", 300<<10)
	if got := p.do(t, "PUT", "/keys/a", large); got.status != 201 || m.requests()[0].body != large {
		t.Errorf("PUT over TLS = %d %s, want 201", got.status, got.body)
	}
	stranger := startProxy(t, func(cfg *Config) { cfg.TLS = func() *tls.Config { return &tls.Config{RootCAs: x509.NewCertPool()} } }, nil, m.URL)
	if got := stranger.do(t, "PUT", "/keys/a", "value=1"); got.status != 503 {
		t.Errorf("PUT with an unknown CA = %d %s, want 503", got.status, got.body)
	}
	if n := len(m.requests()); n != 1 {
		t.Errorf("%d requests reached the member, want 1", n)
	}
}

func FuzzMemberList(f *testing.F) {
	f.Add([]byte(`{"members":[{"id":"8e9e05c52164694d","name":"n1","peerURLs":["http://10.0.0.1:7001"],"clientURLs":["http://10.0.0.1:4001"]}]}`))
	f.Add([]byte(`{"members":[{"id":"","clientURLs":null}]}`))
	f.Add([]byte(`{"members":[{"id":"1","clientURLs":["http://[::1]:1","https://u@h:1","http://h:1?x"]}]}`))
	f.Add([]byte(`[]`))
	l := defaultLimits(DefaultTimeout)
	f.Fuzz(func(t *testing.T, body []byte) {
		list, err := decodeMembers(body)
		if err != nil {
			return
		}
		m, err := newMembers(nil, &l, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if err := m.replace("", list); err != nil {
			return
		}
		for _, e := range m.candidates("") {
			if _, err := parseEndpoint(e.url()); err != nil {
				t.Errorf("endpoint %q is none: %v", e.url(), err)
			}
		}
	})
}
