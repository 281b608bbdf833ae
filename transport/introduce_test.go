package transport

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos"
)

const lineNobodyVouches = "nobody vouches for the sender of refused requests; if it is a member, list a present member in bootstrap-config"

// letIn reports whether member 1 takes a message of a member that is written
// without the transport.
func letIn(t *testing.T, h *HTTP, id uint64, i deimos.Incarnation) int {
	t.Helper()
	req := request(t, "POST", "http://one", "/raft", bytes.NewReader(encode(t, heartbeat(id, 1, 1))))
	req.Header.Set(headerSender, deimos.FormatID(id))
	req.Header.Set(headerIncarnation, i.String())
	return serve(h, req).Code
}

// Goal: who is unknown waits until somebody vouches for him, and only so many
// are let in that way. The one that has been silent for longest makes room.
func TestStrangersAreBounded(t *testing.T) {
	r := newHTTPRig(t)
	r.start(t, 2, 1) // which vouches
	h := r.start(t, 1, 2).sender.(*HTTP)
	const first, last = 100, 100 + strangersMax
	wanted := map[uint64][]string{99: nil}
	for id := uint64(first); id <= last; id++ {
		r.list(deimos.Member{ID: id, PeerURLs: []string{"http://127.0.0.1:1"}})
		if id < last {
			wanted[id] = nil
		}
	}
	taken := func(id uint64) bool {
		t.Helper()
		code := letIn(t, h, id, incarnationNo(id))
		if code != http.StatusNoContent && code != http.StatusServiceUnavailable {
			t.Errorf("message of stranger %d = %d, want 204 or 503", id, code)
		}
		return code == http.StatusNoContent
	}
	h.askAround(t.Context(), wanted)
	for id := uint64(first); id < last; id++ {
		if !taken(id) {
			t.Errorf("stranger %d of %d is refused", id-first+1, strangersMax)
		}
	}
	h.known.Load().strangers[first+7].heardMS.Store(1)
	h.askAround(t.Context(), map[uint64][]string{last: nil, 99: nil})
	k := h.known.Load()
	if len(k.strangers) != strangersMax || k.has(first+7) || !k.has(last) {
		t.Errorf("%d strangers, the silent one is known: %t, the new one: %t, want %d, false, true",
			len(k.strangers), k.has(first+7), k.has(last), strangersMax)
	}
	if taken(99) {
		t.Error("a stranger that nobody lists is let in")
	}
	if got := r.log.find(1, lineNobodyVouches, false); len(got) != 1 || got[0].attrs["sender"] != "63" {
		t.Errorf("log = %v, want one line about the sender 63", got)
	}
}

func TestStrangerThatTheLogTellsOfIsAStrangerNoMore(t *testing.T) {
	r := newHTTPRig(t)
	h := r.start(t, 1).sender.(*HTTP)
	m := deimos.Member{ID: 9, PeerURLs: []string{"http://127.0.0.1:1"}}
	if err := h.addStranger(m, incarnationNo(9), 2); err != nil {
		t.Fatal(err)
	}
	m.PeerURLs = []string{"http://127.0.0.1:2"}
	if err := h.AddPeer(m); err != nil {
		t.Fatal(err)
	}
	if k := h.known.Load(); len(k.strangers) != 0 || len(k.peers) != 1 {
		t.Errorf("known = %v and %v, want no stranger and a peer", k.strangers, k.peers)
	}
	if got := h.incarnationOf(9); got != incarnationNo(9) {
		t.Errorf("incarnation = %v, want the one that was told until the log knows", got)
	}
	h.RemovePeer(9)
	if k := h.known.Load(); k.has(9) || len(k.vouched) != 0 || !h.ActiveSince(9).IsZero() {
		t.Error("a removed peer is known as a stranger again")
	}
	if err := h.addStranger(deimos.Member{ID: 1, PeerURLs: m.PeerURLs}, deimos.Incarnation{}, 2); err == nil {
		t.Error("addStranger(this member) = nil, want an error")
	}
	h.Stop()
	if err := h.addStranger(m, deimos.Incarnation{}, 2); err == nil {
		t.Error("addStranger() after Stop = nil, want an error")
	}
}

// Goal: a stranger with another data directory than the one that was told is
// refused, until the log knows better.
func TestIncarnationOfAStrangerIsTold(t *testing.T) {
	r := newHTTPRig(t)
	var logKnows atomic.Bool
	r.incarnationOf = func(id uint64) deimos.Incarnation {
		if id == 9 && logKnows.Load() {
			return incarnationNo(90)
		}
		return deimos.Incarnation{}
	}
	r.change = func(c *Config) {
		c.Incarnations = func() map[uint64]deimos.Incarnation { return map[uint64]deimos.Incarnation{9: incarnationNo(9)} }
	}
	r.start(t, 2, 1)
	h := r.start(t, 1, 2).sender.(*HTTP)
	r.list(deimos.Member{ID: 9, PeerURLs: []string{"http://127.0.0.1:1"}})
	h.askAround(t.Context(), map[uint64][]string{9: nil})
	for _, tt := range []struct {
		name string
		log  bool
		with uint64
		want int
	}{
		{"the one that was told", false, 9, 204},
		{"another one", false, 90, 409},
		{"the one that was told, when the log knows better", true, 9, 409},
		{"the one in the log", true, 90, 204},
	} {
		t.Run(tt.name, func(t *testing.T) {
			logKnows.Store(tt.log)
			if got := letIn(t, h, 9, incarnationNo(tt.with)); got != tt.want {
				t.Errorf("message = %d, want %d", got, tt.want)
			}
		})
	}
}

