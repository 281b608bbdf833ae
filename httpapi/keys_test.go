package httpapi

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/store"
)

// step is one line of a transcript: a request and what must come back. A body
// of "" is not compared.
type step struct {
	do     string // "METHOD target [body]"
	status int
	index  uint64
	body   string
}

func (s step) request() testRequest {
	f := strings.SplitN(s.do, " ", 3)
	q := testRequest{method: f[0], target: f[1]}
	if len(f) == 3 {
		q.body = f[2]
	}
	return q
}

// play runs a transcript on a fresh store.
func play(t *testing.T, steps []step) {
	t.Helper()
	h := newHandler(t, newFake(), nil)
	for _, s := range steps {
		w := do(h, s.request())
		if w.Code != s.status {
			t.Errorf("%s = %d %s, want %d", s.do, w.Code, w.Body, s.status)
		}
		if got := keysHeadersOf(t, w.Header()); got != strconv.FormatUint(s.index, 10) {
			t.Errorf("%s: index = %s, want %d", s.do, got, s.index)
		}
		if s.body != "" && w.Body.String() != s.body+"\n" {
			t.Errorf("%s = %s, want %s", s.do, w.Body, s.body)
		}
		if got := w.Header().Get("Content-Length"); got != strconv.Itoa(w.Body.Len()) {
			t.Errorf("%s: Content-Length = %s, want %d", s.do, got, w.Body.Len())
		}
		if got := w.Header().Get("Content-Type"); got != "application/json" {
			t.Errorf("%s: Content-Type = %q, want application/json", s.do, got)
		}
	}
}

