package transport

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos"
)

// guarded is member 1 with a secret, which knows member 2.
func guarded(t testing.TB) (*HTTP, *recorder) {
	t.Helper()
	r := newHTTPRig(t)
	r.secret = secretNo(t, 1)
	r.incarnationOf = firstEight
	recv := newRecorder()
	cfg := r.config(t, 1, recv)
	cfg.Log = nil
	h, err := NewHTTP(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Stop)
	// A peer that nobody answers for: these tests speak in its name.
	if err := h.AddPeer(deimos.Member{ID: 2, PeerURLs: []string{r.url(t, 2)}}); err != nil {
		t.Fatal(err)
	}
	return h, recv
}

// signed is a sound request of member 2 to member 1 with a proof.
func signed(t testing.TB, h *HTTP, method, path string, body, covered []byte) *http.Request {
	t.Helper()
	r := request(t, method, "http://one", path, bytes.NewReader(body))
	r.RemoteAddr = "192.0.2.1:1"
	o := opener{secret: h.cfg.Secret}
	o.setRun(r.URL.Host, h.door.run)
	o.sign(r, digest(covered))
	return r
}

func serve(h *HTTP, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.Handler().ServeHTTP(w, r)
	return w
}

func TestProofCoversTheWholeOpening(t *testing.T) {
	h, recv := guarded(t)
	beat := encode(t, heartbeat(2, 1, 1))
	resign := func(r *http.Request) { r.Header.Set(headerProof, h.cfg.Secret.requestProof(r)) }
	header := func(key, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(key, value) }
	}
	proven := func(key, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(key, value); resign(r) }
	}
	clock := func(off time.Duration) string { return strconv.FormatInt(time.Now().Add(off).UnixMilli(), 10) }
	for i, tt := range []struct {
		name   string
		change func(*http.Request)
		want   int
		reason refusal
	}{
		{"sound", func(*http.Request) {}, 204, ""},
		{"no proof", header(headerProof, ""), 401, refusedSecret},
		{"another proof", header(headerProof, strings.Repeat("0", 64)), 401, refusedSecret},
		{"half a proof", func(r *http.Request) { r.Header.Set(headerProof, r.Header.Get(headerProof)[:32]) }, 401, refusedSecret},
		{"proof of another secret", func(r *http.Request) {
			r.Header.Set(headerProof, secretNo(t, 2).requestProof(r))
		}, 401, refusedSecret},
		{"proof of an answer", func(r *http.Request) {
			r.Header.Set(headerProof, h.cfg.Secret.answerProof("", 200, r.Header))
		}, 401, refusedSecret},
		{"another method", func(r *http.Request) { r.Method = "PUT" }, 401, refusedSecret},
		{"another path", func(r *http.Request) { r.URL.Path = "/raft/snapshot" }, 401, refusedSecret},
		{"another query", func(r *http.Request) { r.URL.RawQuery = "a=b" }, 401, refusedSecret},
		{"another cluster", header(headerCluster, "c2"), 401, refusedSecret},
		{"another sender", header(headerSender, "3"), 401, refusedSecret},
		{"another receiver", header(headerReceiver, "3"), 401, refusedSecret},
		{"another incarnation", header(headerIncarnation, incarnationNo(9).String()), 401, refusedSecret},
		{"no expectation", header(headerExpects, ""), 401, refusedSecret},
		{"another time", header(headerTime, clock(time.Second)), 401, refusedSecret},
		{"another nonce", header(headerNonce, newNonce()), 401, refusedSecret},
		{"another digest", header(headerDigest, digest(nil)), 401, refusedSecret},
		{"other peer URLs", header(headerPeerURLs, "http://127.0.0.1:2"), 401, refusedSecret},
		{"another run", header(headerRun, newNonce()), 401, refusedRun},
		{"no run", header(headerRun, ""), 401, refusedRun},
		{"another body", func(r *http.Request) {
			r.Body = io.NopCloser(bytes.NewReader(encode(t, heartbeat(2, 1, 9))))
		}, 401, refusedSecret},
		{"a proven digest of something else", proven(headerDigest, digest(nil)), 401, refusedSecret},
		{"a proven nonce that is none", proven(headerNonce, "1"), 401, refusedSecret},
		{"a proven time that is none", proven(headerTime, "now"), 401, refusedSecret},
		{"a clock that is late", proven(headerTime, clock(-proofWindow-time.Minute)), 412, refusedClock},
		{"a clock that is a little late", proven(headerTime, clock(-proofWindow+time.Minute)), 204, ""},
		{"a clock that is early", proven(headerTime, clock(proofWindow+time.Minute)), 412, refusedClock},
		{"a proven cluster that is another", proven(headerCluster, "c2"), 412, refusedCluster},
		{"a proven sender that is unknown", proven(headerSender, "9"), 503, refusedSender},
		{"a proven incarnation that is another", proven(headerIncarnation, incarnationNo(9).String()), 409, refusedIncarnation},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := len(recv.messages())
			r := signed(t, h, "POST", "/raft", beat, beat)
			r.RemoteAddr = fmt.Sprintf("192.0.2.%d:1", i)
			tt.change(r)
			proof := r.Header.Get(headerProof)
			w := serve(h, r)
			if got := refusal(w.Header().Get(headerRefused)); w.Code != tt.want || got != tt.reason {
				t.Errorf("status = %d, refused = %q, want %d, %q", w.Code, got, tt.want, tt.reason)
			}
			if got := w.Header().Get(headerRun); got != h.door.run {
				t.Errorf("run = %q, want %q", got, h.door.run)
			}
			wantProof := h.cfg.Secret.answerProof(proof, w.Code, w.Header())
			passed := tt.want != 401 || strings.Contains(tt.name, "digest of something") || tt.name == "another body"
			if got := w.Header().Get(headerProof) == wantProof; got != passed {
				t.Errorf("the answer is proven: %t, want %t", got, passed)
			}
			if got := len(recv.messages()) - before; (got == 1) != (tt.want == 204) {
				t.Errorf("%d messages were delivered with status %d", got, tt.want)
			}
		})
	}
}

