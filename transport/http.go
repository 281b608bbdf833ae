package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/server/v3/etcdserver/api/rafthttp"
	etcdsnap "go.etcd.io/etcd/server/v3/etcdserver/api/snap"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v2stats"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/internal/zaplog"
	"github.com/marsevilspirit/deimos/raftnode"
)

// The limits of the peer port.
const (
	// messageMaxBytes bounds one message, sent or posted. Raft keeps messages
	// near 1 MiB, but a single entry is never split.
	messageMaxBytes = 16 << 20
	// snapshotMessageMaxBytes bounds the message in front of a snapshot, which
	// holds metadata only.
	snapshotMessageMaxBytes = 1 << 20
	// snapshotReceiveMax bounds the snapshots received at one time: one from
	// the leader, one from a leader that does not know yet that it is none.
	snapshotReceiveMax = 2
	// strangersMax bounds the members that others vouch for before the log told
	// us of them, and those about whom others are to be asked.
	strangersMax = 64

	dialTimeoutDefault = 2 * time.Second
	// idleTimeout ends a connection on which a read of a body or a write of a
	// stream makes no progress.
	idleTimeout = 5 * time.Second
	// snapshotStallTimeout ends a snapshot transfer of which the peer takes no
	// byte. It includes the time that the peer needs to make the file durable.
	snapshotStallTimeout = 60 * time.Second
	// inspectInterval is how often the monitor looks at the peers.
	inspectInterval = time.Second
)

// The errors of this package that callers tell apart.
var (
	// ErrStopped is returned for calls after Stop.
	ErrStopped = errors.New("transport: stopped")
	// ErrRemoved is delivered by Err when a peer says that this member is no
	// longer part of the cluster. The member must stop.
	ErrRemoved = errors.New("transport: this member was removed from the cluster")
	// ErrUnknownPeer is returned by UpdatePeer for a peer that was not added.
	ErrUnknownPeer = errors.New("transport: unknown peer")
)

// HTTP is a [raftnode.Sender] that reaches the peers over HTTP. All methods may
// be called from any goroutine, except that Stop must not be called by a
// method of the receiver.
type HTTP struct {
	cfg     Config
	log     *slog.Logger
	rt      *rafthttp.Transport
	clients *clients
	raw     http.Handler // rafthttp's handlers, behind the checks of serve
	inbox   *inbox
	reports *reporter
	metrics *metrics
	reasons *reasons
	conns   conns
	runs    runs

	door          *door
	opener        opener
	asker         opener // asks in the name of nobody
	introductions *introductions
	verdicts      verdicts
	clockWarning  pacer
	twinWarning   pacer
	refusing      atomic.Int32
	// answering and listing have a token for each call that is being answered
	// and each list of members that is being written.
	answering, listing chan struct{}
	calling            sync.WaitGroup // calls to others
	sent, received     traffic        // of append messages

	// mu is held while the set of peers changes and while rafthttp is told so.
	mu      sync.Mutex
	stopped bool
	// known is replaced, never changed, so that Send takes no lock of ours.
	known atomic.Pointer[known]
	// met holds the incarnations, by id, of those who were let in or were called.
	met sync.Map
	// receiving has a token for each snapshot that is being received.
	receiving chan struct{}

	stallTimeout time.Duration
	transfers    transfers
	suspects     suspects
	fatal        chan error
	stop         chan struct{}
	stopOnce     sync.Once
	wg           sync.WaitGroup
}

var _ raftnode.Sender = (*HTTP)(nil)

// NewHTTP checks the configuration and starts the transport without peers. The
// caller serves [HTTP.Handler] on its peer listeners, adds the peers, and calls
// [HTTP.Stop] in the end.
func NewHTTP(cfg Config) (*HTTP, error) {
	if err := checkConfig(&cfg); err != nil {
		return nil, err
	}
	if err := removeUnfinished(cfg.SnapDir); err != nil {
		return nil, err
	}
	m, err := newMetrics(cfg.Metrics)
	if err != nil {
		return nil, err
	}
	urls, err := types.NewURLs(cfg.PeerURLs)
	if err != nil {
		return nil, fmt.Errorf("transport: peer URLs of this member: %w", err)
	}
	t := &HTTP{
		cfg:          cfg,
		log:          cfg.Log,
		metrics:      m,
		reasons:      newReasons(),
		reports:      newReporter(cfg.Receiver),
		receiving:    make(chan struct{}, snapshotReceiveMax),
		stallTimeout: snapshotStallTimeout,
		fatal:        make(chan error, 1),
		stop:         make(chan struct{}),
		answering:    make(chan struct{}, callsServeMax),
		listing:      make(chan struct{}, membersServeMax),
		opener: opener{
			secret: cfg.Secret, cluster: cfg.ClusterID, self: cfg.MemberID,
			peerURLs: strings.Join(cfg.PeerURLs, ","), incarnation: cfg.Incarnation,
		},
		asker:         opener{secret: cfg.Secret, cluster: cfg.ClusterID},
		introductions: newIntroductions(),
	}
	t.opener.incarnationOf = t.incarnationOf
	t.door = newDoor(cfg.Secret, func(id uint64) bool { return t.known.Load().has(id) })
	t.opener.run = t.door.run
	t.inbox = newInbox(cfg.MemberID, cfg.Receiver, cfg.IsRemoved)
	t.inbox.onRefused = t.refused
	t.known.Store(&known{})
	zlog := zaplog.New(slog.New(quiet{cfg.Log.Handler(), t.reasons}))
	self := deimos.FormatID(cfg.MemberID)
	t.rt = &rafthttp.Transport{
		Logger:      zlog,
		DialTimeout: cfg.DialTimeout,
		ID:          types.ID(cfg.MemberID),
		URLs:        urls,
		ClusterID:   types.ID(cfg.ClusterID),
		Raft:        adapter{t},
		Snapshotter: etcdsnap.New(zlog, cfg.SnapDir),
		ServerStats: v2stats.NewServerStats(cfg.Name, self),
		LeaderStats: v2stats.NewLeaderStats(zlog, self),
		ErrorC:      make(chan error, 1),
	}
	if err := t.rt.Start(); err != nil {
		return nil, fmt.Errorf("transport: start: %w", err)
	}
	t.clients = newClients(cfg.DialTimeout, cfg.TLS)
	if err := install(t.rt, t.openStream, t.post); err != nil {
		return nil, err
	}
	t.raw = t.rt.Handler()
	t.wg.Go(t.reports.run)
	t.wg.Go(t.monitor)
	t.wg.Go(t.introduce)
	return t, nil
}

