package server

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/raftnode"
	"github.com/marsevilspirit/deimos/server/serverpb"
	"github.com/marsevilspirit/deimos/store"
)

// logWriter makes the entries of a log.
type logWriter struct {
	index, seq uint64
	timeMS     int64
}

func (l *logWriter) entry(t testing.TB, c *serverpb.Command) raftnode.Entry {
	t.Helper()
	data, err := encode(c)
	if err != nil {
		t.Fatal(err)
	}
	l.index++
	l.seq++
	return raftnode.Entry{Index: l.index + 1, Term: 1, TimeMS: l.timeMS, Run: 7, Seq: l.seq, Data: data[raftnode.PrefixBytes:]}
}

func (l *logWriter) set(t testing.TB, key, value string, ttl int64) raftnode.Entry {
	c := writeCommand(&deimos.Request{Op: deimos.OpSet, Key: key, Value: value, HasTTL: ttl >= 0, TTLSeconds: max(ttl, 0)})
	return l.entry(t, &c)
}

func apply(t testing.TB, m *Machine, entries ...raftnode.Entry) []any {
	t.Helper()
	results := make([]any, len(entries))
	if err := m.Apply(entries, results); err != nil {
		t.Fatalf("Apply: %v", err)
	}
	return results
}

func newTestMachine() *Machine {
	return NewMachine(store.New(store.Config{}), []deimos.Member{
		{ID: 1, Name: "a", PeerURLs: []string{"http://127.0.0.1:1"}},
		{ID: 2, Name: "b", PeerURLs: []string{"http://127.0.0.1:2"}},
	}, nil)
}

func TestAWriteIsAppliedAndPublished(t *testing.T) {
	m := newTestMachine()
	log := &logWriter{timeMS: 1000}
	results := apply(t, m, log.set(t, "/a", "1", -1), log.set(t, "/a/b", "2", -1))
	event, ok := results[0].(*store.Event)
	if !ok || event.Index() != 2 {
		t.Fatalf("result of a write = %v, want the event of index 2", results[0])
	}
	if err, ok := results[1].(*deimos.Error); !ok || err.Code != deimos.CodeNotDir {
		t.Errorf("result of a write below a file = %v, want code %d", results[1], deimos.CodeNotDir)
	}
	view := m.Store().View()
	if view.Index() != 2 || view.RaftIndex() != log.index+1 {
		t.Errorf("published index %d at raft index %d, want 2 at %d", view.Index(), view.RaftIndex(), log.index+1)
	}
}

func TestAProposalThatArrivesTwiceIsAppliedOnce(t *testing.T) {
	m := newTestMachine()
	log := &logWriter{timeMS: 1}
	e := log.set(t, "/a", "1", -1)
	again := e
	again.Index++
	results := apply(t, m, e, again)
	if _, ok := results[0].(*store.Event); !ok {
		t.Errorf("first delivery = %v, want an event", results[0])
	}
	if results[1] != error(errDuplicate) {
		t.Errorf("second delivery = %v, want %v", results[1], errDuplicate)
	}
	if got := m.Store().View().Index(); got != 2 {
		t.Errorf("store index = %d, want 2: one of the two took effect", got)
	}
}

func TestExpiryFollowsTheTimeOfTheEntry(t *testing.T) {
	m := newTestMachine()
	log := &logWriter{timeMS: 1000}
	apply(t, m, log.set(t, "/a", "1", 5), log.set(t, "/b", "1", 50))
	expire := &serverpb.Command{Kind: serverpb.KindExpire, Expire: &serverpb.Expire{Limit: 10}}
	log.timeMS = 6000
	apply(t, m, log.entry(t, expire))
	if got := m.Store().View().Len(); got != 2 {
		t.Errorf("%d nodes at the deadline, want 2: expiry is never early", got)
	}
	log.timeMS = 6001
	apply(t, m, log.entry(t, expire))
	if got := m.Store().View().Len(); got != 1 {
		t.Errorf("%d nodes after the deadline, want 1", got)
	}
	if got := m.Expired(); got != 1 {
		t.Errorf("Expired() = %d, want 1", got)
	}
	// A key renewed after the expiry was proposed stays.
	apply(t, m, log.set(t, "/b", "2", 100))
	log.timeMS = 60_000
	apply(t, m, log.entry(t, expire))
	if got := m.Store().View().Len(); got != 1 {
		t.Errorf("%d nodes, want 1: the key was renewed", got)
	}
}

func TestTimeNeverGoesBack(t *testing.T) {
	m := newTestMachine()
	log := &logWriter{timeMS: 5000}
	apply(t, m, log.set(t, "/a", "1", -1))
	log.timeMS = 10
	apply(t, m, log.set(t, "/b", "1", 1))
	if deadline, ok := m.Store().View().NextDeadline(); !ok || deadline != 6000 {
		t.Errorf("deadline = %d, want 6000: a smaller stamp does not turn time back", deadline)
	}
}

func TestAnUnknownEntryIsAnError(t *testing.T) {
	for _, tt := range []struct {
		name string
		data []byte
	}{
		{"unknown kind", []byte{8, 99}},
		{"no kind", []byte{}},
		{"expiry without its part", []byte{8, byte(serverpb.KindExpire)}},
		{"not a command", []byte{255, 255}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newTestMachine()
			err := m.Apply([]raftnode.Entry{{Index: 2, Run: 1, Seq: 1, Data: tt.data}}, make([]any, 1))
			if err == nil {
				t.Error("Apply = nil, want an error: an unknown entry is never skipped")
			}
		})
	}
}

