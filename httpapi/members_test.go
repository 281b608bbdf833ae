package httpapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/marsevilspirit/deimos"
)

// fakeMembers is a member list that changes at once.
type fakeMembers struct {
	mu      sync.Mutex
	backend *fakeBackend
	removed map[uint64]bool
	last    deimos.MemberChange
}

// newMembers returns a backend whose member list changes, with one voter.
func newMembers() (*fakeBackend, *fakeMembers) {
	b := newFake()
	b.members = []deimos.Member{{
		ID: 0x8e9e05c52164694d, Name: "n1",
		PeerURLs: []string{"http://10.0.0.1:7001"}, ClientURLs: []string{"http://10.0.0.1:4001"},
	}}
	f := &fakeMembers{backend: b, removed: make(map[uint64]bool)}
	b.change = f.change
	return b, f
}

func (f *fakeMembers) change(_ context.Context, change deimos.MemberChange) (deimos.Member, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last = change
	members := slices.Clone(f.backend.members)
	refuse := func(reason deimos.MemberErrorReason) (deimos.Member, error) {
		return deimos.Member{}, &deimos.MemberError{Reason: reason, ID: change.ID}
	}
	for _, m := range members {
		if m.ID != change.ID && slices.ContainsFunc(change.PeerURLs, func(u string) bool { return slices.Contains(m.PeerURLs, u) }) {
			return refuse(deimos.MemberURLTaken)
		}
	}
	if change.Op == deimos.MemberAdd {
		m := deimos.Member{ID: 0x91bc3c398fb3c146, PeerURLs: change.PeerURLs, IsLearner: true}
		f.backend.members = append(members, m)
		return m, nil
	}
	i := slices.IndexFunc(members, func(m deimos.Member) bool { return m.ID == change.ID })
	switch {
	case f.removed[change.ID]:
		return refuse(deimos.MemberRemoved)
	case i < 0:
		return refuse(deimos.MemberUnknown)
	}
	switch change.Op {
	case deimos.MemberUpdate:
		members[i].PeerURLs = change.PeerURLs
	case deimos.MemberRemove:
		if !members[i].IsLearner {
			return refuse(deimos.MemberLastVoter)
		}
		f.removed[change.ID] = true
		members = slices.Delete(members, i, i+1)
		f.backend.members = members
		return deimos.Member{}, nil
	case deimos.MemberPromote:
		if !members[i].IsLearner {
			return refuse(deimos.MemberIsVoter)
		}
		members[i].IsLearner = false
	case deimos.MemberLead:
		if members[i].IsLearner {
			return refuse(deimos.MemberIsLearner)
		}
		f.backend.leader.Store(change.ID)
		return deimos.Member{}, nil
	}
	f.backend.members = members
	return members[i], nil
}

var jsonHeader = map[string]string{"Content-Type": "application/json"}

// clusterHeadersOf reports whether an answer of the members API carries both
// cluster ids, and nothing of the keys API.
func clusterHeadersOf(t *testing.T, header http.Header) {
	t.Helper()
	for _, name := range []string{"X-Deimos-Cluster-Id", "X-Etcd-Cluster-Id"} {
		if got := header.Get(name); got != "7e27652122e8b2ae" {
			t.Errorf("header %s = %q, want 7e27652122e8b2ae", name, got)
		}
	}
	if got := header.Get("X-Etcd-Index"); got != "" {
		t.Errorf("X-Etcd-Index = %q, want none outside the keys API", got)
	}
}

