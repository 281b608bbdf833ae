package sim

import (
	"cmp"
	"testing"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/raftnode"
)

func set(client int, value string, index uint64, call, ret time.Duration) *op {
	return &op{client: client, register: true, done: true, request: deimos.Request{Op: deimos.OpSet, Key: "/r/k", Value: value}, index: index, call: call, ret: ret}
}

func read(client int, value string, modified uint64, call, ret time.Duration) *op {
	return &op{client: client, kind: opRead, register: true, done: true, request: deimos.Request{Key: "/r/k"}, exists: value != "", value: value, modified: modified, call: call, ret: ret}
}

func unknownSet(client int, value string, call time.Duration) *op {
	o := set(client, value, 0, call, 0)
	o.unknown, o.run, o.seq = true, 1, 1
	return o
}

func TestLinearizabilityJudgesHistories(t *testing.T) {
	for _, tt := range []struct {
		name string
		ops  []*op
		ok   bool
	}{
		{"write then read", []*op{set(0, "a", 2, 1, 2), read(1, "a", 2, 3, 4)}, true},
		{"stale read", []*op{set(0, "a", 2, 1, 2), set(0, "b", 3, 3, 4), read(1, "a", 2, 5, 6)}, false},
		{"read beside a write", []*op{set(0, "a", 2, 1, 2), set(0, "b", 3, 3, 6), read(1, "a", 2, 4, 5)}, true},
		{"lost write", []*op{set(0, "a", 2, 1, 2), read(1, "", 0, 3, 4)}, false},
		{"indexes against time", []*op{set(0, "a", 5, 1, 2), set(0, "b", 4, 3, 4)}, false},
		{"another index than was answered", []*op{set(0, "a", 2, 1, 2), read(1, "a", 3, 3, 4)}, false},
		{"unknown outcome seen", []*op{set(0, "a", 2, 1, 2), unknownSet(1, "b", 3), read(2, "b", 7, 5, 6)}, true},
		{"unknown outcome not seen", []*op{set(0, "a", 2, 1, 2), unknownSet(1, "b", 3), read(2, "a", 2, 5, 6)}, true},
		{"unknown outcome seen and gone", []*op{set(0, "a", 2, 1, 2), unknownSet(1, "b", 3), read(2, "b", 7, 5, 6), read(2, "a", 2, 7, 8)}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := &world{now: time.Minute}
			w.oracle = newOracle(w)
			w.oracle.applies[[2]uint64{1, 1}] = 9
			w.history = history{w: w, ops: tt.ops}
			err := caught(func() { w.history.linearizability() })
			if (err == nil) != tt.ok {
				t.Errorf("linearizability() = %v, want ok %v", err, tt.ok)
			}
		})
	}
}

// caught returns the violation that f ends with.
func caught(f func()) (v *Violation) {
	defer func() {
		if r := recover(); r != nil {
			v = r.(*Violation)
		}
	}()
	f()
	return nil
}

// turn is what a member looks like after a turn: whether it leads in a term, the
// term of its entry at raft index 2, and whether that is committed.
type turn struct {
	member     int
	term       uint64
	leads      bool
	entry      uint64
	committing bool
}

func TestLeadersHaveWhatEarlierTermsCommitted(t *testing.T) {
	commit := turn{member: 0, term: 12, leads: true, entry: 12, committing: true}
	for _, tt := range []struct {
		name  string
		turns []turn
		rule  string
	}{
		{"a later leader has it", []turn{commit, {member: 1, term: 13, leads: true, entry: 12}}, ""},
		{"a later leader lacks it", []turn{commit, {member: 1, term: 13, leads: true, entry: 11}}, "leader completeness"},
		{"a leader of an earlier term, elected late, lacks it", []turn{commit, {member: 1, term: 11, leads: true, entry: 11}}, ""},
		{"a later leader, elected before, has it", []turn{{member: 1, term: 13, leads: true, entry: 12}, commit}, ""},
		{"a later leader, elected before, lacks it", []turn{{member: 1, term: 13, leads: true, entry: 11}, commit}, "leader completeness"},
		{"a later leader that lacked it leads no more", []turn{{member: 1, term: 13, leads: true, entry: 11}, {member: 1, term: 13, entry: 11}, commit}, "leader completeness"},
		{"committed in the turn in which it ceases to lead", []turn{
			{member: 0, term: 12, leads: true, entry: 12}, {member: 0, term: 14, entry: 12, committing: true}, {member: 1, term: 13, leads: true, entry: 11},
		}, "leader completeness"},
		{"committed by one that does not lead", []turn{{member: 0, term: 12, entry: 12, committing: true}}, "commit"},
		{"two leaders", []turn{commit, {member: 1, term: 12, leads: true, entry: 12}}, "two leaders"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := &world{}
			w.tracer = newTracer(w, nil)
			w.calm.w = w
			w.check = newChecker(w)
			for id := range uint64(3) {
				h := &host{w: w, id: id + 1, disk: &disk{}}
				h.disk.create(deimos.Incarnation{}, raftpb.SnapshotMetadata{Index: 1, Term: 1}, raftpb.HardState{Term: 1, Commit: 1})
				h.disk.apply(&logBatch{entries: entriesOf(12, 2, 2)}) // what is committed is durable: this is not about that
				h.proc = &process{w: w, host: h}
				h.proc.applier.at.ConfState.Voters = []uint64{1, 2, 3}
				w.hosts = append(w.hosts, h)
			}
			v := caught(func() {
				for _, turn := range tt.turns {
					w.hosts[turn.member].proc.show(turn)
				}
			})
			if got := cmp.Or(v, &Violation{}).Rule; got != tt.rule {
				t.Errorf("the rule broken is %q (%v), want %q", got, v, tt.rule)
			}
		})
	}
}