func TestTheEmptyEntryOfALeaderMovesTheRaftIndexOnly(t *testing.T) {
	m := newTestMachine()
	apply(t, m, raftnode.Entry{Index: 2, Term: 3})
	if v := m.Store().View(); v.Index() != 1 || v.RaftIndex() != 2 {
		t.Errorf("index %d at raft index %d, want 1 at 2", v.Index(), v.RaftIndex())
	}
}

func TestASnapshotHoldsEverything(t *testing.T) {
	var told []deimos.Member
	m := newTestMachine()
	log := &logWriter{timeMS: 7777}
	first := log.set(t, "/a", "1", 60)
	apply(t, m, first, log.set(t, "/d/e", "2", -1),
		log.entry(t, &serverpb.Command{Kind: serverpb.KindAttributes,
			Attributes: &serverpb.Member{ID: 2, Name: "b", ClientURLs: []string{"http://127.0.0.1:9"}}}))
	if ok, _, err := m.ApplyConfChange(raftnode.Entry{Index: 9}, raftpb.ConfChange{Type: raftpb.ConfChangeRemoveNode, NodeID: 1}); !ok || err != nil {
		t.Fatalf("remove member 1: %v %v", ok, err)
	}
	var buf bytes.Buffer
	if err := m.Capture()(&buf); err != nil {
		t.Fatal(err)
	}
	image := bytes.Clone(buf.Bytes())

	other := NewMachine(store.New(store.Config{}), nil, func(ms []deimos.Member) { told = ms })
	timeMS, err := other.Restore(9, bytes.NewReader(image))
	if err != nil || timeMS != 7777 {
		t.Fatalf("Restore = %d, %v, want 7777", timeMS, err)
	}
	if got := other.Members(); len(got) != 1 || got[0].ID != 2 || !slices.Equal(got[0].ClientURLs, []string{"http://127.0.0.1:9"}) {
		t.Errorf("members after restore = %+v", got)
	}
	if !other.IsRemoved(1) {
		t.Error("a removed id was forgotten")
	}
	if len(told) != 1 {
		t.Errorf("told of %d members, want 1", len(told))
	}
	// The record of proposals travels too.
	first.Index = 20
	if results := apply(t, other, first); results[0] != error(errDuplicate) {
		t.Errorf("a proposal applied before the snapshot = %v, want %v", results[0], errDuplicate)
	}
	if deadline, ok := other.Store().View().NextDeadline(); !ok || deadline != 7777+60_000 {
		t.Errorf("deadline after restore = %d, want %d", deadline, 7777+60_000)
	}
	buf.Reset()
	apply(t, m, raftnode.Entry{Index: 20})
	if err := m.Capture()(&buf); err != nil {
		t.Fatal(err)
	}
}

func TestEqualLogsMakeEqualSnapshots(t *testing.T) {
	image := func() []byte {
		m := newTestMachine()
		log := &logWriter{timeMS: 5}
		for run := range uint64(sessionsMax + 5) {
			e := log.set(t, "/k", "v", int64(run))
			e.Run = run * 0x9e3779b97f4a7c15
			apply(t, m, e)
		}
		var buf bytes.Buffer
		if err := m.Capture()(&buf); err != nil {
			t.Fatal(err)
		}
		return buf.Bytes()
	}
	if a, b := image(), image(); !bytes.Equal(a, b) {
		t.Error("the same log made two different snapshots")
	}
}

func TestADamagedSnapshotIsRefusedAndChangesNothing(t *testing.T) {
	m := newTestMachine()
	log := &logWriter{timeMS: 5}
	apply(t, m, log.set(t, "/a", "1", -1))
	var buf bytes.Buffer
	if err := m.Capture()(&buf); err != nil {
		t.Fatal(err)
	}
	image := buf.Bytes()
	for cut := range image {
		if _, err := m.Restore(5, bytes.NewReader(image[:cut])); err == nil {
			t.Fatalf("Restore of the first %d of %d bytes = nil, want an error", cut, len(image))
		}
	}
	if m.Store().View().Len() != 1 || len(m.Members()) != 2 {
		t.Error("a refused snapshot changed the state")
	}
	huge := []byte{255, 255, 255, 255}
	if _, err := m.Restore(5, bytes.NewReader(huge)); err == nil {
		t.Error("Restore with an absurd length = nil, want an error")
	}
	state := serverpb.State{Format: stateFormat + 1}
	data, err := state.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	_, err = m.Restore(5, bytes.NewReader(append([]byte{0, 0, 0, byte(len(data))}, data...)))
	var format *FormatError
	if !errors.As(err, &format) {
		t.Errorf("Restore of a newer format = %v, want a FormatError", err)
	}
}

func FuzzApply(f *testing.F) {
	log := &logWriter{}
	f.Add(log.set(f, "/a", "1", 5).Data)
	f.Add([]byte{8, 2, 26, 2, 8, 1})
	f.Add([]byte{8, 3, 34, 2, 8, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		m := newTestMachine()
		// Whatever the entry holds: a result or an error, never a panic.
		_ = m.Apply([]raftnode.Entry{{Index: 2, TimeMS: 1 << 62, Run: 1, Seq: 1, Data: data}}, make([]any, 1))
	})
}

func FuzzRestore(f *testing.F) {
	m := newTestMachine()
	var buf bytes.Buffer
	if err := m.Capture()(&buf); err != nil {
		f.Fatal(err)
	}
	f.Add(buf.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = newTestMachine().Restore(5, bytes.NewReader(data)) // must not panic
	})
}