func TestMemberListGrowsAndShrinks(t *testing.T) {
	const (
		first  = `{"id":"8e9e05c52164694d","name":"n1","peerURLs":["http://10.0.0.1:7001"],"clientURLs":["http://10.0.0.1:4001"]}`
		added  = `{"id":"91bc3c398fb3c146","name":"","peerURLs":["http://10.0.0.2:7001"],"clientURLs":[],"isLearner":true}`
		moved  = `{"id":"91bc3c398fb3c146","name":"","peerURLs":["http://10.0.0.2:7002","http://10.0.0.2:7003"],"clientURLs":[],"isLearner":true}`
		voting = `{"id":"91bc3c398fb3c146","name":"","peerURLs":["http://10.0.0.2:7002","http://10.0.0.2:7003"],"clientURLs":[]}`
	)
	story := []struct {
		method, target, body string
		status               int
		want                 string
	}{
		{"GET", "/v2/members", "", 200, `{"members":[` + first + `]}`},
		{"GET", "/members/", "", 200, `{"members":[` + first + `]}`},
		{"GET", "/members/leader", "", 503, `{"message":"During election"}`},
		{"POST", "/members", `{"peerURLs":["http://10.0.0.2:7001"],"isLearner":true}`, 201, added},
		{"POST", "/v2/members", `{"peerURLs":["http://10.0.0.2:7001"]}`, 409, `{"message":"membership: peerURL exists"}`},
		{"GET", "/members", "", 200, `{"members":[` + first + `,` + added + `]}`},
		{"POST", "/members/91bc3c398fb3c146/lead", "", 409, `{"message":"member 91bc3c398fb3c146 is a learner"}`},
		{"PUT", "/v2/members/91bc3c398fb3c146", `{"peerURLs":["http://10.0.0.2:7003","http://10.0.0.2:7002"]}`, 204, ""},
		{"PUT", "/v2/members/91bc3c398fb3c146", `{"peerURLs":["http://10.0.0.1:7001"]}`, 409, `{"message":"membership: peerURL exists"}`},
		{"GET", "/v2/members/", "", 200, `{"members":[` + first + `,` + moved + `]}`},
		{"DELETE", "/members/8e9e05c52164694d", "", 409, `{"message":"cannot remove the last voting member"}`},
		{"POST", "/v2/members/91bc3c398fb3c146/promote", "ignored", 200, voting},
		{"POST", "/members/91bc3c398fb3c146/promote", "", 409, `{"message":"member 91bc3c398fb3c146 is already a voter"}`},
		{"POST", "/members/91BC3C398FB3C146/lead", "", 200, voting},
		{"GET", "/members/leader", "", 200, voting},
		{"POST", "/v2/members/8e9e05c52164694d/lead", "", 200, first},
		{"GET", "/v2/members/leader", "", 200, first},
		{"DELETE", "/v2/members/xyz", "", 404, `{"message":"No such member: xyz"}`},
		{"DELETE", "/v2/members/00a", "", 404, `{"message":"No such member: 00a"}`},
	}
	b, _ := newMembers()
	h := newHandler(t, b, nil)
	for _, tt := range story {
		w := do(h, testRequest{tt.method, tt.target, tt.body, jsonHeader})
		want := tt.want
		if want != "" {
			want += "\n"
		}
		if w.Code != tt.status || w.Body.String() != want {
			t.Errorf("%s %s %s = %d %q, want %d %q", tt.method, tt.target, tt.body, w.Code, w.Body, tt.status, want)
		}
		if got := w.Header().Get("Content-Type"); tt.status != 204 && got != "application/json" {
			t.Errorf("%s %s: Content-Type = %q, want application/json", tt.method, tt.target, got)
		}
		clusterHeadersOf(t, w.Header())
	}
}

func TestRemovedMemberIsGoneForEver(t *testing.T) {
	b, _ := newMembers()
	b.members = append(b.members, deimos.Member{ID: 0xab, IsLearner: true})
	h := newHandler(t, b, nil)
	if w := do(h, testRequest{method: "DELETE", target: "/members/ab"}); w.Code != 204 || w.Body.Len() != 0 {
		t.Errorf("DELETE /members/ab = %d %q, want 204 and no body", w.Code, w.Body)
	}
	for _, q := range []testRequest{
		{"DELETE", "/members/ab", "", nil},
		{"DELETE", "/v2/members/0AB", "", nil},
		{"PUT", "/v2/members/ab", `{"peerURLs":["http://a:1"]}`, jsonHeader},
		{"POST", "/v2/members/ab/promote", "", nil},
		{"POST", "/members/ab/lead", "", nil},
	} {
		w := do(h, q)
		if want := `{"message":"Member permanently removed: ab"}` + "\n"; w.Code != 410 || w.Body.String() != want {
			t.Errorf("%s %s = %d %q, want 410 %q", q.method, q.target, w.Code, w.Body, want)
		}
	}
}

