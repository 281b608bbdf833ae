// Package retry has what the packages above the client do when a call fails:
// whether another try can help, and how long to wait before it. It makes no
// calls and has no goroutine.
package retry

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/client"
)

// Helps reports whether a call that failed with err may succeed later. It is
// for calls that may be repeated: an unknown outcome is no obstacle.
func Helps(err error) bool {
	var status *client.StatusError
	var e *deimos.Error
	switch {
	case errors.Is(err, client.ErrClosed), errors.Is(err, client.ErrInvalidArgument):
		return false
	case errors.Is(err, client.ErrNoEndpoint), errors.Is(err, client.ErrUnknownOutcome):
		return true
	case errors.As(err, &status):
		return status.Status >= http.StatusInternalServerError
	case errors.As(err, &e):
		return e.Code == deimos.CodeRaftInternal || e.Code == deimos.CodeLeaderElection
	default: // the end of a context
		return true
	}
}

// Pause returns low doubled n times, at most high, less a random part of up to
// a quarter, so that those who failed together do not return together.
func Pause(n int, low, high time.Duration) time.Duration {
	d := high
	if n < 30 && low<<n < high {
		d = low << n
	}
	return d - rand.N(d/4+1)
}

// Sleep waits, and returns the cause of the end of ctx if that comes first.
func Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
