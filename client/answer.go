package client

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/marsevilspirit/deimos"
)

// messageMaxBytes is how much of a body that is no JSON goes into an error.
const messageMaxBytes = 200

// answer is a response with its whole body.
type answer struct {
	op       string
	endpoint string
	status   int
	header   http.Header
	body     []byte
	// code and message are those of an error in JSON, message alone is that of the
	// members API; both are empty for other answers.
	code    deimos.Code
	message string
	cause   string
	index   uint64
}

func newAnswer(r *request, e *endpoint, resp *http.Response, body []byte) *answer {
	a := &answer{op: r.op(), endpoint: e.url, status: resp.StatusCode, header: resp.Header, body: body}
	if a.ok() {
		return a
	}
	var text struct {
		ErrorCode deimos.Code `json:"errorCode"`
		Message   string      `json:"message"`
		Cause     string      `json:"cause"`
		Index     uint64      `json:"index"`
	}
	if json.Unmarshal(body, &text) == nil {
		a.code, a.message, a.cause, a.index = text.ErrorCode, text.Message, text.Cause, text.Index
	}
	return a
}

func (a *answer) ok() bool { return a.status >= 200 && a.status < 300 }

// verdict says what to do after an answer.
type verdict int

const (
	// final: the answer is for the caller.
	final verdict = iota
	// later: nothing has happened, and it may work elsewhere or a little later.
	later
	// elsewhere: nothing has happened, and it may work elsewhere.
	elsewhere
	// unknown: something may have happened.
	unknown
)

// judge tells what an answer to a read, or to a write, means. It is the one
// table of what is sent again after an answer.
func (a *answer) judge(read bool) verdict {
	inWords := a.code != 0 || a.message != ""
	switch {
	case a.status < 500:
		return final
	case a.code == deimos.CodeLeaderElection:
		return later
	case a.status == http.StatusServiceUnavailable && inWords && a.header.Get("Retry-After") != "":
		// Overloaded, no leader, or a proxy without a member: nothing was proposed.
		return later
	case a.status == http.StatusInsufficientStorage && inWords:
		return elsewhere
	case a.status == http.StatusNotImplemented, a.status == http.StatusHTTPVersionNotSupported, a.status == http.StatusLoopDetected:
		return final
	case read:
		return later
	case a.status == http.StatusServiceUnavailable && inWords && a.code == 0:
		return final // a change of leadership that did not come about
	default:
		return unknown
	}
}

// err returns the error that the answer stands for, nil for a success.
func (a *answer) err() error {
	switch {
	case a.ok():
		return nil
	case a.code != 0:
		return &deimos.Error{Code: a.code, Cause: a.cause, Index: a.index}
	}
	e := &StatusError{Op: a.op, Endpoint: a.endpoint, Status: a.status, Message: a.message}
	if e.Message == "" {
		line, _, _ := strings.Cut(strings.TrimSpace(string(a.body)), "\n")
		e.Message = strings.ToValidUTF8(line[:min(len(line), messageMaxBytes)], "")
	}
	if location := a.header.Get("Location"); a.status/100 == 3 && location != "" {
		e.Message = fmt.Sprintf("the redirect to %q is not followed", location)
	}
	return e
}

// decode reads the body of a success.
func (a *answer) decode(into any) error {
	if err := json.Unmarshal(a.body, into); err != nil {
		return fmt.Errorf("client: %s at %s: not an answer of Deimos: %w", a.op, a.endpoint, err)
	}
	return nil
}

// response reads a success of the keys API.
func (a *answer) response() (*Response, error) {
	r := responseOf(a.header)
	if err := a.decode(&r.Event); err != nil {
		return nil, err
	}
	if r.Action == "" {
		return nil, fmt.Errorf("client: %s at %s: not an answer of the keys API: it has no action", a.op, a.endpoint)
	}
	return r, nil
}

// responseOf reads the headers of the keys API. What is missing is 0.
func responseOf(h http.Header) *Response {
	number := func(base int, names ...string) uint64 {
		var text string
		for _, name := range names {
			text = cmp.Or(text, h.Get(name))
		}
		n, err := strconv.ParseUint(text, base, 64)
		if err != nil {
			return 0
		}
		return n
	}
	return &Response{
		Index:     number(10, deimos.HeaderIndex, deimos.HeaderEtcdIndex),
		RaftIndex: number(10, deimos.HeaderRaftIndex),
		RaftTerm:  number(10, deimos.HeaderRaftTerm),
		ClusterID: number(16, deimos.HeaderClusterID, deimos.HeaderEtcdClusterID),
	}
}