func TestMemberRoutes(t *testing.T) {
	const notFound = `{"message":"Not found"}` + "\n"
	for _, tt := range []struct {
		method, target string
		status         int
		allow          string
		body           string
	}{
		{"HEAD", "/members", 405, "GET,POST", ""},
		{"PUT", "/v2/members", 405, "GET,POST", textNotAllowed},
		{"DELETE", "/v2/members/", 405, "GET,POST", textNotAllowed},
		{"get", "/members", 405, "GET,POST", textNotAllowed},
		{"PATCH", "/members/8e9e05c52164694d", 405, "GET,PUT,DELETE", textNotAllowed},
		{"HEAD", "/members/leader", 405, "GET,PUT,DELETE", ""},
		{"GET", "/members/8e9e05c52164694d", 404, "", notFound},
		{"GET", "/members/nobody", 404, "", notFound},
		{"GET", "/members/leader/", 404, "", notFound},
		{"POST", "/members/8e9e05c52164694d", 404, "", notFound},
		{"POST", "/members/leader", 404, "", notFound},
		{"DELETE", "/members/leader", 404, "", `{"message":"No such member: leader"}` + "\n"},
		{"DELETE", "/members/0", 404, "", `{"message":"No such member: 0"}` + "\n"},
		{"DELETE", "/members/-1", 404, "", `{"message":"No such member: -1"}` + "\n"},
		{"DELETE", "/members/18e9e05c52164694d", 404, "", `{"message":"No such member: 18e9e05c52164694d"}` + "\n"},
		{"DELETE", "/members/%3C%22%FF", 404, "", `{"message":"No such member: \u003c\"\ufffd"}` + "\n"},
		{"POST", "/members/zz/promote", 404, "", `{"message":"No such member: zz"}` + "\n"},
		{"POST", "/members/zz/lead", 404, "", `{"message":"No such member: zz"}` + "\n"},
		{"POST", "/members//promote", 404, "", `{"message":"No such member: "}` + "\n"},
		{"GET", "/members/8e9e05c52164694d/promote", 405, "POST", textNotAllowed},
		{"PUT", "/v2/members/8e9e05c52164694d/lead", 405, "POST", textNotAllowed},
		{"POST", "/members/8e9e05c52164694d/demote", 404, "", notFound},
		{"POST", "/members/8e9e05c52164694d/promote/", 404, "", notFound},
		{"OPTIONS", "/members/8e9e05c52164694d", 200, "", ""},
	} {
		t.Run(tt.method+" "+tt.target, func(t *testing.T) {
			b, _ := newMembers()
			w := do(newHandler(t, b, nil), testRequest{method: tt.method, target: tt.target})
			if w.Code != tt.status || w.Body.String() != tt.body {
				t.Errorf("%s %s = %d %q, want %d %q", tt.method, tt.target, w.Code, w.Body, tt.status, tt.body)
			}
			if got := w.Header().Get("Allow"); got != tt.allow {
				t.Errorf("Allow = %q, want %q", got, tt.allow)
			}
			clusterHeadersOf(t, w.Header())
		})
	}
	b, _ := newMembers()
	for _, target := range []string{"/membersx", "/v2/membersx", "/v2/member", "/v3/members"} {
		w := do(newHandler(t, b, nil), testRequest{method: "GET", target: target})
		if w.Code != 404 || w.Header().Get("Content-Type") != textPlain {
			t.Errorf("GET %s = %d %s, want 404 in plain text", target, w.Code, w.Header().Get("Content-Type"))
		}
	}
}

func TestMemberListIsSortedByNumber(t *testing.T) {
	b, _ := newMembers()
	b.members = []deimos.Member{{ID: 0x10}, {ID: 1 << 63}, {ID: 2}}
	const want = `{"members":[{"id":"2","name":"","peerURLs":[],"clientURLs":[]},` +
		`{"id":"10","name":"","peerURLs":[],"clientURLs":[]},` +
		`{"id":"8000000000000000","name":"","peerURLs":[],"clientURLs":[]}]}` + "\n"
	if w := do(newHandler(t, b, nil), testRequest{method: "GET", target: "/members"}); w.Body.String() != want {
		t.Errorf("GET /members = %q, want %q", w.Body, want)
	}
	if b.members[0].ID != 0x10 {
		t.Errorf("the member list of the backend was sorted in place")
	}
	b.members = nil
	if w := do(newHandler(t, b, nil), testRequest{method: "GET", target: "/members"}); w.Body.String() != `{"members":[]}`+"\n" {
		t.Errorf("GET /members without members = %q, want an empty list", w.Body)
	}
}

func TestLeaderThatIsNotListedIsNoLeader(t *testing.T) {
	b, _ := newMembers()
	b.leader.Store(77)
	w := do(newHandler(t, b, nil), testRequest{method: "GET", target: "/members/leader"})
	if w.Code != 503 || w.Header().Get("Retry-After") != "1" {
		t.Errorf("GET /members/leader = %d, Retry-After %q, want 503 and 1", w.Code, w.Header().Get("Retry-After"))
	}
}

