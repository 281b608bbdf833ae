package transport

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos"
)

// request is one that a sound peer 2 makes to member 1, for tests to spoil.
func request(t testing.TB, method, url, path string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url+path, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Server-From", "2")
	req.Header.Set("X-Server-Version", "3.6.0")
	req.Header.Set("X-Min-Cluster-Version", "3.0.0")
	req.Header.Set("X-Etcd-Cluster-ID", "c1")
	req.Header.Set("X-Raft-To", "1")
	req.Header.Set("X-PeerURLs", "http://127.0.0.1:1")
	req.Header.Set("X-Deimos-Incarnation", incarnationNo(2).String())
	req.Header.Set("X-Deimos-Expects", incarnationNo(1).String())
	return req
}

func encode(t testing.TB, m raftpb.Message) []byte {
	t.Helper()
	data, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func framed(t testing.TB, m raftpb.Message) []byte {
	data := encode(t, m)
	return append(binary.BigEndian.AppendUint64(nil, uint64(len(data))), data...)
}

func TestPeerPortRefuses(t *testing.T) {
	beat := encode(t, heartbeat(2, 1, 1))
	local := snapshotMessage(2, 1, 5)
	noMeta := snapshotMessage(2, 1, 0)
	header := func(key, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(key, value) }
	}
	for _, tt := range []struct {
		name, method, path string
		body               []byte
		change             func(*http.Request)
		want               int
	}{
		{"root", "GET", "/", nil, nil, 404},
		{"client path", "GET", "/keys/a", nil, nil, 404},
		{"below raft", "POST", "/raft/x", beat, nil, 404},
		{"unclean path", "POST", "//raft", beat, nil, 404},
		{"unclean stream", "GET", "/raft/stream/x/../message/2", nil, nil, 404},
		{"stream without id", "GET", "/raft/stream/message", nil, nil, 404},
		{"stream without valid id", "GET", "/raft/stream/message/xyz", nil, nil, 404},
		{"unknown stream", "GET", "/raft/stream/other/2", nil, nil, 404},
		{"stream of another member", "GET", "/raft/stream/message/3", nil, nil, 404},
		{"stream of a stranger", "GET", "/raft/stream/message/9", nil, header("X-Server-From", "9"), 503},
		{"stream of a removed member", "GET", "/raft/stream/message/7", nil, header("X-Server-From", "7"), 410},
		{"stream for another data directory", "GET", "/raft/stream/message/2", nil, header("X-Deimos-Expects", incarnationNo(9).String()), 409},
		{"stream from another data directory", "GET", "/raft/stream/message/2", nil, header("X-Deimos-Incarnation", incarnationNo(9).String()), 409},
		{"stream from no data directory", "GET", "/raft/stream/message/2", nil, header("X-Deimos-Incarnation", ""), 400},
		{"stream from an unreadable data directory", "GET", "/raft/stream/message/2", nil, header("X-Deimos-Incarnation", "2"), 400},
		{"stream for another member", "GET", "/raft/stream/message/2", nil, header("X-Raft-To", "3"), 412},
		{"stream of another cluster", "GET", "/raft/stream/message/2", nil, header("X-Etcd-Cluster-ID", "c2"), 412},
		{"stream with a bad version", "GET", "/raft/stream/message/2", nil, header("X-Server-Version", "x"), 400},
		{"posted stream", "POST", "/raft/stream/message/2", beat, nil, 405},
		{"probe", "GET", "/raft/probing", nil, nil, 404},
		{"message by GET", "GET", "/raft", nil, nil, 405},
		{"message of another cluster", "POST", "/raft", beat, header("X-Etcd-Cluster-ID", "c2"), 412},
		{"message of no cluster", "POST", "/raft", beat, header("X-Etcd-Cluster-ID", ""), 412},
		{"message of an old version", "POST", "/raft", beat, header("X-Server-Version", "2.x"), 400},
		{"message with a bad version", "POST", "/raft", beat, header("X-Server-Version", "x"), 400},
		{"message with a bad minimum version", "POST", "/raft", beat, header("X-Min-Cluster-Version", "3.0"), 400},
		{"message of nobody", "POST", "/raft", beat, header("X-Server-From", ""), 400},
		{"message of id 0", "POST", "/raft", beat, header("X-Server-From", "0"), 400},
		{"message of myself", "POST", "/raft", beat, header("X-Server-From", "1"), 400},
		{"message of a removed member", "POST", "/raft", beat, header("X-Server-From", "7"), 410},
		{"message with a removed sender inside", "POST", "/raft", encode(t, heartbeat(7, 1, 1)), nil, 400},
		{"message in the name of another", "POST", "/raft", encode(t, heartbeat(3, 1, 1)), nil, 400},
		{"proposal in the name of nobody", "POST", "/raft", encode(t, raftpb.Message{Type: raftpb.MsgProp, To: 1}), nil, 400},
		{"message for another member outside", "POST", "/raft", beat, header("X-Raft-To", "3"), 412},
		{"message for nobody", "POST", "/raft", beat, header("X-Raft-To", ""), 412},
		{"message for another data directory", "POST", "/raft", beat, header("X-Deimos-Expects", incarnationNo(9).String()), 409},
		{"message from another data directory", "POST", "/raft", beat, header("X-Deimos-Incarnation", incarnationNo(9).String()), 409},
		{"call by GET", "GET", "/deimos/call", nil, nil, 405},
		{"call of another cluster", "POST", "/deimos/call", nil, header("X-Etcd-Cluster-ID", "c2"), 412},
		{"call of nobody", "POST", "/deimos/call", nil, header("X-Server-From", ""), 400},
		{"call from another data directory", "POST", "/deimos/call", nil, header("X-Deimos-Incarnation", incarnationNo(9).String()), 409},
		{"call above the limit", "POST", "/deimos/call", make([]byte, callMaxBytes+1), nil, 413},
		{"members by POST", "POST", "/members", nil, nil, 405},
		{"members of another cluster", "GET", "/members", nil, header("X-Etcd-Cluster-ID", "c2"), 412},
		{"members for a removed member", "GET", "/members", nil, header("X-Server-From", "7"), 410},
		{"message of a stranger", "POST", "/raft", encode(t, heartbeat(9, 1, 1)), header("X-Server-From", "9"), 503},
		{"message that does not decode", "POST", "/raft", []byte("\xff\xff\xff"), nil, 400},
		{"message for another member", "POST", "/raft", encode(t, heartbeat(2, 3, 1)), nil, 500},
		{"message without a sender", "POST", "/raft", encode(t, heartbeat(0, 1, 1)), nil, 400},
		{"message above the limit", "POST", "/raft", make([]byte, messageMaxBytes+1), nil, 413},
		{"endless message", "POST", "/raft", make([]byte, messageMaxBytes+1), func(r *http.Request) { r.ContentLength = -1 }, 413},
		{"snapshot by GET", "GET", "/raft/snapshot", nil, nil, 405},
		{"snapshot of another cluster", "POST", "/raft/snapshot", framed(t, local), header("X-Etcd-Cluster-ID", "c2"), 412},
		{"snapshot of a removed member", "POST", "/raft/snapshot", framed(t, local), header("X-Server-From", "7"), 410},
		{"snapshot of nobody", "POST", "/raft/snapshot", framed(t, local), header("X-Server-From", ""), 400},
		{"empty snapshot", "POST", "/raft/snapshot", nil, nil, 400},
		{"snapshot with a huge message", "POST", "/raft/snapshot", bytes.Repeat([]byte{0xff}, 100), nil, 400},
		{"snapshot with half a message", "POST", "/raft/snapshot", framed(t, local)[:20], nil, 400},
		{"snapshot with another message", "POST", "/raft/snapshot", framed(t, heartbeat(2, 1, 1)), nil, 400},
		{"snapshot without metadata", "POST", "/raft/snapshot", framed(t, noMeta), nil, 400},
		{"snapshot for another member", "POST", "/raft/snapshot", framed(t, snapshotMessage(2, 3, 5)), nil, 400},
		{"snapshot with a removed sender inside", "POST", "/raft/snapshot", framed(t, snapshotMessage(7, 1, 5)), nil, 400},
		{"snapshot in the name of another", "POST", "/raft/snapshot", framed(t, snapshotMessage(3, 1, 5)), nil, 400},
		{"snapshot from another data directory", "POST", "/raft/snapshot", framed(t, local), header("X-Deimos-Incarnation", incarnationNo(9).String()), 409},
		{"snapshot for another member outside", "POST", "/raft/snapshot", framed(t, local), header("X-Raft-To", "3"), 412},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newHTTPRig(t)
			r.incarnationOf = firstEight
			r.markRemoved(7)
			a := r.start(t, 1, 2)
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, ExpectContinueTimeout: time.Minute}}
			req := request(t, tt.method, r.url(t, 1), tt.path, bytes.NewReader(tt.body))
			if tt.want == http.StatusRequestEntityTooLarge {
				// A client that is still sending a body when its connection is closed
				// may never see the answer, so it waits for it.
				req.Header.Set("Expect", "100-continue")
			}
			if tt.change != nil {
				tt.change(req)
			}
			resp, err := client.Do(req)
			if err != nil {
				t.Fatalf("%s %s = %v, want %d", tt.method, tt.path, err, tt.want)
			}
			resp.Body.Close()
			if resp.StatusCode != tt.want {
				t.Errorf("%s %s = %d, want %d", tt.method, tt.path, resp.StatusCode, tt.want)
			}
			r.stop(a)
			if got := a.recv.messages(); len(got) != 0 {
				t.Errorf("delivered messages = %v, want none", got)
			}
			if got := files(t, a.dir); len(got) != 0 {
				t.Errorf("files = %v, want none", got)
			}
		})
	}
}