func TestProofCoversTheHeadOfASnapshot(t *testing.T) {
	h, recv := guarded(t)
	head, other := framed(t, snapshotMessage(2, 1, 5)), framed(t, snapshotMessage(2, 1, 6))
	body := append(bytes.Clone(head), "body"...)
	if got := serve(h, signed(t, h, "POST", "/raft/snapshot", body, other)).Code; got != 401 {
		t.Errorf("snapshot with the proof of another = %d, want 401", got)
	}
	if got := files(t, h.cfg.SnapDir); len(got) != 0 || len(recv.messages()) != 0 {
		t.Errorf("files = %v, messages = %v, want none", got, recv.messages())
	}
	if got := serve(h, signed(t, h, "POST", "/raft/snapshot", body, head)).Code; got != 204 || len(recv.messages()) != 1 {
		t.Errorf("snapshot with its proof = %d, want 204 and a message", got)
	}
}

func TestProofIsGoodForOneRequestOfOneRun(t *testing.T) {
	h, recv := guarded(t)
	beat := encode(t, heartbeat(2, 1, 1))
	first := signed(t, h, "POST", "/raft", beat, beat)
	again := func() *http.Request {
		r := first.Clone(t.Context())
		r.Body = io.NopCloser(bytes.NewReader(beat))
		return r
	}
	for i, want := range []int{204, 401, 401} {
		if got := serve(h, again()).Code; got != want {
			t.Errorf("use %d = %d, want %d", i+1, got, want)
		}
	}
	other, _ := guarded(t)
	if got := serve(other, again()).Code; got != 401 {
		t.Errorf("use for another run = %d, want 401", got)
	}
	if got := len(recv.messages()); got != 1 {
		t.Errorf("%d messages were delivered, want 1", got)
	}
}

func TestNoncesAreBoundedAndNeverUsedTwice(t *testing.T) {
	n := nonces{used: make(map[string]bool)}
	const minute = 60_000
	now := int64(100 * minute)
	for i := range int64(noncesMax + 10) {
		if !n.spend(strconv.FormatInt(i, 10), now+i, now-5*minute) {
			t.Fatalf("spend(%d) = false, want true", i)
		}
	}
	for i := range int64(noncesMax + 10) {
		if n.spend(strconv.FormatInt(i, 10), now+i, now-5*minute) {
			t.Fatalf("spend(%d) = true the second time", i)
		}
	}
	if len(n.queue) != noncesMax || len(n.used) != noncesMax {
		t.Errorf("%d and %d are remembered, want %d", len(n.queue), len(n.used), noncesMax)
	}
	if n.spend("old", now+9, now-5*minute) {
		t.Error("spend of an old one = true, want false")
	}
	if !n.spend("new", now+20*minute, now+15*minute) || len(n.queue) != 1 {
		t.Errorf("%d are remembered after their time, want the new one only", len(n.queue))
	}
	if n.spend("5", now+5, now-5*minute) {
		t.Error("spend of a used one = true after our clock was set back, want false")
	}
}

