package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/httpapi"
	"github.com/marsevilspirit/deimos/httpapi/lane"
	"github.com/marsevilspirit/deimos/raftnode"
	"github.com/marsevilspirit/deimos/server"
	"github.com/marsevilspirit/deimos/transport"
)

// Daemon is a running member. Its methods may be called from any goroutine.
type Daemon struct {
	cfg     Config
	log     *slog.Logger
	dir     *dataDir
	storage *storage
	secured *security
	space   *diskSpace
	machine *server.Machine
	node    *raftnode.Node
	peers   peerTransport
	server  *server.Server
	backend *backend
	// answering is the server once there is one: peers may call before.
	answering atomic.Pointer[server.Server]

	clientListeners, peerListeners []net.Listener
	clientConns, peerConns         *httpapi.Conns
	clientServer                   *lane.Server
	peerServer                     *http.Server

	wg       sync.WaitGroup
	started  time.Time
	ended    chan struct{} // closed when the daemon is being closed
	endOnce  sync.Once
	failed   chan error
	closeErr error
}

// Open starts a member and returns when it listens; it may not have a leader
// yet. If Open fails, it has closed what it opened; [FailureOf] tells the kind
// of its error.
func Open(ctx context.Context, cfg Config) (*Daemon, error) {
	if err := firstError(cfg.Validate, func() error { return checkOpenFiles(&cfg) }); err != nil {
		return nil, err
	}
	return openMember(ctx, cfg)
}

// openMember does it with a configuration that is known to be valid.
func openMember(ctx context.Context, cfg Config) (*Daemon, error) {
	d := &Daemon{cfg: cfg, log: cfg.Log, started: time.Now(), ended: make(chan struct{}), failed: make(chan error, 1)}
	if err := d.open(ctx); err != nil {
		d.abandon()
		return nil, explainSpace(cfg.DataDir, err)
	}
	return d, nil
}

func (d *Daemon) open(ctx context.Context) (err error) {
	if d.dir, err = openDataDir(d.cfg.DataDir, d.log); err != nil {
		return err
	}
	if err := finishForced(d.dir); err != nil {
		return err
	}
	if d.cfg.ForceNewCluster {
		if err := forceNewCluster(&d.cfg, d.dir); err != nil {
			return err
		}
	}
	m := newMetrics()
	if d.secured, err = openSecurity(&d.cfg, m.registry); err != nil {
		return err
	}
	if d.clientListeners, err = listen("listen-client-urls", d.cfg.URLs.ListenClient); err != nil {
		return err
	}
	held, err := d.dir.holdsMember()
	if err != nil {
		return err
	}
	byList := held && d.cfg.listensByList() // which is known when the data is
	if !byList {
		if err := d.listenForPeers(); err != nil {
			return err
		}
	}
	d.space = watchDiskSpace(d.cfg.FreeSpace, d.dir.path, d.log)
	followed := &peers{log: d.log, later: d.afterElection}
	d.machine = newMachine(&d.cfg, followed.follow)
	find := func(fresh bool) (origin, error) { return findOrigin(ctx, &d.cfg, d.secured, fresh) }
	if d.storage, err = openStorage(&d.cfg, d.dir, find, d.machine, m); err != nil {
		return err
	}
	if d.machine.IsRemoved(d.storage.identity.MemberID) {
		return d.removed()
	}
	if err := ctx.Err(); err != nil {
		return err // recovery can take long, and somebody has changed his mind
	}
	if held {
		if err := d.cfg.followList(d.storage.ownPeerURLs(d.machine), d.storage.identity.MemberID); err != nil {
			return err
		}
	}
	if byList {
		if err := d.listenForPeers(); err != nil {
			return err
		}
	}
	if err := d.openNode(m); err != nil {
		return err
	}
	m.watch(d.node, d.machine, d.space)
	followed.follow(d.machine.Members())
	if err := d.openServer(m); err != nil {
		return err
	}
	d.node.Start(d.peers)
	followed.attach(d.peers, d.storage.identity.MemberID, d.checkMembership)
	d.serve()
	return nil
}

func (d *Daemon) listenForPeers() (err error) {
	if d.cfg.Network == nil {
		d.peerListeners, err = listen("listen-peer-urls", d.cfg.URLs.ListenPeer)
	}
	return err
}

