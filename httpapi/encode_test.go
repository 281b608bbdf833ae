package httpapi

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/store"
)

// reference is what encoding/json makes of a read, built from the words of the
// root package and the tree alone.
func reference(t testing.TB, view store.View, key string, recursive bool) []byte {
	t.Helper()
	n, err := view.Get(key)
	if err != nil {
		t.Fatalf("Get(%q) = %v, want nil", key, err)
	}
	return marshal(t, deimos.Event{Action: deimos.ActionGet, Node: referenceNode(view, n, 2, recursive)})
}

// referenceNode converts n with as many levels of children as asked for.
func referenceNode(view store.View, n *store.Node, levels int, recursive bool) *deimos.Node {
	out := referenceFlat(n)
	if !n.IsDir() || levels < 2 {
		return out
	}
	if !recursive {
		levels--
	}
	for child := range view.Children(n) {
		out.Nodes = append(out.Nodes, referenceNode(view, child, levels, recursive))
	}
	return out
}

// referenceFlat converts a node as of cluster time 1000, which is the start of
// 2030.
func referenceFlat(n *store.Node) *deimos.Node {
	out := &deimos.Node{Key: n.Key(), Dir: n.IsDir(), ModifiedIndex: n.ModifiedIndex(), CreatedIndex: n.CreatedIndex()}
	if !n.IsDir() {
		value := n.Value()
		out.Value = &value
	}
	if deadline, ok := n.DeadlineMS(); ok {
		left := time.Duration(deadline-1000) * time.Millisecond
		at := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC).Add(left)
		out.Expiration = &at
		if left > 0 {
			out.TTL = int64((left + time.Second - 1) / time.Second)
		}
	}
	return out
}

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(v); err != nil {
		t.Fatalf("Encode(%+v) = %v, want nil", v, err)
	}
	return b.Bytes()
}

func FuzzEventAgainstEncodingJSON(f *testing.F) {
	f.Add("/a", "1", int64(0), false, uint8(1))
	f.Add("/a/<b>&\u2028\u2029\x7f", "\x00\x1f\"\\\b\f\n\r\t\ufffd\xff", int64(60), false, uint8(1))
	f.Add("/d/e", "", int64(3153600000), true, uint8(2))
	f.Add("/a", "x", int64(1), false, uint8(6))
	f.Add("/q", "y", int64(-1), false, uint8(5))
	f.Fuzz(func(t *testing.T, key, value string, ttl int64, dir bool, op uint8) {
		if ttl > deimos.TTLMaxSeconds {
			return
		}
		b := newFake()
		h := newHandler(t, b, nil)
		for _, r := range []*deimos.Request{
			{Op: deimos.OpSet, Key: key, Value: "old " + value, HasTTL: ttl > 0, TTLSeconds: max(ttl, 0)},
			{Op: deimos.Op(op), Key: key, Value: value, Dir: dir, HasTTL: ttl >= 0, TTLSeconds: max(ttl, 0)},
			{Op: deimos.OpDelete, Key: key, Recursive: true},
		} {
			e, err := b.store.Apply(r, 1000)
			if err != nil {
				continue
			}
			b.store.Publish(1)
			want := deimos.Event{Action: e.Action(), Node: referenceFlat(e.Node())}
			if e.Action().Removes() {
				want.Node.Value = nil
			}
			if p := e.PrevNode(); p != nil {
				want.PrevNode = referenceFlat(p)
			}
			if got, want := h.encoded(e), marshal(t, want); !bytes.Equal(got, want) {
				t.Errorf("encode(%+v) = %s, want %s", r, got, want)
			}
			for _, recursive := range []bool{false, true} {
				target := "/keys?recursive=false"
				if recursive {
					target = "/keys?recursive=true"
				}
				w := &discard{header: http.Header{}, keep: true}
				h.ServeHTTP(w, testRequest{method: "GET", target: target}.build())
				if want := reference(t, b.store.View(), "/", recursive); !bytes.Equal(w.body, want) {
					t.Errorf("GET %s = %s, want %s", target, w.body, want)
				}
			}
		}
	})
}

// Every byte, and beginning of a character, at every place of a few words.
func TestStringAgainstEncodingJSON(t *testing.T) {
	for first := range 256 {
		for _, rest := range []string{"", "\x80", "\x80\xa8", "\x80\xa9", "\x9f\x98\x80"} {
			for at := range 18 {
				s := strings.Repeat("a", at) + string([]byte{byte(first)}) + rest + strings.Repeat("z", 17-at)
				want := marshal(t, s)
				if got := appendString(nil, s); !bytes.Equal(got, want[:len(want)-1]) {
					t.Fatalf("appendString(%q) = %s, want %s", s, got, want)
				}
			}
		}
	}
}

func BenchmarkString(b *testing.B) {
	s := strings.Repeat("abcdefghijklmnop", 1024)
	dst := make([]byte, 0, 2*len(s))
	b.SetBytes(int64(len(s)))
	b.ReportAllocs()
	for b.Loop() {
		appendString(dst, s)
	}
}

func FuzzStringAgainstEncodingJSON(f *testing.F) {
	for _, s := range []string{"", "plain", "\x00\x01\x7f", "<>&\"\\", "\u2028\u2029\u2027\u202a", "\xe2\x80", "\xff\xc2", "你\U0001f600", "a\nb\tc\rd\be\f"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		want := marshal(t, s)
		if got := appendString(nil, s); !bytes.Equal(got, want[:len(want)-1]) {
			t.Errorf("appendString(%q) = %s, want %s", s, got, want)
		}
	})
}

func TestErrorHasOneLineInOrder(t *testing.T) {
	for _, tt := range []struct {
		err  deimos.Error
		want string
	}{
		{deimos.Error{Code: deimos.CodeKeyNotFound, Cause: "/n<o>pe", Index: 12}, `{"errorCode":100,"message":"Key not found","cause":"/n\u003co\u003epe","index":12}`},
		{deimos.Error{Code: deimos.CodeRaftInternal}, `{"errorCode":300,"message":"Raft Internal Error","index":0}`},
	} {
		if got := string(appendError(nil, &tt.err)); got != tt.want+"\n" {
			t.Errorf("appendError(%v) = %s, want %s", tt.err, got, tt.want)
		}
	}
}
