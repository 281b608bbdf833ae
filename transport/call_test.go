package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

func TestCallIsAnswered(t *testing.T) {
	rigs(t, func(t *testing.T, r rig) {
		a, b := r.start(t, 1, 2), r.start(t, 2, 1)
		for _, request := range []string{"", "x", strings.Repeat("y", callMaxBytes-4)} {
			got, err := a.sender.Call(t.Context(), 2, []byte(request))
			if want := "2<1:" + request; err != nil || string(got) != want {
				t.Errorf("Call(%.10q) = %.10q, %v, want %.10q", request, got, err, want)
			}
		}
		if _, err := a.sender.Call(t.Context(), 2, make([]byte, callMaxBytes)); err == nil || errors.Is(err, ErrNotSent) {
			t.Errorf("Call with an answer above the limit = %v, want an error that leaves the outcome open", err)
		}
		for _, tt := range []struct {
			name string
			to   uint64
			size int
			prep func()
		}{
			{"above the limit", 2, callMaxBytes + 1, func() {}},
			{"to an unknown member", 9, 1, func() {}},
			{"to a member that is down", 2, 1, func() { r.stop(b) }},
			{"after Stop", 2, 1, func() { r.stop(a) }},
		} {
			t.Run(tt.name, func(t *testing.T) {
				tt.prep()
				if _, err := a.sender.Call(t.Context(), tt.to, make([]byte, tt.size)); !errors.Is(err, ErrNotSent) {
					t.Errorf("Call() = %v, want %v", err, ErrNotSent)
				}
			})
		}
	})
}

// Goal: whoever waits in a call is let go when the caller is gone, when the one
// that answers stops, and when the one that asks stops.
func TestCallEndsEarly(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(r *httpRig, a, b *node, cancel func())
		want error // nil: any
	}{
		{"the caller leaves", func(_ *httpRig, _, _ *node, cancel func()) { cancel() }, context.Canceled},
		{"the answering member stops", func(r *httpRig, _, b *node, _ func()) { r.stop(b) }, nil},
		{"the asking member stops", func(r *httpRig, a, _ *node, _ func()) { r.stop(a) }, ErrStopped},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newHTTPRig(t)
			entered, left := make(chan struct{}), make(chan struct{})
			r.answer = func(ctx context.Context, _ uint64, _ []byte) []byte {
				close(entered)
				<-ctx.Done()
				close(left)
				return nil
			}
			a, b := r.start(t, 1, 2), r.start(t, 2, 1)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended := make(chan error, 1)
			go func() {
				_, err := a.sender.Call(ctx, 2, []byte("x"))
				ended <- err
			}()
			<-entered
			tt.end(r, a, b, cancel)
			err := <-ended
			if err == nil || errors.Is(err, ErrNotSent) || tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("Call() = %v, want %v and an open outcome", err, tt.want)
			}
			<-left
		})
	}
}

func TestCallsServedAtOneTimeAreBounded(t *testing.T) {
	r := newHTTPRig(t)
	entered, leave := make(chan struct{}, callsServeMax), make(chan struct{})
	r.answer = func(context.Context, uint64, []byte) []byte {
		entered <- struct{}{}
		<-leave
		return []byte{}
	}
	a := r.start(t, 1, 2)
	r.start(t, 2, 1)
	ended := make(chan error, callsServeMax)
	for range callsServeMax {
		go func() {
			_, err := a.sender.Call(t.Context(), 2, nil)
			ended <- err
		}()
	}
	for range callsServeMax {
		<-entered
	}
	if _, err := a.sender.Call(t.Context(), 2, nil); !errors.Is(err, ErrNotSent) {
		t.Errorf("call %d = %v, want %v", callsServeMax+1, err, ErrNotSent)
	}
	close(leave)
	for range callsServeMax {
		if err := <-ended; err != nil {
			t.Errorf("call = %v, want nil", err)
		}
	}
}

