package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/marsevilspirit/deimos"
)

type option func(*deimos.Request)

func request(op deimos.Op, key, value string, options ...option) *deimos.Request {
	r := &deimos.Request{Op: op, Key: key, Value: value}
	for _, o := range options {
		o(r)
	}
	return r
}

func set(key, value string, options ...option) *deimos.Request {
	return request(deimos.OpSet, key, value, options...)
}

func create(key, value string, options ...option) *deimos.Request {
	return request(deimos.OpCreate, key, value, options...)
}

func update(key, value string, options ...option) *deimos.Request {
	return request(deimos.OpUpdate, key, value, options...)
}

func swap(key, value string, options ...option) *deimos.Request {
	return request(deimos.OpCompareAndSwap, key, value, options...)
}

func post(key, value string, options ...option) *deimos.Request {
	return request(deimos.OpCreateInOrder, key, value, options...)
}

func del(key string, options ...option) *deimos.Request {
	return request(deimos.OpDelete, key, "", options...)
}

func compareDelete(key string, options ...option) *deimos.Request {
	return request(deimos.OpCompareAndDelete, key, "", options...)
}

func dir(r *deimos.Request)       { r.Dir = true }
func recursive(r *deimos.Request) { r.Recursive = true }
func refresh(r *deimos.Request)   { r.Refresh = true }

func ttl(seconds int64) option {
	return func(r *deimos.Request) { r.HasTTL, r.TTLSeconds = true, seconds }
}

func prevValue(v string) option {
	return func(r *deimos.Request) { r.HasPrevValue, r.PrevValue = true, v }
}

func prevIndex(i uint64) option {
	return func(r *deimos.Request) { r.PrevIndex = i }
}

// mustApply applies and publishes requests at cluster time 1000 ms.
func mustApply(t testing.TB, s *Store, requests ...*deimos.Request) {
	t.Helper()
	for _, r := range requests {
		if _, err := s.Apply(r, 1000); err != nil {
			t.Fatalf("Apply(%+v) = %v, want no error", *r, err)
		}
	}
	s.Publish(1)
}

// newWith returns a published store that requests were applied to.
func newWith(t testing.TB, requests ...*deimos.Request) *Store {
	t.Helper()
	s := New(Config{})
	mustApply(t, s, requests...)
	return s
}

// nodeText is all that is known of a node: key, value or "/" for a directory,
// deadline, modified and created index.
func nodeText(n *Node) string {
	if n == nil {
		return "none"
	}
	text := n.Key() + "=" + n.Value()
	if n.IsDir() {
		text = n.Key() + "/" + n.Value()
	}
	if deadlineMS, ok := n.DeadlineMS(); ok {
		text += fmt.Sprintf(" due %d", deadlineMS)
	}
	return fmt.Sprintf("%s %d/%d", text, n.ModifiedIndex(), n.CreatedIndex())
}

func eventText(e *Event) string {
	text := fmt.Sprintf("%s %s", e.Action(), nodeText(e.Node()))
	if e.PrevNode() != nil {
		text += " prev " + nodeText(e.PrevNode())
	}
	if e.Refresh() {
		text += " refresh"
	}
	return text
}

// outcomeText is what Apply returned.
func outcomeText(e *Event, err error) string {
	if err == nil {
		return eventText(e)
	}
	var known *deimos.Error
	if !errors.As(err, &known) {
		return "unknown error " + err.Error()
	}
	return fmt.Sprintf("%d %s at %d", known.Code, known.Cause, known.Index)
}

// treeText is the whole published tree, one node a line, in tree order.
func treeText(v View) string {
	var b strings.Builder
	for n := range v.st.tree.all() {
		fmt.Fprintln(&b, nodeText(n))
	}
	return b.String()
}

func snapshot(t testing.TB, v View) []byte {
	t.Helper()
	var b bytes.Buffer
	n, err := v.WriteTo(&b)
	if err != nil || n != int64(b.Len()) {
		t.Fatalf("WriteTo() = %d, %v, want %d and no error", n, err, b.Len())
	}
	return b.Bytes()
}

// waiting returns all events that Next hands out without waiting.
func waiting(t testing.TB, w *Watcher) []string {
	t.Helper()
	var texts []string
	for w.Ready() {
		e, err := w.Next(context.Background())
		if err != nil {
			return append(texts, err.Error())
		}
		texts = append(texts, eventText(e))
	}
	return texts
}

func mustWatch(t testing.TB, s *Store, key string, recursive bool, from uint64) *Watcher {
	t.Helper()
	w, err := s.Watch(key, recursive, from)
	if err != nil {
		t.Fatalf("Watch(%s, %t, %d) = %v, want no error", key, recursive, from, err)
	}
	t.Cleanup(w.Close)
	return w
}

// try applies a request that may be refused, for the reasons a store has.
func try(t testing.TB, s *Store, r *deimos.Request, nowMS int64) *Event {
	t.Helper()
	e, err := s.Apply(r, nowMS)
	var known *deimos.Error
	if err != nil && !errors.As(err, &known) {
		t.Fatalf("Apply(%+v) = %v, want a deimos.Error", *r, err)
	}
	return e
}