// Handler returns the handler for the peer listeners. It answers 404 for every
// path that is not the transport's own, and 503 after Stop. The server around
// it should set ReadHeaderTimeout; the handler bounds everything after the
// headers itself.
func (t *HTTP) Handler() http.Handler { return http.HandlerFunc(t.serve) }

// AddPeer starts to connect to a peer. Adding a peer again replaces its URLs.
// This member itself is skipped. It fails for URLs that cannot be dialled, for
// the id 0, for a removed member, and with [ErrStopped].
func (t *HTTP) AddPeer(m deimos.Member) error {
	if m.ID == t.cfg.MemberID {
		return nil
	}
	if err := t.checkPeer("add", m); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopped {
		return fmt.Errorf("transport: add peer %x: %w", m.ID, ErrStopped)
	}
	k := t.known.Load()
	old, exists := k.peers[m.ID]
	if exists && slices.Equal(old, m.PeerURLs) {
		return nil
	}
	urls := slices.Clone(m.PeerURLs)
	err := guard(func() {
		if exists || k.strangers[m.ID] != nil {
			t.rt.UpdatePeer(types.ID(m.ID), urls)
		} else {
			t.rt.AddPeer(types.ID(m.ID), urls)
		}
	})
	if err != nil {
		return fmt.Errorf("transport: add peer %x: %w", m.ID, err)
	}
	t.known.Store(k.withPeer(m.ID, urls))
	return nil
}

// UpdatePeer replaces the URLs of a peer. New connections use them; those that
// are open stay. It fails like AddPeer, and with [ErrUnknownPeer].
func (t *HTTP) UpdatePeer(m deimos.Member) error {
	if m.ID == t.cfg.MemberID {
		return nil
	}
	if _, ok := t.known.Load().peers[m.ID]; !ok {
		return fmt.Errorf("transport: update peer %x: %w", m.ID, ErrUnknownPeer)
	}
	return t.AddPeer(m)
}

// RemovePeer ends the connections with a peer, in both directions, and drops
// what waits to be sent to it. A snapshot on its way to the peer fails. An
// unknown peer is skipped.
func (t *HTTP) RemovePeer(id uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := t.known.Load()
	if _, ok := k.peers[id]; !ok || t.stopped {
		return
	}
	t.known.Store(k.without(id))
	t.dropPeer(id)
	t.metrics.forget(id)
	t.met.Delete(id)
	t.runs.forget(id)
	t.reasons.forget(id)
}

// dropPeer makes rafthttp forget the peer. The connections on which rafthttp
// may be writing are broken first, so that it does not wait for them while
// Send waits for its lock. The caller holds mu.
func (t *HTTP) dropPeer(id uint64) {
	t.conns.kill(id, "")
	t.rt.RemovePeer(types.ID(id))
}

// restartPeer ends everything that is under way with a peer and connects anew.
func (t *HTTP) restartPeer(id uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	urls, ok := t.known.Load().peers[id]
	if !ok || t.stopped {
		return
	}
	t.dropPeer(id)
	if err := guard(func() { t.rt.AddPeer(types.ID(id), urls) }); err != nil {
		t.log.Error("peer not restarted", "peer", deimos.FormatID(id), "error", err)
	}
}

