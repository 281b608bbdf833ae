package transport

import (
	"bytes"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos"
)

func FuzzReadSnapshotMessage(f *testing.F) {
	f.Add(framed(f, snapshotMessage(2, 1, 5)))
	f.Add(append(framed(f, snapshotMessage(2, 1, 5)), "body"...))
	f.Add(framed(f, heartbeat(2, 1, 5)))
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{0, 0, 0, 0, 0, 0x10, 0, 1})
	f.Add(bytes.Repeat([]byte{0xff}, 16))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, head, err := readSnapshotMessage(bytes.NewReader(data))
		if err != nil {
			return
		}
		if m.Type != raftpb.MsgSnap || m.Snapshot.Metadata.Index == 0 {
			t.Errorf("message = %v, want a snapshot with an index", m)
		}
		if !bytes.HasPrefix(data, head) {
			t.Errorf("bytes read = %x, want the start of %x", head, data)
		}
	})
}

// FuzzOpening sends any request to the peer port, with a secret and without.
// Whatever is in it, no panic gets out but the one that ends a connection, and
// only messages of a member that is known get through; with a secret none do.
func FuzzOpening(f *testing.F) {
	inc1, inc2 := incarnationNo(1).String(), incarnationNo(2).String()
	beat := encode(f, heartbeat(2, 1, 5))
	f.Add(false, "POST", "/raft", "c1", "2", "1", inc2, inc1, "", "3.6.0", beat)
	f.Add(true, "POST", "/raft", "c1", "2", "1", inc2, inc1, strings.Repeat("0", 64), "3.6.0", beat)
	f.Add(true, "POST", "/raft", "c1", "2", "1", inc2, "", "", "3.6.0", beat)
	f.Add(false, "POST", "/raft", "c1", "9", "1", inc2, inc1, "", "3.6.0", encode(f, heartbeat(9, 1, 5)))
	f.Add(false, "POST", "/raft", "c1", "2", "1", inc2, inc1, "", "3.6.0", encode(f, heartbeat(3, 1, 5)))
	f.Add(false, "POST", "/raft", "c1", "2", "1", inc2, inc1, "", "x", []byte{0xff})
	f.Add(false, "POST", "/raft", "c1", "2", "1", inc1, inc2, "", "3.6.0", beat)
	f.Add(false, "POST", "/raft/snapshot", "c1", "2", "1", inc2, inc1, "", "3.6.0", append(framed(f, snapshotMessage(2, 1, 5)), "body"...))
	f.Add(false, "POST", "/raft/snapshot", "c1", "2", "1", inc2, inc1, "", "3.6.0", bytes.Repeat([]byte{0xff}, 16))
	f.Add(false, "GET", "/raft/stream/message/9", "c1", "9", "1", inc2, "", "", "3.6.0", []byte{})
	f.Add(false, "GET", "/raft/stream/msgapp/7", "c1", "7", "1", inc2, "", "", "3.6.0", []byte{})
	f.Add(false, "GET", "/raft/stream/x/2", "c2", "2", "1", "x", "y", "", "2.0.0", []byte{})
	f.Add(false, "POST", "/deimos/call", "c1", "2", "1", inc2, inc1, "", "", []byte("call"))
	f.Add(true, "POST", "/deimos/call", "c1", "2", "1", inc2, inc1, "", "", []byte("call"))
	f.Add(false, "GET", "/members", "", "", "", "", "", "", "", []byte{})
	f.Add(true, "GET", "/members", "", "0", "", "", "", "x", "", []byte{})
	f.Add(false, "GET", "/raft/probing", "", "", "", "", "", "", "", []byte{})
	f.Add(false, "PUT", "/keys/a", "", "", "", "", "", "", "", []byte("value=1"))
	open, guarded := fuzzTarget(f, nil), fuzzTarget(f, secretNo(f, 1))
	f.Fuzz(func(t *testing.T, secret bool, method, path, cluster, sender, receiver, incarnation, expects, proof, version string, body []byte) {
		h := open
		if secret {
			h = guarded
		}
		req := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
		req.Method, req.URL.Path = method, path
		for key, value := range map[string]string{
			headerCluster: cluster, headerSender: sender, headerReceiver: receiver, headerIncarnation: incarnation,
			headerExpects: expects, headerProof: proof, headerRun: guarded.door.run, headerNonce: proof, headerDigest: proof,
			headerVersion: version, headerMinimum: version, headerPeerURLs: "x,,http://",
		} {
			req.Header.Set(key, value)
		}
		w := httptest.NewRecorder()
		defer func() {
			if v := recover(); v != nil && v != http.ErrAbortHandler {
				t.Errorf("%s %s: panic %v", method, path, v)
			}
		}()
		h.Handler().ServeHTTP(w, req)
		if secret && w.Code < 400 {
			t.Errorf("%s %s without a good proof = %d, want a refusal", method, path, w.Code)
		}
	})
}

