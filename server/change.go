package server

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/raftnode"
	"github.com/marsevilspirit/deimos/server/serverpb"
	"go.etcd.io/raft/v3/raftpb"
)

const (
	// caughtUpEntries is how far a learner may be behind the leader's commit
	// index to be promoted.
	caughtUpEntries = 1000
	// changeRetry is the pause before a change is tried again that met another
	// one, or a change of leader.
	changeRetry = 20 * time.Millisecond
	// answerMax is the longest that a change of another member may take here.
	answerMax = time.Minute
)

// ErrNotAsked is the kind of error by which [Config.Call] says that the member
// has certainly not seen the request.
var ErrNotAsked = errors.New("server: the leader could not be asked")

// errNoAnswer says that a member took a change and said nothing about it.
var errNoAnswer = errors.New("server: the leader gave no answer")

// errNotLeader says that the member asked does not lead; nothing was changed.
var errNotLeader = errors.New("server: the member does not lead")

// ChangeMembers changes the member list, or hands over leadership, and returns
// the member named by an addition, an update or a promotion as it is then. The
// leader makes the change, because only it knows whether it is safe: other
// members pass it on. The change is applied on this member when ChangeMembers
// returns nil, except for the removal of this member itself. Errors are
// [*deimos.MemberError], with nothing changed, and [*deimos.Error] as of
// [Server.Write].
func (s *Server) ChangeMembers(ctx context.Context, c deimos.MemberChange) (deimos.Member, error) {
	for {
		m, err := s.tryChange(ctx, &c)
		if !errors.Is(err, errNotLeader) {
			return m, err
		}
		if pauseFor(ctx, changeRetry); ctx.Err() != nil {
			return deimos.Member{}, &deimos.Error{Code: deimos.CodeLeaderElection, Cause: deimos.CauseNoLeader}
		}
	}
}

// tryChange makes the change if this member leads, and asks the leader else. It
// fails with errNotLeader when there was no leader where it looked for one.
func (s *Server) tryChange(ctx context.Context, c *deimos.MemberChange) (deimos.Member, error) {
	// A linearizable read finds out whether there is a leader, and who.
	if err := s.cfg.Node.Read(ctx); err != nil {
		return deimos.Member{}, refusal(err, deimos.CauseReadTimeout)
	}
	st := s.cfg.Node.Status()
	if st.IsLeader() {
		return s.lead(ctx, c)
	}
	if st.Leader == 0 {
		return deimos.Member{}, errNotLeader
	}
	m, err := s.ask(ctx, st.Leader, c)
	if err != nil || (c.Op == deimos.MemberRemove && c.ID == s.cfg.Self.ID) {
		return m, err // nobody tells a removed member that it has been removed
	}
	if err := s.cfg.Node.Read(ctx); err != nil {
		return deimos.Member{}, refusal(err, deimos.CauseWriteTimeout)
	}
	return m, nil
}

// removeLeader makes way for a leader that can remove this member: one that
// removes itself leaves the others to wait for an election.
func (s *Server) removeLeader(ctx context.Context) error {
	if s.cfg.Machine.members.Load().voters() == 1 {
		return &deimos.MemberError{Reason: deimos.MemberLastVoter, ID: s.cfg.Self.ID}
	}
	if err := s.checkQuorumWithout(ctx, s.cfg.Self.ID); err != nil {
		return err
	}
	if err := s.cfg.Node.TransferLeadership(ctx, 0); err != nil && ctx.Err() == nil && !errors.Is(err, raftnode.ErrNotHandedOver) {
		return refusal(err, deimos.CauseReadTimeout)
	}
	return errNotLeader // try again, as a follower
}