func TestTranscripts(t *testing.T) {
	for _, tt := range []struct {
		name  string
		steps []step
	}{
		{"keys are cleaned", []step{
			{"PUT /keys/a//b/./c/ value=1", 201, 2, `{"action":"set","node":{"key":"/a/b/c","value":"1","modifiedIndex":2,"createdIndex":2}}`},
			{"GET /keys/../../v2/../a/b/c", 200, 2, `{"action":"get","node":{"key":"/a/b/c","value":"1","modifiedIndex":2,"createdIndex":2}}`},
			{"PUT /v2/keys/x%2Fy%20z value=%E4%BD%A0", 201, 3, `{"action":"set","node":{"key":"/x/y z","value":"你","modifiedIndex":3,"createdIndex":3}}`},
			{"PUT /keys/p%ff value=1", 400, 0, `{"errorCode":209,"message":"Invalid field","cause":"key is not valid UTF-8","index":0}`},
			{"GET /v2/keys/p%00q", 400, 0, `{"errorCode":209,"message":"Invalid field","cause":"key contains a control character","index":0}`},
		}},
		{"where parameters come from", []step{
			{"PUT /keys/p?value=query value=body&value=second", 201, 2, `{"action":"set","node":{"key":"/p","value":"body","modifiedIndex":2,"createdIndex":2}}`},
			{"DELETE /keys/p prevValue=other", 412, 2, `{"errorCode":101,"message":"Compare failed","cause":"[other != body]","index":2}`},
			{"PUT /keys/p?PrevExist=false value=1", 400, 0, `{"errorCode":209,"message":"Invalid field","cause":"unknown parameter \"PrevExist\"","index":0}`},
			{"PUT /keys/p?foo=bar value=3", 200, 3, `{"action":"set","node":{"key":"/p","value":"3","modifiedIndex":3,"createdIndex":3},"prevNode":{"key":"/p","value":"body","modifiedIndex":2,"createdIndex":2}}`},
		}},
		{"success bodies", []step{
			{"PUT /keys/h value=%3Cb%3E%26", 201, 2, `{"action":"set","node":{"key":"/h","value":"\u003cb\u003e\u0026","modifiedIndex":2,"createdIndex":2}}`},
			{"PUT /keys/h?noValueOnSuccess=true value=2", 200, 3, `{"action":"set"}`},
			{"PUT /keys/e", 201, 4, `{"action":"set","node":{"key":"/e","value":"","modifiedIndex":4,"createdIndex":4}}`},
			{"DELETE /keys/h?noValueOnSuccess=true", 200, 5, `{"action":"delete","node":{"key":"/h","modifiedIndex":5,"createdIndex":3},"prevNode":{"key":"/h","value":"2","modifiedIndex":3,"createdIndex":3}}`},
		}},
		{"errors of the store", []step{
			{"PUT /keys/a value=1", 201, 2, ""},
			{"GET /keys/nope/x/y", 404, 2, `{"errorCode":100,"message":"Key not found","cause":"/nope","index":2}`},
			{"GET /keys/a/b", 400, 2, `{"errorCode":104,"message":"Not a directory","cause":"/a","index":2}`},
			{"PUT /keys/a?prevIndex=9&prevValue=1 value=2", 412, 2, `{"errorCode":101,"message":"Compare failed","cause":"[9 != 2]","index":2}`},
			{"PUT /keys/ value=1", 400, 2, `{"errorCode":107,"message":"Root is read only","cause":"/","index":2}`},
		}},
		{"listings", []step{
			{"PUT /keys/app/b/c value=2", 201, 2, ""},
			{"PUT /keys/app/a value=1", 201, 3, ""},
			{"PUT /keys/app/_h/k value=3", 201, 4, ""},
			{"GET /v2/keys/app", 200, 4, `{"action":"get","node":{"key":"/app","dir":true,"nodes":[{"key":"/app/a","value":"1","modifiedIndex":3,"createdIndex":3},{"key":"/app/b","dir":true,"modifiedIndex":2,"createdIndex":2}],"modifiedIndex":2,"createdIndex":2}}`},
			{"GET /keys/app?recursive=true&quorum=false", 200, 4, `{"action":"get","node":{"key":"/app","dir":true,"nodes":[{"key":"/app/a","value":"1","modifiedIndex":3,"createdIndex":3},{"key":"/app/b","dir":true,"nodes":[{"key":"/app/b/c","value":"2","modifiedIndex":2,"createdIndex":2}],"modifiedIndex":2,"createdIndex":2}],"modifiedIndex":2,"createdIndex":2}}`},
			{"GET /keys/app/_h/k", 200, 4, `{"action":"get","node":{"key":"/app/_h/k","value":"3","modifiedIndex":4,"createdIndex":4}}`},
			{"GET /keys", 200, 4, `{"action":"get","node":{"key":"/","dir":true,"nodes":[{"key":"/app","dir":true,"modifiedIndex":2,"createdIndex":2}]}}`},
			{"PUT /keys/z/y dir=true", 201, 5, ""},
			{"GET /keys?recursive=true", 200, 5, `{"action":"get","node":{"key":"/","dir":true,"nodes":[{"key":"/app","dir":true,"nodes":[{"key":"/app/a","value":"1","modifiedIndex":3,"createdIndex":3},{"key":"/app/b","dir":true,"nodes":[{"key":"/app/b/c","value":"2","modifiedIndex":2,"createdIndex":2}],"modifiedIndex":2,"createdIndex":2}],"modifiedIndex":2,"createdIndex":2},{"key":"/z","dir":true,"nodes":[{"key":"/z/y","dir":true,"modifiedIndex":5,"createdIndex":5}],"modifiedIndex":5,"createdIndex":5}]}}`},
		}},
		{"conditional writes", []step{
			{"PUT /keys/a value=1", 201, 2, ""},
			{"PUT /keys/a?prevExist=true value=2", 200, 3, `{"action":"update","node":{"key":"/a","value":"2","modifiedIndex":3,"createdIndex":2},"prevNode":{"key":"/a","value":"1","modifiedIndex":2,"createdIndex":2}}`},
			{"PUT /keys/a value=3&prevExists=false", 412, 3, `{"errorCode":105,"message":"Key already exists","cause":"/a","index":3}`},
			{"PUT /v2/keys/a?prevValue=2&prevExist=true value=3", 200, 4, `{"action":"compareAndSwap","node":{"key":"/a","value":"3","modifiedIndex":4,"createdIndex":2},"prevNode":{"key":"/a","value":"2","modifiedIndex":3,"createdIndex":2}}`},
			{"PUT /keys/a?prevValue=2&prevIndex=3 value=4", 412, 4, `{"errorCode":101,"message":"Compare failed","cause":"[2 != 3] [3 != 4]","index":4}`},
			{"PUT /keys/a/b value=1", 400, 4, `{"errorCode":104,"message":"Not a directory","cause":"/a","index":4}`},
			{"PUT /keys/a value=dropped&dir=true", 200, 5, `{"action":"set","node":{"key":"/a","dir":true,"modifiedIndex":5,"createdIndex":5},"prevNode":{"key":"/a","value":"3","modifiedIndex":4,"createdIndex":2}}`},
			{"PUT /keys/a dir=true", 403, 5, `{"errorCode":102,"message":"Not a file","cause":"/a","index":5}`},
			{"PUT /keys/a?dir=true&prevExist=true value=x", 403, 5, `{"errorCode":102,"message":"Not a file","cause":"/a","index":5}`},
		}},
		{"in-order keys", []step{
			{"POST /keys/q value=j1", 201, 2, `{"action":"create","node":{"key":"/q/00000000000000000002","value":"j1","modifiedIndex":2,"createdIndex":2}}`},
			{"POST /v2/keys/q/?prevExist=true value=j2", 201, 3, `{"action":"create","node":{"key":"/q/00000000000000000003","value":"j2","modifiedIndex":3,"createdIndex":3}}`},
			{"POST /keys/q dir=true", 201, 4, `{"action":"create","node":{"key":"/q/00000000000000000004","dir":true,"modifiedIndex":4,"createdIndex":4}}`},
			{"POST /keys value=r&noValueOnSuccess=1", 201, 5, `{"action":"create"}`},
			{"POST /keys/q/00000000000000000002 value=x", 400, 5, `{"errorCode":104,"message":"Not a directory","cause":"/q/00000000000000000002","index":5}`},
		}},
		{"deletes", []step{
			{"PUT /keys/d/k value=v", 201, 2, ""},
			{"DELETE /keys/d", 403, 2, `{"errorCode":102,"message":"Not a file","cause":"/d","index":2}`},
			{"DELETE /keys/d?dir=true", 403, 2, `{"errorCode":108,"message":"Directory not empty","cause":"/d","index":2}`},
			{"DELETE /v2/keys/d/k?prevIndex=1", 412, 2, `{"errorCode":101,"message":"Compare failed","cause":"[1 != 2]","index":2}`},
			{"DELETE /keys/d/k?prevValue=v", 200, 3, `{"action":"compareAndDelete","node":{"key":"/d/k","modifiedIndex":3,"createdIndex":2},"prevNode":{"key":"/d/k","value":"v","modifiedIndex":2,"createdIndex":2}}`},
			{"DELETE /keys/d?recursive=true", 200, 4, `{"action":"delete","node":{"key":"/d","dir":true,"modifiedIndex":4,"createdIndex":2},"prevNode":{"key":"/d","dir":true,"modifiedIndex":2,"createdIndex":2}}`},
			{"DELETE /keys/?recursive=true", 400, 4, `{"errorCode":107,"message":"Root is read only","cause":"/","index":4}`},
		}},
		{"phobos and its locks", []step{
			{"PUT /keys/phobos/Hello dir=true", 201, 2, ""},
			{"PUT /keys/phobos/Hello/tcp@10.0.0.9:30000 ttl=120&value=", 201, 3, `{"action":"set","node":{"key":"/phobos/Hello/tcp@10.0.0.9:30000","value":"","expiration":"2030-01-01T00:02:00Z","ttl":120,"modifiedIndex":3,"createdIndex":3}}`},
			{"PUT /keys/locks/m prevExists=false&ttl=30&value=me", 201, 4, `{"action":"create","node":{"key":"/locks/m","value":"me","expiration":"2030-01-01T00:00:30Z","ttl":30,"modifiedIndex":4,"createdIndex":4}}`},
			{"PUT /keys/locks/m prevExists=false&ttl=30&value=you", 412, 4, `{"errorCode":105,"message":"Key already exists","cause":"/locks/m","index":4}`},
			{"DELETE /keys/locks/m prevValue=you", 412, 4, `{"errorCode":101,"message":"Compare failed","cause":"[you != me]","index":4}`},
			{"PUT /v2/keys/locks?dir=true&prevExist=false", 412, 4, `{"errorCode":105,"message":"Key already exists","cause":"/locks","index":4}`},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) { play(t, tt.steps) })
	}
}

