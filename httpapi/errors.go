package httpapi

import (
	"context"
	"errors"
	"net/http"
	"strconv"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/store"
)

const causeInternal = "internal error"

// statuses is the one table from codes to HTTP statuses. Codes that are not in
// it are 400.
var statuses = map[deimos.Code]int{
	deimos.CodeKeyNotFound:    http.StatusNotFound,
	deimos.CodeCompareFailed:  http.StatusPreconditionFailed,
	deimos.CodeNotFile:        http.StatusForbidden,
	deimos.CodeKeyExists:      http.StatusPreconditionFailed,
	deimos.CodeDirNotEmpty:    http.StatusForbidden,
	deimos.CodeUnauthorized:   http.StatusUnauthorized,
	deimos.CodeRaftInternal:   http.StatusInternalServerError,
	deimos.CodeLeaderElection: http.StatusInternalServerError,
}

// statusOf returns the HTTP status of an error, and after how many seconds the
// client may try again ("" when the answer does not say).
func statusOf(e *deimos.Error) (status int, retryAfter string) {
	switch {
	case e.Code == deimos.CodeLeaderElection:
		retryAfter = "1"
	case e.Code == deimos.CodeRaftInternal && e.Cause == deimos.CauseOverloaded:
		return http.StatusServiceUnavailable, "1"
	case e.Code == deimos.CodeRaftInternal && e.Cause == deimos.CauseDiskReserve:
		return http.StatusInsufficientStorage, "5"
	}
	if status, ok := statuses[e.Code]; ok {
		return status, retryAfter
	}
	return http.StatusBadRequest, retryAfter
}

// refusal is an error answer. It is no error: a nil refusal is the good case.
type refusal struct {
	// status is 0 where the table of statuses decides.
	status int
	err    deimos.Error
}

// refuse returns the refusal of a request that was never proposed.
func refuse(code deimos.Code, cause string) *refusal {
	return &refusal{err: deimos.Error{Code: code, Cause: cause}}
}

// refuse answers with a JSON error.
func (c *call) refuse(ref *refusal) {
	status, retryAfter := statusOf(&ref.err)
	if ref.status != 0 {
		status = ref.status
	}
	header := c.w.Header()
	if retryAfter != "" {
		header["Retry-After"] = []string{retryAfter}
	}
	body := appendError(make([]byte, 0, 256), &ref.err)
	if c.keysAnswer {
		c.setKeysHeaders(ref.err.Index, len(body))
	} else {
		header["Content-Length"] = []string{strconv.Itoa(len(body))}
	}
	header["Content-Type"] = contentJSON
	c.begin(status)
	c.write(body)
}

// fail answers with an error of the backend. timeoutCause is what the client
// is told when its time is over.
func (c *call) fail(err error, timeoutCause string) {
	var e *deimos.Error
	switch {
	case errors.As(err, &e):
		c.refuse(&refusal{err: *e})
	case errors.Is(err, store.ErrStopped), errors.Is(err, ErrStopping):
		c.refuse(refuse(deimos.CodeRaftInternal, deimos.CauseStopping))
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		c.refuse(refuse(deimos.CodeRaftInternal, timeoutCause))
	default:
		c.logFailure(err)
		c.refuse(refuse(deimos.CodeRaftInternal, causeInternal))
	}
}

// logFailure tells the operator of an error that no client can have caused.
func (c *call) logFailure(err error) {
	c.h.log.Error("request failed", "method", c.r.Method, "path", c.r.URL.Path, "error", err)
}
