package transport

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/marsevilspirit/deimos"
)

func TestMembersAreListedForThoseThatAreNone(t *testing.T) {
	for _, tt := range []struct {
		name         string
		mine, theirs int // numbers of secrets, 0 for none
		want         string
	}{
		{"no secret", 0, 0, ""},
		{"the same secret", 1, 1, ""},
		{"another secret", 1, 2, "does not prove"},
		{"a secret at one end", 1, 0, "does not prove"},
		{"a secret at the other end", 0, 1, "secret"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newHTTPRig(t)
			var cfg ClientConfig
			if tt.mine > 0 {
				cfg.Secret = secretNo(t, tt.mine)
			}
			if tt.theirs > 0 {
				r.secret = secretNo(t, tt.theirs)
			}
			r.list(deimos.Member{ID: 0xabc, PeerURLs: []string{"http://127.0.0.1:1"}})
			r.start(t, 1)
			c := NewClient(cfg)
			defer c.Close()
			for range 2 {
				got, err := c.Members(t.Context(), r.url(t, 1))
				if tt.want != "" {
					if err == nil || !strings.Contains(err.Error(), tt.want) {
						t.Errorf("Members() = %v, want an error with %q", err, tt.want)
					}
					continue
				}
				if err != nil || got.ClusterID != 0xc1 || got.MemberID != 1 || len(got.Members) != 1 || got.Members[0].ID != 0xabc {
					t.Errorf("Members() = %+v, %v, want member abc of cluster c1, as member 1 says", got, err)
				}
			}
		})
	}
}

func TestMembersAreListedOverTLS(t *testing.T) {
	r := newHTTPRig(t)
	r.secret = secretNo(t, 1)
	r.list(deimos.Member{ID: 2})
	h, err := NewHTTP(r.config(t, 1, newRecorder()))
	if err != nil {
		t.Fatal(err)
	}
	defer h.Stop()
	for _, tt := range []struct {
		name    string
		trusted bool
		version uint16 // of the server, at most
		want    string
	}{
		{"trusted", true, tls.VersionTLS13, ""},
		{"not trusted", false, tls.VersionTLS13, "certificate"},
		{"old", true, tls.VersionTLS12, "protocol version"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := httptest.NewUnstartedServer(h.Handler())
			srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
			srv.TLS = &tls.Config{MaxVersion: tt.version}
			srv.StartTLS()
			defer srv.Close()
			cfg := ClientConfig{Secret: r.secret}
			if tt.trusted {
				roots := x509.NewCertPool()
				roots.AddCert(srv.Certificate())
				cfg.TLS = func() *tls.Config { return &tls.Config{RootCAs: roots} }
			}
			c := NewClient(cfg)
			defer c.Close()
			got, err := c.Members(t.Context(), srv.URL)
			if tt.want == "" && (err != nil || len(got.Members) != 1) || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("Members() = %v, %v, want an error with %q", got, err, tt.want)
			}
		})
	}
}

// Goal: the raft index and the incarnations come with the list, and with a
// secret nobody can change them on the way.
func TestMembersComeWithRaftIndexAndIncarnations(t *testing.T) {
	known := map[uint64]deimos.Incarnation{0xabc: incarnationNo(1), 2: incarnationNo(2), 3: {}}
	want := map[uint64]deimos.Incarnation{0xabc: incarnationNo(1), 2: incarnationNo(2)}
	for _, tt := range []struct {
		name   string
		secret bool
		change func(http.Header)
		want   string // a part of the error
	}{
		{"without a secret", false, nil, ""},
		{"with a secret", true, nil, ""},
		{"another raft index", true, func(h http.Header) { h.Set(headerRaftIndex, "8") }, "does not prove"},
		{"another incarnation", true, func(h http.Header) {
			h.Set(headerIncarnations, "2="+incarnationNo(9).String())
		}, "does not prove"},
		{"no incarnations", true, func(h http.Header) { h.Del(headerIncarnations) }, "does not prove"},
		{"an unreadable raft index", false, func(h http.Header) { h.Set(headerRaftIndex, "x") }, headerRaftIndex},
		{"unreadable incarnations", false, func(h http.Header) { h.Set(headerIncarnations, "2=x") }, headerIncarnations},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newHTTPRig(t)
			var cfg ClientConfig
			if tt.secret {
				cfg.Secret = secretNo(t, 1)
				r.secret = cfg.Secret
			}
			r.list(deimos.Member{ID: 2, PeerURLs: []string{"http://127.0.0.1:1"}})
			r.change = func(c *Config) {
				c.RaftIndex = func() uint64 { return 77 }
				c.Incarnations = func() map[uint64]deimos.Incarnation { return known }
			}
			h, err := NewHTTP(r.config(t, 1, newRecorder()))
			if err != nil {
				t.Fatal(err)
			}
			defer h.Stop()
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				kept := httptest.NewRecorder()
				h.Handler().ServeHTTP(kept, r)
				if tt.change != nil && kept.Code == http.StatusOK {
					tt.change(kept.Header())
				}
				maps.Copy(w.Header(), kept.Header())
				w.WriteHeader(kept.Code)
				_, _ = w.Write(kept.Body.Bytes())
			}))
			defer srv.Close()
			c := NewClient(cfg)
			defer c.Close()
			got, err := c.Members(t.Context(), srv.URL)
			switch {
			case tt.want != "":
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("Members() = %+v, %v, want an error with %q", got, err, tt.want)
				}
			case err != nil || got.RaftIndex != 77 || !maps.Equal(got.Incarnations, want):
				t.Errorf("Members() = %+v, %v, want raft index 77 and incarnations %v", got, err, want)
			}
		})
	}
}

func TestIncarnationsAreBounded(t *testing.T) {
	known := make(map[uint64]deimos.Incarnation)
	for id := range uint64(incarnationsMax + 1) {
		known[id+1] = incarnationNo(id + 1)
	}
	text := formatIncarnations(known)
	got, err := parseIncarnations(text)
	if err != nil || len(got) != incarnationsMax {
		t.Errorf("parseIncarnations() = %d, %v, want %d", len(got), err, incarnationsMax)
	}
	if _, err := parseIncarnations(text + ",fff=" + incarnationNo(1).String()); err == nil {
		t.Error("parseIncarnations() of one too many = nil, want an error")
	}
}

func TestMemberListThatIsNoneIsRefused(t *testing.T) {
	for _, tt := range []struct{ name, body, want string }{
		{"no JSON", "<p>", "list of members"},
		{"empty", `{"members":[]}`, "empty"},
		{"no id", `{"members":[{"name":"x"}]}`, "no member id"},
		{"id 0", `{"members":[{"id":"0"}]}`, "no member id"},
		{"bad id", `{"members":[{"id":"xyz"}]}`, `"xyz"`},
		{"too long", `{"members":[{"id":"1","name":"` + strings.Repeat("x", membersMaxBytes) + `"}]}`, "status 500"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newHTTPRig(t)
			cfg := r.config(t, 1, newRecorder())
			cfg.Members = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, tt.body) })
			h, err := NewHTTP(cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer h.Stop()
			srv := httptest.NewServer(h.Handler())
			defer srv.Close()
			c := NewClient(ClientConfig{})
			defer c.Close()
			if _, err := c.Members(t.Context(), srv.URL); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Members() = %.200v, want an error with %q", err, tt.want)
			}
		})
	}
	if _, err := NewClient(ClientConfig{}).Members(t.Context(), "ftp://x"); err == nil || !strings.Contains(err.Error(), "ftp://x") {
		t.Errorf("Members(ftp://x) = %v, want an error that names it", err)
	}
}
