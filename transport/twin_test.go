package transport

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos"
)

// copyOf starts a second process of member 2, at another address.
func copyOf(t *testing.T, r *httpRig, id uint64, peers ...uint64) *node {
	t.Helper()
	elsewhere := newHTTPRig(t).url(t, id)
	r.change = func(c *Config) { c.PeerURLs = []string{elsewhere} }
	defer func() { r.change = nil }()
	return r.start(t, id, peers...)
}

// Goal: the second process of a member ends and nothing of it is delivered; the
// first one goes on, and is told nothing.
func TestSecondProcessOfAMemberEnds(t *testing.T) {
	for _, tt := range []struct {
		name         string
		secret, late bool
	}{
		{"it comes later", false, false},
		{"it comes later, with a secret", true, false},
		{"it is there when the peer starts", false, true},
		{"it is there when the peer starts, with a secret", true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newHTTPRig(t)
			if tt.secret {
				r.secret = secretNo(t, 1)
			}
			var a, b, twin *node
			b = r.start(t, 2, 1)
			if tt.late {
				twin = copyOf(t, r, 2, 1)
				a = r.start(t, 1, 2)
			} else {
				a = r.start(t, 1, 2)
				r.link(t, a, b)
				twin = copyOf(t, r, 2, 1)
			}
			twin.sender.Send([]raftpb.Message{heartbeat(2, 1, 666)})
			var got *TwinError
			if err := end(t, twin); !errors.As(err, &got) || got.Member != 2 || got.By != 1 || !strings.Contains(got.Place, r.url(t, 2)) {
				t.Errorf("Err() = %v, want a TwinError of member 2 with %s", err, r.url(t, 2))
			}
			if _, err := twin.sender.Call(t.Context(), 1, nil); !errors.Is(err, ErrNotSent) {
				t.Errorf("Call() of the second process = %v, want %v", err, ErrNotSent)
			}
			for _, text := range []string{"member 2", "member 1", r.url(t, 2)} {
				if got != nil && !strings.Contains(got.Error(), text) {
					t.Errorf("%q does not name %s", got.Error(), text)
				}
			}
			a.recv.wait(t, "a message of the first process", func() bool { return len(a.recv.got) > 0 }, func() {
				b.sender.Send([]raftpb.Message{heartbeat(2, 1, 1)})
			})
			b.recv.wait(t, "a message to the first process", func() bool { return len(b.recv.got) > 0 }, func() {
				a.sender.Send([]raftpb.Message{heartbeat(1, 2, 1)})
			})
			r.stop(twin)
			r.stop(a)
			if slices.ContainsFunc(a.recv.messages(), func(m raftpb.Message) bool { return m.Commit == 666 }) {
				t.Error("a message of the second process was delivered")
			}
			if n := len(twin.recv.messages()); n != 0 {
				t.Errorf("%d messages were delivered to the second process, want 0", n)
			}
			select {
			case err := <-b.sender.Err():
				t.Errorf("Err() of the first process = %v, want nothing", err)
			default:
			}
		})
	}
}

// Goal: a copy of a stopped member takes its place, also at another address than
// that in the member list. The one that was there before comes second then.
func TestCopyOfAStoppedMemberTakesItsPlace(t *testing.T) {
	r := newHTTPRig(t)
	a, b := r.start(t, 1, 2), r.start(t, 2, 1)
	r.link(t, a, b)
	r.stop(b)
	moved := copyOf(t, r, 2, 1)
	a.recv.wait(t, "a message of the copy", func() bool { return len(a.recv.got) > 0 }, func() {
		moved.sender.Send([]raftpb.Message{heartbeat(2, 1, 1)})
	})
	if n := metric(t, r.metrics, "deimos_peer_messages_refused_total", string(refusedUnsettled)); n != 0 {
		t.Errorf("%v requests had to wait, want none", n)
	}
	old := r.start(t, 2, 1)
	var got *TwinError
	if err := end(t, old); !errors.As(err, &got) {
		t.Errorf("Err() of the one that comes back = %v, want a TwinError", err)
	}
	select {
	case err := <-moved.sender.Err():
		t.Errorf("Err() of the copy = %v, want nothing", err)
	default:
	}
}