// Goal: a member that cannot answer yet says so, and an empty answer is one.
func TestCallThatCannotBeAnsweredYetIsNotSent(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer []byte
		sent   bool
	}{
		{"nil", nil, false},
		{"empty", []byte{}, true},
	} {
		check := func(t *testing.T, call func(context.Context, uint64, []byte) ([]byte, error)) {
			t.Helper()
			got, err := call(t.Context(), 2, []byte("x"))
			if tt.sent && (err != nil || got == nil || len(got) != 0) || !tt.sent && !errors.Is(err, ErrNotSent) {
				t.Errorf("Call() = %q, %v, want ErrNotSent: %t", got, err, !tt.sent)
			}
		}
		answer := func(context.Context, uint64, []byte) []byte { return tt.answer }
		for _, secret := range []*Secret{nil, secretNo(t, 1)} {
			t.Run(fmt.Sprintf("HTTP, %s, with a secret %t", tt.name, secret != nil), func(t *testing.T) {
				r := newHTTPRig(t)
				r.secret, r.answer = secret, answer
				a := r.start(t, 1, 2)
				r.start(t, 2, 1)
				check(t, a.sender.Call)
			})
		}
		t.Run("Network, "+tt.name, func(t *testing.T) {
			n := NewNetwork()
			a := n.Join(JoinConfig{ID: 1, Receiver: newRecorder()})
			defer a.Stop()
			defer n.Join(JoinConfig{ID: 2, Receiver: newRecorder(), Answer: answer}).Stop()
			check(t, a.Call)
		})
	}
}

// Goal: an answer that somebody else gives, or changes, is not taken.
func TestAnswerIsChecked(t *testing.T) {
	secret := secretNo(t, 1)
	for _, tt := range []struct {
		name   string
		change func(h http.Header)
		prove  bool // after the change
		body   string
		want   string // a part of the error, "" for none
	}{
		{"sound", func(http.Header) {}, true, "yes", ""},
		{"no proof", func(http.Header) {}, false, "yes", "does not prove"},
		{"another body", func(http.Header) {}, true, "no", "not the one"},
		{"another member", func(h http.Header) { h.Set(headerMember, "3") }, true, "yes", "instead of member 2"},
		{"another cluster", func(h http.Header) { h.Set(headerCluster, "c2") }, true, "yes", "belongs to cluster c2"},
		{"another incarnation", func(h http.Header) { h.Set(headerIncarnation, incarnationNo(9).String()) }, true, "yes", "data directory"},
		{"no member", func(h http.Header) { h.Del(headerMember) }, true, "yes", "does not say"},
		{"an unreadable member", func(h http.Header) { h.Set(headerMember, "x") }, true, "yes", headerMember},
		{"a refusal", func(h http.Header) { h.Set(headerRefused, "busy") }, true, "yes", "busy"},
		{"an unreadable clock", func(h http.Header) { h.Set(headerTime, "noon") }, true, "yes", headerTime},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				h := w.Header()
				h.Set(headerCluster, "c1")
				h.Set(headerMember, "2")
				h.Set(headerIncarnation, incarnationNo(2).String())
				h.Set(headerDigest, digest([]byte("yes")))
				tt.change(h)
				if tt.prove {
					h.Set(headerProof, secret.answerProof(r.Header.Get(headerProof), 200, h))
				}
				_, _ = io.WriteString(w, tt.body)
			}))
			defer srv.Close()
			r := newHTTPRig(t)
			r.secret, r.incarnationOf = secret, firstEight
			r.urls[direction{1, 2}] = srv.URL
			a := r.start(t, 1, 2)
			got, err := a.sender.Call(t.Context(), 2, []byte("x"))
			if tt.want == "" {
				if err != nil || string(got) != "yes" {
					t.Errorf("Call() = %q, %v, want %q", got, err, "yes")
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Call() = %v, want an error with %q", err, tt.want)
			}
			if got := errors.Is(err, ErrNotSent); got != (tt.name == "a refusal") {
				t.Errorf("Call() is ErrNotSent: %t", got)
			}
		})
	}
}