func TestGuessingIsPaused(t *testing.T) {
	h, _ := guarded(t)
	clock := time.Now()
	h.door.now = func() time.Time { return clock }
	beat := encode(t, heartbeat(2, 1, 1))
	guess := func(address string) int {
		r := signed(t, h, "POST", "/raft", beat, beat)
		r.RemoteAddr = address + ":1"
		r.Header.Set(headerProof, "guess")
		return serve(h, r).Code
	}
	for i := range failuresMax {
		if got := guess("192.0.2.9"); got != 401 {
			t.Errorf("guess %d = %d, want 401", i+1, got)
		}
	}
	sound := func(address string) int {
		r := signed(t, h, "POST", "/raft", beat, beat)
		r.RemoteAddr = address + ":1"
		return serve(h, r).Code
	}
	if got := sound("192.0.2.9"); got != 429 {
		t.Errorf("sound request after %d guesses = %d, want 429", failuresMax, got)
	}
	if got := sound("192.0.2.8"); got != 204 {
		t.Errorf("sound request from another address = %d, want 204", got)
	}
	clock = clock.Add(failurePause)
	if got := sound("192.0.2.9"); got != 204 {
		t.Errorf("sound request after the pause = %d, want 204", got)
	}
	for i := range 3 * failuresMax { // slower than the limit
		clock = clock.Add(failurePause / (failuresMax / 2))
		if got := guess("192.0.2.7"); got != 401 {
			t.Errorf("slow guess %d = %d, want 401", i+1, got)
		}
	}
	for i := range 2 * addressesMax {
		clock = clock.Add(time.Microsecond)
		guess(fmt.Sprintf("198.51.%d.%d", i/256, i%256))
	}
	if got := len(h.door.addresses.failures); got != addressesMax {
		t.Errorf("%d addresses are remembered, want %d", got, addressesMax)
	}
	for _, i := range []int{0, 2*addressesMax - 1} {
		_, got := h.door.addresses.failures[fmt.Sprintf("198.51.%d.%d", i/256, i%256)]
		if want := i > 0; got != want {
			t.Errorf("address %d is remembered: %t, want %t: the oldest is forgotten", i, got, want)
		}
	}
	if got := sound("203.0.113.1"); got != 204 {
		t.Errorf("sound request beside guesses of too many addresses = %d, want 204", got)
	}
}

// Goal: who shares an address with a member cannot keep the member out, and an
// address that never proved anything is not even looked at.
func TestGuessesOfANeighbourDoNotKeepMembersOut(t *testing.T) {
	h, _ := guarded(t)
	clock := time.Now()
	h.door.now = func() time.Time { return clock }
	beat := encode(t, heartbeat(2, 1, 1))
	send := func(change func(*http.Request)) int {
		r := signed(t, h, "POST", "/raft", beat, beat)
		r.Header.Set(headerTime, strconv.FormatInt(clock.UnixMilli(), 10))
		r.Header.Set(headerProof, h.cfg.Secret.requestProof(r))
		if change != nil {
			change(r)
		}
		return serve(h, r).Code
	}
	guess := func(r *http.Request) { r.Header.Set(headerProof, "guess") }
	pause := func() {
		t.Helper()
		for range failuresMax {
			if got := send(guess); got != 401 {
				t.Fatalf("guess = %d, want 401", got)
			}
		}
	}
	as := func(sender string) func(*http.Request) {
		return func(r *http.Request) {
			r.Header.Set(headerSender, sender)
			r.Header.Set(headerProof, h.cfg.Secret.requestProof(r))
		}
	}
	pause()
	if got := send(nil); got != 429 {
		t.Errorf("sound request from an address that never proved anything = %d, want 429", got)
	}
	clock = clock.Add(failurePause)
	if got := send(nil); got != 204 {
		t.Fatalf("sound request after the pause = %d, want 204", got)
	}
	pause()
	for _, tt := range []struct {
		name   string
		change func(*http.Request)
		want   int
	}{
		{"sound", nil, 204},
		{"guess", guess, 429},
		{"no proof", func(r *http.Request) { r.Header.Del(headerProof) }, 429},
		{"sound, of an unknown sender", as("9"), 429},
		{"sound, of nobody", as(""), 429},
		{"for another run", func(r *http.Request) { r.Header.Set(headerRun, newNonce()) }, 401},
		{"sound again", nil, 204},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := send(tt.change); got != tt.want {
				t.Errorf("request from a paused address = %d, want %d", got, tt.want)
			}
		})
	}
	clock = clock.Add(soundTime + time.Second)
	pause()
	if got := send(nil); got != 429 {
		t.Errorf("sound request %v after the last sound one = %d, want 429", soundTime+time.Second, got)
	}
}

