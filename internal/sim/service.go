package sim

import (
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/raftnode"
	"github.com/marsevilspirit/deimos/server/serverpb"
	"github.com/marsevilspirit/deimos/store"
)

// errDeadline says that the time of a request was up; errDiskLow that the disk of
// the member, or those of too many voters, are below the reserve.
var (
	errDeadline      = errors.New("sim: the request has timed out")
	errLeaderChanged = errors.New("sim: the leader was replaced")
	errDiskLow       = errors.New("sim: disk space is below the reserve")
	errBroken        = errors.New("sim: the connection is broken")
)

// outcome is what the proposer of an entry is told.
type outcome struct {
	result    any
	raftIndex uint64
	err       error
}

// waiters are those who wait for their proposals to be applied.
type waiters struct {
	p      *process
	list   []waiter // by rising number
	doubts []doubt
}

type waiter struct {
	seq  uint64
	done func(outcome)
}

// doubt stands for the proposals made before a leader was replaced.
type doubt struct {
	upTo uint64
	at   time.Duration
}

func (ws *waiters) tell(seq uint64, out outcome) {
	i, ok := slices.BinarySearchFunc(ws.list, seq, func(w waiter, seq uint64) int {
		switch {
		case w.seq < seq:
			return -1
		case w.seq > seq:
			return 1
		}
		return 0
	})
	if !ok {
		return
	}
	done := ws.list[i].done
	ws.list = slices.Delete(ws.list, i, i+1)
	done(out)
}

func (ws *waiters) refuse(seq uint64, err error) { ws.tell(seq, outcome{err: err}) }

func (ws *waiters) raiseDoubt() {
	ws.doubts = append(ws.doubts, doubt{upTo: ws.p.propSeq, at: ws.p.now() + election})
}

func (ws *waiters) settleDoubts() {
	for len(ws.doubts) > 0 && ws.p.now() > ws.doubts[0].at {
		upTo := ws.doubts[0].upTo
		ws.doubts = ws.doubts[1:]
		for len(ws.list) > 0 && ws.list[0].seq <= upTo {
			ws.tell(ws.list[0].seq, outcome{err: errLeaderChanged})
		}
	}
}

// proposeCommand proposes a command and calls done with its outcome, by the
// timeout at the latest, unless the process dies. It returns the number of the
// proposal.
func (p *process) proposeCommand(c *serverpb.Command, timeout time.Duration, done func(outcome)) uint64 {
	data := make([]byte, raftnode.PrefixBytes+c.Size())
	_, err := c.MarshalToSizedBuffer(data[raftnode.PrefixBytes:])
	p.must(err)
	p.propSeq++
	binary.BigEndian.PutUint64(data[8:], p.run)
	binary.BigEndian.PutUint64(data[16:], p.propSeq)
	p.propose(raftnode.Proposal{Seq: p.propSeq, Type: raftpb.EntryNormal, Data: data}, timeout, done)
	return p.propSeq
}

func (p *process) proposeConfChange(cc raftpb.ConfChange, timeout time.Duration, done func(outcome)) {
	p.propSeq++
	cc.ID = p.run + p.propSeq
	data, err := cc.Marshal()
	p.must(err)
	p.propose(raftnode.Proposal{Seq: p.propSeq, Type: raftpb.EntryConfChange, Data: data}, timeout, done)
}

func (p *process) propose(prop raftnode.Proposal, timeout time.Duration, done func(outcome)) {
	prop.Deadline = p.now() + timeout
	p.waiters.list = append(p.waiters.list, waiter{seq: prop.Seq, done: done})
	p.proposals = append(p.proposals, prop)
	p.wake()
	p.after(p.local(timeout), func() { p.waiters.refuse(prop.Seq, errDeadline) })
}

// readRoundsMax is that of package raftnode.
const readRoundsMax = 2

// readBatch is all the reads that share one round.
type readBatch struct {
	id        uint64
	raftIndex uint64
	done      []func(error)
}

func (b *readBatch) end(err error) {
	for _, f := range b.done {
		f(err)
	}
	b.done = nil
}

// readers gathers linearizable reads into rounds.
type readers struct {
	p      *process
	next   *readBatch
	begun  []*readBatch
	behind []*readBatch
}

// read calls done once the published state is linearizable, or with an error.
func (r *readers) read(timeout time.Duration, done func(error)) {
	told := false
	once := func(err error) {
		if !told {
			told = true
			done(err)
		}
	}
	if r.next == nil {
		r.next = &readBatch{}
	}
	r.next.done = append(r.next.done, once)
	r.p.wake()
	r.p.after(r.p.local(timeout), func() { once(errDeadline) })
}

func (r *readers) begin() {
	if !r.waiting() {
		return
	}
	r.next.id = r.p.core.BeginRead()
	r.begun = append(r.begun, r.next)
	r.next = nil
}

func (r *readers) waiting() bool { return r.next != nil && len(r.begun) < readRoundsMax }

