package daemon

import (
	"fmt"
	"strings"
	"unicode"
)

// damagedError is damage that keeps a member from starting, with the way out.
type damagedError struct {
	err    error
	wayOut string
}

func (e *damagedError) Error() string { return fmt.Sprintf("%v: %s", e.err, e.wayOut) }

func (e *damagedError) Unwrap() error { return e.err }

// withWayOut adds to damage what to do about it. That depends on whether anybody
// else in the cluster has what is lost, which is read from what is left of the
// log and the snapshots.
func withWayOut(dir *dataDir, err error) error {
	if !isDamage(err) {
		return err
	}
	r, inspectErr := inspectLog(dir)
	if inspectErr != nil {
		r = &LogReport{DataDir: dir.path}
	}
	return &damagedError{err, r.wayOut()}
}

// Err returns what keeps the member from starting, with the way out; nil if
// nothing is damaged.
func (r *LogReport) Err() error {
	if r.Damage == nil {
		return nil
	}
	return &damagedError{r.Damage, r.wayOut()}
}

// isDamage tells whether an error is about a log or a snapshot that is not what
// was once written.
func isDamage(err error) bool { return FailureOf(err) == FailureDamage && !is[*restoreError](err) }

// wayOut says what to do about the damage.
func (r *LogReport) wayOut() string {
	inspect := fmt.Sprintf("`deimos log inspect --data-dir %s`", shellWord(r.DataDir))
	if r.Recovery == nil {
		return fmt.Sprintf("%s shows what can be read, of which no member can be recovered: keep a copy of the data directory, then remove this "+
			"member from its cluster and add it again with an empty one, or restore an older copy if it is the only member", inspect)
	}
	if r.Recovery.OnlyVoter() {
		return fmt.Sprintf("nobody else has what is lost; %s shows what can be read, and "+
			"`deimos log recover --data-dir %s` what precedes the damage and how to go on from it", inspect, shellWord(r.DataDir))
	}
	return fmt.Sprintf("the others have what is lost, so keep a copy of the data directory and %s; %s shows what can be read",
		r.Replace(), inspect)
}

// Replace says how the member is replaced, with the commands for it.
func (r *LogReport) Replace() string {
	self := r.Recovery.Self
	return replaceCommands(clientURL(r.Recovery.Others, self.ID), self.ID, self.PeerURLs)
}

// shellWord returns a path as a shell takes it for one word.
func shellWord(path string) string {
	plain := func(c rune) bool {
		return unicode.IsLetter(c) || unicode.IsDigit(c) || strings.ContainsRune("/._-+:@%,=", c)
	}
	if path != "" && !strings.ContainsFunc(path, func(c rune) bool { return !plain(c) }) {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}