func TestSoundAddressesAreBounded(t *testing.T) {
	var a addresses
	start := time.Now()
	for i := range addressesMax + 1 {
		a.succeeded(strconv.Itoa(i), start.Add(time.Duration(i)))
	}
	now := start.Add(time.Second)
	if got := len(a.sound); got != addressesMax {
		t.Errorf("%d addresses are remembered, want %d", got, addressesMax)
	}
	if a.isSound("0", now) || !a.isSound("1", now) || !a.isSound(strconv.Itoa(addressesMax), now) {
		t.Error("another one than the oldest was forgotten")
	}
}

func TestAddressIsThatOfAMachine(t *testing.T) {
	for _, tt := range []struct{ remote, want string }{
		{"192.0.2.1:80", "192.0.2.1"},
		{"[::ffff:192.0.2.1]:80", "192.0.2.1"},
		{"[2001:db8:1:2:3:4:5:6]:80", "2001:db8:1:2::/64"},
		{"[2001:db8:1:2:ffff::1]:9", "2001:db8:1:2::/64"},
		{"[2001:db8:1:3::1]:80", "2001:db8:1:3::/64"},
		{"[fe80::1%eth0]:80", "fe80::/64"},
		{"@", "@"},
		{"name:80", "name"},
	} {
		t.Run(tt.remote, func(t *testing.T) {
			if got := addressOf(&http.Request{RemoteAddr: tt.remote}); got != tt.want {
				t.Errorf("addressOf(%s) = %s, want %s", tt.remote, got, tt.want)
			}
		})
	}
}

// Goal: many senders do not lock out new ones, and forgetting one lets none of
// his proofs be used again.
func TestSendersAreBoundedAndNeverLockedOut(t *testing.T) {
	d := newDoor(secretNo(t, 1), func(uint64) bool { return true })
	now := time.Now()
	spend := func(sender int, at time.Time) *refusedOpen {
		h := make(http.Header)
		h.Set(headerSender, strconv.FormatInt(int64(sender), 16))
		h.Set(headerTime, strconv.FormatInt(at.UnixMilli(), 10))
		h.Set(headerNonce, fmt.Sprintf("%032x", at.UnixMilli()))
		return d.fresh(h, now)
	}
	at := func(sender int) time.Time { return now.Add(time.Duration(sender) * time.Millisecond) }
	const all = 2 * sendersMax
	for sender := 1; sender <= all; sender++ {
		if got := spend(sender, at(sender)); got != nil {
			t.Fatalf("first proof of sender %d: %v, want it taken", sender, got.err)
		}
	}
	if got := len(d.spent); got != sendersMax {
		t.Errorf("%d senders are remembered, want %d", got, sendersMax)
	}
	for sender := 1; sender <= all; sender++ {
		if got := spend(sender, at(sender)); got == nil || got.reason != refusedSecret {
			t.Fatalf("the same proof of sender %d: %v, want it refused", sender, got)
		}
	}
	if got := spend(all, at(all-1)); got != nil {
		t.Errorf("an older proof of a sender that is remembered: %v, want it taken", got.err)
	}
	if got := spend(1, at(all+1)); got != nil {
		t.Errorf("a newer proof of a sender that was forgotten: %v, want it taken", got.err)
	}
}

// hostile makes an opening that is wrong somewhere, or everywhere.
func hostile(t testing.TB, h *HTTP, rng *rand.Rand, bodies [][]byte) *http.Request {
	paths := []string{
		"/raft", "/raft/snapshot", "/raft/stream/message/2", "/raft/stream/msgapp/2", "/deimos/call", "/members",
		"/raft/probing", "/raft/stream/message/9", "/raft/stream/x/2",
	}
	pick := func(list ...string) string { return list[rng.IntN(len(list))] }
	body := bodies[rng.IntN(len(bodies))]
	r := signed(t, h, pick("GET", "POST", "PUT", "HEAD"), pick(paths...), body, body)
	r.RemoteAddr = fmt.Sprintf("203.0.%d.%d:1", rng.IntN(256), rng.IntN(256))
	for range 1 + rng.IntN(4) {
		key := pick(headerCluster, headerSender, headerReceiver, headerIncarnation, headerExpects, headerRun,
			headerTime, headerNonce, headerDigest, headerVersion, headerMinimum)
		r.Header.Set(key, pick("", "0", "1", "2", "c1", "c2", "x", "3.6.0", h.door.run, newNonce(), digest(body), strconv.FormatUint(rng.Uint64(), 16)))
	}
	switch rng.IntN(4) {
	case 0:
		r.Header.Del(headerProof)
	case 1:
		r.Header.Set(headerProof, pick("", "x", digest(body), strings.Repeat("0", 64)))
	case 2:
		r.Header.Set(headerProof, secretNo(t, 2).requestProof(r))
	default:
		r.Header.Set(headerNonce, newNonce()) // the proof is of another request
	}
	return r
}

