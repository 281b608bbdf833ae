package server

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync/atomic"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/raftnode"
	"github.com/marsevilspirit/deimos/server/serverpb"
	"github.com/marsevilspirit/deimos/store"
	"go.etcd.io/raft/v3/raftpb"
)

const (
	// stateFormat is the version of the snapshot body that this package writes
	// and the newest that it reads.
	stateFormat = 1
	// stateBytesMax bounds the part of a snapshot before the store.
	stateBytesMax = 16 << 20
)

var errDuplicate = errors.New("server: the proposal was applied before")

// Machine is the replicated state of a cluster. Apply, ApplyConfChange,
// Capture and Restore are called by one goroutine, raftnode's apply loop; the
// other methods by any.
type Machine struct {
	store    *store.Store
	timeMS   int64
	sessions sessions
	command  serverpb.Command // decoded into, entry after entry

	members  atomic.Pointer[membership]
	onChange func([]deimos.Member)
	expired  atomic.Uint64
	counts   counts
}

// NewMachine returns the state of a new cluster with these first members.
// onChange, unless nil, is called on the apply loop with the whole list each
// time it has changed, and must not wait for the machine.
func NewMachine(st *store.Store, members []deimos.Member, onChange func([]deimos.Member)) *Machine {
	m := &Machine{store: st, sessions: sessions{}, timeMS: 1, onChange: onChange}
	m.members.Store(newMembership(members))
	return m
}

// Store returns the store, for reading and watching.
func (m *Machine) Store() *store.Store { return m.store }

// Members returns the member list, sorted by id.
func (m *Machine) Members() []deimos.Member { return m.members.Load().list() }

// MembersAfter returns the member list as configuration changes will leave it that
// are committed and not applied yet. Those that will be refused change nothing.
func (m *Machine) MembersAfter(changes []raftpb.ConfChange) []deimos.Member {
	ms := m.members.Load()
	for _, cc := range changes {
		if next, err := ms.change(cc); err == nil {
			ms = next
		}
	}
	return ms.list()
}

// IsRemoved reports whether the id belonged to a member that was removed.
func (m *Machine) IsRemoved(id uint64) bool {
	_, ok := m.members.Load().removed[id]
	return ok
}

// IncarnationOf returns the incarnation with which a member started first, zero
// if it has not started or is no member.
func (m *Machine) IncarnationOf(id uint64) deimos.Incarnation {
	return m.members.Load().byID[id].incarnation
}

// Incarnations returns those of the members that have started.
func (m *Machine) Incarnations() map[uint64]deimos.Incarnation {
	all := map[uint64]deimos.Incarnation{}
	for id, m := range m.members.Load().byID {
		if !m.incarnation.IsZero() {
			all[id] = m.incarnation
		}
	}
	return all
}

// Begin gives the machine the members with which a cluster begins, or those that
// a joining member was told of. Nothing else may use the machine yet.
func (m *Machine) Begin(members []deimos.Member) { m.setMembers(newMembership(members)) }

// Abandon makes a cluster of this one member out of the state, after all others
// were lost for ever: they count as removed, and the store index goes up by
// skip, so that no client sees an index twice that the lost members may have
// given. Of self the name and URLs count only if the old cluster had removed it.
// raftIndex is that of the last entry that was applied. Nothing else may use the
// machine yet.
func (m *Machine) Abandon(self deimos.Member, raftIndex, skip uint64) {
	m.setMembers(m.members.Load().alone(self))
	m.store.SkipTo(m.store.View().Index() + skip)
	m.store.Publish(raftIndex)
}

// Expired returns how many nodes have expired since the process started.
func (m *Machine) Expired() uint64 { return m.expired.Load() }

// Apply implements [raftnode.Machine]. A result is a *store.Event, an error, or
// nil for an entry without one.
func (m *Machine) Apply(entries []raftnode.Entry, results []any) error {
	for i := range entries {
		e := &entries[i]
		results[i] = nil
		if e.Data == nil {
			continue // the first entry of a new leader
		}
		// Stamps never fall along a log; the larger one counts all the same, so
		// that a broken leader cannot turn time back.
		m.timeMS = max(m.timeMS, e.TimeMS)
		if !m.sessions.first(e.Run, e.Seq, e.Index) {
			results[i] = errDuplicate
			continue
		}
		result, err := m.apply(e.Data)
		if err != nil {
			return fmt.Errorf("server: entry at raft index %d: %w", e.Index, err)
		}
		results[i] = result
	}
	m.store.Publish(entries[len(entries)-1].Index)
	return nil
}

