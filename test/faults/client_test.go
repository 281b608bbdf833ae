package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/marsevilspirit/deimos"
)

// kind is what a client asks for.
type kind string

const (
	kindRead      kind = "read"
	kindSet       kind = "set"
	kindCreate    kind = "create"    // prevExist=false
	kindUpdate    kind = "update"    // prevExist=true
	kindSwap      kind = "swap"      // prevValue
	kindSwapIndex kind = "swapIndex" // prevIndex
	kindDelete    kind = "delete"
	kindDeleteIf  kind = "deleteIf" // prevValue
	kindInOrder   kind = "inOrder"
)

func (k kind) removes() bool { return k == kindDelete || k == kindDeleteIf }

// outcome is what a client knows afterwards.
type outcome string

const (
	acked   outcome = "acked"   // a 2xx status line
	refused outcome = "refused" // a condition did not hold, or there is no such key
	nothing outcome = "nothing" // no answer, and nothing was proposed
	unknown outcome = "unknown" // the write may or may not happen
	odd     outcome = "odd"     // an answer that no fault excuses
)

// op is one request and what became of it. Times are nanoseconds since the run
// began.
type op struct {
	Client    int    `json:"client"`
	Member    string `json:"member"`
	Kind      kind   `json:"kind"`
	Key       string `json:"key"`
	Value     string `json:"value,omitempty"` // no two writes have the same
	PrevValue string `json:"prevValue,omitempty"`
	PrevIndex uint64 `json:"prevIndex,omitempty"`
	TTL       int64  `json:"ttlSeconds,omitempty"`

	Call    int64   `json:"call"`
	Return  int64   `json:"return"`
	Outcome outcome `json:"outcome"`
	Status  int     `json:"status,omitempty"`
	Cause   string  `json:"cause,omitempty"`
	// Index is the store index of the answer, Term its raft term.
	Index uint64 `json:"index,omitempty"`
	Term  uint64 `json:"term,omitempty"`
	// Whole tells that the body of an acknowledgement arrived, Got what it says.
	Whole bool  `json:"whole,omitempty"`
	Got   *node `json:"got,omitempty"`
	Prev  *node `json:"prev,omitempty"`
}

// node is the part of a node that is judged.
type node struct {
	Key      string `json:"key"`
	Value    string `json:"value,omitempty"`
	Modified uint64 `json:"modified"`
	Created  uint64 `json:"created"`
}

func nodeOf(n *deimos.Node) *node {
	if n == nil {
		return nil
	}
	out := &node{Key: n.Key, Modified: n.ModifiedIndex, Created: n.CreatedIndex}
	if n.Value != nil {
		out.Value = *n.Value
	}
	return out
}

// String is one line of a history.
func (o *op) String() string {
	text, err := json.Marshal(o)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// request builds the HTTP request of an op.
func (o *op) request(ctx context.Context, base string) (*http.Request, error) {
	query, form := url.Values{}, url.Values{}
	method := http.MethodPut
	switch o.Kind {
	case kindRead:
		method = http.MethodGet
	case kindDelete, kindDeleteIf:
		method = http.MethodDelete
	case kindInOrder:
		method = http.MethodPost
	case kindCreate:
		query.Set(deimos.ParamPrevExist, "false")
	case kindUpdate:
		query.Set(deimos.ParamPrevExist, "true")
	}
	if o.PrevValue != "" {
		query.Set(deimos.ParamPrevValue, o.PrevValue)
	}
	if o.PrevIndex != 0 {
		query.Set(deimos.ParamPrevIndex, strconv.FormatUint(o.PrevIndex, 10))
	}
	if o.TTL != 0 {
		form.Set(deimos.ParamTTL, strconv.FormatInt(o.TTL, 10))
	}
	if o.Value != "" {
		form.Set(deimos.ParamValue, o.Value)
	}
	target := base + "/keys" + o.Key
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	var body io.Reader
	if len(form) > 0 {
		body = strings.NewReader(form.Encode())
	}
	r, err := http.NewRequestWithContext(ctx, method, target, body)
	if err == nil && body != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	return r, err
}

// answer is the body of an answer.
type answer struct {
	Action    deimos.Action `json:"action"`
	Node      *deimos.Node  `json:"node"`
	PrevNode  *deimos.Node  `json:"prevNode"`
	ErrorCode deimos.Code   `json:"errorCode"`
	Cause     string        `json:"cause"`
	Index     uint64        `json:"index"`
}

// do sends an op to a member and records what became of it. since is the clock
// of the run.
func (o *op) do(ctx context.Context, client *http.Client, base string, since func() time.Duration) {
	o.Call = int64(since())
	defer func() { o.Return = int64(since()) }()
	r, err := o.request(ctx, base)
	if err != nil {
		o.Outcome, o.Cause = odd, err.Error()
		return
	}
	resp, err := client.Do(r)
	if err != nil {
		o.Outcome, o.Cause = unknown, err.Error()
		if errors.Is(err, syscall.ECONNREFUSED) {
			o.Outcome = nothing
		}
		return
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	o.read(resp, body, err)
}

// read judges an answer. The status line acknowledges a write, whatever becomes
// of the body.
func (o *op) read(resp *http.Response, body []byte, err error) {
	o.Status = resp.StatusCode
	o.Index, _ = strconv.ParseUint(resp.Header.Get(deimos.HeaderIndex), 10, 64) // 0 where there is none
	o.Term, _ = strconv.ParseUint(resp.Header.Get(deimos.HeaderRaftTerm), 10, 64)
	good := resp.StatusCode/100 == 2
	if err != nil {
		o.Outcome, o.Cause = unknown, err.Error()
		if good && o.Kind != kindRead {
			o.Outcome = acked
		}
		return
	}
	var a answer
	if err := json.Unmarshal(body, &a); err != nil {
		o.Outcome, o.Cause = odd, fmt.Sprintf("body %.200q: %v", body, err)
		return
	}
	o.Cause = a.Cause
	switch {
	case good && a.Node != nil:
		o.Outcome, o.Whole = acked, true
		o.Got, o.Prev = nodeOf(a.Node), nodeOf(a.PrevNode)
	case a.ErrorCode == deimos.CodeKeyNotFound || a.ErrorCode == deimos.CodeCompareFailed || a.ErrorCode == deimos.CodeKeyExists:
		o.Outcome = refused
	case a.Cause == deimos.CauseNoLeader || a.Cause == deimos.CauseOverloaded || a.Cause == deimos.CauseDiskReserve:
		o.Outcome = nothing
	case resp.StatusCode >= 500 && a.ErrorCode != 0:
		o.Outcome = unknown
	default:
		o.Outcome, o.Cause = odd, fmt.Sprintf("status %d with %.200q", resp.StatusCode, body)
	}
}
