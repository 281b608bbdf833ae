package main

import (
	"context"
	"errors"

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
	exitDamaged = 65 // damaged data that cannot be repaired
	exitDataDir = 73 // the data directory is locked, foreign or unusable
	exitIO      = 74 // an I/O operation on the data directory failed
)

// exitCode is the one place where an error becomes an exit code.
func exitCode(err error) int {
	if err == nil {
		return exitOK
	}
	if errors.Is(err, load.ErrNoConnection) {
		return exitConnect
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

func isContextError(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
