package transport

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/goleak"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/raftnode"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds how long a test waits for what must happen.
const patience = 20 * time.Second

// recorder is a receiver that keeps what it gets.
type recorder struct {
	mu          sync.Mutex
	changed     chan struct{}
	got         []raftpb.Message
	unreachable map[uint64]int
	snapshots   []snapshotReport
	// process, if set, is asked first.
	process func(raftpb.Message) error
}

var _ raftnode.Receiver = (*recorder)(nil)

// errTaken makes a recorder accept a message without keeping it.
var errTaken = errors.New("taken")

func newRecorder() *recorder {
	return &recorder{changed: make(chan struct{}), unreachable: make(map[uint64]int)}
}

func (r *recorder) record(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *recorder) Process(m raftpb.Message) error {
	r.mu.Lock()
	process := r.process
	r.mu.Unlock()
	if process != nil {
		if err := process(m); errors.Is(err, errTaken) {
			return nil
		} else if err != nil {
			return err
		}
	}
	r.record(func() { r.got = append(r.got, m) })
	return nil
}

func (r *recorder) ReportUnreachable(id uint64) { r.record(func() { r.unreachable[id]++ }) }

func (r *recorder) ReportSnapshot(id uint64, status raft.SnapshotStatus) {
	r.record(func() { r.snapshots = append(r.snapshots, snapshotReport{id, status}) })
}

func (r *recorder) refuseWith(process func(raftpb.Message) error) {
	r.record(func() { r.process = process })
}

// wait waits until the condition, which is called with the recorder locked,
// holds. Every 20 ms it calls again, if given, to make progress.
func (r *recorder) wait(t testing.TB, what string, condition func() bool, again func()) {
	t.Helper()
	deadline := time.After(patience)
	for {
		r.mu.Lock()
		ok, changed := condition(), r.changed
		r.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-time.After(20 * time.Millisecond):
			if again != nil {
				again()
			}
		case <-deadline:
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

func (r *recorder) losses(id uint64) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.unreachable[id]
}

func (r *recorder) messages() []raftpb.Message {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.got[:len(r.got):len(r.got)]
}

// eventually waits for something that no recorder sees.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	newRecorder().wait(t, what, condition, nil)
}

// sender is what both transports can do.
type sender interface {
	raftnode.Sender
	AddPeer(deimos.Member) error
	UpdatePeer(deimos.Member) error
	RemovePeer(uint64)
	Call(context.Context, uint64, []byte) ([]byte, error)
	Stats() Stats
	ActiveSince(uint64) time.Time
	Err() <-chan error
	Stop()
}

// node is a member of a rig.
type node struct {
	id     uint64
	sender sender
	recv   *recorder
	dir    string
}

// rig is a few members on one kind of transport, which know each other.
type rig interface {
	// start makes a member; the ids that it knows start before or after it.
	start(t testing.TB, id uint64, peers ...uint64) *node
	// stop ends a member. start with the same id brings it back.
	stop(n *node)
	// link waits until messages between two members take their usual way.
	link(t testing.TB, a, b *node)
	// markRemoved makes all members know that an id was removed.
	markRemoved(id uint64)
}

// rigs are the implementations that the conformance tests run over.
func rigs(t *testing.T, f func(t *testing.T, r rig)) {
	t.Helper()
	t.Run("HTTP", func(t *testing.T) { f(t, newHTTPRig(t)) })
	t.Run("HTTP with a secret", func(t *testing.T) {
		r := newHTTPRig(t)
		r.secret = secretNo(t, 1)
		f(t, r)
	})
	t.Run("Network", func(t *testing.T) { f(t, &networkRig{NewNetwork()}) })
}

type networkRig struct {
	network *Network
}

func (r *networkRig) start(t testing.TB, id uint64, _ ...uint64) *node {
	n := &node{id: id, recv: newRecorder(), dir: t.TempDir()}
	n.sender = r.network.Join(JoinConfig{ID: id, Receiver: n.recv, SnapDir: n.dir, Answer: echo(id)})
	t.Cleanup(n.sender.Stop)
	return n
}

