package e2e

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
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// oldLimit is what deimos-client gives a whole request, the body of the answer
// included. It gives watches no more.
const oldLimit = 3 * time.Second

// oldClient puts on the wire what deimos-client does, and makes of the answers
// what it does: one endpoint for its whole life, no header is read, and below
// 500 the whole body has to be one JSON value. What that program could not live
// with fails the test, and ends the client. Any goroutine may use it.
type oldClient struct {
	t    testing.TB
	base string
	// calls and watches share their connections. Only the limit of watches is
	// the test's to shorten.
	calls, watches http.Client
	running        sync.WaitGroup // watches
	broken         atomic.Bool    // an answer was one that must not be
	refused        atomic.Int64   // answers of 500 and above, and calls without an answer
	asked          atomic.Int64   // watches that were sent
	cut            atomic.Int64   // watches that had begun when their limit closed the connection
	empty          atomic.Int64   // watches that ended without an event
}

// newOldClient returns a client of one member, which lives until the test ends.
func newOldClient(t testing.TB, base string, watchLimit time.Duration) *oldClient {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	c := &oldClient{
		t: t, base: base,
		calls:   http.Client{Transport: transport, Timeout: oldLimit},
		watches: http.Client{Transport: transport, Timeout: watchLimit},
	}
	t.Cleanup(c.leave)
	return c
}

// leave waits for the watches, whose contexts have to have ended, and closes
// the connections, as the end of a program does.
func (c *oldClient) leave() {
	c.running.Wait()
	c.calls.CloseIdleConnections()
}

// oldAnswer is what the client decodes of an answer, success or error.
type oldAnswer struct {
	ErrorCode int      `json:"errorCode"`
	Message   string   `json:"message"`
	Action    string   `json:"action"`
	Node      *oldNode `json:"node"`
	PrevNode  *oldNode `json:"prevNode"`
}

type oldNode struct {
	Key           string     `json:"key"`
	Value         string     `json:"value"`
	Dir           bool       `json:"dir"`
	Nodes         []*oldNode `json:"nodes"`
	ModifiedIndex uint64     `json:"modifiedIndex"`
	CreatedIndex  uint64     `json:"createdIndex"`
}

// oldError is an error of the API as the client understands it.
type oldError struct {
	status, code int
	message      string
}

func (e *oldError) Error() string { return fmt.Sprintf("%d/%d %s", e.status, e.code, e.message) }

// isOldError tells whether an error is one of the API, with this status and
// code.
func isOldError(err error, status, code int) bool {
	var e *oldError
	return errors.As(err, &e) && e.status == status && e.code == code
}

// oldSet are the options of set.
type oldSet struct {
	dir        bool
	ttl        time.Duration // 0: none
	prevExists string        // "true", "false" or, for no condition, ""
}

func (c *oldClient) set(ctx context.Context, key, value string, o oldSet) (*oldAnswer, error) {
	if o.dir {
		return c.call(ctx, http.MethodPut, key, nil, url.Values{"dir": {"true"}})
	}
	form := url.Values{"value": {value}}
	if o.ttl > 0 {
		form.Set("ttl", strconv.Itoa(int(o.ttl.Seconds())))
	}
	if o.prevExists != "" {
		form.Set("prevExists", o.prevExists)
	}
	return c.call(ctx, http.MethodPut, key, nil, form)
}

func (c *oldClient) get(ctx context.Context, key string) (*oldAnswer, error) {
	return c.call(ctx, http.MethodGet, key, url.Values{"recursive": {"true"}}, nil)
}

func (c *oldClient) delete(ctx context.Context, key string, options url.Values) (*oldAnswer, error) {
	return c.call(ctx, http.MethodDelete, key, options, nil)
}

// oldCompare is what compareAndSwap and compareAndDelete compare; a zero is not
// compared.
type oldCompare struct {
	value string
	index uint64
}

func (o oldCompare) form() url.Values {
	form := url.Values{}
	if o.value != "" {
		form.Set("prevValue", o.value)
	}
	if o.index > 0 {
		form.Set("prevIndex", strconv.FormatUint(o.index, 10))
	}
	return form
}

func (c *oldClient) compareAndSwap(ctx context.Context, key, value string, prev oldCompare, ttl time.Duration) (*oldAnswer, error) {
	form := prev.form()
	form.Set("value", value)
	if ttl > 0 {
		form.Set("ttl", strconv.Itoa(int(ttl.Seconds())))
	}
	return c.call(ctx, http.MethodPut, key, nil, form)
}

