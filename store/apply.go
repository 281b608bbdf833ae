package store

import (
	"fmt"
	"strconv"

	"github.com/marsevilspirit/deimos"
)

// The bounds of what can be applied at all. They lie far above the limits that
// are checked before a write is proposed; they make sure that whatever the log
// holds is applied in bounded time and can be restored from a snapshot.
const (
	// AppliedKeyMaxBytes bounds keys, the name that an in-order create adds
	// included.
	AppliedKeyMaxBytes = 4 * deimos.KeyMaxBytes
	// AppliedValueMaxBytes bounds values.
	AppliedValueMaxBytes = 32 << 20
)

// minNowMS is the least cluster time; it keeps every deadline away from 0.
const minNowMS = 1

// inOrderDigits is the length of the names that in-order creates give.
const inOrderDigits = 20

// Apply carries out one write at cluster time nowMS, in milliseconds, on the
// draft. Nobody sees its effect before [Store.Publish]. It belongs to the
// writing goroutine.
//
// A write that succeeds raises the store index by exactly one and returns its
// event. A write that fails changes nothing; its error is always a
// *[deimos.Error] that carries the store index of the draft.
//
// Apply never panics, whatever r holds. It relies on the checks that were made
// before r was proposed, and refuses with code 209 only what it could not keep
// in order: an unknown operation, a key that is not cleaned or is longer than
// [AppliedKeyMaxBytes], a value longer than [AppliedValueMaxBytes]. A time
// below 1 counts as 1 and a negative TTL as 0. Conditions count in the
// operations that compare, Refresh in set, update and compareAndSwap; elsewhere
// they mean nothing.
//
// The store keeps the strings of r, and not r itself. An event costs the
// history 192 bytes and the lengths of its key, value and previous value.
func (s *Store) Apply(r *deimos.Request, nowMS int64) (*Event, error) {
	if err := s.checkForm(r); err != nil {
		return nil, err
	}
	nowMS = max(nowMS, minNowMS)
	if r.Op == deimos.OpCreateInOrder {
		return s.createInOrder(r, nowMS)
	}
	if r.Key == rootKey {
		return nil, s.rootError(r)
	}
	switch r.Op {
	case deimos.OpSet:
		return s.set(r, nowMS)
	case deimos.OpCreate:
		return s.create(r, nowMS)
	case deimos.OpUpdate:
		return s.update(r, nowMS)
	case deimos.OpCompareAndSwap:
		return s.compareAndSwap(r, nowMS)
	case deimos.OpDelete:
		return s.delete(r, nowMS)
	default: // checkForm lets nothing else through
		return s.compareAndDelete(r, nowMS)
	}
}

// checkForm refuses requests that no member can have proposed.
func (s *Store) checkForm(r *deimos.Request) error {
	keyMax := AppliedKeyMaxBytes
	if r.Op == deimos.OpCreateInOrder {
		keyMax -= len("/") + inOrderDigits
	}
	switch {
	case r.Op < deimos.OpSet || r.Op > deimos.OpCompareAndDelete:
		return s.fail(deimos.CodeInvalidField, "unknown operation "+strconv.Itoa(int(r.Op)))
	case len(r.Key) > keyMax:
		return s.fail(deimos.CodeInvalidField, fmt.Sprintf("key is longer than %d bytes", keyMax))
	case !isClean(r.Key):
		return s.fail(deimos.CodeInvalidField, uncleanCause(r.Key))
	case len(r.Value) > AppliedValueMaxBytes:
		return s.fail(deimos.CodeInvalidField, fmt.Sprintf("value is larger than %d bytes", AppliedValueMaxBytes))
	}
	return nil
}

// uncleanCause quotes no more of a key than a person needs to recognise it.
func uncleanCause(key string) string {
	const quotedMax = 128
	if len(key) > quotedMax {
		return fmt.Sprintf("key %q… is not clean", key[:quotedMax])
	}
	return fmt.Sprintf("key %q is not clean", key)
}

func (s *Store) rootError(r *deimos.Request) error {
	if r.Op == deimos.OpCompareAndDelete {
		return s.fail(deimos.CodeNotFile, rootKey)
	}
	return s.fail(deimos.CodeRootReadOnly, rootKey)
}