func (m *Machine) apply(data []byte) (any, error) {
	c := &m.command
	c.Reset()
	if err := c.Unmarshal(data); err != nil {
		return nil, fmt.Errorf("cannot be read: %w", err)
	}
	switch {
	case c.Kind == serverpb.KindWrite:
		r := requestOf(&c.Write)
		event, err := m.store.Apply(&r, m.timeMS)
		m.counts.observe(r.Op, err != nil)
		if err != nil {
			return err, nil //nolint:nilerr // the error is the result of the write
		}
		return event, nil
	case c.Kind == serverpb.KindExpire && c.Expire != nil:
		m.expired.Add(uint64(m.store.Expire(m.timeMS, int(c.Expire.Limit))))
		return nil, nil
	case c.Kind == serverpb.KindAttributes && c.Attributes != nil:
		next, err := m.members.Load().setAttributes(memberFromProto(c.Attributes))
		m.setMembers(next)
		if err != nil {
			return err, nil //nolint:nilerr // the error is the result of the entry
		}
		return nil, nil
	default:
		return nil, fmt.Errorf("is of kind %d, which this version does not know", int32(c.Kind))
	}
}

// ApplyConfChange implements [raftnode.Machine]. The result is nil or a
// [*deimos.MemberError].
func (m *Machine) ApplyConfChange(e raftnode.Entry, cc raftpb.ConfChange) (bool, any, error) {
	next, err := m.members.Load().change(cc)
	if err == nil {
		m.setMembers(next)
	}
	m.store.Publish(e.Index)
	if err != nil {
		return false, err, nil
	}
	return true, nil, nil
}

func (m *Machine) setMembers(next *membership) {
	if m.members.Swap(next) != next && m.onChange != nil {
		m.onChange(next.list())
	}
}

// Capture implements [raftnode.Machine]: it pins the published store and copies
// the small rest.
func (m *Machine) Capture() func(io.Writer) error {
	view := m.store.View()
	members := m.members.Load()
	state := serverpb.State{
		Format:   stateFormat,
		TimeMS:   m.timeMS,
		Removed:  slices.Sorted(maps.Keys(members.removed)),
		Sessions: m.sessions.encode(),
	}
	for _, member := range members.records() {
		state.Members = append(state.Members, memberToProto(member))
	}
	return func(w io.Writer) error {
		data, err := state.Marshal()
		if err != nil {
			return fmt.Errorf("server: encode state: %w", err)
		}
		if _, err := w.Write(binary.BigEndian.AppendUint32(nil, uint32(len(data)))); err != nil {
			return err
		}
		if _, err := w.Write(data); err != nil {
			return err
		}
		_, err = view.WriteTo(w)
		return err
	}
}

// FormatError says that a snapshot was written by a newer version.
type FormatError struct{ Got, Known uint32 }

// Error implements the error interface.
func (e *FormatError) Error() string {
	return fmt.Sprintf("the state has format %d, this version reads up to %d: run a newer version", e.Got, e.Known)
}

// Restore implements [raftnode.Machine].
func (m *Machine) Restore(raftIndex uint64, r io.Reader) (int64, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	var state serverpb.State
	if err := readState(br, &state); err != nil {
		return 0, fmt.Errorf("server: restore: %w", err)
	}
	restored, err := decodeSessions(state.Sessions)
	if err != nil {
		return 0, fmt.Errorf("server: restore: %w", err)
	}
	if err := m.store.Restore(raftIndex, br); err != nil {
		return 0, fmt.Errorf("server: restore: %w", err)
	}
	m.sessions = restored
	m.timeMS = max(1, state.TimeMS)
	ms := newMembership(nil)
	for i := range state.Members {
		record := memberFromProto(&state.Members[i])
		ms.byID[record.ID] = record
	}
	for _, id := range state.Removed {
		ms.removed[id] = struct{}{}
	}
	m.setMembers(ms)
	return m.timeMS, nil
}

func readState(r io.Reader, state *serverpb.State) error {
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(length[:])
	if n > stateBytesMax {
		return fmt.Errorf("state of %d bytes, at most %d are sound", n, stateBytesMax)
	}
	data := make([]byte, n)
	if _, err := io.ReadFull(r, data); err != nil {
		return err
	}
	if err := state.Unmarshal(data); err != nil {
		return err
	}
	if state.Format > stateFormat {
		return &FormatError{Got: state.Format, Known: stateFormat}
	}
	return nil
}