func (r *networkRig) stop(n *node)                  { n.sender.Stop() }
func (r *networkRig) link(testing.TB, *node, *node) {}
func (r *networkRig) markRemoved(id uint64)         { r.network.Remove(id) }

// httpRig runs each member behind a listener on loopback.
type httpRig struct {
	clusterID uint64
	log       *logBook
	metrics   *prometheus.Registry
	// urls, if set for a pair, is where the first dials the second.
	urls map[direction]string

	// secret, if set, is shared by all members; secrets, if set for one, is its.
	secret  *Secret
	secrets map[uint64]*Secret
	// incarnation, if set for one, is what it runs with, and incarnationOf what
	// the log says.
	incarnation   map[uint64]deimos.Incarnation
	incarnationOf func(uint64) deimos.Incarnation
	// answer, if set, answers all calls.
	answer func(context.Context, uint64, []byte) []byte
	// change, if set, has the last word about a configuration.
	change func(*Config)

	mu      sync.Mutex
	addrs   map[uint64]string
	servers map[*node]*http.Server
	removed map[uint64]bool
	// members are what all members list.
	members []deimos.Member
}

// ServeHTTP lists the members.
func (r *httpRig) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	type member struct {
		ID       string   `json:"id"`
		PeerURLs []string `json:"peerURLs"`
	}
	var body struct {
		Members []member `json:"members"`
	}
	r.mu.Lock()
	for _, m := range r.members {
		body.Members = append(body.Members, member{deimos.FormatID(m.ID), m.PeerURLs})
	}
	r.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(body)
}

// list makes a member known to those that ask others.
func (r *httpRig) list(m deimos.Member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.members = append(r.members, m)
}

// incarnationNo is one that is easy to tell from others.
func incarnationNo(n uint64) (i deimos.Incarnation) {
	binary.BigEndian.PutUint64(i[8:], n)
	i[0] = 0xdd
	return i
}

// echo answers calls with who was called by whom, and what was said.
func echo(id uint64) func(context.Context, uint64, []byte) []byte {
	return func(_ context.Context, from uint64, request []byte) []byte {
		return fmt.Appendf(nil, "%x<%x:%s", id, from, request)
	}
}

func newHTTPRig(testing.TB) *httpRig {
	return &httpRig{
		secrets: make(map[uint64]*Secret), incarnation: make(map[uint64]deimos.Incarnation),
		clusterID: 0xc1, log: newLogBook(), metrics: prometheus.NewRegistry(),
		urls: make(map[direction]string), addrs: make(map[uint64]string),
		servers: make(map[*node]*http.Server), removed: make(map[uint64]bool),
	}
}

func (r *httpRig) isRemoved(id uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.removed[id]
}

func (r *httpRig) markRemoved(id uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.removed[id] = true
}

// url reserves an address for a member that may not have started yet.
func (r *httpRig) url(t testing.TB, id uint64) string {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.addrs[id] == "" {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		r.addrs[id] = l.Addr().String()
		l.Close()
	}
	return "http://" + r.addrs[id]
}

func (r *httpRig) config(t testing.TB, id uint64, recv *recorder) Config {
	cfg := Config{
		ClusterID: r.clusterID, MemberID: id, Name: fmt.Sprintf("n%d", id), PeerURLs: []string{r.url(t, id)},
		Incarnation: incarnationNo(id), IncarnationOf: r.incarnationOf, Secret: r.secret, Answer: echo(id), Members: r,
		SnapDir: t.TempDir(), Receiver: recv, IsRemoved: r.isRemoved, Log: slog.New(r.log.of(id)), Metrics: r.metrics,
	}
	if r.answer != nil {
		cfg.Answer = r.answer
	}
	if i, ok := r.incarnation[id]; ok {
		cfg.Incarnation = i
	}
	if s, ok := r.secrets[id]; ok {
		cfg.Secret = s
	}
	if r.change != nil {
		r.change(&cfg)
	}
	return cfg
}

