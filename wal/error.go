package wal

import (
	"errors"
	"fmt"
)

var (
	// ErrIO tells that the operating system failed an operation on the log. The
	// cause is wrapped beside it. It is final: the log accepts nothing after it.
	ErrIO = errors.New("I/O failed")
	// ErrLocked tells that another process has the log open.
	ErrLocked = errors.New("locked by another process")
	// ErrExists tells that there is a log already where one was to be created.
	ErrExists = errors.New("a log exists already")
	// ErrNotFound tells that there is no log.
	ErrNotFound = errors.New("no log found")
	// ErrVersion tells that the log was written by a newer version of Deimos.
	ErrVersion = errors.New("unknown log format")
	// ErrNothingSalvaged tells that nothing of a log is of any use to a member.
	ErrNothingSalvaged = errors.New("no sound snapshot fits what can be read of the log")
	// ErrClosed tells that the log was closed or abandoned before.
	ErrClosed = errors.New("the log is closed")
)

// DamageError tells that the log is not what was once written, at a place
// that no crash explains. Nothing was changed.
type DamageError struct {
	// File is the path of the file, or of the directory when no single file
	// is at fault.
	File string
	// Offset is where the first bad record begins, in bytes.
	Offset int64
	// RaftIndex is the raft index of the first entry that is lost or cannot be
	// trusted; 0 if unknown.
	RaftIndex uint64
	// Err says what is wrong there.
	Err error
}

// Error implements the error interface with one sentence that says where the
// damage is. What to do depends on the cluster, which this package does not know.
func (e *DamageError) Error() string {
	at := ""
	if e.RaftIndex > 0 {
		at = fmt.Sprintf(", first bad raft index %d", e.RaftIndex)
	}
	return fmt.Sprintf("wal: %s is damaged at offset %d%s: %v; nothing was changed", e.File, e.Offset, at, e.Err)
}

// Unwrap returns what is wrong.
func (e *DamageError) Unwrap() error { return e.Err }

// LockedError is an [ErrLocked] that knows the holder.
type LockedError struct {
	// Dir is the directory of the log.
	Dir string
	// PID is the process that holds it; 0 if unknown.
	PID int
}

// Error implements the error interface.
func (e *LockedError) Error() string {
	holder := "another process"
	if e.PID > 0 {
		holder = fmt.Sprintf("process %d", e.PID)
	}
	return fmt.Sprintf("wal: %s is locked by %s; stop it, or use another data directory", e.Dir, holder)
}

// Is reports whether target is [ErrLocked].
func (e *LockedError) Is(target error) bool { return target == ErrLocked }

func ioError(doing, name string, err error) error {
	return fmt.Errorf("wal: %s %s: %w: %w", doing, name, ErrIO, err)
}