// away starts member 1, whose only peer is gone for ever, and member 2, which
// speaks to it.
func away(t *testing.T, r *httpRig, introducers ...string) (old, fresh *node) {
	t.Helper()
	r.url(t, 1)
	r.change = func(c *Config) {
		if c.MemberID == 1 {
			c.Introducers = append(c.Introducers, introducers...)
		}
	}
	return r.start(t, 1, 3), r.start(t, 2, 1)
}

// meet waits until member 1 hears member 2 and answers it, or, unless it must,
// until it says that nobody vouches for the other.
func meet(t *testing.T, r *httpRig, old, fresh *node, must bool) {
	t.Helper()
	speak := func() { fresh.sender.Send([]raftpb.Message{heartbeat(2, 1, 1)}) }
	if !must {
		old.recv.wait(t, "a complaint", func() bool { return len(r.log.find(1, lineNobodyVouches, false)) > 0 }, speak)
		if got := old.recv.messages(); len(got) != 0 || old.sender.(*HTTP).known.Load().has(2) {
			t.Errorf("messages = %v, want none", got)
		}
		return
	}
	old.recv.wait(t, "a message of the new member", func() bool { return len(old.recv.got) > 0 }, speak)
	fresh.recv.wait(t, "an answer", func() bool { return len(fresh.recv.got) > 0 }, func() {
		old.sender.Send([]raftpb.Message{heartbeat(1, 2, 1)})
	})
}

// Goal: a member that was away while all the members it knew were replaced hears
// of the new ones from those that the operator names.
func TestIntroducerVouchesForNewMembers(t *testing.T) {
	for _, tt := range []struct {
		name    string
		cluster uint64 // of the introducer
		listed  bool
		want    bool
	}{
		{"of this cluster", 0xc1, true, true},
		{"of another cluster", 0xc2, true, false},
		{"that does not know the sender", 0xc1, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, other := newHTTPRig(t), newHTTPRig(t)
			other.clusterID = tt.cluster
			for _, m := range []deimos.Member{{ID: 2, PeerURLs: []string{r.url(t, 2)}}, {ID: 4, PeerURLs: []string{other.url(t, 4)}}} {
				if m.ID != 2 || tt.listed {
					other.list(m)
				}
			}
			other.start(t, 4)
			old, fresh := away(t, r, r.url(t, 1), "http://127.0.0.1:1", other.url(t, 4))
			if got := old.sender.(*HTTP).cfg.Introducers; len(got) != 2 {
				t.Errorf("introducers = %v, want all but this member", got)
			}
			meet(t, r, old, fresh, tt.want)
		})
	}
}

// Goal: a sender that proves who it is may vouch for itself, if it knows us.
func TestSenderVouchesForItselfOnlyWithProof(t *testing.T) {
	for _, tt := range []struct {
		name   string
		secret bool
		listed []uint64
		want   bool
	}{
		{"with a secret", true, []uint64{1, 2}, true},
		{"with a secret, but without this member in its list", true, []uint64{2, 5}, false},
		{"with a secret, but without itself in its list", true, []uint64{1, 5}, false},
		{"without a secret", false, []uint64{1, 2}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newHTTPRig(t)
			if tt.secret {
				r.secret = secretNo(t, 1)
			}
			for _, id := range tt.listed {
				r.list(deimos.Member{ID: id, PeerURLs: []string{r.url(t, id)}})
			}
			old, fresh := away(t, r)
			meet(t, r, old, fresh, tt.want)
		})
	}
}

func TestSenderIsAskedWhereItSaysOnlyWithProof(t *testing.T) {
	certified := &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{}}}
	const both = "http://a:1,https://b:2,x,https://c:3"
	for _, tt := range []struct {
		name   string
		secret *Secret
		tls    *tls.ConnectionState
		urls   string
		want   []string
	}{
		{"nothing", nil, nil, both, nil},
		{"TLS without a certificate", nil, &tls.ConnectionState{}, both, nil},
		{"a certificate", nil, certified, both, []string{"https://b:2", "https://c:3"}},
		{"a secret", secretNo(t, 1), nil, both, []string{"http://a:1", "https://b:2", "https://c:3"}},
		{"a secret, no URLs", secretNo(t, 1), nil, "", nil},
		{"many", secretNo(t, 1), nil, strings.Repeat("http://a:1,", 20), slices.Repeat([]string{"http://a:1"}, namedURLsMax)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := &HTTP{cfg: Config{Secret: tt.secret}}
			r := httptest.NewRequest("POST", "/raft", nil)
			r.TLS = tt.tls
			r.Header.Set(headerPeerURLs, tt.urls)
			if got := h.namedURLs(r); !slices.Equal(got, tt.want) {
				t.Errorf("namedURLs(%q) = %v, want %v", tt.urls, got, tt.want)
			}
		})
	}
}

func TestWantedSendersAreBoundedAndKeepTheirURLs(t *testing.T) {
	i := newIntroductions()
	i.want(1, []string{"http://a:1"})
	for id := uint64(1); id <= 2*strangersMax; id++ {
		i.want(id, nil)
	}
	got := i.take()
	if len(got) != strangersMax || fmt.Sprint(got[1]) != "[http://a:1]" {
		t.Errorf("%d wanted, the first at %v, want %d at what was proven", len(got), got[1], strangersMax)
	}
	if got := i.take(); len(got) != 0 {
		t.Errorf("%d are wanted again, want none", len(got))
	}
}

func TestPacerLetsPassOnceInAWhile(t *testing.T) {
	var p pacer
	start := time.Unix(100, 0)
	for _, tt := range []struct {
		after time.Duration
		want  bool
	}{{0, true}, {0, false}, {time.Minute - 1, false}, {time.Minute, true}, {time.Minute, false}} {
		if got := p.pass(start.Add(tt.after), time.Minute); got != tt.want {
			t.Errorf("pass(%v) = %t, want %t", tt.after, got, tt.want)
		}
	}
}