func TestChangesReachTheBackendAsTheyWereMeant(t *testing.T) {
	for _, tt := range []struct {
		name, method, target, body string
		want                       deimos.MemberChange
	}{
		{"add a voter to be", "POST", "/members", `{"peerURLs":["http://b:2","HTTP://A:01","http://a:1"]}`,
			deimos.MemberChange{Op: deimos.MemberAdd, PeerURLs: []string{"http://a:1", "http://b:2"}}},
		{"add a learner", "POST", "/members", `{"name":"n","isLearner":true,"peerURLs":["https://localhost:2"]}`,
			deimos.MemberChange{Op: deimos.MemberAdd, PeerURLs: []string{"https://localhost:2"}, Learner: true}},
		{"update", "PUT", "/members/8e9e05c52164694d", `{"isLearner":"what","peerURLs":["http://[::1]:7001"]}`,
			deimos.MemberChange{Op: deimos.MemberUpdate, ID: 0x8e9e05c52164694d, PeerURLs: []string{"http://[::1]:7001"}}},
		{"remove", "DELETE", "/members/8e9e05c52164694d", "",
			deimos.MemberChange{Op: deimos.MemberRemove, ID: 0x8e9e05c52164694d}},
		{"promote", "POST", "/members/8e9e05c52164694d/promote", "",
			deimos.MemberChange{Op: deimos.MemberPromote, ID: 0x8e9e05c52164694d}},
		{"lead", "POST", "/members/8e9e05c52164694d/lead", "",
			deimos.MemberChange{Op: deimos.MemberLead, ID: 0x8e9e05c52164694d}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, f := newMembers()
			do(newHandler(t, b, nil), testRequest{tt.method, tt.target, tt.body, jsonHeader})
			if got := fmt.Sprintf("%+v", f.last); got != fmt.Sprintf("%+v", tt.want) {
				t.Errorf("%s %s %s = %s, want %+v", tt.method, tt.target, tt.body, got, tt.want)
			}
		})
	}
}

