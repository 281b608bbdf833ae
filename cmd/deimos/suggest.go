package main

import "strings"

// suggestPrefixMin is how much of a name has to be there for the rest to be
// guessed.
const suggestPrefixMin = 4

// suggest returns the option that was probably meant by an unknown name: the
// one that is a few slips of the fingers away, else the only one that begins so.
// Empty if there is none.
func suggest(unknown string, options []*option) string {
	var names []string
	begins := map[*option]string{}
	for _, o := range options {
		names = append(names, o.names()...)
		for _, name := range o.names() {
			if len(unknown) >= suggestPrefixMin && strings.HasPrefix(name, unknown) {
				begins[o] = name
			}
		}
	}
	best := nearest(unknown, names)
	if best == "" && len(begins) == 1 {
		for _, name := range begins {
			return name
		}
	}
	return best
}

// nearest returns the name that is a few slips of the fingers away from an
// unknown one, and nothing if none is.
func nearest(unknown string, names []string) string {
	best, bestSlips := "", len(unknown)/6+2 // one slip more than is forgiven
	for _, name := range names {
		if slips := distance(unknown, name, bestSlips+1); slips < bestSlips || slips == bestSlips && name < best {
			best, bestSlips = name, slips
		}
	}
	return best
}

// distance counts the letters to insert, leave out, replace, or swap with the
// next one that make b of a. It counts no further than limit.
func distance(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	// before[j], last[j] and this[j] are the distances of b[:j] from a[:i-2],
	// a[:i-1] and a[:i].
	before, last, this := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		this[0] = i
		for j := 1; j <= len(b); j++ {
			replaced := last[j-1]
			if a[i-1] != b[j-1] {
				replaced++
			}
			this[j] = min(last[j]+1, this[j-1]+1, replaced)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				this[j] = min(this[j], before[j-2]+1)
			}
		}
		before, last, this = last, this, before
	}
	return min(last[len(b)], limit)
}
