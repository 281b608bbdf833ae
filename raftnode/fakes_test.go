package raftnode

import (
	"bytes"
	"context"
	"encoding/gob"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// fakeLog keeps a log in memory. Fail makes the next append fail.
type fakeLog struct {
	mu       sync.Mutex
	hs       raftpb.HardState
	entries  []raftpb.Entry
	snapshot raftpb.SnapshotMetadata
	released uint64
	saved    uint64 // the raft index that SaveCommit was given last
	appends  int
	fail     error
	// gate, unless nil, holds every append until it is closed.
	gate chan struct{}
}

func (l *fakeLog) Append(hs raftpb.HardState, entries []raftpb.Entry) error {
	l.mu.Lock()
	gate := l.gate
	l.mu.Unlock()
	if gate != nil {
		<-gate
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return l.fail
	}
	l.appends++
	if !raft.IsEmptyHardState(hs) {
		l.hs = hs
	}
	for _, e := range entries {
		if n := len(l.entries); n > 0 && e.Index <= l.entries[n-1].Index {
			l.entries = slices.DeleteFunc(l.entries, func(old raftpb.Entry) bool { return old.Index >= e.Index })
		}
		l.entries = append(l.entries, e)
	}
	return nil
}

func (l *fakeLog) SaveCommit(raftIndex uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.saved = raftIndex
	return l.fail
}

func (l *fakeLog) SaveSnapshot(meta raftpb.SnapshotMetadata) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return l.fail
	}
	l.snapshot = meta
	return nil
}

func (l *fakeLog) Release(raftIndex uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.released = raftIndex
	return nil
}

func (l *fakeLog) setFail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fail = err
}

// recovered is what a member that starts again finds.
func (l *fakeLog) recovered(snapshot raftpb.SnapshotMetadata) Recovered {
	l.mu.Lock()
	defer l.mu.Unlock()
	rec := Recovered{Snapshot: snapshot, HardState: l.hs}
	for _, e := range l.entries {
		if e.Index > snapshot.Index {
			rec.Entries = append(rec.Entries, e)
		}
	}
	return rec
}

// fakeSnapshots keeps snapshots in memory; inbound holds what a transport
// received and nobody has installed.
type fakeSnapshots struct {
	mu      sync.Mutex
	saved   map[uint64]fakeSnapshot
	inbound map[uint64][]byte
	fail    error
	takes   time.Duration // Save, in a bubble
}

type fakeSnapshot struct {
	meta raftpb.SnapshotMetadata
	body []byte
}

func (s *fakeSnapshots) Save(meta raftpb.SnapshotMetadata, write func(io.Writer) error) error {
	var buf bytes.Buffer
	if err := write(&buf); err != nil {
		return err
	}
	s.mu.Lock()
	takes := s.takes
	s.mu.Unlock()
	if takes > 0 {
		<-time.After(takes)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return s.fail
	}
	s.saved[meta.Index] = fakeSnapshot{meta, buf.Bytes()}
	return nil
}

func (s *fakeSnapshots) Check(meta raftpb.SnapshotMetadata) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.inbound[meta.Index]; !ok {
		return fmt.Errorf("no received snapshot at %d", meta.Index)
	}
	return nil
}

func (s *fakeSnapshots) Discard(meta raftpb.SnapshotMetadata) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.saved, meta.Index)
	return nil
}

func (s *fakeSnapshots) Install(meta raftpb.SnapshotMetadata) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	body, ok := s.inbound[meta.Index]
	if !ok {
		return fmt.Errorf("no received snapshot at %d", meta.Index)
	}
	s.saved[meta.Index] = fakeSnapshot{meta, body}
	return nil
}

func (s *fakeSnapshots) Load(raftIndex uint64, read func(io.Reader) error) error {
	s.mu.Lock()
	shot, ok := s.saved[raftIndex]
	s.mu.Unlock()
	if !ok {
		return fmt.Errorf("no snapshot at %d", raftIndex)
	}
	return read(bytes.NewReader(shot.body))
}

func (s *fakeSnapshots) newest() (fakeSnapshot, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var best fakeSnapshot
	for _, shot := range s.saved {
		if shot.meta.Index > best.meta.Index {
			best = shot
		}
	}
	return best, best.meta.Index > 0
}

func (s *fakeSnapshots) Open() (raftpb.SnapshotMetadata, int64, io.ReadCloser, error) {
	shot, ok := s.newest()
	if !ok {
		return raftpb.SnapshotMetadata{}, 0, nil, fmt.Errorf("no snapshot")
	}
	return shot.meta, int64(len(shot.body)), io.NopCloser(bytes.NewReader(shot.body)), nil
}

func (s *fakeSnapshots) Prune() (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	indexes := make([]uint64, 0, len(s.saved))
	for i := range s.saved {
		indexes = append(indexes, i)
	}
	slices.Sort(indexes)
	if len(indexes) < 2 {
		return 0, nil
	}
	keep := indexes[len(indexes)-2]
	for _, i := range indexes[:len(indexes)-2] {
		delete(s.saved, i)
	}
	return keep, nil
}

// fakeMachine remembers what was applied.
type fakeMachine struct {
	mu      sync.Mutex
	texts   []string
	timeMS  int64
	fail    error
	changes []raftpb.ConfChange // that were applied
}