func TestTTLIsWhatItWasAndExpirationIsWallClock(t *testing.T) {
	b := newFake()
	h := newHandler(t, b, nil)
	send := func(do_, want string) {
		t.Helper()
		if w := do(h, step{do: do_}.request()); w.Body.String() != want+"\n" {
			t.Errorf("%s = %s, want %s", do_, w.Body, want)
		}
	}
	send("PUT /keys/s value=up&ttl=60",
		`{"action":"set","node":{"key":"/s","value":"up","expiration":"2030-01-01T00:01:00Z","ttl":60,"modifiedIndex":2,"createdIndex":2}}`)
	b.timeMS.Add(20400)
	send("PUT /keys/s ttl=60&refresh=true&prevExist=true",
		`{"action":"update","node":{"key":"/s","value":"up","expiration":"2030-01-01T00:01:20.4Z","ttl":60,"modifiedIndex":3,"createdIndex":2},"prevNode":{"key":"/s","value":"up","expiration":"2030-01-01T00:01:00Z","ttl":40,"modifiedIndex":2,"createdIndex":2}}`)
	b.timeMS.Add(59001)
	send("GET /keys/s",
		`{"action":"get","node":{"key":"/s","value":"up","expiration":"2030-01-01T00:01:20.4Z","ttl":1,"modifiedIndex":3,"createdIndex":2}}`)
	b.timeMS.Add(999)
	send("GET /keys/s", // due, and not yet removed
		`{"action":"get","node":{"key":"/s","value":"up","expiration":"2030-01-01T00:01:20.4Z","modifiedIndex":3,"createdIndex":2}}`)
	send("PUT /keys/z value=1&ttl=0",
		`{"action":"set","node":{"key":"/z","value":"1","expiration":"2030-01-01T00:01:20.4Z","modifiedIndex":4,"createdIndex":4}}`)
	// A watch from history shows the life of that moment, however late it is.
	send("GET /keys/s?wait=true&waitIndex=2",
		`{"action":"set","node":{"key":"/s","value":"up","expiration":"2030-01-01T00:01:00Z","ttl":60,"modifiedIndex":2,"createdIndex":2}}`)
	b.timeMS.Add(1)
	b.expire()
	send("GET /keys/s?wait=true&waitIndex=5",
		`{"action":"expire","node":{"key":"/s","modifiedIndex":5,"createdIndex":2},"prevNode":{"key":"/s","value":"up","expiration":"2030-01-01T00:01:20.4Z","modifiedIndex":3,"createdIndex":2}}`)
}