// ask passes a change on to the leader.
func (s *Server) ask(ctx context.Context, leader uint64, c *deimos.MemberChange) (deimos.Member, error) {
	call := serverpb.MemberCall{Op: uint32(c.Op), ID: c.ID, PeerURLs: c.PeerURLs, Learner: c.Learner}
	if deadline, ok := ctx.Deadline(); ok {
		call.TimeoutMS = max(1, time.Until(deadline).Milliseconds())
	}
	request, err := call.Marshal()
	if err != nil {
		return deimos.Member{}, &deimos.Error{Code: deimos.CodeRaftInternal, Cause: err.Error()}
	}
	answer, err := s.cfg.Call(ctx, leader, request)
	if errors.Is(err, ErrNotAsked) {
		s.cfg.Log.Debug("membership change not passed on", "leader", deimos.FormatID(leader), "error", err)
		return deimos.Member{}, errNotLeader
	}
	var a serverpb.MemberAnswer
	if err == nil && len(answer) == 0 {
		err = errNoAnswer
	}
	if err == nil {
		err = a.Unmarshal(answer)
	}
	if err != nil {
		return deimos.Member{}, refusal(err, deimos.CauseWriteTimeout)
	}
	switch {
	case a.NotLeader:
		return deimos.Member{}, errNotLeader
	case a.Reason != "":
		return deimos.Member{}, &deimos.MemberError{Reason: deimos.MemberErrorReason(a.Reason), ID: a.ID}
	case a.Code != 0:
		return deimos.Member{}, &deimos.Error{Code: deimos.Code(a.Code), Cause: a.Cause}
	case a.Member == nil:
		return deimos.Member{}, refusal(errNoAnswer, deimos.CauseWriteTimeout)
	default:
		return memberFromProto(a.Member).Member, nil
	}
}

// Answer makes a change that another member has passed on. Any goroutine may
// call it; it returns when ctx is done at the latest.
func (s *Server) Answer(ctx context.Context, from uint64, request []byte) []byte {
	var call serverpb.MemberCall
	var m deimos.Member
	err := call.Unmarshal(request)
	if err != nil {
		err = &deimos.Error{Code: deimos.CodeRaftInternal, Cause: fmt.Sprintf("the call of member %s cannot be read", deimos.FormatID(from))}
	} else {
		timeout := dutyTimeout
		if call.TimeoutMS > 0 {
			timeout = min(answerMax, time.Duration(call.TimeoutMS)*time.Millisecond)
		}
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		m, err = s.lead(ctx, &deimos.MemberChange{
			Op: deimos.MemberOp(call.Op), ID: call.ID, PeerURLs: call.PeerURLs, Learner: call.Learner,
		})
	}
	var a serverpb.MemberAnswer
	switch e, isMember := errors.AsType[*deimos.MemberError](err); {
	case errors.Is(err, errNotLeader):
		a.NotLeader = true
	case isMember:
		a.Reason, a.ID = string(e.Reason), e.ID
	case err != nil:
		e := refusal(err, deimos.CauseWriteTimeout)
		a.Code, a.Cause = uint32(e.Code), e.Cause
	default: // after a removal the member is empty
		p := memberToProto(member{Member: m})
		a.Member = &p
	}
	data, err := a.Marshal()
	if err != nil {
		s.cfg.Log.Error("answer to a member cannot be encoded", "to", deimos.FormatID(from), "error", err)
		return []byte{} // nil would say that nothing was done
	}
	return data
}

// lead makes a change on the leader, one at a time.
func (s *Server) lead(ctx context.Context, c *deimos.MemberChange) (deimos.Member, error) {
	select {
	case s.changing <- struct{}{}:
		defer func() { <-s.changing }()
	case <-ctx.Done():
		return deimos.Member{}, &deimos.Error{Code: deimos.CodeRaftInternal, Cause: deimos.CauseOverloaded}
	}
	for {
		m, err := s.leadOnce(ctx, c)
		if !errors.Is(err, raftnode.ErrConfChangePending) {
			return m, err
		}
		// Nothing was proposed. What is under way changes what is safe, so the
		// next try judges anew.
		if pauseFor(ctx, changeRetry); ctx.Err() != nil {
			return deimos.Member{}, &deimos.Error{Code: deimos.CodeRaftInternal, Cause: deimos.CauseOverloaded}
		}
	}
}

// changeWords says in the log what a change has done to a member.
var changeWords = map[deimos.MemberOp]string{
	deimos.MemberAdd:     "added as a learner",
	deimos.MemberUpdate:  "peer URLs updated",
	deimos.MemberRemove:  "removed",
	deimos.MemberPromote: "promoted to a voter",
}

