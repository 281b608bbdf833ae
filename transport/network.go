package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/raftnode"
)

const (
	// linkQueueMax bounds the messages that wait between two members of a
	// Network, as many as rafthttp keeps for a stream.
	linkQueueMax = 4096
	// snapshotChunkBytes is how much of a snapshot passes between two looks at
	// whether the members are still connected.
	snapshotChunkBytes = 64 << 10
)

// errNoLink ends a snapshot transfer between members that are not connected.
var errNoLink = errors.New("transport: members are not connected")

// Network joins members of one process without sockets, for tests. It passes
// on copies only, so that members share no memory, and loses messages where it
// is told to. All methods may be called from any goroutine. It owns no
// goroutine itself; its endpoints do.
type Network struct {
	mu        sync.RWMutex
	endpoints map[uint64]*Endpoint
	cut       map[direction]bool
	removed   map[uint64]bool
}

type direction struct{ from, to uint64 }

// NewNetwork returns a network without members.
func NewNetwork() *Network {
	return &Network{
		endpoints: make(map[uint64]*Endpoint),
		cut:       make(map[direction]bool),
		removed:   make(map[uint64]bool),
	}
}

// JoinConfig says what a [Network] needs to know about a member.
type JoinConfig struct {
	// ID is the member's. Required.
	ID uint64
	// Receiver gets what arrives. Required.
	Receiver raftnode.Receiver
	// SnapDir is an existing directory. A received snapshot becomes the file
	// %016x.snap.db in it.
	SnapDir string
	// Answer answers the calls of members, on the goroutine of the caller. ctx
	// ends with that of the caller and when this member stops. An answer that is
	// nil, unless ctx has ended, says that the request was not processed and
	// will not be. nil: calls fail with [ErrNotSent].
	Answer func(ctx context.Context, from uint64, request []byte) []byte
}

// Join connects a member with all the others. An endpoint of the same id is
// stopped first; cuts stay.
func (n *Network) Join(cfg JoinConfig) *Endpoint {
	id := cfg.ID
	e := &Endpoint{
		network: n, id: id, snapDir: cfg.SnapDir, answer: cfg.Answer,
		inbox:   newInbox(id, cfg.Receiver, n.isRemoved),
		reports: newReporter(cfg.Receiver),
		links:   make(map[uint64]chan []byte),
		closed:  make(map[uint64]bool),
		fatal:   make(chan error, 1),
		stop:    make(chan struct{}),
		since:   time.Now(),
	}
	n.mu.Lock()
	old := n.endpoints[id]
	n.endpoints[id] = e
	n.mu.Unlock()
	if old != nil {
		old.Stop()
	}
	e.wg.Go(e.reports.run)
	return e
}

// Cut loses everything between a and b, in both directions, from now on and
// what is still under way.
func (n *Network) Cut(a, b uint64) {
	n.CutOneWay(a, b)
	n.CutOneWay(b, a)
}

// CutOneWay loses everything that goes from one member to another.
func (n *Network) CutOneWay(from, to uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[direction{from, to}] = true
}

// Isolate cuts a member off from all members that have joined.
func (n *Network) Isolate(id uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for other := range n.endpoints {
		if other != id {
			n.cut[direction{id, other}] = true
			n.cut[direction{other, id}] = true
		}
	}
}

// Mend connects two members again.
func (n *Network) Mend(a, b uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.cut, direction{a, b})
	delete(n.cut, direction{b, a})
}

// Heal undoes all cuts.
func (n *Network) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.cut)
}

// Remove marks a member as removed from the cluster for ever: every member
// refuses its messages, and its Err says so.
func (n *Network) Remove(id uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.removed[id] = true
}

func (n *Network) isRemoved(id uint64) bool {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.removed[id]
}

// members returns the ids of those that have joined.
func (n *Network) members() []uint64 {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return slices.Collect(maps.Keys(n.endpoints))
}

// target returns the endpoint that can be reached, nil if there is none.
func (n *Network) target(from, to uint64) *Endpoint {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.cut[direction{from, to}] {
		return nil
	}
	return n.endpoints[to]
}