func TestHeadersOfAWrite(t *testing.T) {
	h := newHandler(t, newFake(), nil)
	w := do(h, testRequest{method: "PUT", target: "/keys/h", body: "value=%3Cb%3E%26"})
	for name, want := range map[string]string{
		"Content-Type": "application/json", "Content-Length": "102",
		"X-Raft-Index": "6", "X-Raft-Term": "1", "X-Deimos-Index": "2", "X-Etcd-Index": "2",
		"X-Deimos-Cluster-Id": "7e27652122e8b2ae", "X-Etcd-Cluster-Id": "7e27652122e8b2ae",
	} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("PUT: header %s = %q, want %q", name, got, want)
		}
	}
	if len(w.Header()) != 8 {
		t.Errorf("PUT: headers = %v, want 8 of them", w.Header())
	}
}

// fieldsRecorder records an answer whose header fields come as they are sent.
type fieldsRecorder struct {
	*httptest.ResponseRecorder
	heads int
}

func (r *fieldsRecorder) WriteHead(status int, fields []byte) {
	r.heads++
	for line := range strings.SplitSeq(strings.TrimSuffix(string(fields), "\r\n"), "\r\n") {
		name, value, _ := strings.Cut(line, ": ")
		r.Header()[name] = append(r.Header()[name], value)
	}
	r.WriteHeader(status)
}