func TestRefusedChangesHaveTheirStatus(t *testing.T) {
	const id = "/members/8e9e05c52164694d"
	member := func(reason deimos.MemberErrorReason) error {
		return fmt.Errorf("server: %w", &deimos.MemberError{Reason: reason, ID: 0x8e9e05c52164694d})
	}
	coded := func(code deimos.Code, cause string) error {
		return fmt.Errorf("server: %w", &deimos.Error{Code: code, Cause: cause})
	}
	for _, tt := range []struct {
		name           string
		err            error
		method, target string
		status         int
		retryAfter     string
		message        string
	}{
		{"unknown", member(deimos.MemberUnknown), "DELETE", "/members/08E9E05C52164694D", 404, "", "No such member: 08E9E05C52164694D"},
		{"removed", member(deimos.MemberRemoved), "DELETE", id, 410, "", "Member permanently removed: 8e9e05c52164694d"},
		{"exists", member(deimos.MemberExists), "POST", "/members", 409, "", "membership: ID exists"},
		{"url taken", member(deimos.MemberURLTaken), "POST", "/members", 409, "", "membership: peerURL exists"},
		{"voter", member(deimos.MemberIsVoter), "POST", id + "/promote", 409, "", "member 8e9e05c52164694d is already a voter"},
		{"learner", member(deimos.MemberIsLearner), "POST", id + "/lead", 409, "", "member 8e9e05c52164694d is a learner"},
		{"last voter", member(deimos.MemberLastVoter), "DELETE", id, 409, "", "cannot remove the last voting member"},
		{"behind", member(deimos.MemberNotCaughtUp), "POST", id + "/promote", 412, "", "learner 8e9e05c52164694d is not caught up"},
		{"quorum of an add", member(deimos.MemberCostsQuorum), "POST", "/members", 409, "", "adding a member would leave too few reachable voting members"},
		{"quorum of a promotion", member(deimos.MemberCostsQuorum), "POST", id + "/promote", 409, "", "promoting 8e9e05c52164694d would leave too few reachable voting members"},
		{"quorum of a removal", member(deimos.MemberCostsQuorum), "DELETE", id, 409, "", "removing 8e9e05c52164694d would leave too few reachable voting members"},
		{"quorum of an update", member(deimos.MemberCostsQuorum), "PUT", id, 409, "", "changing 8e9e05c52164694d would leave too few reachable voting members"},
		{"not taken", member(deimos.MemberNotTaken), "POST", id + "/lead", 503, "", "member 8e9e05c52164694d did not take over"},
		{"broken", member(deimos.MemberChangeBroken), "PUT", id, 500, "", "member record cannot be read: 8e9e05c52164694d"},
		{"other directory", member(deimos.MemberOther), "PUT", id, 409, "", "the data directory is not the one that the member started with: 8e9e05c52164694d"},
		{"no leader", coded(deimos.CodeLeaderElection, deimos.CauseNoLeader), "DELETE", id, 503, "1", "During election"},
		{"overloaded", coded(deimos.CodeRaftInternal, deimos.CauseOverloaded), "POST", "/members", 503, "1", "the server is overloaded"},
		{"disk reserve", coded(deimos.CodeRaftInternal, deimos.CauseDiskReserve), "POST", "/members", 507, "5", "disk space is below the reserve"},
		{"timeout of a write", coded(deimos.CodeRaftInternal, deimos.CauseWriteTimeout), "DELETE", id, 500, "", textChangeTimeout},
		{"timeout of a read", coded(deimos.CodeRaftInternal, deimos.CauseReadTimeout), "DELETE", id, 500, "", textChangeTimeout},
		{"deadline", context.DeadlineExceeded, "POST", "/members", 500, "", textChangeTimeout},
		{"stopping", coded(deimos.CodeRaftInternal, deimos.CauseStopping), "DELETE", id, 500, "", "the server is stopping"},
		{"stopping, as health checks say it", ErrStopping, "DELETE", id, 500, "", "the server is stopping"},
		{"code without a cause", coded(deimos.CodeRaftInternal, ""), "DELETE", id, 500, "", "Raft Internal Error"},
		{"something else", errors.New("server: secret detail"), "DELETE", id, 500, "", "internal error"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, _ := newMembers()
			b.change = func(context.Context, deimos.MemberChange) (deimos.Member, error) { return deimos.Member{}, tt.err }
			w := do(newHandler(t, b, nil), testRequest{tt.method, tt.target, `{"peerURLs":["http://a:1"]}`, jsonHeader})
			if want := `{"message":"` + tt.message + `"}` + "\n"; w.Code != tt.status || w.Body.String() != want {
				t.Errorf("%s %s = %d %q, want %d %q", tt.method, tt.target, w.Code, w.Body, tt.status, want)
			}
			if got := w.Header().Get("Retry-After"); got != tt.retryAfter {
				t.Errorf("Retry-After = %q, want %q", got, tt.retryAfter)
			}
			clusterHeadersOf(t, w.Header())
		})
	}
}

func TestOnlyUnexpectedErrorsOfChangesAreLogged(t *testing.T) {
	var log logBuffer
	b, _ := newMembers()
	h := newHandler(t, b, func(c *Config) { c.Log = log.logger() })
	do(h, testRequest{method: "DELETE", target: "/members/8e9e05c52164694d"})
	if got := log.String(); got != "" {
		t.Errorf("log after a refused change = %q, want nothing", got)
	}
	b.change = func(context.Context, deimos.MemberChange) (deimos.Member, error) {
		return deimos.Member{}, errors.New("server: out of order")
	}
	do(h, testRequest{method: "DELETE", target: "/members/8e9e05c52164694d"})
	if got := log.String(); !strings.Contains(got, "out of order") {
		t.Errorf("log = %q, want the error in it", got)
	}
}

func TestLeaderThatWasRemovedMeanwhileIsNotShown(t *testing.T) {
	b, _ := newMembers()
	b.change = func(context.Context, deimos.MemberChange) (deimos.Member, error) {
		b.members = nil
		return deimos.Member{}, nil
	}
	w := do(newHandler(t, b, nil), testRequest{method: "POST", target: "/members/8e9e05c52164694d/lead"})
	if want := `{"message":"No such member: 8e9e05c52164694d"}` + "\n"; w.Code != 404 || w.Body.String() != want {
		t.Errorf("POST …/lead = %d %q, want 404 %q", w.Code, w.Body, want)
	}
}

func TestChangesHaveTheTimeoutOfWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := newMembers()
		b.change = func(ctx context.Context, _ deimos.MemberChange) (deimos.Member, error) {
			<-ctx.Done()
			return deimos.Member{}, ctx.Err()
		}
		start := time.Now()
		w := do(newHandler(t, b, nil), testRequest{method: "DELETE", target: "/members/1"})
		if took := time.Since(start); w.Code != 500 || took != DefaultTimeout {
			t.Errorf("DELETE /members/1 = %d after %v, want 500 after %v", w.Code, took, DefaultTimeout)
		}
	})
}

func TestMembersRefuseWritesOfStrangersPages(t *testing.T) {
	for _, q := range []testRequest{
		{"POST", "/members", `{"peerURLs":["http://a:1"]}`, map[string]string{"Content-Type": "application/json", "Origin": "http://bad.example"}},
		{"POST", "/v2/members/1/lead", "", map[string]string{"Sec-Fetch-Site": "cross-site"}},
		{"DELETE", "/members/1", "", map[string]string{"Origin": "null"}},
		{"PUT", "/members/1", "", map[string]string{"Origin": "http://bad.example"}},
	} {
		b, _ := newMembers()
		b.change = func(_ context.Context, change deimos.MemberChange) (deimos.Member, error) {
			t.Errorf("%s %s reached the backend", q.method, q.target)
			return deimos.Member{}, nil
		}
		w := do(newHandler(t, b, nil), q)
		if w.Code != 403 || !strings.Contains(w.Body.String(), `"errorCode":209`) || !strings.Contains(w.Body.String(), "origin not allowed") {
			t.Errorf("%s %s = %d %s, want 403/209", q.method, q.target, w.Code, w.Body)
		}
		clusterHeadersOf(t, w.Header())
	}
}

func TestPeersSeeTheMemberListAndNothingElse(t *testing.T) {
	b, _ := newMembers()
	h := MembersHandler(b)
	const list = `{"members":[{"id":"8e9e05c52164694d","name":"n1","peerURLs":["http://10.0.0.1:7001"],"clientURLs":["http://10.0.0.1:4001"]}]}` + "\n"
	for _, tt := range []struct {
		method string
		status int
		body   string
	}{
		{"GET", 200, list},
		{"HEAD", 405, ""},
		{"POST", 405, textNotAllowed},
		{"DELETE", 405, textNotAllowed},
		{"OPTIONS", 405, textNotAllowed},
	} {
		w := do(h, testRequest{method: tt.method, target: "/members"})
		if w.Code != tt.status || w.Body.String() != tt.body {
			t.Errorf("%s /members = %d %q, want %d %q", tt.method, w.Code, w.Body, tt.status, tt.body)
		}
		if got := w.Header().Get("Allow"); (got == "GET") != (tt.status == 405) {
			t.Errorf("%s /members: Allow = %q", tt.method, got)
		}
		clusterHeadersOf(t, w.Header())
	}
}

func TestMembersCountInTheMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	b, _ := newMembers()
	h := newHandler(t, b, func(c *Config) { c.Registerer, c.Gatherer = reg, reg })
	do(h, testRequest{method: "DELETE", target: "/members/8e9e05c52164694d"})
	w := do(h, testRequest{method: "GET", target: "/metrics"})
	if want := `deimos_http_requests_total{code="409",method="DELETE"} 1`; !strings.Contains(w.Body.String(), want) {
		t.Errorf("GET /metrics lacks %s", want)
	}
}

// referenceMember is a member object for encoding/json.
type referenceMember struct {
	ID         string   `json:"id"`
	Name       string   `json:"name"`
	PeerURLs   []string `json:"peerURLs"`
	ClientURLs []string `json:"clientURLs"`
	IsLearner  bool     `json:"isLearner,omitempty"`
}

func FuzzMemberJSONIsThatOfTheStandardLibrary(f *testing.F) {
	f.Add(uint64(0x8e9e05c52164694d), "n1", "http://a:1 http://b:2", "", false)
	f.Add(uint64(1), "<&>\"\\\u2028\x00\xff", "", "é\x7f", true)
	f.Fuzz(func(t *testing.T, id uint64, name, peers, clients string, learner bool) {
		m := deimos.Member{ID: id, Name: name, PeerURLs: strings.Fields(peers), ClientURLs: strings.Fields(clients), IsLearner: learner}
		want := marshal(t, referenceMember{deimos.FormatID(id), name, m.PeerURLs, m.ClientURLs, learner})
		if got := append(appendMember(nil, &m), '\n'); !bytes.Equal(got, want) {
			t.Errorf("appendMember(%+v) = %s, want %s", m, got, want)
		}
	})
}
