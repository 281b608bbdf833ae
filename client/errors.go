package client

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/marsevilspirit/deimos"
)

var (
	// ErrNoEndpoint is what errors.Is finds in a [NoEndpointError].
	ErrNoEndpoint = errors.New("no endpoint answers")
	// ErrUnknownOutcome is what errors.Is finds in an [UnknownOutcomeError].
	ErrUnknownOutcome = errors.New("the outcome is unknown")
	// ErrInvalidArgument is what errors.Is finds in an error about what a caller
	// has given: nothing was sent.
	ErrInvalidArgument = errors.New("invalid argument")
	// ErrClosed is wrapped by the errors of calls after or during [Client.Close].
	ErrClosed = errors.New("the client is closed")
)

// argumentError is a sentence about what a caller has given.
type argumentError string

func (e argumentError) Error() string { return string(e) }

func (e argumentError) Is(target error) bool { return target == ErrInvalidArgument }

// invalidf makes an error that is [ErrInvalidArgument].
func invalidf(format string, args ...any) error { return argumentError(fmt.Sprintf(format, args...)) }

// UnknownOutcomeError says that a write was sent and that nobody knows whether
// it was applied: it may have been, and it may still be. It was not sent again.
type UnknownOutcomeError struct {
	// Op is the method and path of the request.
	Op string
	// Endpoint is where the request was sent.
	Endpoint string
	// Err tells why there is no answer: a broken connection, the end of the
	// context, or what the server said.
	Err error
}

// Error implements the error interface.
func (e *UnknownOutcomeError) Error() string {
	return fmt.Sprintf("client: %s at %s: the write may or may not have been applied: %v", e.Op, e.Endpoint, e.Err)
}

// Unwrap returns [ErrUnknownOutcome] and the cause.
func (e *UnknownOutcomeError) Unwrap() []error { return []error{ErrUnknownOutcome, e.Err} }

// NoEndpointError says that no endpoint has answered and that nothing was
// changed: the call was a read, or no connection came about.
type NoEndpointError struct {
	// Op is the method and path of the request.
	Op string
	// Failures holds the last failure of each endpoint that was tried.
	Failures []EndpointFailure
}

// EndpointFailure is why one endpoint did not answer.
type EndpointFailure struct {
	Endpoint string
	Err      error
}

// Error implements the error interface.
func (e *NoEndpointError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "client: %s: %v", e.Op, ErrNoEndpoint)
	for i, f := range e.Failures {
		sep := "; "
		if i == 0 {
			sep = ": "
		}
		fmt.Fprintf(&b, "%s%s: %v", sep, f.Endpoint, f.Err)
	}
	return b.String()
}

// Unwrap returns [ErrNoEndpoint] and the failures.
func (e *NoEndpointError) Unwrap() []error {
	errs := []error{ErrNoEndpoint}
	for _, f := range e.Failures {
		errs = append(errs, f.Err)
	}
	return errs
}

// StatusError is an answer that is no success and not in the words of the keys
// API: an error of the members API or of a proxy, or a page of something that is
// not Deimos at all.
type StatusError struct {
	// Op is the method and path of the request.
	Op string
	// Endpoint is who answered.
	Endpoint string
	// Status is the HTTP status.
	Status int
	// Message is what a JSON answer said, else the first line of the body.
	Message string
}

// Error implements the error interface.
func (e *StatusError) Error() string {
	text := fmt.Sprintf("client: %s at %s: %d %s", e.Op, e.Endpoint, e.Status, http.StatusText(e.Status))
	if e.Message != "" {
		text += ": " + e.Message
	}
	return text
}

// Is reports whether target is [deimos.ErrLeaderElection] and the cluster has
// no leader.
func (e *StatusError) Is(target error) bool {
	t, ok := target.(*deimos.Error)
	return ok && t.Code == deimos.CodeLeaderElection && e.Status == http.StatusServiceUnavailable && e.Message == messageElection
}

// messageElection is what the members API says when there is no leader.
const messageElection = "During election"