func TestHeadersAreTheSameForAHeadWriter(t *testing.T) {
	for _, allowed := range [][]string{nil, {"http://page.example"}} {
		h := newHandler(t, newFake(), func(c *Config) { c.CORS = allowed })
		mustPut(t, h, "/keys/a/b", "value=1")
		for _, tt := range []struct {
			q     testRequest
			heads int // that come so; errors are too rare
		}{
			{testRequest{method: "GET", target: "/keys/a/b"}, 1},
			{testRequest{method: "HEAD", target: "/v2/keys/a/b"}, 1},
			{testRequest{method: "GET", target: "/keys?recursive=true"}, 1},
			{testRequest{method: "PUT", target: "/keys/a/b", body: "value=2"}, 1},
			{testRequest{method: "GET", target: "/keys/none"}, 0},
		} {
			plain, fields := httptest.NewRecorder(), &fieldsRecorder{ResponseRecorder: httptest.NewRecorder()}
			for _, w := range []http.ResponseWriter{plain, fields} {
				r := tt.q.build()
				if allowed != nil {
					r.Header.Set("Origin", allowed[0])
				}
				h.ServeHTTP(w, r)
			}
			// The second answer to a PUT is one index further on.
			for _, name := range []string{"X-Etcd-Index", "X-Deimos-Index", "X-Raft-Index"} {
				if tt.q.method == "PUT" {
					plain.Header()[name] = fields.Header()[name]
				}
			}
			if fields.heads != tt.heads || plain.Code != fields.Code || !maps.EqualFunc(plain.Header(), fields.Header(), slices.Equal) {
				t.Errorf("%s %s, allowing %q = %d %v, want %d %v; %d heads as they are sent, want %d", tt.q.method, tt.q.target, allowed,
					fields.Code, fields.Header(), plain.Code, plain.Header(), fields.heads, tt.heads)
			}
		}
	}
}

func TestOtherMethodsAreNotAllowedOnKeys(t *testing.T) {
	h := newHandler(t, newFake(), nil)
	for _, method := range []string{"PATCH", "get", "put", "TRACE", "PROPFIND"} {
		w := do(h, testRequest{method: method, target: "/keys/p%ff"})
		if w.Code != 405 || w.Body.String() != "Method Not Allowed\n" {
			t.Errorf("%s = %d %q, want 405", method, w.Code, w.Body)
		}
		for name, want := range map[string]string{
			"Allow": "HEAD,GET,PUT,POST,DELETE", "Content-Type": "text/plain; charset=utf-8",
			"X-Content-Type-Options": "nosniff", "X-Etcd-Index": "0", "X-Deimos-Index": "0",
		} {
			if got := w.Header().Get(name); got != want {
				t.Errorf("%s: header %s = %q, want %q", method, name, got, want)
			}
		}
		keysHeadersOf(t, w.Header())
	}
}

func TestHeadAnswersLikeGetWithoutABody(t *testing.T) {
	b := newFake()
	h := newHandler(t, b, nil)
	mustPut(t, h, "/keys/a/b", "value=1&ttl=100")
	for _, target := range []string{"/keys/a/b", "/keys?recursive=true", "/keys/a/zzz", "/v2/keys/a/b/c", "/keys/a?recursive=maybe"} {
		get, head := do(h, testRequest{method: "GET", target: target}), do(h, testRequest{method: "HEAD", target: target})
		if head.Body.Len() != 0 {
			t.Errorf("HEAD %s = %q, want no body", target, head.Body)
		}
		if fmt.Sprint(head.Code, head.Header()) != fmt.Sprint(get.Code, get.Header()) {
			t.Errorf("HEAD %s = %d %v, want %d %v", target, head.Code, head.Header(), get.Code, get.Header())
		}
	}
	if w := do(h, testRequest{method: "HEAD", target: "/keys/a?wait=true"}); w.Code != 400 || w.Header().Get("X-Etcd-Index") != "0" {
		t.Errorf("HEAD wait=true = %d, want 400", w.Code)
	}
}