// Goal: without the secret nothing gets through, whatever is tried.
func TestHostileOpeningsDeliverNothing(t *testing.T) {
	h, recv := guarded(t)
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 1))
	bodies := [][]byte{
		nil, {0xff}, encode(t, heartbeat(2, 1, 1)), encode(t, raftpb.Message{Type: raftpb.MsgVote, From: 2, To: 1, Term: 99}),
		append(framed(t, snapshotMessage(2, 1, 5)), "body"...), bytes.Repeat([]byte("x"), 1000),
	}
	for i := range 20_000 {
		w := serve(h, hostile(t, h, rng, bodies))
		if w.Code < 400 {
			t.Fatalf("seed %d: opening %d = %d, want a refusal", seed, i, w.Code)
		}
	}
	if got := recv.messages(); len(got) != 0 {
		t.Errorf("seed %d: messages = %v, want none", seed, got)
	}
	if got := files(t, h.cfg.SnapDir); len(got) != 0 {
		t.Errorf("seed %d: files = %v, want none", seed, got)
	}
	select {
	case err := <-h.Err():
		t.Errorf("seed %d: Err() = %v, want nothing", seed, err)
	default:
	}
}

// countingListener counts what is read from its connections.
type countingListener struct {
	net.Listener
	mu   sync.Mutex
	read map[string]int // by the address of the client
}

type countingConn struct {
	net.Conn
	l *countingListener
}

func (l *countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return countingConn{c, l}, err
}

func (c countingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	c.l.read[c.RemoteAddr().String()] += n
	return n, err
}

// Goal: a body without credentials is hardly read, whatever its length, and its
// connection is closed soon.
func TestBodyWithoutCredentialsIsNotRead(t *testing.T) {
	h, recv := guarded(t)
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &countingListener{Listener: inner, read: make(map[string]int)}
	srv := &http.Server{Handler: h.Handler(), ReadHeaderTimeout: time.Minute}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	chunk := fmt.Appendf(nil, "%x\r\n%s\r\n", 1<<20, strings.Repeat("x", 1<<20))
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var wg sync.WaitGroup
	for _, head := range []string{"Transfer-Encoding: chunked", "Content-Length: 200000", "Content-Length: 99999999999"} {
		for _, path := range []string{"/raft", "/raft/snapshot", "/deimos/call", "/members", "/raft/stream/message/2", "/none"} {
			for _, body := range [][]byte{nil, chunk} {
				for range 5 {
					wg.Go(func() { pour(t, inner.Addr().String(), path, head, body) })
				}
			}
		}
	}
	wg.Wait()
	runtime.ReadMemStats(&after)
	if rise := int64(after.HeapAlloc) - int64(before.HeapAlloc); rise > 32<<20 {
		t.Errorf("memory rises by %d bytes, want at most %d", rise, 32<<20)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for address, n := range l.read {
		if n > 64<<10 {
			t.Errorf("%d bytes of %s were read, want at most %d", n, address, 64<<10)
		}
	}
	if got := recv.messages(); len(got) != 0 {
		t.Errorf("messages = %v, want none", got)
	}
}

// pour sends the headers of a request and many times the chunk. It fails unless
// the connection ends within 5 s.
func pour(t *testing.T, address, path, head string, chunk []byte) {
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	deadline := time.Now().Add(5 * time.Second)
	_ = c.SetDeadline(deadline)
	if _, err := fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n", path, head); err != nil {
		t.Error(err)
		return
	}
	for range 16 {
		if _, err := c.Write(chunk); err != nil {
			break // the connection has ended, as it must
		}
	}
	answer, err := io.ReadAll(c)
	if !time.Now().Before(deadline) {
		t.Errorf("POST %s with %s: open after 5 s", path, head)
	}
	if chunk == nil && (err != nil || !bytes.Contains(answer, []byte("Connection: close"))) {
		t.Errorf("POST %s with %s = %q, %v, want the end of the connection", path, head, answer, err)
	}
}