// show lets the checker look at a process.
func (p *process) show(turn turn) {
	old := p.status
	p.status = raftnode.Status{Term: turn.term, Committed: 1}
	if turn.leads {
		p.status.State = raft.StateLeader
	}
	if turn.committing {
		p.status.Committed = 2
	}
	p.view.reset(1, 1)
	p.view.append(2, turn.entry)
	p.w.check.turned(p, &old, &p.status)
}

func entriesOf(term uint64, from, to uint64) (out []raftpb.Entry) {
	for i := from; i <= to; i++ {
		out = append(out, raftpb.Entry{Index: i, Term: term})
	}
	return out
}

func TestDiskKeepsWhatWasSynced(t *testing.T) {
	d := &disk{}
	d.create(deimos.Incarnation{1}, raftpb.SnapshotMetadata{}, raftpb.HardState{})
	d.write(logBatch{hs: raftpb.HardState{Term: 1}, entries: entriesOf(1, 1, 3)})
	d.sync()
	d.write(logBatch{hs: raftpb.HardState{Term: 2, Vote: 7}, entries: entriesOf(2, 3, 4)})
	d.crash(false, nil)
	if d.last() != 3 || d.hs.Term != 1 {
		t.Errorf("after a crash the log ends at %d in term %d, want 3 in term 1", d.last(), d.hs.Term)
	}
	d.write(logBatch{hs: raftpb.HardState{Term: 2, Vote: 7}, entries: entriesOf(2, 3, 4)})
	d.crash(true, nil)
	if d.last() != 4 || !d.holds(3, 2) || d.holds(3, 1) || d.hs.Vote != 7 {
		t.Errorf("a batch that reached the disk is gone: log ends at %d, vote %d", d.last(), d.hs.Vote)
	}
	if d.write(logBatch{hs: raftpb.HardState{Term: 2, Vote: 7, Commit: 4}}) {
		t.Error("a commit index alone was written")
	}
}

func TestDiskHoldsWhatASnapshotReplaces(t *testing.T) {
	d := &disk{}
	d.create(deimos.Incarnation{1}, raftpb.SnapshotMetadata{}, raftpb.HardState{})
	d.write(logBatch{hs: raftpb.HardState{Term: 1}, entries: entriesOf(1, 1, 9)})
	d.sync()
	d.write(logBatch{snapshot: &raftpb.SnapshotMetadata{Index: 7, Term: 2}})
	d.sync()
	if !d.holds(7, 2) || !d.holds(5, 2) {
		t.Error("the disk does not hold what the snapshot of a later term covers")
	}
	if d.holds(8, 2) || d.holds(8, 1) {
		t.Error("the disk still holds entries above the snapshot, of a log that it has replaced")
	}
}

func TestConfirmedAppendsAreDurable(t *testing.T) {
	d := &disk{}
	d.create(deimos.Incarnation{1}, raftpb.SnapshotMetadata{}, raftpb.HardState{})
	d.write(logBatch{hs: raftpb.HardState{Term: 3}, entries: append(entriesOf(1, 1, 4), entriesOf(3, 5, 7)...)})
	d.sync()
	p := &process{w: &world{}, host: &host{disk: d}}
	for _, tt := range []struct {
		name string
		m    raftpb.Message
		ok   bool
	}{
		{"the last entry", raftpb.Message{Term: 3, Index: 7}, true},
		{"one that is not durable", raftpb.Message{Term: 3, Index: 8}, false},
		{"one of a term that is not durable", raftpb.Message{Term: 4, Index: 7}, false},
		{"one that a later leader has replaced", raftpb.Message{Term: 1, Index: 9}, true},
		{"a refusal", raftpb.Message{Term: 3, Index: 9, Reject: true}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.m.Type = raftpb.MsgAppResp
			c := newChecker(p.w)
			if v := caught(func() { c.sending(p, &tt.m) }); (v == nil) != tt.ok {
				t.Errorf("sending() = %v, want ok %v", v, tt.ok)
			}
		})
	}
}

func TestDiskFallsBackToTheOlderSnapshot(t *testing.T) {
	d := &disk{}
	d.create(deimos.Incarnation{1}, raftpb.SnapshotMetadata{}, raftpb.HardState{})
	d.write(logBatch{hs: raftpb.HardState{Term: 1, Commit: 9}, entries: entriesOf(1, 1, 9)})
	d.sync()
	for _, index := range []uint64{4, 8} {
		meta := raftpb.SnapshotMetadata{Index: index, Term: 1}
		d.addFile(snapFile{meta: meta, data: []byte("state"), sum: hashBytes(fnvOffset, []byte("state"))})
		d.nameFiles()
		d.write(logBatch{snapshot: &meta})
		d.sync()
		d.prune()
	}
	d.files[1].data = []byte("stale")
	rec, err := d.recover()
	if err != nil || rec.snapshot.Index != 4 || len(rec.entries) != 5 {
		t.Fatalf("recover() = snapshot %d, %d entries, %v; want snapshot 4 and 5 entries", rec.snapshot.Index, len(rec.entries), err)
	}
	d.files[0].data = []byte("stale")
	if _, err := d.recover(); err == nil {
		t.Error("recover() without a sound snapshot succeeded")
	}
}
