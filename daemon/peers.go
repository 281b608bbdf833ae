package daemon

import (
	"context"
	"log/slog"
	"net/http"
	"sync"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/raftnode"
	"github.com/marsevilspirit/deimos/transport"
)

// peerTransport is what the daemon needs of a transport, over HTTP or in memory.
type peerTransport interface {
	raftnode.Sender
	Call(ctx context.Context, to uint64, request []byte) ([]byte, error)
	Stats() transport.Stats
	AddPeer(m deimos.Member) error
	RemovePeer(id uint64)
	Err() <-chan error
	Stop()
}

var (
	_ peerTransport = (*transport.HTTP)(nil)
	_ peerTransport = (*transport.Endpoint)(nil)
)

// peers keeps the transport's peers equal to the member list.
type peers struct {
	self uint64
	log  *slog.Logger
	// later runs something when everybody has heard of a change.
	later func(func())
	// onChange is told of each new list.
	onChange func([]deimos.Member)

	mu        sync.Mutex
	transport peerTransport // nil before attach
	members   []deimos.Member
	added     map[uint64]bool
}

// attach begins to follow the member list. onChange must not wait.
func (p *peers) attach(t peerTransport, self uint64, onChange func([]deimos.Member)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.transport, p.self, p.onChange, p.added = t, self, onChange, make(map[uint64]bool)
	p.reconcile()
	p.onChange(p.members)
}

// follow takes over a new member list. The apply loop calls it.
func (p *peers) follow(members []deimos.Member) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.members = members
	if p.transport != nil {
		p.reconcile()
		p.onChange(members)
	}
}

func (p *peers) reconcile() {
	listed := make(map[uint64]bool, len(p.members))
	for _, m := range p.members {
		if m.ID == p.self {
			continue
		}
		listed[m.ID] = true
		if err := p.transport.AddPeer(m); err != nil {
			p.log.Error("a member cannot be reached as a peer", "id", deimos.FormatID(m.ID), "error", err)
			continue
		}
		p.added[m.ID] = true
	}
	for id := range p.added {
		if !listed[id] {
			// A removed member may be waiting for the answer to its own removal.
			p.later(func() { p.transport.RemovePeer(id) })
			delete(p.added, id)
		}
	}
}

// handlerOf returns the handler for the peer listeners, nil for a transport
// that needs none.
func handlerOf(t peerTransport) http.Handler {
	if h, ok := t.(*transport.HTTP); ok {
		return h.Handler()
	}
	return nil
}
