package client

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/marsevilspirit/deimos"
)

// prevValueQueryMaxBytes is the longest condition that fits into the target of
// a request, escaped. Servers take 16 KiB with the longest key in them.
const prevValueQueryMaxBytes = 2 << 10

// Response is the answer to a call on keys. A caller may do with it what it
// likes.
type Response struct {
	// Event holds Action, Node and PrevNode: what the write did, or what was read.
	deimos.Event
	// Index is the store index: that of the write itself, or of the state that was
	// read. A watch from Index+1 on sees everything that comes after.
	Index uint64
	// RaftIndex and RaftTerm are those of the endpoint when it answered.
	RaftIndex, RaftTerm uint64
	// ClusterID tells clusters apart. A number that the server did not send is 0,
	// here and above.
	ClusterID uint64
}

// Get reads a file, or a directory with its visible children, sorted by key.
// The read is linearizable unless [WithLocalRead] is given: it sees every write
// that was acknowledged before it began. A missing key is
// [deimos.ErrKeyNotFound], a path through a file [deimos.ErrNotDir].
//
// In this and all other calls a key is a path like "/a/b"; it is made absolute
// and cleaned as by [path.Clean], and "/" is the root.
func (c *Client) Get(ctx context.Context, key string, opts ...GetOption) (*Response, error) {
	p := newParams()
	for _, o := range opts {
		o.get(p)
	}
	p.query.Set(deimos.ParamQuorum, strconv.FormatBool(!p.local))
	p.query.Set(deimos.ParamSorted, "true") // Deimos always sorts, etcd if asked
	return c.send(ctx, http.MethodGet, key, p)
}

// List is Get for directories: the children are in Node.Nodes, sorted by key. A file is
// [deimos.ErrNotDir].
func (c *Client) List(ctx context.Context, key string, opts ...GetOption) (*Response, error) {
	r, err := c.Get(ctx, key, opts...)
	if err == nil && !r.Node.Dir {
		return nil, &deimos.Error{Code: deimos.CodeNotDir, Cause: r.Node.Key, Index: r.Index}
	}
	return r, err
}

// Set writes a file, whether or not it exists; missing directories above it are
// made. With [WithDir] it makes a directory, in place of a file if there is one.
// A directory that exists is [deimos.ErrNotFile].
func (c *Client) Set(ctx context.Context, key, value string, opts ...SetOption) (*Response, error) {
	p := newParams()
	for _, o := range opts {
		o.set(p)
	}
	p.setValue(value)
	return c.send(ctx, http.MethodPut, key, p)
}

// Create writes a file that must not exist; missing directories above it are
// made. A key that exists is [deimos.ErrKeyExists].
func (c *Client) Create(ctx context.Context, key, value string, opts ...CreateOption) (*Response, error) {
	p := newParams()
	for _, o := range opts {
		o.create(p)
	}
	p.query.Set(deimos.ParamPrevExist, "false")
	p.setValue(value)
	return c.send(ctx, http.MethodPut, key, p)
}

// Mkdir makes a directory that must not exist, and those above it that are
// missing. A key that exists is [deimos.ErrKeyExists].
func (c *Client) Mkdir(ctx context.Context, key string, opts ...CreateOption) (*Response, error) {
	p := newParams()
	for _, o := range opts {
		o.create(p)
	}
	p.query.Set(deimos.ParamPrevExist, "false")
	p.query.Set(deimos.ParamDir, "true")
	return c.send(ctx, http.MethodPut, key, p)
}

// CreateInOrder creates a file in the directory dir, which is made if it is
// missing. The file gets a name that sorts behind all names given there before:
// Node.Key of the response. With [WithDir] it creates a directory.
func (c *Client) CreateInOrder(ctx context.Context, dir, value string, opts ...SetOption) (*Response, error) {
	p := newParams()
	for _, o := range opts {
		o.set(p)
	}
	p.setValue(value)
	return c.send(ctx, http.MethodPost, dir, p)
}

// Update writes a file that must exist; it becomes permanent unless [WithTTL]
// is given. With [WithDir] it changes the TTL of a directory. A missing key is
// [deimos.ErrKeyNotFound].
func (c *Client) Update(ctx context.Context, key, value string, opts ...SetOption) (*Response, error) {
	p := newParams()
	for _, o := range opts {
		o.set(p)
	}
	p.query.Set(deimos.ParamPrevExist, "true")
	p.setValue(value)
	return c.send(ctx, http.MethodPut, key, p)
}