func (n *Network) leave(e *Endpoint) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.endpoints[e.id] == e {
		delete(n.endpoints, e.id)
	}
}

// Endpoint is the [raftnode.Sender] of one member of a [Network]. All methods
// may be called from any goroutine, except that Stop must not be called by a
// method of the receiver. It owns a goroutine for each member that it has sent
// to and one for its reports.
type Endpoint struct {
	network *Network
	id      uint64
	snapDir string
	since   time.Time
	inbox   *inbox
	reports *reporter
	answer  func(ctx context.Context, from uint64, request []byte) []byte

	mu       sync.Mutex
	stopped  bool
	links    map[uint64]chan []byte
	closed   map[uint64]bool // peers that were removed by RemovePeer
	arriving sync.WaitGroup  // snapshots that others write to snapDir, and calls

	transfers transfers
	fatal     chan error
	stop      chan struct{}
	stopOnce  sync.Once
	wg        sync.WaitGroup
}

var _ raftnode.Sender = (*Endpoint)(nil)

// AddPeer undoes RemovePeer; an endpoint reaches every member that has joined
// from the start. It fails for the id 0, for removed members and with
// [ErrStopped].
func (e *Endpoint) AddPeer(m deimos.Member) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case m.ID == 0:
		return fmt.Errorf("transport: add peer %q: member id 0", m.Name)
	case e.network.isRemoved(m.ID):
		return fmt.Errorf("transport: add peer %x: the member was removed", m.ID)
	case e.stopped:
		return fmt.Errorf("transport: add peer %x: %w", m.ID, ErrStopped)
	}
	delete(e.closed, m.ID)
	return nil
}

// UpdatePeer does nothing: members of a Network have no URLs. It fails with
// [ErrUnknownPeer] after RemovePeer.
func (e *Endpoint) UpdatePeer(m deimos.Member) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed[m.ID] {
		return fmt.Errorf("transport: update peer %x: %w", m.ID, ErrUnknownPeer)
	}
	return nil
}

// RemovePeer ends sending to a peer until AddPeer.
func (e *Endpoint) RemovePeer(id uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed[id] = true
}

// ActiveSince returns when this member joined if the peer can be reached and
// reaches us, the zero time otherwise.
func (e *Endpoint) ActiveSince(id uint64) time.Time {
	if id == e.id || e.network.target(e.id, id) == nil || e.network.target(id, e.id) != e {
		return time.Time{}
	}
	return e.since
}

// Err returns a channel that delivers [ErrRemoved] when another member has
// refused a message because this one was removed. It is never closed.
func (e *Endpoint) Err() <-chan error { return e.fatal }

// Send implements [raftnode.Sender]. A message that meets a cut, a full queue
// or no member is dropped and reported with ReportUnreachable.
func (e *Endpoint) Send(messages []raftpb.Message) {
	for i := range messages {
		m := &messages[i]
		switch {
		case m.To == raft.None:
		case m.Type == raftpb.MsgSnap:
			e.reports.snapshot(m.To, raft.SnapshotFailure)
		case !e.enqueue(m):
			e.reports.unreachable(m.To)
		}
	}
}