// Goal: what kills a process and starts another one in its place does not make
// the new one wait.
func TestProcessThatIsRestartedInPlaceIsLetInAtOnce(t *testing.T) {
	for _, secret := range []bool{false, true} {
		r := newHTTPRig(t)
		if secret {
			r.secret = secretNo(t, 1)
		}
		a, b := r.start(t, 1, 2), r.start(t, 2, 1)
		for range 5 {
			eventually(t, "a connection", func() bool {
				return !a.sender.ActiveSince(2).IsZero() && !b.sender.ActiveSince(1).IsZero()
			})
			r.stop(b)
			b = r.start(t, 2, 1)
			if _, err := b.sender.Call(t.Context(), 1, nil); err != nil {
				t.Errorf("Call() of the new process = %v, want nil", err)
			}
			if _, err := a.sender.Call(t.Context(), 2, nil); err != nil {
				t.Errorf("Call() to the new process = %v, want nil", err)
			}
		}
		for _, reason := range []refusal{refusedTwin, refusedUnsettled} {
			if n := metric(t, r.metrics, "deimos_peer_messages_refused_total", string(reason)); n != 0 {
				t.Errorf("%v requests were refused with %q, want none", n, reason)
			}
		}
	}
}

func TestRunsOfSenders(t *testing.T) {
	r := newHTTPRig(t)
	h := r.start(t, 1).sender.(*HTTP)
	// Nobody is at the URL of member 2, so that whoever is silent has ended.
	if err := h.AddPeer(deimos.Member{ID: 2, PeerURLs: []string{r.url(t, 2)}}); err != nil {
		t.Fatal(err)
	}
	open := func(run int) { // as if run held a stream
		h.runs.of(2).open.Store(1)
		if got := h.runs.of(2).run; got != runNo(run) {
			t.Errorf("run %s speaks, want %s", got, runNo(run))
		}
	}
	post := func(query string) (int, refusal) {
		req := request(t, "POST", "http://one", "/raft", bytes.NewReader(encode(t, heartbeat(2, 1, 1))))
		req.URL.RawQuery = query
		w := serve(h, req)
		return w.Code, refusal(w.Header().Get(headerRefused))
	}
	for _, tt := range []struct {
		name, query string
		before      func()
		want        int
		reason      refusal
	}{
		{"none, as of an old version", "", nil, 204, ""},
		{"one that is none", "run=1", nil, 400, refusedOpening},
		{"the first", "run=" + runNo(1), nil, 204, ""},
		{"the first again", "run=" + runNo(1), nil, 204, ""},
		{"another one after the first has ended", "run=" + runNo(2), nil, 204, ""},
		{"another one while it is not known that the last has ended", "run=" + runNo(3), func() { open(2) }, 503, refusedUnsettled},
		{"none, after one was named", "", nil, 204, ""},
		{"the last", "run=" + runNo(2), nil, 204, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.before != nil {
				tt.before()
			}
			if got, reason := post(tt.query); got != tt.want || reason != tt.reason {
				t.Errorf("message = %d, %q, want %d, %q", got, reason, tt.want, tt.reason)
			}
		})
	}
	if h.RemovePeer(2); h.runs.of(2) != nil {
		t.Error("the run of a member that was removed is still known")
	}
}

func TestStreamOfAProcessEndsWhenAnotherOneSpeaks(t *testing.T) {
	message := framed(t, heartbeat(2, 1, 1))
	speaker := newTenure(runNo(1), "")
	s := newStream(io.NopCloser(bytes.NewReader(slices.Repeat(message, 2))), false)
	s.speaker, s.leave = speaker, speaker.enter()
	got := make([]byte, len(message))
	if _, err := io.ReadFull(s, got); err != nil || !bytes.Equal(got, message) {
		t.Fatalf("Read() = %x, %v, want %x", got, err, message)
	}
	speaker.over.Store(true)
	if n, err := s.Read(got); n != 0 || !errors.Is(err, errOver) {
		t.Errorf("Read() = %d, %v, want 0, %v", n, err, errOver)
	}
	for range 2 {
		if err := s.Close(); err != nil || speaker.open.Load() != 0 {
			t.Errorf("Close() = %v, %d streams are open, want nil, 0", err, speaker.open.Load())
		}
	}
}