// openNode makes the raft node and its transport. Neither runs yet.
func (d *Daemon) openNode(m *metrics) (err error) {
	id := d.storage.identity
	d.node, err = raftnode.New(raftnode.Config{
		ID:                id.MemberID,
		Run:               randomNumber(),
		HeartbeatInterval: d.cfg.Timing.Heartbeat,
		ElectionTimeout:   d.cfg.Timing.Election,
		SnapshotCount:     d.cfg.Limits.SnapshotCount,
		Recovered:         d.storage.recovered,
		Log:               d.storage.wal,
		Snapshots:         thriftySnapshots{d.storage.snapshots, d.space},
		Machine:           d.machine,
		DiskLow:           d.space.Low,
		Logger:            d.log,
	})
	if err != nil {
		return err
	}
	if d.cfg.Network != nil {
		d.peers = d.cfg.Network.Join(transport.JoinConfig{
			ID: id.MemberID, Receiver: d.node, SnapDir: d.dir.snap(), Answer: d.answer,
		})
		return nil
	}
	t, err := transport.NewHTTP(transport.Config{
		ClusterID:     id.ClusterID,
		MemberID:      id.MemberID,
		Incarnation:   id.Incarnation,
		IncarnationOf: d.machine.IncarnationOf,
		Name:          d.cfg.Name,
		PeerURLs:      d.cfg.URLs.AdvertisePeer,
		SnapDir:       d.dir.snap(),
		Receiver:      d.node,
		IsRemoved:     d.machine.IsRemoved,
		Secret:        d.secured.secret,
		TLS:           d.secured.peer.dial(),
		Answer:        d.answer,
		Members:       httpapi.MembersHandler(memberList{d}),
		RaftIndex:     d.node.Applied,
		Incarnations:  d.machine.Incarnations,
		Introducers:   d.cfg.introducers(),
		Log:           d.log,
		Metrics:       m.registry,
	})
	if err != nil {
		return err // not into the interface: a nil *HTTP in it would not be nil
	}
	d.peers = t
	return nil
}

// openServer makes the front end. It answers once serve is called.
func (d *Daemon) openServer(m *metrics) error {
	d.server = server.New(server.Config{
		Self: deimos.Member{
			ID: d.storage.identity.MemberID, Name: d.cfg.Name, ClientURLs: sortedURLs(d.cfg.URLs.AdvertiseClient),
		},
		Incarnation: d.storage.identity.Incarnation,
		Machine:     d.machine,
		Node:        d.node,
		Call:        d.call,
		Recovered:   d.storage.replayed(),
		// Two elections fit in, if the first one fails.
		RecoverTimeout: 2 * d.cfg.Timing.Election,
		DiskLow:        d.space.Low,
		Log:            d.log,
	})
	d.answering.Store(d.server)
	d.backend = &backend{Server: d.server, daemon: d}
	handler, err := httpapi.New(httpapi.Config{
		Backend:       d.backend,
		Log:           d.log,
		Version:       d.cfg.Version,
		Timeout:       d.cfg.Timing.Request,
		WatchTimeout:  d.cfg.Timing.Watch,
		ValueMaxBytes: d.cfg.Limits.MaxValueBytes,
		CORS:          d.cfg.CORS,
		Registerer:    m.registry,
		Gatherer:      m.registry,
	})
	if err != nil {
		return err
	}
	full := httpapi.Server(handler, d.secured.client.errors)
	full.TLSConfig = d.secured.client.serverConfig()
	if d.clientConns, err = boundClients(full, d.clientListeners, m.registry); err != nil {
		return err
	}
	d.clientServer = lane.New(full, httpapi.IsEveryday)
	if h := handlerOf(d.peers); h != nil {
		d.peerServer = httpapi.Server(h, d.secured.peer.errors)
		d.peerServer.MaxHeaderBytes = peerHeadMaxBytes
		d.peerConns, err = boundPeers(d.peerServer, d.peerListeners)
	}
	return err
}

// serve starts to answer on all listeners and to watch for failures.
func (d *Daemon) serve() {
	for _, l := range d.peerListeners {
		d.serveOn(d.peerServer, d.secured.peer.listener(d.peerConns.Listener(l)))
	}
	for _, l := range d.clientListeners {
		d.serveOn(d.clientServer, d.clientConns.Listener(l))
	}
	d.wg.Go(func() { d.secured.client.watch(d.ended) })
	d.wg.Go(func() { d.secured.peer.watch(d.ended) })
	d.wg.Go(d.watchFailures)
	d.log.Info("member serves", "name", d.cfg.Name, "id", deimos.FormatID(d.storage.identity.MemberID),
		"client", addrs(d.clientListeners), "peer", addrs(d.peerListeners))
}

func (d *Daemon) serveOn(s interface{ Serve(net.Listener) error }, l net.Listener) {
	d.wg.Go(func() {
		if err := s.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
			d.fail(fmt.Errorf("serve %s: %w", l.Addr(), err))
		}
	})
}

// afterElection runs f one election timeout from now, unless the daemon is being
// closed before.
func (d *Daemon) afterElection(f func()) {
	d.wg.Go(func() {
		timer := time.NewTimer(d.cfg.Timing.Election)
		defer timer.Stop()
		select {
		case <-timer.C:
			f()
		case <-d.ended:
		}
	})
}