// CompareAndSwap writes a file if it is as the conditions demand; it becomes
// permanent unless [WithTTL] is given. A condition that does not hold is
// [deimos.ErrCompareFailed], a missing key [deimos.ErrKeyNotFound], a directory
// [deimos.ErrNotFile].
func (c *Client) CompareAndSwap(ctx context.Context, key, value string, cond Condition, opts ...SwapOption) (*Response, error) {
	p := newParams()
	p.compare(cond)
	for _, o := range opts {
		o.swap(p)
	}
	p.setValue(value)
	return c.send(ctx, http.MethodPut, key, p)
}

// Refresh gives a file or directory a new TTL, rounded as by [WithTTL], and
// keeps its value. It wakes no watcher. With conditions it is for files only. A
// missing key is [deimos.ErrKeyNotFound].
func (c *Client) Refresh(ctx context.Context, key string, ttl time.Duration, opts ...RefreshOption) (*Response, error) {
	p := newParams()
	for _, o := range opts {
		o.refresh(p)
	}
	p.query.Set(deimos.ParamRefresh, "true")
	p.query.Set(deimos.ParamPrevExist, "true")
	p.setTTL(ttl)
	return c.send(ctx, http.MethodPut, key, p)
}

// Delete removes a file, an empty directory with [WithDir], or a directory and
// all that is in it with [WithRecursive]. A missing key is
// [deimos.ErrKeyNotFound], a directory without those options
// [deimos.ErrNotFile], one that is not empty [deimos.ErrDirNotEmpty].
func (c *Client) Delete(ctx context.Context, key string, opts ...DeleteOption) (*Response, error) {
	p := newParams()
	for _, o := range opts {
		o.del(p)
	}
	return c.send(ctx, http.MethodDelete, key, p)
}

// CompareAndDelete removes a file if it is as the conditions demand. The errors
// are those of [Client.CompareAndSwap].
func (c *Client) CompareAndDelete(ctx context.Context, key string, cond Condition, more ...Condition) (*Response, error) {
	p := newParams()
	for _, cond := range append([]Condition{cond}, more...) {
		p.compare(cond)
	}
	return c.send(ctx, http.MethodDelete, key, p)
}

// setValue puts the value into the form, unless a directory is meant.
func (p *params) setValue(value string) {
	switch {
	case p.query.Get(deimos.ParamDir) == "":
		p.form.Set(deimos.ParamValue, value)
	case value != "":
		p.fail("WithDir: a directory has no value, but %q is given", value)
	}
}

// compare adds a condition. A missing one must not become an unconditional
// write.
func (p *params) compare(cond Condition) {
	if cond == nil {
		p.fail("the condition is nil")
		return
	}
	cond.condition(p)
}

// send sends a request to the keys API.
func (c *Client) send(ctx context.Context, method, key string, p *params) (*Response, error) {
	r, err := c.keysRequest(method, key, p)
	if err != nil {
		return nil, err
	}
	a, err := c.do(ctx, r)
	if err != nil {
		return nil, err
	}
	if err := a.err(); err != nil {
		return nil, err
	}
	resp, err := a.response()
	switch {
	case err == nil && r.isRead() && resp.Node == nil:
		return nil, fmt.Errorf("client: %s at %s: not an answer of the keys API: it has no node", a.op, a.endpoint)
	case err != nil && !r.isRead():
		return nil, &UnknownOutcomeError{Op: a.op, Endpoint: a.endpoint, Err: err}
	}
	return resp, err
}

// keysRequest puts a call on a key into the form in which etcd too understands
// it: conditions in the query, value and TTL in the body.
func (c *Client) keysRequest(method, key string, p *params) (*request, error) {
	if p.err != nil {
		return nil, p.err
	}
	if p.recursive {
		p.query.Set(deimos.ParamRecursive, "true")
	}
	if p.prevIndex > 0 {
		p.query.Set(deimos.ParamPrevIndex, strconv.FormatUint(p.prevIndex, 10))
	}
	switch {
	case p.prevValue == "":
	case len(url.QueryEscape(p.prevValue)) <= prevValueQueryMaxBytes:
		p.query.Set(deimos.ParamPrevValue, p.prevValue)
	case method == http.MethodDelete && c.cfg.Prefix != DefaultPrefix:
		// etcd does not read the body of a DELETE and would remove whatever is there.
		return nil, invalidf("client: WithPrevValue: a value of %d bytes is too long for a delete under %s; compare with WithPrevIndex",
			len(p.prevValue), c.cfg.Prefix)
	default:
		p.form.Set(deimos.ParamPrevValue, p.prevValue)
	}
	r := &request{method: method, path: c.keyPath(key), query: p.query, body: p.form.Encode()}
	if r.body != "" {
		r.contentType = typeForm
	}
	return r, nil
}

// keyPath returns the path of a key, which etcd wants to be clean.
func (c *Client) keyPath(key string) string {
	return c.cfg.Prefix + strings.TrimSuffix(path.Clean("/"+key), "/")
}
