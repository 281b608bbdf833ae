package transport

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/marsevilspirit/deimos"
)

// suspectPause is the least time between two log lines about refused messages
// of a peer, and between two restarts of the peer for them.
const suspectPause = 10 * time.Second

// monitor looks at the peers until the transport stops: it writes the log lines
// about them, ends what hangs, and finds out when they are of another cluster.
func (t *HTTP) monitor() {
	ticker := time.NewTicker(inspectInterval)
	defer ticker.Stop()
	w := watch{peers: make(map[uint64]*peerWatch)}
	for {
		select {
		case <-t.stop:
			return
		case now := <-ticker.C:
			t.inspect(&w, now)
		}
	}
}

// watch is what the monitor remembers from look to look.
type watch struct {
	peers map[uint64]*peerWatch
	// others stands for all senders that are no peers.
	others peerWatch
}

type peerWatch struct {
	state     peerState
	firstSeen time.Time
	suspected time.Time
}

type peerState uint8

const (
	peerNew peerState = iota
	peerUp
	peerDown
)

// inspect looks at every peer once.
func (t *HTTP) inspect(w *watch, now time.Time) {
	peers := t.known.Load().peers
	maps.DeleteFunc(w.peers, func(id uint64, _ *peerWatch) bool {
		_, ok := peers[id]
		return !ok
	})
	for id, urls := range peers {
		p := w.peers[id]
		if p == nil {
			p = &peerWatch{firstSeen: now}
			w.peers[id] = p
		}
		t.inspectPeer(id, urls, p, now)
	}
	for _, id := range t.transfers.stalled(now, t.stallTimeout) {
		t.log.Warn("snapshot transfer makes no progress; connecting to the peer anew",
			"peer", deimos.FormatID(id), "timeout", t.stallTimeout)
		t.restartPeer(id)
	}
	if err := t.verdicts.judge(peers); err != nil {
		t.end(err)
	}
	for id, s := range t.suspects.take() {
		p := w.peers[id]
		if p == nil {
			p = &w.others
		}
		t.inspectSuspect(id, s, p, now)
	}
}

// inspectPeer writes one line when a peer goes down and one when it is back. A
// peer that was just added has the time of a dial to appear.
func (t *HTTP) inspectPeer(id uint64, urls []string, p *peerWatch, now time.Time) {
	active := !t.ActiveSince(id).IsZero()
	t.metrics.setActive(id, active)
	switch {
	case active && p.state != peerUp:
		p.state = peerUp
		t.log.Info("peer is reachable", "peer", deimos.FormatID(id), "urls", urls)
	case !active && (p.state == peerUp || p.state == peerNew && now.Sub(p.firstSeen) >= idleTimeout):
		p.state = peerDown
		t.log.Warn("peer is unreachable", "peer", deimos.FormatID(id), "urls", urls, "reason", t.reasons.of(id))
	}
}

// inspectSuspect logs refused messages and, where the receiver itself refused
// one, connects anew to the peer that sent it.
func (t *HTTP) inspectSuspect(id uint64, s suspect, p *peerWatch, now time.Time) {
	if now.Sub(p.suspected) < suspectPause {
		return
	}
	p.suspected = now
	t.log.Warn("messages refused", "sender", deimos.FormatID(id), "count", s.count, "error", s.err)
	if s.reason == refusedReceiver {
		t.restartPeer(id)
	}
}

// suspects collects the senders of refused messages between two looks, and what
// was wrong last. The zero value is ready.
type suspects struct {
	mu   sync.Mutex
	byID map[uint64]suspect
}

type suspect struct {
	reason refusal
	err    error
	count  int
}

// suspectsMax bounds what one look can find: a sender can claim any id.
const suspectsMax = 16

func (s *suspects) add(id uint64, r refusal, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byID == nil {
		s.byID = make(map[uint64]suspect)
	}
	old, ok := s.byID[id]
	if !ok && len(s.byID) >= suspectsMax {
		return
	}
	if ok && r == refusedPaused {
		r, err = old.reason, old.err // why it failed so often says more
	}
	s.byID[id] = suspect{r, err, old.count + 1}
}

func (s *suspects) take() map[uint64]suspect {
	s.mu.Lock()
	defer s.mu.Unlock()
	byID := s.byID
	s.byID = nil
	return byID
}

// reasons remembers why rafthttp found a peer unreachable, for the log line
// that the monitor writes.
type reasons struct {
	mu   sync.Mutex
	byID map[string]string // by the id as rafthttp writes it
}

func newReasons() *reasons { return &reasons{byID: make(map[string]string)} }

func (r *reasons) set(id, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.byID[id] = reason
}

// of returns the newest reason, "" when there is none.
func (r *reasons) of(id uint64) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.byID[deimos.FormatID(id)]
}

func (r *reasons) forget(id uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.byID, deimos.FormatID(id))
}

// quiet is the log of rafthttp: everything goes to Debug, because rafthttp
// writes a line for each message it drops and each dial that fails, and the
// reasons for which peers are unreachable are kept for the monitor.
type quiet struct {
	next    slog.Handler
	reasons *reasons
}

// The words of rafthttp's peer status. When they change, log lines about
// unreachable peers lose their reason; a test notices.
const (
	statusDown      = "peer became inactive (message send to peer failed)"
	statusStillDown = "peer deactivated again"
	statusPeer      = "peer-id"
	statusReason    = "error"
)

// Enabled implements slog.Handler.
func (q quiet) Enabled(context.Context, slog.Level) bool { return true }

// Handle implements slog.Handler.
func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == statusDown || r.Message == statusStillDown {
		var id, reason string
		r.Attrs(func(a slog.Attr) bool {
			switch a.Key {
			case statusPeer:
				id = a.Value.String()
			case statusReason:
				reason = a.Value.String()
			}
			return true
		})
		q.reasons.set(id, reason)
	}
	if !q.next.Enabled(ctx, slog.LevelDebug) {
		return nil
	}
	r.Level = slog.LevelDebug
	return q.next.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler {
	return quiet{q.next.WithAttrs(attrs), q.reasons}
}

// WithGroup implements slog.Handler.
func (q quiet) WithGroup(name string) slog.Handler {
	return quiet{q.next.WithGroup(name), q.reasons}
}