func TestPeerPortTakesWhatIsSound(t *testing.T) {
	r := newHTTPRig(t)
	a := r.start(t, 1, 2)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	post := func(path string, body []byte) {
		t.Helper()
		resp, err := client.Do(request(t, "POST", r.url(t, 1), path, bytes.NewReader(body)))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusNoContent {
			t.Errorf("POST %s = %d, want 204", path, resp.StatusCode)
		}
	}
	post("/raft", encode(t, heartbeat(2, 1, 1)))
	post("/raft/snapshot", append(framed(t, snapshotMessage(2, 1, 5)), "body"...))
	if got, err := os.ReadFile(filepath.Join(a.dir, "0000000000000005.snap.db")); err != nil || string(got) != "body" {
		t.Errorf("snapshot file = %q, %v, want %q", got, err, "body")
	}
	if got := len(a.recv.messages()); got != 2 {
		t.Errorf("%d messages were delivered, want 2", got)
	}
}

// firstEight are the incarnations that the log knows.
func firstEight(id uint64) deimos.Incarnation {
	if id == 0 || id > 8 {
		return deimos.Incarnation{}
	}
	return incarnationNo(id)
}

func TestSnapshotsReceivedAtOneTimeAreBounded(t *testing.T) {
	r := newHTTPRig(t)
	a := r.start(t, 1, 2)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	type outcome struct {
		status int
		err    error
	}
	ended := make(chan outcome, snapshotReceiveMax)
	var bodies []*io.PipeWriter
	for i := range uint64(snapshotReceiveMax) {
		pr, pw := io.Pipe()
		bodies = append(bodies, pw)
		req := request(t, "POST", r.url(t, 1), "/raft/snapshot", pr)
		go func() {
			resp, err := client.Do(req)
			if err != nil {
				ended <- outcome{0, err}
				return
			}
			resp.Body.Close()
			ended <- outcome{resp.StatusCode, nil}
		}()
		if _, err := pw.Write(framed(t, snapshotMessage(2, 1, 5+i))); err != nil {
			t.Fatal(err)
		}
	}
	h := a.sender.(*HTTP)
	eventually(t, "snapshots under way", func() bool { return len(h.receiving) == snapshotReceiveMax })
	resp, err := client.Do(request(t, "POST", r.url(t, 1), "/raft/snapshot", bytes.NewReader(framed(t, snapshotMessage(2, 1, 99)))))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("snapshot %d = %d, want 503", snapshotReceiveMax+1, resp.StatusCode)
	}
	for _, b := range bodies {
		b.Close()
	}
	for range bodies {
		if o := <-ended; o.err != nil || o.status != http.StatusNoContent {
			t.Errorf("snapshot = %d, %v, want 204", o.status, o.err)
		}
	}
	eventually(t, "free places", func() bool { return len(h.receiving) == 0 })
}