// set creates a node or replaces a file; as a refresh it gives an existing file
// a new TTL. Either way a new life of the node begins.
func (s *Store) set(r *deimos.Request, nowMS int64) (*Event, error) {
	old, ok := s.find(r.Key)
	switch {
	case ok && old.dir:
		return nil, s.fail(deimos.CodeNotFile, r.Key)
	case ok:
		n := s.newNode(old.key, r, nowMS)
		if r.Refresh {
			n.value, n.dir = old.value, false
		}
		return s.write(kindSet, n, old, r, nowMS), nil
	case r.Refresh:
		return nil, s.missing(r.Key)
	}
	if err := s.makeParents(r.Key); err != nil {
		return nil, err
	}
	return s.write(kindSet, s.newNode(r.Key, r, nowMS), nil, r, nowMS), nil
}

func (s *Store) create(r *deimos.Request, nowMS int64) (*Event, error) {
	if _, ok := s.find(r.Key); ok {
		return nil, s.fail(deimos.CodeKeyExists, r.Key)
	}
	if err := s.makeParents(r.Key); err != nil {
		return nil, err
	}
	return s.write(kindCreate, s.newNode(r.Key, r, nowMS), nil, r, nowMS), nil
}

// createInOrder creates a node in the directory r.Key, named by its own index.
func (s *Store) createInOrder(r *deimos.Request, nowMS int64) (*Event, error) {
	dir := r.Key
	if dir == rootKey {
		dir = ""
	}
	key := fmt.Sprintf("%s/%0*d", dir, inOrderDigits, s.index+1)
	if _, ok := s.find(key); ok {
		return nil, s.fail(deimos.CodeKeyExists, key)
	}
	if err := s.makeParents(key); err != nil {
		return nil, err
	}
	return s.write(kindCreate, s.newNode(key, r, nowMS), nil, r, nowMS), nil
}

// update changes value and TTL of a file, or the TTL of a directory.
func (s *Store) update(r *deimos.Request, nowMS int64) (*Event, error) {
	old, ok := s.find(r.Key)
	switch {
	case !ok:
		return nil, s.missing(r.Key)
	case old.dir && r.Value != "" && !r.Refresh:
		return nil, s.fail(deimos.CodeNotFile, r.Key)
	case !old.dir && r.Dir && !r.Refresh:
		return nil, s.fail(deimos.CodeNotDir, r.Key)
	}
	return s.write(kindUpdate, s.continued(old, r, nowMS), old, r, nowMS), nil
}

func (s *Store) compareAndSwap(r *deimos.Request, nowMS int64) (*Event, error) {
	old, ok := s.find(r.Key)
	switch {
	case !ok:
		return nil, s.missing(r.Key)
	case old.dir:
		return nil, s.fail(deimos.CodeNotFile, r.Key)
	case r.Dir && !r.Refresh:
		return nil, s.fail(deimos.CodeNotDir, r.Key)
	}
	if err := s.compare(r, old); err != nil {
		return nil, err
	}
	return s.write(kindCompareAndSwap, s.continued(old, r, nowMS), old, r, nowMS), nil
}

func (s *Store) delete(r *deimos.Request, nowMS int64) (*Event, error) {
	old, ok := s.find(r.Key)
	switch {
	case !ok:
		return nil, s.missing(r.Key)
	case old.dir && !r.Dir && !r.Recursive:
		return nil, s.fail(deimos.CodeNotFile, r.Key)
	case old.dir && !r.Recursive && s.hasChildren(old):
		return nil, s.fail(deimos.CodeDirNotEmpty, r.Key)
	}
	return s.remove(old, kindDelete, nowMS), nil
}

func (s *Store) compareAndDelete(r *deimos.Request, nowMS int64) (*Event, error) {
	old, ok := s.find(r.Key)
	switch {
	case !ok:
		return nil, s.missing(r.Key)
	case old.dir:
		return nil, s.fail(deimos.CodeNotFile, r.Key)
	}
	if err := s.compare(r, old); err != nil {
		return nil, err
	}
	return s.remove(old, kindCompareAndDelete, nowMS), nil
}

