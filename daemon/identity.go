package daemon

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"github.com/marsevilspirit/deimos"
)

// memberID derives the id of a first member from what all first members know
// of it, so that each computes the same ids without asking.
func memberID(m BootstrapMember, token string) uint64 {
	urls := sortedURLs(m.PeerURLs)
	return hashID(append([]string{"member", token, m.Name}, urls...))
}

// clusterID derives the id of a cluster from its first members and its token.
func clusterID(members []deimos.Member, token string) uint64 {
	ids := make([]string, 0, len(members))
	for _, m := range members {
		ids = append(ids, deimos.FormatID(m.ID))
	}
	slices.Sort(ids)
	return hashID(append([]string{"cluster", token}, ids...))
}

// hashID hashes a list so that no two lists run into each other, and never
// returns 0 or one of the two highest numbers, which raft keeps for itself.
func hashID(parts []string) uint64 {
	h := sha256.New()
	for _, p := range parts {
		var length [8]byte
		binary.BigEndian.PutUint64(length[:], uint64(len(p)))
		h.Write(length[:])
		h.Write([]byte(p))
	}
	const top = 1 << 63
	id := binary.BigEndian.Uint64(h.Sum(nil)) &^ top
	return max(id, 1)
}

// firstMembers returns the members of a new cluster, sorted by id, and which of
// them is called name.
func firstMembers(bootstrap []BootstrapMember, token, name string) (members []deimos.Member, self deimos.Member) {
	for _, b := range bootstrap {
		m := deimos.Member{ID: memberID(b, token), Name: b.Name, PeerURLs: sortedURLs(b.PeerURLs)}
		members = append(members, m)
		if b.Name == name {
			self = m
		}
	}
	slices.SortFunc(members, func(a, b deimos.Member) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	return members, self
}

// randomNumber is unlike any other number that any process has drawn.
func randomNumber() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails, it ends the program instead
	return binary.BigEndian.Uint64(b[:])
}

// sortedURLs returns a sorted copy, the form in which member records keep URLs.
func sortedURLs(urls []string) []string { return slices.Sorted(slices.Values(urls)) }