func (r *httpRig) start(t testing.TB, id uint64, peers ...uint64) *node {
	t.Helper()
	recv := newRecorder()
	cfg := r.config(t, id, recv)
	h, err := NewHTTP(cfg)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{id: id, sender: h, recv: recv, dir: cfg.SnapDir}
	l, err := net.Listen("tcp", strings.TrimPrefix(cfg.PeerURLs[0], "http://"))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h.Handler(), ReadHeaderTimeout: time.Minute}
	r.mu.Lock()
	r.servers[n] = srv
	r.mu.Unlock()
	t.Cleanup(func() { r.stop(n) })
	for _, p := range peers {
		url := r.urls[direction{id, p}]
		if url == "" {
			url = r.url(t, p)
		}
		if err := h.AddPeer(deimos.Member{ID: p, PeerURLs: []string{url}}); err != nil {
			t.Fatal(err)
		}
	}
	go func() { _ = srv.Serve(l) }()
	return n
}

func (r *httpRig) stop(n *node) {
	n.sender.Stop()
	r.mu.Lock()
	srv := r.servers[n]
	delete(r.servers, n)
	r.mu.Unlock()
	if srv != nil {
		_ = srv.Close()
	}
}

// link waits until both streams of both members are open at both ends.
func (r *httpRig) link(t testing.TB, a, b *node) {
	t.Helper()
	eventually(t, fmt.Sprintf("streams between %d and %d", a.id, b.id), func() bool {
		return r.log.streams(a.id, b.id) >= 2 && r.log.streams(b.id, a.id) >= 2
	})
}

// pattern is a snapshot body of any size that takes no memory.
type pattern struct {
	size, at int64
	// closed counts the calls of Close.
	mu     sync.Mutex
	closed int
	// fail, if set, is returned once at bytes were read.
	fail   error
	failAt int64
	// pace, if set, is called before each read.
	pace func(at int64)
}

func patternByte(at int64) byte { return byte(at*7 + at>>12) }

func (p *pattern) Read(b []byte) (int, error) {
	if p.pace != nil {
		p.pace(p.at)
	}
	if p.fail != nil && p.at >= p.failAt {
		return 0, p.fail
	}
	if p.at == p.size {
		return 0, io.EOF
	}
	n := min(int64(len(b)), p.size-p.at)
	for i := range n {
		b[i] = patternByte(p.at + i)
	}
	p.at += n
	return int(n), nil
}

func (p *pattern) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed++
	return nil
}

func (p *pattern) closes() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// checkFile compares a received snapshot with the pattern.
func checkFile(t testing.TB, name string, size int64) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, 1<<16)
	var at int64
	for {
		n, err := f.Read(buf)
		for i := range n {
			if buf[i] != patternByte(at+int64(i)) {
				t.Fatalf("%s: byte %d = %d, want %d", name, at+int64(i), buf[i], patternByte(at+int64(i)))
			}
		}
		at += int64(n)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if at != size {
		t.Errorf("%s has %d bytes, want %d", name, at, size)
	}
}

// files lists a directory.
func files(t testing.TB, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func heartbeat(from, to, commit uint64) raftpb.Message {
	return raftpb.Message{Type: raftpb.MsgHeartbeat, From: from, To: to, Term: 1, Commit: commit}
}

func appendMessage(from, to, raftIndex uint64, data string) raftpb.Message {
	return raftpb.Message{
		Type: raftpb.MsgApp, From: from, To: to, Term: 1, LogTerm: 1, Index: raftIndex,
		Entries: []raftpb.Entry{{Term: 1, Index: raftIndex + 1, Data: []byte(data)}},
	}
}

func snapshotMessage(from, to, raftIndex uint64) raftpb.Message {
	return raftpb.Message{Type: raftpb.MsgSnap, From: from, To: to, Term: 2, Snapshot: &raftpb.Snapshot{
		Metadata: raftpb.SnapshotMetadata{Index: raftIndex, Term: 2, ConfState: raftpb.ConfState{Voters: []uint64{from, to}}},
	}}
}

// secretNo is a secret that differs from others.
func secretNo(t testing.TB, n int) *Secret {
	t.Helper()
	s, err := NewSecret(fmt.Appendf(nil, "the secret with the number %d", n))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// end waits for the error after which a member must stop.
func end(t testing.TB, n *node) error {
	t.Helper()
	select {
	case err := <-n.sender.Err():
		return err
	case <-time.After(patience):
		t.Fatalf("Err() of member %d: nothing within %v", n.id, patience)
		return nil
	}
}
