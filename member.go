package deimos

import (
	"fmt"
	"strconv"
)

// Member is one configured process of a cluster.
type Member struct {
	// ID is unique for ever: the id of a removed member is never given again.
	ID uint64
	// Name is empty until the member has started for the first time.
	Name string
	// PeerURLs and ClientURLs are sorted and never changed in place.
	PeerURLs   []string
	ClientURLs []string
	// IsLearner marks a member that receives the log and does not vote.
	IsLearner bool
}

// FormatID writes a member or cluster id the way the API shows it: lower-case
// hex without padding.
func FormatID(id uint64) string { return strconv.FormatUint(id, 16) }

// Incarnation tells one data directory of a member from another: a random
// number, made with the directory. A member whose disk was wiped comes back
// with another one. The zero value stands for a member that has not started.
type Incarnation [16]byte

// IsZero reports whether no data directory is meant.
func (i Incarnation) IsZero() bool { return i == Incarnation{} }

// String writes the number as 32 hex digits.
func (i Incarnation) String() string { return fmt.Sprintf("%x", i[:]) }

// MemberOp is what a [MemberChange] does.
type MemberOp uint8

// The membership operations. The numbers travel between members and never
// change their meaning.
const (
	// MemberAdd adds a member at PeerURLs, always as a learner. Unless Learner
	// is set, the leader promotes it once it has caught up.
	MemberAdd MemberOp = iota + 1
	// MemberUpdate replaces the peer URLs of the member ID.
	MemberUpdate
	// MemberRemove removes the member ID for ever.
	MemberRemove
	// MemberPromote makes a voter of the learner ID.
	MemberPromote
	// MemberLead hands leadership to the voter ID; the list stays as it is.
	MemberLead
)

// MemberChange is one change of the member list, or of who leads it.
type MemberChange struct {
	Op MemberOp
	// ID names the member; 0 for MemberAdd, which gives one.
	ID uint64
	// PeerURLs are those of MemberAdd and MemberUpdate.
	PeerURLs []string
	// Learner keeps a new member from being promoted by itself.
	Learner bool
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
	MemberIsLearner    MemberErrorReason = "member is a learner"
	MemberLastVoter    MemberErrorReason = "cannot remove the last voting member"
	MemberNotCaughtUp  MemberErrorReason = "learner is not caught up"
	MemberCostsQuorum  MemberErrorReason = "too few of the remaining voting members can be reached"
	MemberNotTaken     MemberErrorReason = "member did not take over leadership"
	MemberChangeBroken MemberErrorReason = "member record cannot be read"
	MemberOther        MemberErrorReason = "the data directory is not the one that the member started with"
)

// MemberError says why a membership change had no effect.
type MemberError struct {
	Reason MemberErrorReason
	ID     uint64
}

// Error implements the error interface.
func (e *MemberError) Error() string { return fmt.Sprintf("%s: %s", e.Reason, FormatID(e.ID)) }
