package transport

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
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

// FuzzPeerRequest sends any request to the peer port. Whatever is in it, no
// panic gets out but the one that ends a connection, and only messages for this
// member get through.
func FuzzPeerRequest(f *testing.F) {
	f.Add("POST", "/raft", "2", "c1", "3.6.0", "http://127.0.0.1:1", encode(f, heartbeat(2, 1, 5)))
	f.Add("POST", "/raft", "9", "c1", "3.6.0", "x,,http://", encode(f, heartbeat(9, 1, 5)))
	f.Add("POST", "/raft", "2", "c1", "x", "", []byte{0xff})
	f.Add("POST", "/raft/snapshot", "2", "c1", "3.6.0", "", append(framed(f, snapshotMessage(2, 1, 5)), "body"...))
	f.Add("POST", "/raft/snapshot", "2", "c1", "3.6.0", "", bytes.Repeat([]byte{0xff}, 16))
	f.Add("GET", "/raft/stream/message/9", "9", "c1", "3.6.0", "", []byte{})
	f.Add("GET", "/raft/stream/msgapp/7", "7", "c1", "3.6.0", "", []byte{})
	f.Add("GET", "/raft/stream/x/2", "2", "c2", "2.0.0", "", []byte{})
	f.Add("GET", "/raft/probing", "", "", "", "", []byte{})
	f.Add("PUT", "/keys/a", "", "", "", "", []byte("value=1"))
	r := newHTTPRig(f)
	r.markRemoved(7)
	recv := newRecorder()
	recv.refuseWith(func(m raftpb.Message) error {
		if m.To != 1 || m.From == 0 || m.From == 7 {
			panic("a message got through that is not for this member")
		}
		return errTaken
	})
	cfg := r.config(f, 1, recv)
	cfg.Log = nil
	h, err := NewHTTP(cfg)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(h.Stop)
	f.Fuzz(func(t *testing.T, method, path, sender, cluster, version, urls string, body []byte) {
		req := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
		req.Method, req.URL.Path = method, path
		for key, value := range map[string]string{
			headerSender: sender, headerCluster: cluster, headerPeerURLs: urls,
			"X-Server-Version": version, "X-Min-Cluster-Version": version, "X-Raft-To": "1",
		} {
			req.Header.Set(key, value)
		}
		defer func() {
			if v := recover(); v != nil && v != http.ErrAbortHandler {
				t.Errorf("%s %s: panic %v", method, path, v)
			}
		}()
		h.Handler().ServeHTTP(httptest.NewRecorder(), req)
	})
}