// fuzzTarget is member 1, which knows member 2 and that member 7 was removed.
func fuzzTarget(f *testing.F, secret *Secret) *HTTP {
	r := newHTTPRig(f)
	r.secret, r.incarnationOf = secret, firstEight
	r.markRemoved(7)
	recv := newRecorder()
	recv.refuseWith(func(m raftpb.Message) error {
		forwarded := m.Type == raftpb.MsgProp || m.Type == raftpb.MsgReadIndex
		if secret != nil || m.To != 1 || m.From == 0 || m.From == 7 || m.From != 2 && !forwarded {
			panic("a message got through that must not")
		}
		return errTaken
	})
	cfg := r.config(f, 1, recv)
	cfg.Log = nil
	h, err := NewHTTP(cfg)
	if err != nil {
		f.Fatal(err)
	}
	h.known.Store(new(known).withStranger(2, newStranger(nil, time.Now()), deimos.Incarnation{})) // nobody is dialled, and nobody has a stream
	f.Cleanup(h.Stop)
	return h
}

func FuzzAnswer(f *testing.F) {
	f.Add("c1", "2", incarnationNo(2).String(), "", "", "")
	f.Add("c1", "2", incarnationNo(2).String(), "incarnation", incarnationNo(3).String(), "")
	f.Add("c1", "2", incarnationNo(2).String(), "clock", "", "1700000000000")
	f.Add("", "x", "00", strings.Repeat("r", 41), "zz", "now")
	f.Fuzz(func(t *testing.T, cluster, member, incarnation, refused, knows, clock string) {
		h := make(http.Header)
		h.Set(headerCluster, cluster)
		h.Set(headerMember, member)
		h.Set(headerIncarnation, incarnation)
		h.Set(headerRefused, refused)
		h.Set(headerKnows, knows)
		h.Set(headerTime, clock)
		a, err := parseAnswer(h)
		if err == nil && (a.cluster == 0 || a.member == 0 || a.incarnation.IsZero() || len(a.refused) > 40) {
			t.Errorf("parseAnswer(%v) = %+v, want all of it or an error", h, a)
		}
	})
}

func FuzzMembers(f *testing.F) {
	f.Add([]byte(`{"members":[{"id":"abc","name":"n","peerURLs":["http://a:1"],"clientURLs":[],"isLearner":true}]}`))
	f.Add([]byte(`{"members":[{"id":"0"}]}`))
	f.Add([]byte(`{"members":null}`))
	f.Add([]byte(`[`))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := parseMembers(data)
		if err == nil && len(list) == 0 {
			t.Error("parseMembers() = none, want some or an error")
		}
		for _, m := range list {
			if m.ID == 0 {
				t.Errorf("parseMembers() has a member with the id 0")
			}
		}
	})
}

func FuzzIncarnations(f *testing.F) {
	f.Add("")
	f.Add("1=" + incarnationNo(1).String())
	f.Add("1=" + incarnationNo(1).String() + ",a=" + incarnationNo(2).String())
	f.Add("0=" + incarnationNo(1).String())
	f.Add("1=00,")
	f.Add(strings.Repeat(",", incarnationsMax))
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parseIncarnations(text)
		if err != nil {
			return
		}
		if len(got) > incarnationsMax || len(got) == 0 && text != "" {
			t.Errorf("parseIncarnations(%q) has %d elements", text, len(got))
		}
		again, err := parseIncarnations(formatIncarnations(got))
		if err != nil || !maps.Equal(again, got) {
			t.Errorf("parseIncarnations(%q) = %v, and %v, %v when written and read again", text, got, again, err)
		}
	})
}

func FuzzPeerURLs(f *testing.F) {
	f.Add("http://127.0.0.1:1")
	f.Add("x,,https://a:1,http://")
	f.Add(strings.Repeat("http://a:1,", 20))
	f.Fuzz(func(t *testing.T, list string) {
		got := parseURLs(list)
		if len(got) > namedURLsMax {
			t.Errorf("parseURLs(%q) = %d URLs, want at most %d", list, len(got), namedURLsMax)
		}
		for _, url := range got {
			if err := checkURL(url); err != nil {
				t.Errorf("parseURLs(%q) has %q: %v", list, url, err)
			}
		}
	})
}