func (m *fakeMachine) Apply(entries []Entry, results []any) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	for i, e := range entries {
		if e.Data == nil {
			continue
		}
		m.texts = append(m.texts, string(e.Data[:min(len(e.Data), 64)]))
		m.timeMS = max(m.timeMS, e.TimeMS)
		results[i] = len(m.texts)
	}
	return nil
}

func (m *fakeMachine) ApplyConfChange(_ Entry, cc raftpb.ConfChange) (bool, any, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.changes = append(m.changes, cc)
	return true, nil, nil
}

func (m *fakeMachine) Capture() func(io.Writer) error {
	m.mu.Lock()
	texts := slices.Clone(m.texts)
	m.mu.Unlock()
	return func(w io.Writer) error { return gob.NewEncoder(w).Encode(texts) }
}

func (m *fakeMachine) Restore(_ uint64, r io.Reader) (int64, error) {
	var texts []string
	if err := gob.NewDecoder(r).Decode(&texts); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.texts = texts
	return 1, nil
}

func (m *fakeMachine) applied() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.texts)
}

// fakeNet joins the nodes of a test. Messages are copied, in order per pair.
type fakeNet struct {
	mu      sync.Mutex
	members map[uint64]*testNode
	cut     map[uint64]bool // members that nothing reaches and that reach nobody
}

type fakeSender struct {
	net  *fakeNet
	from uint64
}

func (s fakeSender) Send(ms []raftpb.Message) {
	for _, m := range ms {
		s.deliver(m)
	}
}

func (s fakeSender) deliver(m raftpb.Message) bool {
	s.net.mu.Lock()
	to := s.net.members[m.To]
	cut := s.net.cut[m.To] || s.net.cut[s.from]
	s.net.mu.Unlock()
	if to == nil || cut {
		return false
	}
	data, err := m.Marshal()
	if err != nil {
		panic(err)
	}
	var copied raftpb.Message
	if err := copied.Unmarshal(data); err != nil {
		panic(err)
	}
	return to.node.Process(copied) == nil
}

func (s fakeSender) SendSnapshot(m raftpb.Message, _ int64, body io.ReadCloser) {
	data, err := io.ReadAll(body)
	if err != nil {
		panic(err)
	}
	s.net.mu.Lock()
	from, to := s.net.members[s.from], s.net.members[m.To]
	s.net.mu.Unlock()
	status := raft.SnapshotFailure
	if to != nil {
		to.snapshots.mu.Lock()
		to.snapshots.inbound[m.Snapshot.Metadata.Index] = data
		to.snapshots.mu.Unlock()
		if s.deliver(m) {
			status = raft.SnapshotFinish
		}
	}
	from.node.ReportSnapshot(m.To, status)
}

type testNode struct {
	node      *Node
	log       *fakeLog
	snapshots *fakeSnapshots
	machine   *fakeMachine
}

// startNodes starts a cluster with fake disks and a fast clock.
func startNodes(t testing.TB, count int, change func(*Config)) (*fakeNet, []*testNode) {
	t.Helper()
	net := &fakeNet{members: map[uint64]*testNode{}, cut: map[uint64]bool{}}
	var ids []uint64
	for i := range count {
		ids = append(ids, uint64(i+1))
	}
	first := firstSnapshot(ids).Metadata
	var nodes []*testNode
	for _, id := range ids {
		var body bytes.Buffer
		if err := gob.NewEncoder(&body).Encode([]string(nil)); err != nil {
			t.Fatal(err)
		}
		tn := &testNode{
			log: &fakeLog{hs: raftpb.HardState{Commit: 1}},
			snapshots: &fakeSnapshots{
				saved:   map[uint64]fakeSnapshot{1: {first, body.Bytes()}},
				inbound: map[uint64][]byte{},
			},
			machine: &fakeMachine{},
		}
		nodes = append(nodes, tn)
		startNode(t, net, id, tn, first, change)
	}
	return net, nodes
}

func startNode(t testing.TB, net *fakeNet, id uint64, tn *testNode, from raftpb.SnapshotMetadata, change func(*Config)) {
	t.Helper()
	cfg := Config{
		ID: id, Run: 100 * (id + uint64(time.Now().UnixNano())),
		HeartbeatInterval: 10 * time.Millisecond, ElectionTimeout: 100 * time.Millisecond,
		SnapshotCount: 1000,
		Recovered:     tn.log.recovered(from),
		Log:           tn.log, Snapshots: tn.snapshots, Machine: tn.machine,
		Logger: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&cfg)
	}
	// The network must not deliver to a node that is not there yet.
	net.mu.Lock()
	defer net.mu.Unlock()
	node, err := New(cfg)
	if err != nil {
		t.Fatalf("New(%d): %v", id, err)
	}
	tn.node = node
	node.Start(fakeSender{net, id})
	net.members[id] = tn
	t.Cleanup(node.Stop)
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	for !cond() {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			t.Fatalf("waited 20 s for %s", what)
		}
	}
}

func proposal(text string) []byte {
	return append(make([]byte, PrefixBytes), text...)
}

func leaderOf(t testing.TB, nodes []*testNode) *testNode {
	t.Helper()
	var lead *testNode
	eventually(t, "a leader", func() bool {
		for _, tn := range nodes {
			if tn.node.Status().IsLeader() {
				lead = tn
				return true
			}
		}
		return false
	})
	return lead
}