// compare checks the conditions of r against the file n.
func (s *Store) compare(r *deimos.Request, n *Node) error {
	var cause string
	if r.HasPrevValue && r.PrevValue != n.value {
		cause = fmt.Sprintf("[%s != %s]", r.PrevValue, n.value)
	}
	if r.PrevIndex != 0 && r.PrevIndex != n.modifiedIndex {
		if cause != "" {
			cause += " "
		}
		cause += fmt.Sprintf("[%d != %d]", r.PrevIndex, n.modifiedIndex)
	}
	if cause == "" {
		return nil
	}
	return s.fail(deimos.CodeCompareFailed, cause)
}

// missing is the error for a key that has no node.
func (s *Store) missing(key string) error {
	code, cause := missing(key, s.find)
	return s.fail(code, cause)
}

// makeParents makes sure that the parent of key is a directory. Directories
// that it has to make belong to the write that needs them: they get its index.
// It fails, having made nothing, if the way leads through a file.
func (s *Store) makeParents(key string) error {
	parent := parentKey(key)
	if parent == rootKey {
		return nil
	}
	if n, ok := s.find(parent); ok {
		if n.dir {
			return nil
		}
		return s.fail(deimos.CodeNotDir, parent)
	}
	code, at := missing(parent, s.find)
	if code == deimos.CodeNotDir {
		return s.fail(code, at)
	}
	index, depth := s.index+1, uint32(0)
	prefixes(parent, func(prefix string) bool {
		depth++
		if len(prefix) >= len(at) {
			s.tree.set(&Node{key: prefix, dir: true, depth: depth, modifiedIndex: index, createdIndex: index})
		}
		return true
	})
	return nil
}

// newNode is a node as r describes it, created by the write at hand.
func (s *Store) newNode(key string, r *deimos.Request, nowMS int64) *Node {
	n := &Node{
		key:           key,
		modifiedIndex: s.index + 1,
		createdIndex:  s.index + 1,
		depth:         depthOf(key),
		dir:           r.Dir,
	}
	if !r.Dir {
		n.value = r.Value
	}
	if r.HasTTL {
		n.deadlineMS = deadlineAfter(nowMS, r.TTLSeconds)
	}
	return n
}

// continued is old with the value and TTL of r, in the same life.
func (s *Store) continued(old *Node, r *deimos.Request, nowMS int64) *Node {
	n := s.newNode(old.key, r, nowMS)
	n.dir = old.dir
	n.createdIndex = old.createdIndex
	n.value = r.Value
	if r.Refresh || old.dir {
		n.value = old.value
	}
	return n
}

// write puts n where old was, if it is not nil, and records the event.
func (s *Store) write(kind eventKind, n, old *Node, r *deimos.Request, nowMS int64) *Event {
	s.put(n, old)
	refresh := r.Refresh && old != nil
	return s.record(&Event{node: n, prev: old, nowMS: nowMS, kind: kind, refresh: refresh})
}

// remove takes n out of the tree with all below it and records the event.
func (s *Store) remove(n *Node, kind eventKind, nowMS int64) *Event {
	if n.dir {
		s.removeBelow(n)
	}
	s.tree.remove(n.key)
	s.deadlines.remove(n)
	gone := &Node{key: n.key, dir: n.dir, depth: n.depth, modifiedIndex: s.index + 1, createdIndex: n.createdIndex}
	return s.record(&Event{node: gone, prev: n, nowMS: nowMS, kind: kind})
}

// hasChildren reports whether the draft has anything below dir, which is the
// case if the next node in tree order is.
func (s *Store) hasChildren(dir *Node) bool {
	for n := range s.tree.from(dir.key + "/") {
		return isBelow(n.key, dir.key)
	}
	return false
}

// removeBelow empties a directory.
func (s *Store) removeBelow(dir *Node) {
	var count int
	var mortal []*Node
	for n := range s.tree.from(dir.key + "/") {
		if !isBelow(n.key, dir.key) {
			break
		}
		count++
		if n.deadlineMS != 0 {
			mortal = append(mortal, n)
		}
	}
	if count == 0 {
		return
	}
	if len(mortal) > 0 {
		s.deadlines.removeBelow(dir.key, mortal)
	}
	s.tree.removeRange(dir.key+"/", endOfSubtree(dir.key))
}