func TestALinearizableReadOfACurrentStateAsksNobody(t *testing.T) {
	b := newFake()
	h := newHandler(t, b, nil)
	mustPut(t, h, "/keys/d/a", "value=1")
	b.current = true
	b.read = func(context.Context, bool) (store.View, error) {
		t.Error("the backend was asked, want the current state")
		return store.View{}, &deimos.Error{Code: deimos.CodeRaftInternal, Cause: deimos.CauseReadTimeout}
	}
	for target, status := range map[string]int{
		"/keys/d/a": 200, "/keys/d": 200, "/keys/none": 404, "/v2/keys/d/a?quorum=true": 200,
	} {
		if w := do(h, testRequest{method: "GET", target: target}); w.Code != status || w.Header().Get("X-Etcd-Index") != "2" {
			t.Errorf("GET %s = %d at index %s, want %d at index 2", target, w.Code, w.Header().Get("X-Etcd-Index"), status)
		}
	}
}

func TestReadLevelFollowsPrefixAndQuorum(t *testing.T) {
	b := newFake()
	h := newHandler(t, b, nil)
	for _, tt := range []struct {
		target string
		want   bool
	}{
		{"/keys", true},
		{"/v2/keys", false},
		{"/keys?quorum=false", false},
		{"/v2/keys?quorum=true", true},
		{"/keys?quorum=1", true},
		{"/v2/keys?quorum=0", false},
	} {
		for _, method := range []string{"GET", "HEAD"} {
			do(h, testRequest{method: method, target: tt.target})
			if got := b.linear.Load(); got != tt.want {
				t.Errorf("%s %s: linearizable = %t, want %t", method, tt.target, got, tt.want)
			}
		}
	}
}

func TestRequestsBecomeOperations(t *testing.T) {
	b := newFake()
	h := newHandler(t, b, nil)
	for _, tt := range []struct {
		name string
		req  testRequest
		want deimos.Request
	}{
		{"set", testRequest{"PUT", "/keys/a", "value=1", nil}, deimos.Request{Op: deimos.OpSet, Key: "/a", Value: "1"}},
		{"set with ttl 0", testRequest{"PUT", "/keys/a", "ttl=0", nil}, deimos.Request{Op: deimos.OpSet, Key: "/a", HasTTL: true}},
		{"empty ttl is none", testRequest{"PUT", "/keys/a", "ttl=", nil}, deimos.Request{Op: deimos.OpSet, Key: "/a"}},
		{"create", testRequest{"PUT", "/keys/a", "prevExists=f&value=1", nil}, deimos.Request{Op: deimos.OpCreate, Key: "/a", Value: "1"}},
		{"update", testRequest{"PUT", "/keys/a", "prevExist=T&value=1", nil}, deimos.Request{Op: deimos.OpUpdate, Key: "/a", Value: "1"}},
		{"prevIndex 0 is none", testRequest{"PUT", "/keys/a", "prevIndex=0", nil}, deimos.Request{Op: deimos.OpSet, Key: "/a"}},
		{"swap by index", testRequest{"PUT", "/keys/a", "prevIndex=7", nil}, deimos.Request{Op: deimos.OpCompareAndSwap, Key: "/a", PrevIndex: 7}},
		{"swap beats update", testRequest{"PUT", "/keys/a", "prevValue=x&prevExist=true", nil}, deimos.Request{Op: deimos.OpCompareAndSwap, Key: "/a", HasPrevValue: true, PrevValue: "x"}},
		{"refresh", testRequest{"PUT", "/keys/a", "refresh=true&ttl=5&dir=true", nil}, deimos.Request{Op: deimos.OpSet, Key: "/a", Dir: true, Refresh: true, HasTTL: true, TTLSeconds: 5}},
		{"directory update keeps its value for the check", testRequest{"PUT", "/keys/a", "dir=true&prevExist=true&value=x", nil}, deimos.Request{Op: deimos.OpUpdate, Key: "/a", Dir: true, Value: "x"}},
		{"create in order", testRequest{"POST", "/keys/a", "prevValue=x&prevIndex=3&recursive=true&refresh=true&ttl=1", nil}, deimos.Request{Op: deimos.OpCreateInOrder, Key: "/a", HasTTL: true, TTLSeconds: 1}},
		{"delete", testRequest{"DELETE", "/keys/a?dir=true&recursive=true&ttl=5&prevExist=false&value=x", "", nil}, deimos.Request{Op: deimos.OpDelete, Key: "/a", Dir: true, Recursive: true}},
		{"compare and delete", testRequest{"DELETE", "/keys/a", "prevValue=x&prevIndex=4", nil}, deimos.Request{Op: deimos.OpCompareAndDelete, Key: "/a", HasPrevValue: true, PrevValue: "x", PrevIndex: 4}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b.last.Store(nil)
			w := do(h, tt.req)
			if got := b.last.Load(); got == nil || *got != tt.want {
				t.Errorf("%s %s %s = %+v (answer %s), want %+v", tt.req.method, tt.req.target, tt.req.body, got, w.Body, tt.want)
			}
		})
	}
}