func (e *Endpoint) enqueue(m *raftpb.Message) bool {
	data, err := m.Marshal()
	if err != nil || len(data) > messageMaxBytes {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stopped || e.closed[m.To] {
		return false
	}
	link := e.links[m.To]
	if link == nil {
		link = make(chan []byte, linkQueueMax)
		e.links[m.To] = link
		to := m.To
		e.wg.Go(func() { e.run(to, link) })
	}
	select {
	case link <- data:
		return true
	default:
		return false
	}
}

// run delivers the messages to one member, in order.
func (e *Endpoint) run(to uint64, link <-chan []byte) {
	for {
		select {
		case <-e.stop:
			return
		case data := <-link:
			e.deliver(to, data)
		}
	}
}

func (e *Endpoint) deliver(to uint64, data []byte) {
	target := e.network.target(e.id, to)
	if target == nil {
		e.reports.unreachable(to)
		return
	}
	var m raftpb.Message
	if err := m.Unmarshal(data); err != nil {
		panic(fmt.Sprintf("transport: message from %x to %x does not decode: %v", e.id, to, err))
	}
	if err := target.inbox.process(m); err != nil {
		e.turnedAway(err)
	}
}

// turnedAway passes on that this member was removed. Other refusals are the
// receiver's business.
func (e *Endpoint) turnedAway(err error) {
	var removed errSenderRemoved
	if !errors.As(err, &removed) || removed.id != e.id {
		return
	}
	select {
	case e.fatal <- ErrRemoved:
	default: // told already
	}
}

// SendSnapshot implements [raftnode.Sender] in the way of [HTTP.SendSnapshot].
func (e *Endpoint) SendSnapshot(m raftpb.Message, size int64, body io.ReadCloser) {
	b := newSnapshotBody(body, size)
	e.mu.Lock()
	ok := m.Snapshot != nil && !e.stopped && !e.closed[m.To] && e.transfers.begin(m.To, b)
	e.mu.Unlock()
	if !ok {
		b.close()
		e.reports.snapshot(m.To, raft.SnapshotFailure)
		return
	}
	go func() { // Stop waits for the end of the transfer
		defer e.transfers.wg.Done()
		status := raft.SnapshotFinish
		if err := e.transfer(m, b); err != nil {
			e.turnedAway(err)
			status = raft.SnapshotFailure
		}
		b.close()
		e.transfers.finish(m.To)
		e.reports.snapshot(m.To, status)
	}()
}

// transfer writes the snapshot into the directory of the target and hands it
// the message.
func (e *Endpoint) transfer(m raftpb.Message, b *snapshotBody) error {
	data, err := m.Marshal()
	if err != nil {
		return err
	}
	target := e.network.target(e.id, m.To)
	if target == nil || !target.expect() {
		return errNoLink
	}
	defer target.arriving.Done()
	connected := func() bool { return !e.isStopped() && !target.isStopped() && e.network.target(e.id, m.To) == target }
	if err := writeSnapshot(target.snapDir, m.Snapshot.Metadata.Index, b, connected); err != nil {
		return err
	}
	var arrived raftpb.Message
	if err := arrived.Unmarshal(data); err != nil {
		return err
	}
	return target.inbox.process(arrived)
}

// expect announces a snapshot; false when the endpoint has stopped.
func (e *Endpoint) expect() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stopped {
		return false
	}
	e.arriving.Add(1)
	return true
}

func (e *Endpoint) isStopped() bool {
	select {
	case <-e.stop:
		return true
	default:
		return false
	}
}

// Stop takes the member off the network and waits for its goroutines. Nothing
// is delivered to it afterwards. It may be called more than once.
func (e *Endpoint) Stop() {
	e.stopOnce.Do(func() {
		e.network.leave(e)
		e.mu.Lock()
		e.stopped = true
		e.mu.Unlock()
		close(e.stop)
		e.transfers.wait()
		e.arriving.Wait()
		e.reports.close()
		e.wg.Wait()
		e.inbox.close()
	})
}

// writeSnapshot makes the file of a received snapshot: complete and durable, or
// not there at all.
func writeSnapshot(dir string, raftIndex uint64, r io.Reader, connected func() bool) (err error) {
	f, err := os.CreateTemp(dir, "tmp")
	if err != nil {
		return fmt.Errorf("transport: receive snapshot: %w", err)
	}
	defer func() {
		if err == nil {
			return
		}
		if rerr := os.Remove(f.Name()); !errors.Is(rerr, os.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}()
	err = errors.Join(copyWhile(f, r, connected), f.Sync(), f.Close())
	if err != nil {
		return fmt.Errorf("transport: receive snapshot into %s: %w", f.Name(), err)
	}
	name := filepath.Join(dir, fmt.Sprintf("%016x.snap.db", raftIndex))
	if err := os.Rename(f.Name(), name); err != nil {
		return fmt.Errorf("transport: receive snapshot: %w", err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("transport: receive snapshot: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("transport: sync %s: %w", dir, err)
	}
	return nil
}

func copyWhile(w io.Writer, r io.Reader, connected func() bool) error {
	for connected() {
		_, err := io.CopyN(w, r, snapshotChunkBytes)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return errNoLink
}