func (d *Daemon) fail(err error) {
	select {
	case d.failed <- err:
	default: // the first failure counts
	}
}

// watchFailures waits for what ends the member by itself.
func (d *Daemon) watchFailures() {
	for {
		select {
		case err := <-d.node.Failed():
			d.fail(err)
			return
		case err := <-d.peers.Err():
			if d.isSound(err) {
				d.log.Warn("others at the URLs of members belong to another cluster; this member goes on, for it has a leader", "error", err)
				continue
			}
			d.fail(d.explain(err))
			return
		case <-d.ended:
			return
		}
	}
}

// Failed delivers the error that ended the member by itself, at most one. The
// member acknowledges nothing after it, and must not be closed gracefully.
func (d *Daemon) Failed() <-chan error { return d.failed }

// ClientAddrs returns the addresses (host:port) that answer clients.
func (d *Daemon) ClientAddrs() []string { return addrs(d.clientListeners) }

// PeerAddrs returns the addresses that answer peers.
func (d *Daemon) PeerAddrs() []string { return addrs(d.peerListeners) }

// MemberID returns the id of this member.
func (d *Daemon) MemberID() uint64 { return d.storage.identity.MemberID }

// Status returns what the member's raft node knows.
func (d *Daemon) Status() raftnode.Status { return d.node.Status() }

// Close ends the member gracefully: it stops accepting, hands over leadership,
// ends the watches, lets running requests finish within the request timeout
// (and ctx), and closes the log. An error means that the log could not be
// closed properly; nothing acknowledged is lost by it. Later calls return what
// the first did.
func (d *Daemon) Close(ctx context.Context) error {
	d.endOnce.Do(func() {
		if d.closeErr = d.close(ctx); d.closeErr == nil {
			d.log.Info("member stopped")
		}
	})
	return d.closeErr
}

func (d *Daemon) close(ctx context.Context) error {
	close(d.ended)
	d.backend.stopping.Store(true)
	drainCtx, cancel := context.WithTimeout(ctx, d.cfg.Timing.Request)
	defer cancel()
	drained := make(chan error, 1)
	go func() { drained <- d.clientServer.Shutdown(drainCtx) }()
	d.handOver(ctx)
	d.server.EndWatches()
	if err := <-drained; err != nil {
		d.log.Warn("running requests were cut off", "error", err)
		_ = d.clientServer.Close() // closes connections; what they say does not matter now
	}
	d.server.Close()
	d.node.Stop()
	d.space.Close() // the node has asked it
	d.peers.Stop()
	if d.peerServer != nil {
		_ = d.peerServer.Close() // as above
	}
	d.wg.Wait()
	if err := d.failure(); err != nil {
		// Not a clean stop: the next start has to look at the log closely.
		d.storage.wal.Abandon()
		return errors.Join(err, d.dir.release())
	}
	return errors.Join(d.storage.wal.Close(), d.dir.release())
}

// failure returns what made the node fail while the daemon was being closed.
func (d *Daemon) failure() error {
	select {
	case err := <-d.failed:
		return err
	case err := <-d.node.Failed():
		return err
	default:
		return nil
	}
}

// handOver waits for a successor, but not for longer than an election by the
// others takes at least: one that is stopping too never comes.
func (d *Daemon) handOver(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, d.cfg.Timing.Election)
	defer cancel()
	if err := d.node.TransferLeadership(ctx, 0); err != nil {
		d.log.Warn("leadership was not handed over", "error", err)
	}
}

// Kill ends the member as a crash would, as far as one process can: nothing is
// handed over, finished or marked as cleanly stopped. It is for tests of what
// comes after a crash.
func (d *Daemon) Kill() {
	d.endOnce.Do(func() {
		close(d.ended)
		d.abandon()
	})
}

// abandon closes whatever is open, in no friendly way.
func (d *Daemon) abandon() {
	if d.clientServer != nil {
		_ = d.clientServer.Close()
	}
	if d.peerServer != nil {
		_ = d.peerServer.Close()
	}
	_ = closeAll(d.clientListeners)
	_ = closeAll(d.peerListeners)
	if d.server != nil {
		d.server.EndWatches()
		d.server.Close()
	}
	if d.node != nil {
		d.node.Stop()
	}
	if d.peers != nil {
		d.peers.Stop()
	}
	if d.space != nil {
		d.space.Close()
	}
	d.wg.Wait()
	if d.storage != nil && d.storage.wal != nil {
		d.storage.wal.Abandon()
	}
	if d.dir != nil {
		_ = d.dir.release()
	}
}