func TestErrorsOfTheBackend(t *testing.T) {
	raft := func(cause string) error { return &deimos.Error{Code: deimos.CodeRaftInternal, Cause: cause} }
	for _, tt := range []struct {
		name       string
		err        error
		status     int
		retryAfter string
		write      string
		read       string // "" where it is the same
	}{
		{"no leader", &deimos.Error{Code: deimos.CodeLeaderElection, Cause: deimos.CauseNoLeader}, 500, "1", `{"errorCode":301,"message":"During Leader Election","cause":"the cluster has no leader","index":0}`, ""},
		{"overloaded", raft(deimos.CauseOverloaded), 503, "1", `{"errorCode":300,"message":"Raft Internal Error","cause":"the server is overloaded","index":0}`, ""},
		{"disk", raft(deimos.CauseDiskReserve), 507, "5", `{"errorCode":300,"message":"Raft Internal Error","cause":"disk space is below the reserve","index":0}`, ""},
		{"stopping", raft(deimos.CauseStopping), 500, "", `{"errorCode":300,"message":"Raft Internal Error","cause":"the server is stopping","index":0}`, ""},
		{"wrapped", fmt.Errorf("server: %w", raft(deimos.CauseRemoved)), 500, "", `{"errorCode":300,"message":"Raft Internal Error","cause":"the member has been removed from the cluster","index":0}`, ""},
		{"time-out", raft(deimos.CauseWriteTimeout), 500, "", `{"errorCode":300,"message":"Raft Internal Error","cause":"request timed out; the write may or may not have been applied","index":0}`, ""},
		{"deadline", context.DeadlineExceeded, 500, "", `{"errorCode":300,"message":"Raft Internal Error","cause":"request timed out; the write may or may not have been applied","index":0}`, `{"errorCode":300,"message":"Raft Internal Error","cause":"request timed out","index":0}`},
		{"unknown", errors.New("surprise"), 500, "", `{"errorCode":300,"message":"Raft Internal Error","cause":"internal error","index":0}`, ""},
		{"never sent codes", &deimos.Error{Code: deimos.CodeUnauthorized}, 401, "", `{"errorCode":110,"message":"The request requires user authentication","index":0}`, ""},
		{"other codes", &deimos.Error{Code: deimos.CodeClientInternal, Index: 7}, 400, "", `{"errorCode":500,"message":"Client Internal Error","index":7}`, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newFake()
			b.write = func(context.Context, *deimos.Request) (*store.Event, error) { return nil, tt.err }
			b.read = func(context.Context, bool) (store.View, error) { return store.View{}, tt.err }
			h := newHandler(t, b, nil)
			for method, want := range map[string]string{"PUT": tt.write, "POST": tt.write, "DELETE": tt.write, "GET": tt.read} {
				if want == "" {
					want = tt.write
				}
				w := do(h, testRequest{method: method, target: "/keys/a"})
				if w.Code != tt.status || w.Body.String() != want+"\n" {
					t.Errorf("%s = %d %s, want %d %s", method, w.Code, w.Body, tt.status, want)
				}
				if got := w.Header().Get("Retry-After"); got != tt.retryAfter {
					t.Errorf("%s: Retry-After = %q, want %q", method, got, tt.retryAfter)
				}
				keysHeadersOf(t, w.Header())
			}
		})
	}
}

