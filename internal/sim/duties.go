package sim

import (
	"encoding/binary"
	"errors"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/raftnode"
	"github.com/marsevilspirit/deimos/server"
	"github.com/marsevilspirit/deimos/server/serverpb"
)

// The intervals of package server.
const (
	expiryInterval  = 100 * time.Millisecond
	expiryBatchMax  = 1000
	dutyTimeout     = 5 * time.Second
	promoteInterval = time.Second
	publishRetry    = 100 * time.Millisecond
	recoverTimeout  = 2 * election
)

// duties does what the goroutines of server.Server do: expiry, publication of
// the member, promotion of learners, and the wait of local reads after a start.
type duties struct {
	p        *process
	expiring bool
	// heardMS is the newest cluster time in this leader's own heartbeats, and
	// heardAt when it was sent.
	heardMS int64
	heardAt time.Duration

	recovered   bool
	byQuorum    bool
	fallback    bool
	recoveredTo uint64
	recovering  []func()
}

func (d *duties) start() {
	p := d.p
	rnd := p.w.rnd
	p.after(between(rnd, 0, expiryInterval), d.expire)
	p.after(between(rnd, 0, promoteInterval), d.promote)
	p.after(0, d.publish)
	if !d.recovered {
		d.recover()
		p.after(p.local(recoverTimeout), func() {
			d.fallback = true
			d.advanced(p.applier.applied)
		})
	}
}

// recover lets local reads begin once they see what was seen before the
// restart.
func (d *duties) recover() {
	d.p.readers.read(recoverTimeout, func(err error) {
		switch {
		case err == nil:
			d.byQuorum = true
			d.open()
		case errors.Is(err, raftnode.ErrNoLeader) && !d.fallback:
			d.p.after(10*time.Millisecond, d.recover)
		}
	})
}

// advanced opens local reads without a quorum once the member's own log is
// applied as far as it is known to be committed.
func (d *duties) advanced(raftIndex uint64) {
	if d.fallback && !d.recovered && raftIndex >= d.recoveredTo {
		d.open()
	}
}

func (d *duties) open() {
	d.recovered = true
	for _, f := range d.recovering {
		f()
	}
	d.recovering = nil
}

// hearOwnTime takes the cluster time from a heartbeat that this leader sends.
func (d *duties) hearOwnTime(m *raftpb.Message) {
	if m.Type == raftpb.MsgHeartbeat && len(m.Context) >= 8 {
		d.heardMS = int64(binary.BigEndian.Uint64(m.Context[len(m.Context)-8:]))
		d.heardAt = d.p.now()
	}
}

// hearOwnStamps takes it from the entries that a leader appends who sends no
// heartbeats, because there is nobody else, and at first from what is applied.
func (d *duties) hearOwnStamps(appends []raftpb.Message) {
	if d.heardMS == 0 {
		d.heardMS, d.heardAt = d.p.applier.timeMS, d.p.now()
	}
	for i := range appends {
		for j := range appends[i].Entries {
			if e := decodeEntry(&appends[i].Entries[j]); e.TimeMS > d.heardMS {
				d.heardMS, d.heardAt = e.TimeMS, d.p.now()
			}
		}
	}
}

// clusterTimeMS estimates the cluster time of a leader. What expires is decided
// by the stamps of the log alone.
func (d *duties) clusterTimeMS() int64 { return d.heardMS + (d.p.now() - d.heardAt).Milliseconds() }

func (d *duties) expire() {
	d.p.after(d.p.local(expiryInterval), d.expire)
	d.expireDue()
}

func (d *duties) expireDue() {
	p := d.p
	deadlineMS, ok := p.st.View().NextDeadline()
	if d.expiring || !ok || !p.isLeader() || d.heardMS == 0 || deadlineMS >= d.clusterTimeMS() {
		return
	}
	d.expiring = true
	p.proposeCommand(&serverpb.Command{Kind: serverpb.KindExpire, Expire: &serverpb.Expire{Limit: expiryBatchMax}}, dutyTimeout, func(out outcome) {
		d.expiring = false
		if out.err == nil {
			d.expireDue()
		}
	})
}

// publish makes the member list show this member's name and incarnation.
func (d *duties) publish() {
	p := d.p
	again := func() { p.after(p.local(publishRetry), d.publish) }
	p.readers.read(dutyTimeout, func(err error) {
		if err != nil {
			again()
			return
		}
		if p.machine.IncarnationOf(p.host.id) == p.host.disk.incarnation {
			return
		}
		inc := p.host.disk.incarnation
		c := &serverpb.Command{Kind: serverpb.KindAttributes, Attributes: &serverpb.Member{ID: p.host.id, Name: p.host.name, Incarnation: inc[:]}}
		p.proposeCommand(c, dutyTimeout, func(out outcome) {
			var refused *deimos.MemberError
			if err, isErr := out.result.(error); isErr && errors.As(err, &refused) {
				return // the cluster does not take it for the member in its list
			}
			if out.err != nil || out.result != nil {
				again()
			}
		})
	})
}

// promote makes voters of the learners that wait for it.
func (d *duties) promote() {
	p := d.p
	p.after(p.local(promoteInterval), d.promote)
	if !p.isLeader() {
		return
	}
	for _, m := range p.machine.Members() {
		if m.IsLearner && p.w.admin.wantsVote(m.ID) && p.caughtUp(m.ID) {
			p.proposeConfChange(raftpb.ConfChange{Type: raftpb.ConfChangeAddNode, NodeID: m.ID}, dutyTimeout, func(outcome) {})
			return
		}
	}
}

// caughtUp is the rule of package server for a promotion.
func (p *process) caughtUp(id uint64) bool {
	return server.CaughtUp(p.core.Progress(), p.core.Status().Committed, id)
}

// quorumWithout is the rule of package server for a removal.
func (p *process) quorumWithout(id uint64) bool { return server.QuorumWithout(p.core.Progress(), id) }
