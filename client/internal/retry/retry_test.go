package retry

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/client"
)

func TestHelps(t *testing.T) {
	refused := &client.StatusError{Status: 404}
	for _, tt := range []struct {
		name string
		err  error
		want bool
	}{
		{"closed client", fmt.Errorf("x: %w", client.ErrClosed), false},
		{"invalid argument", client.ErrInvalidArgument, false},
		{"nobody answers", &client.NoEndpointError{}, true},
		{"strangers answer", &client.NoEndpointError{Failures: []client.EndpointFailure{{Err: refused}}}, true},
		{"unknown outcome", &client.UnknownOutcomeError{Err: &deimos.Error{Code: deimos.CodeNotFile}}, true},
		{"a page of a stranger", refused, false},
		{"a failing server", &client.StatusError{Status: 502}, true},
		{"election", deimos.ErrLeaderElection, true},
		{"a member that fails", deimos.ErrRaftInternal, true},
		{"a directory", deimos.ErrNotFile, false},
		{"timeout", context.DeadlineExceeded, true},
	} {
		if got := Helps(tt.err); got != tt.want {
			t.Errorf("%s: Helps(%v) = %v, want %v", tt.name, tt.err, got, tt.want)
		}
	}
}

func TestPauseDoublesUpToItsLimit(t *testing.T) {
	for n, want := range map[int]time.Duration{0: 100, 1: 200, 2: 400, 3: 500, 29: 500, 64: 500} {
		for range 100 {
			got := Pause(n, 100*time.Millisecond, 500*time.Millisecond)
			if got > want*time.Millisecond || got < want*3/4*time.Millisecond {
				t.Fatalf("Pause(%d) = %v, want %d ms or up to a quarter less", n, got, want)
			}
		}
	}
}

func TestSleepEndsWithItsContext(t *testing.T) {
	if err := Sleep(t.Context(), time.Millisecond); err != nil {
		t.Errorf("Sleep = %v, want nil", err)
	}
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if err := Sleep(ctx, time.Hour); err != why {
		t.Errorf("Sleep = %v, want %v", err, why)
	}
}
