package server

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/server/serverpb"
	"go.etcd.io/raft/v3/raftpb"
)

// MemberError says why a configuration change had no effect.
type MemberError struct {
	// Reason is one of the constants below.
	Reason MemberErrorReason
	ID     uint64
}

// MemberErrorReason tells the kinds of [MemberError] apart.
type MemberErrorReason string

// The reasons of a [MemberError].
const (
	MemberUnknown      MemberErrorReason = "no such member"
	MemberRemoved      MemberErrorReason = "member permanently removed"
	MemberExists       MemberErrorReason = "member exists"
	MemberURLTaken     MemberErrorReason = "peer URL exists"
	MemberIsVoter      MemberErrorReason = "member is already a voter"
	MemberLastVoter    MemberErrorReason = "cannot remove the last voting member"
	MemberChangeBroken MemberErrorReason = "member record cannot be read"
)

// Error implements the error interface.
func (e *MemberError) Error() string {
	return fmt.Sprintf("server: %s: %s", e.Reason, deimos.FormatID(e.ID))
}

// membership is one version of the member list. It is never changed in place.
type membership struct {
	byID    map[uint64]deimos.Member
	removed map[uint64]struct{} // ids that are never admitted again
}

func newMembership(members []deimos.Member) *membership {
	ms := &membership{byID: make(map[uint64]deimos.Member, len(members)), removed: map[uint64]struct{}{}}
	for _, m := range members {
		ms.byID[m.ID] = m
	}
	return ms
}

// list returns the members sorted by id.
func (ms *membership) list() []deimos.Member {
	return slices.SortedFunc(maps.Values(ms.byID), func(a, b deimos.Member) int { return cmp.Compare(a.ID, b.ID) })
}

func (ms *membership) clone() *membership {
	return &membership{byID: maps.Clone(ms.byID), removed: maps.Clone(ms.removed)}
}

// setAttributes returns the list with the name and client URLs of a member
// that has started. It returns ms itself when there is nothing to change.
func (ms *membership) setAttributes(attributes deimos.Member) *membership {
	m, ok := ms.byID[attributes.ID]
	if !ok || (m.Name == attributes.Name && slices.Equal(m.ClientURLs, attributes.ClientURLs)) {
		return ms
	}
	m.Name, m.ClientURLs = attributes.Name, attributes.ClientURLs
	next := ms.clone()
	next.byID[m.ID] = m
	return next
}

// change returns the list after a configuration change. The member record of
// an addition or update is the change's context.
func (ms *membership) change(cc raftpb.ConfChange) (*membership, error) {
	if _, gone := ms.removed[cc.NodeID]; gone {
		return nil, &MemberError{Reason: MemberRemoved, ID: cc.NodeID}
	}
	old, known := ms.byID[cc.NodeID]
	next := ms.clone()
	switch cc.Type {
	case raftpb.ConfChangeRemoveNode:
		if !known {
			return nil, &MemberError{Reason: MemberUnknown, ID: cc.NodeID}
		}
		if !old.IsLearner && ms.voters() == 1 {
			return nil, &MemberError{Reason: MemberLastVoter, ID: cc.NodeID}
		}
		delete(next.byID, cc.NodeID)
		next.removed[cc.NodeID] = struct{}{}
		return next, nil
	case raftpb.ConfChangeAddNode, raftpb.ConfChangeAddLearnerNode:
		return next.admit(cc, old, known)
	case raftpb.ConfChangeUpdateNode:
		record, err := ms.record(cc)
		if err != nil {
			return nil, err
		}
		if !known {
			return nil, &MemberError{Reason: MemberUnknown, ID: cc.NodeID}
		}
		old.PeerURLs = record.PeerURLs
		next.byID[cc.NodeID] = old
		return next, nil
	default:
		return nil, &MemberError{Reason: MemberChangeBroken, ID: cc.NodeID}
	}
}

// admit adds a member to a copy that belongs to the caller, or promotes a
// learner that is in it.
func (ms *membership) admit(cc raftpb.ConfChange, old deimos.Member, known bool) (*membership, error) {
	if known {
		if cc.Type == raftpb.ConfChangeAddLearnerNode {
			return nil, &MemberError{Reason: MemberExists, ID: cc.NodeID}
		}
		if !old.IsLearner {
			return nil, &MemberError{Reason: MemberIsVoter, ID: cc.NodeID}
		}
		old.IsLearner = false
		ms.byID[cc.NodeID] = old
		return ms, nil
	}
	record, err := ms.record(cc)
	if err != nil {
		return nil, err
	}
	record.IsLearner = cc.Type == raftpb.ConfChangeAddLearnerNode
	ms.byID[cc.NodeID] = record
	return ms, nil
}

// record reads the member record of a change and refuses peer URLs that
// another member has.
func (ms *membership) record(cc raftpb.ConfChange) (deimos.Member, error) {
	var p serverpb.Member
	if err := p.Unmarshal(cc.Context); err != nil || p.ID != cc.NodeID {
		return deimos.Member{}, &MemberError{Reason: MemberChangeBroken, ID: cc.NodeID}
	}
	for _, m := range ms.byID {
		if m.ID == cc.NodeID {
			continue
		}
		for _, u := range p.PeerURLs {
			if slices.Contains(m.PeerURLs, u) {
				return deimos.Member{}, &MemberError{Reason: MemberURLTaken, ID: cc.NodeID}
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
