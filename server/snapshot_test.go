package server

import (
	"bytes"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/raftnode"
	"github.com/marsevilspirit/deimos/server/serverpb"
	"github.com/marsevilspirit/deimos/store"
)

func TestASnapshotKnowsWhoLearnsAndWithWhichDirectory(t *testing.T) {
	m := newTestMachine()
	for id, wish := range map[uint64]bool{3: true, 4: false} {
		cc, err := withRecord(raftpb.ConfChange{Type: raftpb.ConfChangeAddLearnerNode, NodeID: id},
			member{Member: deimos.Member{PeerURLs: []string{"http://127.0.0.1:" + deimos.FormatID(id)}}, promote: wish})
		if err != nil {
			t.Fatal(err)
		}
		if ok, _, err := m.ApplyConfChange(raftnode.Entry{Index: id}, cc); !ok || err != nil {
			t.Fatalf("add learner %d: %v %v", id, ok, err)
		}
	}
	log := &logWriter{index: 10}
	apply(t, m, log.entry(t, &serverpb.Command{Kind: serverpb.KindAttributes,
		Attributes: &serverpb.Member{ID: 3, Name: "c", Incarnation: []byte("0123456789abcdef")}}))
	var body bytes.Buffer
	if err := m.Capture()(&body); err != nil {
		t.Fatal(err)
	}
	other := NewMachine(store.New(store.Config{}), nil, nil)
	if _, err := other.Restore(11, &body); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[uint64]struct{ learner, promote, started bool }{
		1: {}, 2: {}, 3: {learner: true, promote: true, started: true}, 4: {learner: true},
	} {
		got := other.members.Load().byID[id]
		if got.IsLearner != want.learner || got.promote != want.promote || other.IncarnationOf(id).IsZero() == want.started {
			t.Errorf("member %d after Restore = %+v, want learner %v, to be promoted %v, with an incarnation %v",
				id, got, want.learner, want.promote, want.started)
		}
	}
}