// compareAndDelete sends its conditions in the body of a DELETE.
func (c *oldClient) compareAndDelete(ctx context.Context, key string, prev oldCompare) (*oldAnswer, error) {
	return c.call(ctx, http.MethodDelete, key, nil, prev.form())
}

// call is one request that is no watch, and its answer.
func (c *oldClient) call(ctx context.Context, method, key string, query, form url.Values) (*oldAnswer, error) {
	if c.broken.Load() {
		return nil, errContract
	}
	r, err := c.request(ctx, method, key, query, form)
	if err != nil {
		return nil, err
	}
	status, body, err := exchanged(&c.calls, r)
	if err == nil && status >= 500 {
		err = fmt.Errorf("%s %s = %d %s", method, r.URL.RequestURI(), status, body)
	}
	if err != nil {
		if ctx.Err() == nil {
			c.refused.Add(1)
		}
		return nil, err
	}
	return c.understand(r, status, body)
}

// exchanged sends a request and reads the whole answer.
func exchanged(c *http.Client, r *http.Request) (status int, body []byte, err error) {
	res, err := c.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	body, err = io.ReadAll(res.Body)
	return res.StatusCode, body, err
}

func (c *oldClient) request(ctx context.Context, method, key string, query, form url.Values) (*http.Request, error) {
	// The key goes into the path as the caller wrote it, "@" and ":" unescaped.
	target := c.base + "/keys" + key
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	if form == nil {
		return http.NewRequestWithContext(ctx, method, target, nil)
	}
	r, err := http.NewRequestWithContext(ctx, method, target, strings.NewReader(form.Encode()))
	if err == nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	return r, err
}

// understand decodes an answer below 500.
func (c *oldClient) understand(r *http.Request, status int, body []byte) (*oldAnswer, error) {
	var a oldAnswer
	if err := json.Unmarshal(body, &a); err != nil {
		return nil, c.breaks(r, status, body, err)
	}
	if a.ErrorCode != 0 {
		return nil, &oldError{status, a.ErrorCode, a.Message}
	}
	if a.Node == nil || status/100 != 2 {
		return nil, c.breaks(r, status, body, errors.New("neither an error nor a success with a node"))
	}
	return &a, nil
}

// breaks fails the test for an answer with which the client cannot go on.
func (c *oldClient) breaks(r *http.Request, status int, body []byte, err error) error {
	c.broken.Store(true)
	c.t.Errorf("%s %s = %d %q: %v", r.Method, r.URL.RequestURI(), status, body, err)
	return errContract
}

// watch asks for events, one a request, until ctx ends or a request fails: by
// its limit, by an error of the API, or on the way. Then it closes the channel.
// As the next request is on its way while the event of the last one is being
// looked at, a client holds two connections.
func (c *oldClient) watch(ctx context.Context, key string, recursive bool, waitIndex uint64) <-chan *oldAnswer {
	answers := make(chan *oldAnswer, 1)
	c.running.Go(func() {
		defer close(answers)
		for !c.broken.Load() {
			a, err := c.watchOnce(ctx, key, recursive, waitIndex)
			if err != nil {
				return
			}
			if a == nil {
				continue // an empty body: at once again
			}
			waitIndex = a.Node.ModifiedIndex + 1
			select {
			case answers <- a:
			case <-ctx.Done():
				return
			}
		}
	})
	return answers
}

// watchOnce is one request of a watch. It returns no answer for an empty body.
func (c *oldClient) watchOnce(ctx context.Context, key string, recursive bool, waitIndex uint64) (*oldAnswer, error) {
	query := url.Values{"wait": {"true"}}
	if recursive {
		query.Set("recursive", "true")
	}
	if waitIndex > 0 {
		query.Set("waitIndex", strconv.FormatUint(waitIndex, 10))
	}
	r, err := c.request(ctx, http.MethodGet, key, query, nil)
	if err != nil {
		return nil, err
	}
	c.asked.Add(1)
	status, body, err := exchanged(&c.watches, r)
	if err != nil {
		var limit interface{ Timeout() bool }
		if status == http.StatusOK && errors.As(err, &limit) && limit.Timeout() {
			c.cut.Add(1)
		}
		return nil, err
	}
	if status == http.StatusOK && len(body) == 0 {
		c.empty.Add(1)
		return nil, nil
	}
	return c.understand(r, status, body)
}
