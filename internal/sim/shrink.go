package sim

import (
	"errors"
	"maps"
)

// Shrink cuts a failing run down: it leaves out as many of its planned faults
// as it can while a violation of the same rule remains, with at most runs runs.
// The result is the Skip of the smallest run that it found.
func Shrink(cfg Config, rule string, runs int) map[int]bool {
	cfg.Trace = nil
	fails := func(skip map[int]bool) bool {
		cfg.Skip = skip
		var v *Violation
		return errors.As(Run(cfg).Err, &v) && v.Rule == rule
	}
	skip := maps.Clone(cfg.Skip)
	if skip == nil {
		skip = map[int]bool{}
	}
	var left []int
	for _, f := range newPlan(cfg).faults {
		left = append(left, f.n)
	}
	for size := max(len(left)/2, 1); size >= 1 && runs > 0; size /= 2 {
		for at := 0; at < len(left) && runs > 0; {
			piece := left[at:min(at+size, len(left))]
			next := maps.Clone(skip)
			for _, n := range piece {
				next[n] = true
			}
			runs--
			if fails(next) {
				skip = next
				left = append(left[:at:at], left[at+len(piece):]...)
			} else {
				at += len(piece)
			}
		}
	}
	return skip
}
