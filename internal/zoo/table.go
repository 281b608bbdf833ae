package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// mutant is one deliberate defect.
type mutant struct {
	// id is the number, such as M7, with a letter where a defect has more than
	// one place, or a word for defects that were found in this project.
	id string
	// name says the defect in a few words, and why what it leads to.
	name, why string
	edits     []edit
	// catchers are tried in order until one catches the mutant.
	catchers []catcher
	// short puts the mutant among those that are run with every change.
	short bool
	// sim says that the simulator runs the code of the mutant and catches it.
	sim bool
}

// edit replaces one piece of text, which has to occur exactly once.
type edit struct {
	// file is a path in this module, or, behind the path of a dependency and a
	// colon, one in that dependency.
	file     string
	old, new string
}

// module returns the dependency that the edit is for, "" for this module, and
// the path in it.
func (e *edit) module() (module, path string) {
	module, path, found := strings.Cut(e.file, ":")
	if !found {
		return "", e.file
	}
	return module, path
}

// apply returns the source with the defect in it.
func (e *edit) apply(source string) (string, error) {
	if n := strings.Count(source, e.old); n != 1 {
		return "", fmt.Errorf("%s: the text to be replaced occurs %d times, want once: %q", e.file, n, firstLine(e.old))
	}
	return strings.Replace(source, e.old, e.new, 1), nil
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return line
}

// catcher names tests of one package.
type catcher struct {
	pkg string // relative to the module, such as wal
	run string // as of go test -run
	// args follow the flags of the test binary.
	args []string
	// limit is the time that the tests may take; 0: limitDefault.
	limit time.Duration
	// hangs says that the tests find the defect by not coming to an end.
	hangs bool
}

const limitDefault = time.Minute

// by is a catcher with the defaults.
func by(pkg, run string) []catcher { return []catcher{{pkg: pkg, run: "^(" + run + ")$"}} }

func (c *catcher) String() string {
	return strings.Join(append([]string{c.pkg + "." + c.tests()}, c.args...), " ")
}

// tests returns the names of the tests, for people.
func (c *catcher) tests() string { return strings.Trim(c.run, "^$()") }

func (c *catcher) timeLimit() time.Duration {
	if c.limit == 0 {
		return limitDefault
	}
	return c.limit
}

// waiting is a mutant that there is not, or that a run leaves out.
type waiting struct{ id, why string }

// zoo returns all mutants, in the order of their numbers.
func zoo() []mutant {
	return slices.Concat(ackMutants(), diskMutants(), snapshotMutants(), raftMutants(), memberMutants(),
		timeMutants(), watchMutants(), treeMutants(), requestMutants(), processMutants(), foundMutants())
}

// pick returns the mutants that are asked for by their ids, all of them if ids
// is empty. An id without its letter stands for all of that number.
func pick(all []mutant, ids string, short bool) ([]mutant, error) {
	chosen := all
	if ids != "" {
		chosen = nil
		for id := range strings.SplitSeq(ids, ",") {
			before := len(chosen)
			for _, m := range all {
				if strings.EqualFold(m.id, id) || strings.EqualFold(strings.TrimRight(m.id, "abcdefgh"), id) {
					chosen = append(chosen, m)
				}
			}
			if len(chosen) == before {
				return nil, fmt.Errorf("there is no mutant %q", id)
			}
		}
	}
	if short {
		chosen = slices.DeleteFunc(slices.Clone(chosen), func(m mutant) bool { return !m.short })
	}
	return chosen, nil
}
