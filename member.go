package deimos

import "strconv"

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