func TestBackendGetsADeadlineUnlessTheReadIsLocal(t *testing.T) {
	b := newFake()
	h := newHandler(t, b, func(c *Config) { c.Timeout = time.Hour })
	var left time.Duration
	var bounded bool
	look := func(ctx context.Context) {
		deadline, ok := ctx.Deadline()
		left, bounded = time.Until(deadline), ok
	}
	b.write = func(ctx context.Context, _ *deimos.Request) (*store.Event, error) {
		look(ctx)
		return nil, &deimos.Error{Code: deimos.CodeKeyNotFound}
	}
	b.read = func(ctx context.Context, _ bool) (store.View, error) {
		look(ctx)
		return b.store.View(), nil
	}
	for _, tt := range []struct {
		method, target string
		want           bool
	}{
		{"PUT", "/keys/a", true},
		{"GET", "/keys/a", true},
		{"GET", "/v2/keys/a", false},
	} {
		do(h, testRequest{method: tt.method, target: tt.target})
		if bounded != tt.want || tt.want && (left < 59*time.Minute || left > time.Hour) {
			t.Errorf("%s %s: deadline = %t in %v, want %t in an hour", tt.method, tt.target, bounded, left, tt.want)
		}
	}
}

func TestLargeListingIsWholeAndSorted(t *testing.T) {
	b := newFake()
	h := newHandler(t, b, nil)
	value := strings.Repeat("v", 1000)
	for i := range 3000 {
		r := &deimos.Request{Op: deimos.OpSet, Key: fmt.Sprintf("/big/%03d/%04d", i%7, i), Value: value}
		if _, err := b.store.Apply(r, 1); err != nil {
			t.Fatalf("Apply(%s) = %v, want nil", r.Key, err)
		}
	}
	b.store.Publish(10)
	w := do(h, testRequest{method: "GET", target: "/keys/big?recursive=true"})
	if got, want := w.Body.String(), string(reference(t, b.store.View(), "/big", true)); got != want {
		t.Errorf("listing = %d bytes, want %d bytes, equal to encoding/json's", len(got), len(want))
	}
	if got, want := w.Header().Get("Content-Length"), strconv.Itoa(w.Body.Len()); got != want {
		t.Errorf("Content-Length = %s, want %s", got, want)
	}
}

func TestListingStopsWhenTheClientIsGone(t *testing.T) {
	b := newFake()
	h := newHandler(t, b, nil)
	for i := range 2 * abortCheckNodes {
		if _, err := b.store.Apply(&deimos.Request{Op: deimos.OpSet, Key: "/" + strconv.Itoa(i)}, 1); err != nil {
			t.Fatalf("Apply(%d) = %v, want nil", i, err)
		}
	}
	b.store.Publish(10)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	defer func() {
		if v := recover(); v != http.ErrAbortHandler {
			t.Errorf("listing for a client that is gone: panic = %v, want http.ErrAbortHandler", v)
		}
	}()
	h.ServeHTTP(&discard{header: http.Header{}}, testRequest{method: "GET", target: "/v2/keys"}.build().WithContext(ctx))
}