// leadOnce judges a change by the newest member list and makes it. raft makes
// one at a time, and none before the leader has applied an entry of its own term.
func (s *Server) leadOnce(ctx context.Context, c *deimos.MemberChange) (deimos.Member, error) {
	if err := s.cfg.Node.Read(ctx); err != nil {
		return deimos.Member{}, refusal(err, deimos.CauseReadTimeout)
	}
	switch {
	case !s.cfg.Node.Status().IsLeader():
		return deimos.Member{}, errNotLeader
	case c.Op == deimos.MemberLead:
		return s.handOverTo(ctx, c.ID)
	case c.Op == deimos.MemberRemove && c.ID == s.cfg.Self.ID:
		return deimos.Member{}, s.removeLeader(ctx)
	}
	cc, err := s.plan(ctx, c)
	if err != nil {
		return deimos.Member{}, err
	}
	result, err := s.cfg.Node.ProposeConfChange(ctx, cc)
	switch {
	case errors.Is(err, raftnode.ErrNotLeader):
		return deimos.Member{}, errNotLeader
	case errors.Is(err, raftnode.ErrConfChangePending):
		return deimos.Member{}, err
	case err != nil:
		return deimos.Member{}, refusal(err, deimos.CauseWriteTimeout)
	}
	if err, failed := result.(error); failed {
		return deimos.Member{}, err
	}
	s.cfg.Log.Info("member list changed", "change", changeWords[c.Op], "member", deimos.FormatID(cc.NodeID))
	return s.cfg.Machine.members.Load().byID[cc.NodeID].Member, nil // the zero Member after a removal
}

// plan turns a change into what goes into the log, and refuses it where it
// would endanger the cluster. What depends on the member list alone is judged
// once more, and for good, when the change is applied.
func (s *Server) plan(ctx context.Context, c *deimos.MemberChange) (raftpb.ConfChange, error) {
	ms := s.cfg.Machine.members.Load()
	old, known := ms.byID[c.ID]
	if c.Op != deimos.MemberAdd && !known {
		return raftpb.ConfChange{}, ms.unknown(c.ID)
	}
	cc := raftpb.ConfChange{NodeID: c.ID}
	switch c.Op {
	case deimos.MemberAdd:
		cc.Type, cc.NodeID = raftpb.ConfChangeAddLearnerNode, ms.newID()
		return withRecord(cc, member{Member: deimos.Member{PeerURLs: c.PeerURLs}, promote: !c.Learner})
	case deimos.MemberUpdate:
		cc.Type = raftpb.ConfChangeUpdateNode
		return withRecord(cc, member{Member: deimos.Member{PeerURLs: c.PeerURLs}})
	case deimos.MemberRemove:
		cc.Type = raftpb.ConfChangeRemoveNode
		if old.IsLearner {
			return cc, nil
		}
		if ms.voters() == 1 {
			return cc, &deimos.MemberError{Reason: deimos.MemberLastVoter, ID: c.ID}
		}
		return cc, s.checkQuorumWithout(ctx, c.ID)
	case deimos.MemberPromote:
		cc.Type = raftpb.ConfChangeAddNode
		if !old.IsLearner {
			return cc, &deimos.MemberError{Reason: deimos.MemberIsVoter, ID: c.ID}
		}
		if old.incarnation.IsZero() { // a voter without one could be wiped unnoticed
			return cc, &deimos.MemberError{Reason: deimos.MemberNotCaughtUp, ID: c.ID}
		}
		return cc, s.checkCaughtUp(ctx, c.ID)
	default:
		return cc, &deimos.MemberError{Reason: deimos.MemberChangeBroken, ID: c.ID}
	}
}

func withRecord(cc raftpb.ConfChange, record member) (raftpb.ConfChange, error) {
	record.ID = cc.NodeID
	p := memberToProto(record)
	data, err := p.Marshal()
	if err != nil {
		return cc, &deimos.MemberError{Reason: deimos.MemberChangeBroken, ID: cc.NodeID}
	}
	cc.Context = data
	return cc, nil
}

// progress returns what this leader knows of the members.
func (s *Server) progress(ctx context.Context) ([]raftnode.Progress, error) {
	all, err := s.cfg.Node.Progress(ctx)
	switch {
	case err != nil:
		return nil, refusal(err, deimos.CauseReadTimeout)
	case all == nil:
		return nil, errNotLeader
	}
	return all, nil
}