// Goal: a member that lost its disk, or whose place another one took, learns so
// from both sides, and raft sees none of its messages.
func TestWipedMemberEnds(t *testing.T) {
	const nowhere = "http://127.0.0.1:1"
	for _, tt := range []struct {
		name   string
		secret bool
		cut    direction // who cannot dial whom
	}{
		{"told by the one it dials", false, direction{1, 2}},
		{"told by the one that dials it", false, direction{2, 1}},
		{"told by the one it dials, with a secret", true, direction{1, 2}},
		{"told by the one that dials it, with a secret", true, direction{2, 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newHTTPRig(t)
			if tt.secret {
				r.secret = secretNo(t, 1)
			}
			r.urls[tt.cut] = nowhere
			r.incarnation[2] = incarnationNo(99)
			r.incarnationOf = firstEight
			a := r.start(t, 1, 2)
			r.incarnationOf = nil // the wiped member does not know any
			b := r.start(t, 2, 1)
			want := WipedError{Member: 2, Mine: incarnationNo(99), Theirs: incarnationNo(2), By: 1}
			var wiped *WipedError
			if err := end(t, b); !errors.As(err, &wiped) || *wiped != want {
				t.Errorf("Err() = %v, want %v", err, &want)
			}
			b.sender.Send([]raftpb.Message{heartbeat(2, 1, 1)})
			r.stop(b)
			r.stop(a)
			if got := len(a.recv.messages()) + len(b.recv.messages()); got != 0 {
				t.Errorf("%d messages were delivered, want 0", got)
			}
			select {
			case err := <-a.sender.Err():
				t.Errorf("Err() of the sound member = %v, want nothing", err)
			default:
			}
			for _, part := range []string{incarnationNo(99).String(), incarnationNo(2).String(), "member 2", "member 1"} {
				if !strings.Contains(want.Error(), part) {
					t.Errorf("%q does not name %s", want.Error(), part)
				}
			}
		})
	}
}

// Goal: what somebody says who is no member of this cluster ends nobody.
func TestRefusalOfSomebodyElseEndsNobody(t *testing.T) {
	for _, tt := range []struct {
		name   string
		secret *Secret
		header map[string]string
	}{
		{"no Deimos at all", nil, nil},
		{"another member", nil, map[string]string{headerCluster: "c1", headerMember: "3", headerRefused: "removed"}},
		{"another cluster, removed", nil, map[string]string{headerCluster: "c2", headerMember: "2", headerRefused: "removed"}},
		{"no proof, removed", secretNo(t, 1), map[string]string{headerCluster: "c1", headerMember: "2", headerRefused: "removed"}},
		{"no proof, wiped", secretNo(t, 1), map[string]string{
			headerCluster: "c1", headerMember: "2", headerRefused: "incarnation", headerKnows: incarnationNo(9).String(),
		}},
		{"no proof, foreign", secretNo(t, 1), map[string]string{headerCluster: "c2", headerMember: "2", headerRefused: "cluster"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			asked := make(chan struct{}, 100)
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set(headerVersion, "3.6.16")
				w.Header().Set(headerIncarnation, incarnationNo(2).String())
				for key, value := range tt.header {
					w.Header().Set(key, value)
				}
				w.WriteHeader(http.StatusGone)
				select {
				case asked <- struct{}{}:
				default:
				}
			}))
			defer srv.Close()
			r := newHTTPRig(t)
			r.secret = tt.secret
			r.urls[direction{1, 2}] = srv.URL
			a := r.start(t, 1, 2)
			for range 4 {
				<-asked
			}
			h := a.sender.(*HTTP)
			a.sender.Send([]raftpb.Message{heartbeat(1, 2, 1)})
			a.recv.wait(t, "report", func() bool { return a.recv.unreachable[2] > 0 }, nil)
			w := watch{peers: make(map[uint64]*peerWatch)}
			h.inspect(&w, time.Now())
			r.stop(a)
			select {
			case err := <-a.sender.Err():
				t.Errorf("Err() = %v, want nothing", err)
			default:
			}
		})
	}
}

