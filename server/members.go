package server

import (
	"cmp"
	"maps"
	"slices"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/server/serverpb"
	"go.etcd.io/raft/v3/raftpb"
)

// member is what the replicated state knows of a member.
type member struct {
	deimos.Member
	incarnation deimos.Incarnation // zero until the member has started
	promote     bool               // a learner that is to vote once it has caught up
}

// membership is one version of the member list. It is never changed in place.
type membership struct {
	byID    map[uint64]member
	removed map[uint64]struct{} // ids that are never admitted again
}

func newMembership(members []deimos.Member) *membership {
	ms := &membership{byID: make(map[uint64]member, len(members)), removed: map[uint64]struct{}{}}
	for _, m := range members {
		ms.byID[m.ID] = member{Member: m}
	}
	return ms
}

// list returns the members sorted by id.
func (ms *membership) list() []deimos.Member {
	list := make([]deimos.Member, 0, len(ms.byID))
	for _, m := range ms.records() {
		list = append(list, m.Member)
	}
	return list
}

// records returns all that is known of the members, sorted by id.
func (ms *membership) records() []member {
	return slices.SortedFunc(maps.Values(ms.byID), func(a, b member) int { return cmp.Compare(a.ID, b.ID) })
}

func (ms *membership) clone() *membership {
	return &membership{byID: maps.Clone(ms.byID), removed: maps.Clone(ms.removed)}
}

// setAttributes returns the list with the name, client URLs and incarnation of a
// member that has started. It returns ms itself when there is nothing to change.
// The incarnation of a member never changes: one that comes with another has
// lost the data directory in which it had voted and confirmed entries.
func (ms *membership) setAttributes(attributes member) (*membership, error) {
	m, ok := ms.byID[attributes.ID]
	switch {
	case !ok:
		return ms, ms.unknown(attributes.ID)
	case !m.incarnation.IsZero() && m.incarnation != attributes.incarnation:
		return ms, &deimos.MemberError{Reason: deimos.MemberOther, ID: m.ID}
	case m.is(attributes):
		return ms, nil
	}
	m.Name, m.ClientURLs, m.incarnation = attributes.Name, attributes.ClientURLs, attributes.incarnation
	next := ms.clone()
	next.byID[m.ID] = m
	return next, nil
}

// is reports whether the attributes are those of the member.
func (m *member) is(attributes member) bool {
	return m.Name == attributes.Name && slices.Equal(m.ClientURLs, attributes.ClientURLs) && m.incarnation == attributes.incarnation
}

// unknown tells a removed member from one that never was.
func (ms *membership) unknown(id uint64) error {
	if _, gone := ms.removed[id]; gone {
		return &deimos.MemberError{Reason: deimos.MemberRemoved, ID: id}
	}
	return &deimos.MemberError{Reason: deimos.MemberUnknown, ID: id}
}

// alone returns the list that is left when all members but self are lost for
// ever. What is not known of self, because the old cluster had removed it, is
// as given.
func (ms *membership) alone(self deimos.Member) *membership {
	next := ms.clone()
	for id := range ms.byID {
		if id != self.ID {
			delete(next.byID, id)
			next.removed[id] = struct{}{}
		}
	}
	delete(next.removed, self.ID)
	m, known := next.byID[self.ID]
	if !known {
		m.Member = self
	}
	m.IsLearner, m.promote = false, false
	m.incarnation = deimos.Incarnation{} // the new cluster begins with a new directory
	next.byID[self.ID] = m
	return next
}

// change returns the list after a configuration change. The member record of
// an addition or update is the change's context.
func (ms *membership) change(cc raftpb.ConfChange) (*membership, error) {
	if _, gone := ms.removed[cc.NodeID]; gone {
		return nil, &deimos.MemberError{Reason: deimos.MemberRemoved, ID: cc.NodeID}
	}
	old, known := ms.byID[cc.NodeID]
	next := ms.clone()
	switch cc.Type {
	case raftpb.ConfChangeRemoveNode:
		if !known {
			return nil, &deimos.MemberError{Reason: deimos.MemberUnknown, ID: cc.NodeID}
		}
		if !old.IsLearner && ms.voters() == 1 {
			return nil, &deimos.MemberError{Reason: deimos.MemberLastVoter, ID: cc.NodeID}
		}
		delete(next.byID, cc.NodeID)
		next.removed[cc.NodeID] = struct{}{}
		return next, nil
	case raftpb.ConfChangeAddNode:
		switch {
		case !known: // learners first, always
			return nil, &deimos.MemberError{Reason: deimos.MemberUnknown, ID: cc.NodeID}
		case !old.IsLearner:
			return nil, &deimos.MemberError{Reason: deimos.MemberIsVoter, ID: cc.NodeID}
		case old.incarnation.IsZero(): // it has not started
			return nil, &deimos.MemberError{Reason: deimos.MemberNotCaughtUp, ID: cc.NodeID}
		}
		old.IsLearner, old.promote = false, false
		next.byID[cc.NodeID] = old
		return next, nil
	case raftpb.ConfChangeAddLearnerNode:
		if known {
			return nil, &deimos.MemberError{Reason: deimos.MemberExists, ID: cc.NodeID}
		}
		record, err := ms.record(cc)
		if err != nil {
			return nil, err
		}
		record.IsLearner = true
		next.byID[cc.NodeID] = record
		return next, nil
	case raftpb.ConfChangeUpdateNode:
		record, err := ms.record(cc)
		if err != nil {
			return nil, err
		}
		if !known {
			return nil, &deimos.MemberError{Reason: deimos.MemberUnknown, ID: cc.NodeID}
		}
		old.PeerURLs = record.PeerURLs
		next.byID[cc.NodeID] = old
		return next, nil
	default:
		return nil, &deimos.MemberError{Reason: deimos.MemberChangeBroken, ID: cc.NodeID}
	}
}

// record reads the member record of a change and refuses peer URLs that
// another member has.
func (ms *membership) record(cc raftpb.ConfChange) (member, error) {
	var p serverpb.Member
	if err := p.Unmarshal(cc.Context); err != nil || p.ID != cc.NodeID {
		return member{}, &deimos.MemberError{Reason: deimos.MemberChangeBroken, ID: cc.NodeID}
	}
	for _, m := range ms.byID {
		if m.ID == cc.NodeID {
			continue
		}
		for _, u := range p.PeerURLs {
			if slices.Contains(m.PeerURLs, u) {
				return member{}, &deimos.MemberError{Reason: deimos.MemberURLTaken, ID: cc.NodeID}
			}
		}
	}
	return memberFromProto(&p), nil
}

func (ms *membership) voters() int {
	n := 0
	for _, m := range ms.byID {
		if !m.IsLearner {
			n++
		}
	}
	return n
}