// Goal: who came to the cluster first does not end because one peer met the other
// process first, unless that does not pass.
func TestOnlyTheSecondProcessEndsAtOnce(t *testing.T) {
	type told struct {
		after, known time.Duration
		want         bool
	}
	for _, tt := range []struct {
		name     string
		accepted bool
		told     []told
	}{
		{"nobody has accepted it", false, []told{{0, 0, true}}},
		{"the other one was there before", true, []told{{time.Minute, time.Hour, true}}},
		{"it was there before", true, []told{{time.Hour, time.Minute, false}}},
		{"it was there before, but is told so for long", true, []told{
			{time.Hour, 0, false}, {5 * time.Second, 0, false}, {5 * time.Second, 0, false}, {5 * time.Second, 0, false},
			{5 * time.Second, 0, false}, {5 * time.Second, 0, false}, {5 * time.Second, 0, false}, {5 * time.Second, 0, false},
			{5 * time.Second, 0, false}, {5 * time.Second, 0, false}, {5 * time.Second, 0, false}, {5 * time.Second, 0, false},
			{5 * time.Second, 0, true},
		}},
		{"it was there before, and is told so once in a while", true, []told{
			{time.Hour, 0, false}, {time.Minute, 0, false}, {time.Minute, 0, false},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var v verdicts
			if tt.accepted {
				v.accept()
			}
			now := v.since
			for i, s := range tt.told {
				now = now.Add(s.after)
				if got := v.isSecond(s.known, now); got != s.want {
					t.Errorf("isSecond() the %d. time = %t, want %t", i+1, got, s.want)
				}
			}
		})
	}
}

// Goal: nobody without the secret can make a member believe that it runs twice.
func TestProofCoversTheOtherProcess(t *testing.T) {
	s := secretNo(t, 1)
	h := make(http.Header)
	without := s.answerProof("", 409, h)
	h.Set(headerTwin, formatTwin(newTenure(runNo(1), "http://a:1")))
	with := s.answerProof("", 409, h)
	h.Set(headerTwin, formatTwin(newTenure(runNo(1), "http://b:1")))
	if other := s.answerProof("", 409, h); with == without || with == other {
		t.Error("answers about different processes have the same proof")
	}
}

func TestOtherProcessIsReadOrRefused(t *testing.T) {
	long := newTenure(runNo(1), strings.Repeat("é", placeMaxBytes))
	for _, tt := range []struct {
		name, text string
		known      time.Duration
		place      string
		wrong      bool
	}{
		{"nothing", "", 0, "", false},
		{"time and place", "1500 http://a:1, seen from b:2", 1500 * time.Millisecond, "http://a:1, seen from b:2", false},
		{"no place", "7", 7 * time.Millisecond, "", false},
		{"a long place", "7 " + long.place, 7 * time.Millisecond, strings.Repeat("é", placeMaxBytes/2), false},
		{"no time", "x y", 0, "", true},
		{"a time before", "-1 y", 0, "", true},
		{"a time that no cluster has", "1099511627776 y", 0, "", true},
		{"a place that is too long", "1 " + strings.Repeat("y", placeMaxBytes+1), 0, "", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := make(http.Header)
			h.Set(headerTwin, tt.text)
			known, place, err := parseTwin(h)
			if (err != nil) != tt.wrong || known != tt.known || place != tt.place {
				t.Errorf("parseTwin(%q) = %v, %q, %v, want %v, %q, an error: %t", tt.text, known, place, err, tt.known, tt.place, tt.wrong)
			}
		})
	}
}
