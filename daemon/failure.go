package daemon

import (
	"errors"
	"fmt"

	"github.com/marsevilspirit/deimos/raftnode"
	"github.com/marsevilspirit/deimos/server"
	"github.com/marsevilspirit/deimos/snap"
	"github.com/marsevilspirit/deimos/wal"
)

// Failure is the kind of an error of this package: what an operator has to look
// at, and what the exit status of the process depends on.
type Failure int

// The kinds of failure.
const (
	// FailureRuntime is everything that has no kind of its own: a port in use,
	// a broken invariant.
	FailureRuntime Failure = iota
	// FailureUsage is a [*UsageError].
	FailureUsage
	// FailureDamage means that data is damaged beyond repair.
	FailureDamage
	// FailureDataDir means that the data directory is locked, foreign, newer
	// than this version, or otherwise unusable.
	FailureDataDir
	// FailureIO means that an I/O operation on the data directory failed.
	FailureIO
)

// FailureOf tells the kind of an error that Open, Failed or Close returned.
func FailureOf(err error) Failure {
	switch {
	case is[*UsageError](err):
		return FailureUsage
	case is[*noSpaceError](err):
		return FailureIO
	case is[*DataDirError](err), errors.Is(err, wal.ErrLocked), errors.Is(err, wal.ErrVersion),
		errors.Is(err, snap.ErrVersion), is[*server.FormatError](err):
		return FailureDataDir
	case errors.Is(err, wal.ErrIO), errors.Is(err, snap.ErrIO), is[*ioError](err):
		return FailureIO
	case is[*wal.DamageError](err), is[*snap.DamageError](err), errors.Is(err, snap.ErrNone),
		is[*raftnode.LostLogError](err), is[*restoreError](err), is[*lostLogError](err):
		return FailureDamage
	default:
		return FailureRuntime
	}
}

func is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// restoreError says that a snapshot whose checksums are right cannot be read
// all the same.
type restoreError struct {
	raftIndex uint64
	err       error
}

func (e *restoreError) Error() string {
	return fmt.Sprintf("the snapshot at raft index %d cannot be restored: %v; keep a copy of the data directory and replace the member", e.raftIndex, e.err)
}

func (e *restoreError) Unwrap() error { return e.err }

// lostLogError says that a data directory has lost its log.
type lostLogError struct{ dir, reason string }

func (e *lostLogError) Error() string {
	return fmt.Sprintf("the log in %s is missing, %s: restore the data directory from a copy, or choose another --data-dir", e.dir, e.reason)
}