// Goal: one stray process does not end a member of a sound cluster, and a peer
// that is down does not keep a foreigner going.
func TestForeignPeersEndAMemberOnlyWhenTheyAreMostOfThoseThatAnswer(t *testing.T) {
	foreign := func(id uint64) *ForeignError { return &ForeignError{Mine: 1, Theirs: 2, By: id, URL: "http://x"} }
	peers := map[uint64][]string{2: nil, 3: nil, 4: nil, 5: nil}
	var v verdicts
	now := time.Unix(100, 0)
	says := func(ids ...uint64) func() {
		return func() {
			for _, id := range ids {
				v.isForeign(id, foreign(id), now)
			}
		}
	}
	belongs := func(id uint64) func() { return func() { v.isForeign(id, nil, now) } }
	for _, tt := range []struct {
		name  string
		after time.Duration
		do    func()
		want  bool
	}{
		{"nothing", 0, func() {}, false},
		{"the first answer", 0, says(2), false},
		{"a moment later", foreignPatience - 1, says(2), false},
		{"long enough, and nobody else answers", 1, says(2), true},
		{"another one is of this cluster", 0, belongs(3), false},
		{"one that is no peer", 0, says(9), false},
		{"a third one, for a moment", 0, says(4), false},
		{"a third one", foreignPatience, says(4), true},
		{"the third one is back", 0, belongs(4), false},
		{"one after a long silence", time.Hour, says(4), false},
		{"for a moment again", foreignPatience - 1, says(4), false},
		{"for long", 1, says(4), true},
		{"the last one is of this cluster", 0, belongs(5), false},
		{"accepted", 0, v.accept, false},
		{"all, after we were accepted", 0, says(2, 3, 4, 5), false},
		{"all, for long", foreignPatience, says(2, 3, 4, 5), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			now = now.Add(tt.after)
			tt.do()
			if got := v.judge(peers); (got != nil) != tt.want {
				t.Errorf("judge() = %v, want an error: %t", got, tt.want)
			}
		})
	}
	for _, part := range []string{"cluster 1", "cluster 2", "http://x", "member 4"} {
		if got := foreign(4).Error(); !strings.Contains(got, part) {
			t.Errorf("%q does not name %s", got, part)
		}
	}
}

// Goal: an old member beside one forced cluster and one dead peer ends.
func TestDeadPeerDoesNotHideAForeignOne(t *testing.T) {
	r, other := newHTTPRig(t), newHTTPRig(t)
	other.clusterID = 0xc2
	other.addrs[2] = strings.TrimPrefix(r.url(t, 2), "http://")
	other.start(t, 2)
	a := r.start(t, 1, 2, 3) // nobody is where 3 is expected
	var foreign *ForeignError
	if err := end(t, a); !errors.As(err, &foreign) || foreign.By != 2 || foreign.Theirs != 0xc2 {
		t.Errorf("Err() = %v, want that member 2 is of cluster c2", err)
	}
}

// Goal: a wrong clock is told as such, at both ends, and is no guess.
func TestWrongClockIsNamed(t *testing.T) {
	r := newHTTPRig(t)
	r.secret = secretNo(t, 1)
	h, err := NewHTTP(r.config(t, 2, newRecorder()))
	if err != nil {
		t.Fatal(err)
	}
	defer h.Stop()
	late := time.Now().Add(-time.Hour)
	h.door.now = func() time.Time { return late }
	srv := httptest.NewServer(h.Handler())
	defer srv.Close()
	client := NewClient(ClientConfig{Secret: r.secret})
	defer client.Close()
	for range 2 * failuresMax {
		_, err := client.Members(t.Context(), srv.URL)
		for _, part := range []string{"clock", late.UTC().Format(time.RFC3339), time.Now().UTC().Format("2006-01-02T15:"), "5m0s"} {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Fatalf("Members() = %v, want an error with %q", err, part)
			}
		}
	}
	r.urls[direction{1, 2}] = srv.URL
	a := r.start(t, 1, 2)
	const line = "a peer refuses the requests of this member: one of the two clocks is wrong"
	eventually(t, "a line in the log", func() bool { return len(r.log.find(1, line, false)) > 0 })
	if got := r.log.find(1, line, false)[0].attrs; got["peer"] != "2" || !strings.HasPrefix(got["its clock"], late.UTC().Format("2006-01-02 15:04:")) {
		t.Errorf("line = %v, want member 2 and both clocks", got)
	}
	if _, err := a.sender.Call(t.Context(), 2, nil); !errors.Is(err, ErrNotSent) || !strings.Contains(err.Error(), "clock") {
		t.Errorf("Call() = %v, want %v because of the clock", err, ErrNotSent)
	}
	if got := len(r.log.find(1, line, false)); got != 1 {
		t.Errorf("%d lines, want 1", got)
	}
}