// QuorumWithout reports whether the voters that give signs of life, as the
// leader knows them, are a quorum of those that are left without one of them. Any
// goroutine may call it.
func QuorumWithout(all []raftnode.Progress, id uint64) bool {
	voters, active := 0, 0
	for _, p := range all {
		if p.Learner || p.ID == id {
			continue
		}
		voters++
		if p.Active {
			active++
		}
	}
	return active > voters/2
}

// CaughtUp reports whether a learner gives signs of life and is near enough to
// the leader's commit index to vote. Any goroutine may call it.
func CaughtUp(all []raftnode.Progress, committed, id uint64) bool {
	return slices.ContainsFunc(all, func(p raftnode.Progress) bool {
		return p.ID == id && p.Active && p.Match > 0 && p.Match+caughtUpEntries >= committed
	})
}

// checkQuorumWithout refuses to remove a voter without whom the others would be
// no quorum.
func (s *Server) checkQuorumWithout(ctx context.Context, id uint64) error {
	all, err := s.progress(ctx)
	if err == nil && !QuorumWithout(all, id) {
		err = &deimos.MemberError{Reason: deimos.MemberCostsQuorum, ID: id}
	}
	return err
}

// checkCaughtUp refuses to promote a learner that is silent or far behind: as a
// voter it would count for the quorum and be of no help to it.
func (s *Server) checkCaughtUp(ctx context.Context, id uint64) error {
	all, err := s.progress(ctx)
	if err == nil && !CaughtUp(all, s.cfg.Node.Status().Committed, id) {
		err = &deimos.MemberError{Reason: deimos.MemberNotCaughtUp, ID: id}
	}
	return err
}

// handOverTo makes the voter lead.
func (s *Server) handOverTo(ctx context.Context, id uint64) (deimos.Member, error) {
	ms := s.cfg.Machine.members.Load()
	m, known := ms.byID[id]
	switch {
	case !known:
		return deimos.Member{}, ms.unknown(id)
	case m.IsLearner:
		return deimos.Member{}, &deimos.MemberError{Reason: deimos.MemberIsLearner, ID: id}
	case id == s.cfg.Self.ID && s.cfg.Node.Status().IsLeader():
		return m.Member, nil
	}
	if _, err := s.progress(ctx); err != nil {
		return deimos.Member{}, err
	}
	err := s.cfg.Node.TransferLeadership(ctx, id)
	if errors.Is(err, raftnode.ErrStopped) {
		return deimos.Member{}, refusal(err, deimos.CauseStopping)
	}
	if s.cfg.Node.Status().Leader != id {
		return deimos.Member{}, &deimos.MemberError{Reason: deimos.MemberNotTaken, ID: id}
	}
	return m.Member, nil
}

// promoteLoop makes voters of those learners that were added to become some, as
// soon as they have caught up.
func (s *Server) promoteLoop(ctx context.Context) {
	ticker := time.NewTicker(promoteInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if !s.cfg.Node.Status().IsLeader() {
			continue
		}
		for _, m := range s.cfg.Machine.members.Load().records() {
			if m.promote && m.IsLearner && !m.incarnation.IsZero() {
				s.tryPromote(ctx, m.ID)
			}
		}
	}
}

func (s *Server) tryPromote(ctx context.Context, id uint64) {
	ctx, cancel := context.WithTimeout(ctx, dutyTimeout)
	defer cancel()
	if s.checkCaughtUp(ctx, id) != nil {
		return // not yet
	}
	if _, err := s.lead(ctx, &deimos.MemberChange{Op: deimos.MemberPromote, ID: id}); err != nil {
		s.cfg.Log.Debug("learner not promoted", "member", deimos.FormatID(id), "error", err)
		return
	}
	s.cfg.Log.Info("a learner has caught up and votes from now on", "member", deimos.FormatID(id))
}

// newID returns an id that no member has or had. raft keeps the highest numbers
// for itself.
func (ms *membership) newID() uint64 {
	for {
		var b [8]byte
		_, _ = rand.Read(b[:]) // never fails, it ends the program instead
		id := binary.BigEndian.Uint64(b[:]) >> 1
		_, known := ms.byID[id]
		_, gone := ms.removed[id]
		if id != 0 && !known && !gone {
			return id
		}
	}
}