func TestStopEndsRequestsUnderWay(t *testing.T) {
	r := newHTTPRig(t)
	a := r.start(t, 1, 2)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	pr, pw := io.Pipe()
	defer pw.Close()
	ended := make(chan error, 1)
	go func() {
		resp, err := client.Do(request(t, "POST", r.url(t, 1), "/raft/snapshot", pr))
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusNoContent {
				err = errors.New("accepted")
			} else {
				err = nil
			}
		} else {
			err = nil
		}
		ended <- err
	}()
	if _, err := pw.Write(append(framed(t, snapshotMessage(2, 1, 5)), "part"...)); err != nil {
		t.Fatal(err)
	}
	h := a.sender.(*HTTP)
	eventually(t, "snapshot under way", func() bool { return len(h.receiving) == 1 })
	a.sender.Stop()
	pw.CloseWithError(io.ErrClosedPipe)
	if err := <-ended; err != nil {
		t.Errorf("half a snapshot: %v", err)
	}
	if got := files(t, a.dir); len(got) != 0 {
		t.Errorf("files = %v, want none", got)
	}
	resp, err := client.Do(request(t, "GET", r.url(t, 1), "/raft/stream/message/2", nil))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("GET after Stop = %d, want 503", resp.StatusCode)
	}
}

func TestVersionsThatRafthttpCannotParseAreRefused(t *testing.T) {
	for _, tt := range []struct {
		version string
		want    bool
	}{
		{"3.6.16", true}, {"0.0.0", true}, {"", false}, {"3.6", false}, {"3.6.", false}, {"3.6.16.1", false},
		{"3.6.x", false}, {"3.6.16-rc.1", false}, {"3.6.-1", false}, {"3.6.99999999999999999999", false},
	} {
		t.Run(tt.version, func(t *testing.T) {
			if got := isVersion(tt.version); got != tt.want {
				t.Errorf("isVersion(%q) = %t, want %t", tt.version, got, tt.want)
			}
		})
	}
}

// Goal: something else that answers at the URL of a peer does no harm.
func TestForeignServerAtAPeerURLIsHarmless(t *testing.T) {
	for _, version := range []string{"", "x", "99.0.0", "3.6.16"} {
		t.Run(version, func(t *testing.T) {
			asked := make(chan struct{}, 1000)
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set(headerVersion, version)
				_, _ = io.WriteString(w, "<!DOCTYPE html><p>hello</p>")
				select {
				case asked <- struct{}{}:
				default:
				}
			}))
			defer srv.Close()
			r := newHTTPRig(t)
			r.urls[direction{1, 2}] = srv.URL
			a := r.start(t, 1, 2)
			for range 4 {
				<-asked
			}
			a.sender.Send([]raftpb.Message{heartbeat(1, 2, 1)})
			a.recv.wait(t, "report", func() bool { return a.recv.unreachable[2] > 0 }, nil)
			r.stop(a)
			if got := a.recv.messages(); len(got) != 0 {
				t.Errorf("messages = %v, want none", got)
			}
		})
	}
}