// Goal: a member that starts again is spoken to at once, although the proofs for
// its last run are worth nothing.
func TestRestartedMemberIsReachedWithASecret(t *testing.T) {
	r := newHTTPRig(t)
	r.secret = secretNo(t, 1)
	a, b := r.start(t, 1, 2), r.start(t, 2, 1)
	if _, err := a.sender.Call(t.Context(), 2, nil); err != nil {
		t.Fatal(err)
	}
	r.stop(b)
	b = r.start(t, 2, 1)
	if _, err := a.sender.Call(t.Context(), 2, nil); err != nil {
		t.Errorf("Call() = %v, want nil", err)
	}
	r.stop(b)
	b = r.start(t, 2, 1)
	a.sender.SendSnapshot(snapshotMessage(1, 2, 5), 10, &pattern{size: 10})
	b.recv.wait(t, "the snapshot", func() bool { return len(b.recv.got) > 0 }, nil)
}

func TestBodyIsSentAgainOnlyWhenNothingWasRead(t *testing.T) {
	held := &heldBody{body: strings.NewReader("body")}
	first := held.first()
	second, err := held.again()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.Read(make([]byte, 1)); !errors.Is(err, errBodyRead) {
		t.Errorf("Read of a replaced body = %v, want %v", err, errBodyRead)
	}
	if got, err := io.ReadAll(second); err != nil || string(got) != "body" {
		t.Errorf("ReadAll() = %q, %v, want %q", got, err, "body")
	}
	if _, err := held.again(); !errors.Is(err, errBodyRead) {
		t.Errorf("again() = %v, want %v", err, errBodyRead)
	}
}

func TestStatsCountAppendMessages(t *testing.T) {
	r := newHTTPRig(t)
	a, b := r.start(t, 1, 2), r.start(t, 2, 1)
	r.link(t, a, b)
	for i := range uint64(3) {
		a.sender.Send([]raftpb.Message{appendMessage(1, 2, i, "x")})
	}
	b.recv.wait(t, "messages", func() bool { return len(b.recv.got) == 3 }, nil)
	sent, got := a.sender.Stats(), b.sender.Stats()
	if sent.SendAppendRequests != 3 || got.RecvAppendRequests != 3 || sent.RecvAppendRequests != 0 {
		t.Errorf("Stats() = %+v and %+v, want 3 sent and 3 received", sent, got)
	}
	if sent.SendPkgRate <= 0 || sent.SendBandwidthRate <= sent.SendPkgRate {
		t.Errorf("rates = %v, %v, want some", sent.SendPkgRate, sent.SendBandwidthRate)
	}
	eventually(t, "successes", func() bool { return a.sender.Stats().Followers[2].Success == 3 })
	if f := a.sender.Stats().Followers[2]; f.Latency.Current <= 0 || f.Latency.Minimum > f.Latency.Maximum {
		t.Errorf("latency = %+v, want some", f.Latency)
	}
	if f, ok := got.Followers[1]; !ok || f != (FollowerStats{}) {
		t.Errorf("Followers[1] = %v, %t, want zeros", f, ok)
	}
	n, one, _ := pairOnNetwork(t)
	n.Join(JoinConfig{ID: 3, Receiver: newRecorder()}).Stop()
	if got := fmt.Sprint(one.sender.Stats().Followers); got != "map[2:{{0 0 0 0 0} 0 0}]" {
		t.Errorf("Followers on a Network = %s, want member 2 with zeros", got)
	}
}

func TestRatesAreThoseOfTheNewestMessages(t *testing.T) {
	var f traffic
	start := time.Unix(100, 0)
	if n, messages, bytes := f.read(start); n != 0 || messages != 0 || bytes != 0 {
		t.Errorf("read() = %d, %v, %v, want zeros", n, messages, bytes)
	}
	for i := range 3 * rateSamplesMax {
		f.add(start.Add(time.Duration(i)*10*time.Millisecond), 1000)
	}
	last := start.Add((3*rateSamplesMax - 1) * 10 * time.Millisecond)
	n, messages, bytes := f.read(last)
	if n != 3*rateSamplesMax || messages < 99 || messages > 102 || bytes < 99_000 || bytes > 102_000 {
		t.Errorf("read() = %d, %v, %v, want 600, about 100 and 100000", n, messages, bytes)
	}
	if _, messages, bytes := f.read(last.Add(time.Second + 1)); messages != 0 || bytes != 0 {
		t.Errorf("rates after a second = %v, %v, want zeros", messages, bytes)
	}
}