func (r *readers) finish(results []raftnode.ReadResult) {
	for _, res := range results {
		i := slices.IndexFunc(r.begun, func(b *readBatch) bool { return b.id == res.ID })
		if i < 0 {
			continue
		}
		b := r.begun[i]
		r.begun = slices.Delete(r.begun, i, i+1)
		switch {
		case res.Err != nil:
			b.end(res.Err)
		case res.RaftIndex <= r.p.applier.applied || r.p.w.cfg.Defect == DefectReadBehind:
			b.end(nil)
		default:
			b.raftIndex = res.RaftIndex
			r.behind = append(r.behind, b)
		}
	}
}

func (r *readers) advance(raftIndex uint64) {
	if len(r.behind) == 0 {
		return
	}
	var ready []*readBatch
	r.behind = slices.DeleteFunc(r.behind, func(b *readBatch) bool {
		if b.raftIndex <= raftIndex {
			ready = append(ready, b)
			return true
		}
		return false
	})
	for _, b := range ready {
		b.end(nil)
	}
}

// serverTimeout is how long a member works on a request.
const serverTimeout = 2 * time.Second

// answer is what a member tells a client.
type answer struct {
	event     *store.Event
	refused   *deimos.Error // of the operation itself: it had no effect
	err       error
	view      store.View
	raftIndex uint64
}

// request is one request that a process works on.
type request struct {
	p      *process
	over   bool
	answer func(answer)
	// run and seq name the proposal of a write.
	run, seq uint64
}

// accept takes a request in.
func (p *process) accept(reply func(answer)) *request {
	r := &request{p: p, answer: reply}
	if len(p.requests) > 64 {
		p.requests = slices.DeleteFunc(p.requests, func(r *request) bool { return r.over })
	}
	p.requests = append(p.requests, r)
	return r
}

// end sends the answer, unless the process dies first.
func (r *request) end(a answer) {
	if r.over || r.p.dies("answer: before it is sent") {
		return
	}
	r.over = true
	r.p.w.after(between(r.p.w.rnd, 50*time.Microsecond, 500*time.Microsecond), func() { r.answer(a) })
	r.p.dies("answer: after it is sent")
}

// broken is called when the process has died.
func (r *request) broken() {
	if !r.over {
		r.over = true
		r.p.w.after(between(r.p.w.rnd, 50*time.Microsecond, 500*time.Microsecond), func() { r.answer(answer{err: errBroken}) })
	}
}

// write proposes a write of a client.
func (p *process) write(req *deimos.Request, reply func(answer)) *request {
	r := p.accept(reply)
	if p.host.lowDisk || p.status.WritesRefused {
		p.w.row("D7")
		r.end(answer{err: errDiskLow})
		return r
	}
	c := &serverpb.Command{Kind: serverpb.KindWrite, Write: serverpb.Write{
		Op: uint32(req.Op), Key: req.Key, Value: req.Value, Dir: req.Dir, Recursive: req.Recursive, Refresh: req.Refresh,
		HasTTL: req.HasTTL, TTLSeconds: req.TTLSeconds, HasPrevValue: req.HasPrevValue, PrevValue: req.PrevValue, PrevIndex: req.PrevIndex,
	}}
	r.run = p.run
	r.seq = p.proposeCommand(c, serverTimeout, func(out outcome) {
		a := answer{err: out.err, raftIndex: out.raftIndex}
		switch v := out.result.(type) {
		case *store.Event:
			a.event = v
		case *deimos.Error:
			a.refused = v
		case error:
			a.err = v
		}
		if out.err != nil && p.w.cfg.Defect == DefectTimeoutSuccess && errors.Is(out.err, errDeadline) {
			a.err = nil
		}
		r.end(a)
	})
	return r
}

// read answers with a published state.
func (p *process) read(linearizable bool, reply func(answer)) *request {
	r := p.accept(reply)
	switch {
	case linearizable && p.w.cfg.Defect == DefectReadLeader && p.isLeader():
		r.end(answer{view: p.st.View()})
	case linearizable && p.isCurrent():
		p.w.res.Current++
		r.end(answer{view: p.st.View()})
	case linearizable:
		p.readers.read(serverTimeout, func(err error) { r.end(answer{err: err, view: p.st.View()}) })
	case p.duties.recovered:
		r.end(p.localState())
	default:
		p.duties.recovering = append(p.duties.recovering, func() { r.end(p.localState()) })
	}
	return r
}

// localState is what a local read shows: on one member never an older state
// than before, also after a restart, if a quorum could be asked then.
func (p *process) localState() answer {
	view := p.st.View()
	if !p.duties.fallback || p.duties.byQuorum {
		if view.Index() < p.host.shown {
			p.w.fail("local read", "member %x shows index %d after %d", p.host.id, view.Index(), p.host.shown)
		}
	}
	p.host.shown = max(p.host.shown, view.Index())
	return answer{view: view}
}
