package main

import (
	"context"
	"errors"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/client"
	"github.com/marsevilspirit/deimos/daemon"
	"github.com/marsevilspirit/deimos/internal/load"
)

// The exit codes of the program. Everything else that an error may claim for
// itself becomes exitFailure.
const (
	exitOK      = 0
	exitFailure = 1  // a failure while running: port in use, removed from the cluster
	exitUsage   = 2  // a bad flag, variable, configuration file or combination of them
	exitConnect = 3  // a command cannot connect to a member
	exitKey     = 4  // a key does not exist, exists already, or is not as a condition demands
	exitDamaged = 65 // damaged data that cannot be repaired
	exitDataDir = 73 // the data directory is locked, foreign or unusable
	exitIO      = 74 // an I/O operation on the data directory failed
	exitLost    = 75 // a lock, a term or a registration was lost

	// The codes of a command that was run for somebody, besides its own.
	exitNotRun = 127 // it cannot be started
	exitSignal = 128 // and the number of the signal that has ended it
)

// exitCode is the one place where an error becomes an exit code.
func exitCode(err error) int {
	if err == nil {
		return exitOK
	}
	if e, ok := errors.AsType[*childError](err); ok {
		return e.code
	}
	if errors.Is(err, load.ErrNoConnection) || errors.Is(err, client.ErrNoEndpoint) {
		return exitConnect
	}
	if isKeyError(err) {
		return exitKey
	}
	switch daemon.FailureOf(err) {
	case daemon.FailureUsage:
		return exitUsage
	case daemon.FailureDamage:
		return exitDamaged
	case daemon.FailureDataDir:
		return exitDataDir
	case daemon.FailureIO:
		return exitIO
	default:
		return exitFailure
	}
}

// isKeyError reports whether a request was answered and the key, or the member,
// is not as the caller wants it.
func isKeyError(err error) bool {
	_, ok := errors.AsType[*noMemberError](err)
	return ok || errors.Is(err, deimos.ErrKeyNotFound) || errors.Is(err, deimos.ErrCompareFailed) || errors.Is(err, deimos.ErrKeyExists)
}

func isContextError(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