// Send implements [raftnode.Sender]. A message for an unknown member, one of
// more than 16 MiB, and one for which there is no room is dropped, counted and
// reported with ReportUnreachable.
func (t *HTTP) Send(messages []raftpb.Message) {
	k := t.known.Load()
	for i := range messages {
		m := &messages[i]
		switch {
		case m.To == raft.None:
			continue // raft's way to say that a message is not needed any more
		case m.Type == raftpb.MsgSnap:
			t.reports.snapshot(m.To, raft.SnapshotFailure)
		default:
			size := m.Size()
			if !k.has(m.To) || size > messageMaxBytes {
				t.dropped(m.To)
				continue
			}
			if m.Type == raftpb.MsgApp {
				t.sent.add(time.Now(), size)
			}
			t.rt.Send(messages[i : i+1])
		}
	}
}

// SendSnapshot implements [raftnode.Sender]. At most one snapshot is on its way
// to a peer; another one fails at once. A transfer fails when the peer takes
// nothing for 60 s, when body ends before or after size bytes, when the peer is
// removed, and at Stop.
func (t *HTTP) SendSnapshot(m raftpb.Message, size int64, body io.ReadCloser) {
	b := newSnapshotBody(body, size)
	t.mu.Lock()
	_, ok := t.known.Load().peers[m.To]
	ok = ok && m.Snapshot != nil && !t.stopped && t.transfers.begin(m.To, b)
	t.mu.Unlock()
	if !ok {
		b.close()
		t.reports.snapshot(m.To, raft.SnapshotFailure)
		return
	}
	go t.sendSnapshot(m, size, b) // Stop waits for the end of the transfer
}

func (t *HTTP) sendSnapshot(m raftpb.Message, size int64, b *snapshotBody) {
	defer t.transfers.wg.Done()
	log := t.log.With("peer", deimos.FormatID(m.To), "raftIndex", m.Snapshot.Metadata.Index, "bytes", size)
	log.Info("sending snapshot")
	start := time.Now()
	msg := etcdsnap.NewMessage(m, b, size)
	msg.ReadCloser = b // rafthttp closes it during reads, which etcd's own is not fit for
	t.rt.SendSnapshot(*msg)
	sent := <-msg.CloseNotify()
	b.close()
	t.transfers.finish(m.To)
	t.metrics.snapshotSent(sent)
	if !sent {
		log.Warn("snapshot not sent", "sentBytes", b.sent.Load(), "reason", t.reasons.of(m.To))
		t.reports.snapshot(m.To, raft.SnapshotFailure)
		return
	}
	log.Info("snapshot sent", "took", time.Since(start))
	t.reports.snapshot(m.To, raft.SnapshotFinish)
}

// ActiveSince returns when the connection with the peer came up, and the zero
// time while it is down and for an unknown peer. A peer that falls silent is
// noticed within 5 s.
func (t *HTTP) ActiveSince(id uint64) time.Time { return t.rt.ActiveSince(types.ID(id)) }

// ActivePeers returns the number of peers with which a connection is up.
func (t *HTTP) ActivePeers() int { return t.rt.ActivePeers() }

// Err returns a channel that delivers at most one error, after which the member
// must be stopped: [ErrRemoved], a [*WipedError], a [*TwinError] or a
// [*ForeignError]. It is
// never closed.
func (t *HTTP) Err() <-chan error { return t.fatal }

// Stop ends all connections and goroutines and waits for them. Requests that
// are being served end as if the connection broke, calls with [ErrStopped]. Snapshots on their way are
// reported as failed first. Stop may be called more than once; every call
// returns when the transport has stopped.
func (t *HTTP) Stop() {
	t.stopOnce.Do(func() {
		t.mu.Lock()
		t.stopped = true
		close(t.stop)
		t.conns.close()
		t.rt.Stop()
		t.mu.Unlock()
		t.conns.wait()
		t.transfers.wait()
		t.calling.Wait()
		t.clients.close()
		t.reports.close()
		t.wg.Wait()
		t.inbox.close()
	})
}

// dropped counts a lost message and tells the receiver so.
func (t *HTTP) dropped(to uint64) {
	t.metrics.droppedTo(to)
	t.reports.unreachable(to)
}

// receive delivers a message that arrived.
func (t *HTTP) receive(m raftpb.Message) error {
	if m.Type == raftpb.MsgApp {
		t.received.add(time.Now(), m.Size())
	}
	return t.inbox.process(m)
}

// refused is told of each message that was not delivered.
func (t *HTTP) refused(m *raftpb.Message, r refusal, err error) {
	t.metrics.refusedFor(r)
	t.suspects.add(m.From, r, err)
}

// adapter is the transport as rafthttp sees its raft.
type adapter struct{ t *HTTP }

// Process delivers one message.
func (a adapter) Process(_ context.Context, m raftpb.Message) error { return a.t.receive(m) }

// IsIDRemoved is asked for each stream that is opened.
func (a adapter) IsIDRemoved(id uint64) bool { return a.t.cfg.IsRemoved(id) }

// ReportUnreachable is called when rafthttp drops a message or a connection.
func (a adapter) ReportUnreachable(id uint64) { a.t.dropped(id) }

// ReportSnapshot is left to sendSnapshot, which also knows of the transfers
// that rafthttp drops without a word.
func (a adapter) ReportSnapshot(uint64, raft.SnapshotStatus) {}

func parseID(s string) (uint64, bool) {
	id, err := strconv.ParseUint(s, 16, 64)
	return id, err == nil && id != 0
}
