package daemon

import (
	"context"
	"errors"
	"fmt"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/httpapi"
	"github.com/marsevilspirit/deimos/server"
	"github.com/marsevilspirit/deimos/transport"
)

// This file joins what members ask each other for: server speaks in bytes, and
// transport carries them.

// call asks another member, for the server.
func (d *Daemon) call(ctx context.Context, to uint64, request []byte) ([]byte, error) {
	answer, err := d.peers.Call(ctx, to, request)
	if errors.Is(err, transport.ErrNotSent) {
		return nil, fmt.Errorf("%w: %w", server.ErrNotAsked, err)
	}
	return answer, err
}

// answer answers another member. One that calls before there is a server is
// told nothing, and tries again.
func (d *Daemon) answer(ctx context.Context, from uint64, request []byte) []byte {
	s := d.answering.Load()
	if s == nil {
		return nil
	}
	return s.Answer(ctx, from, request)
}

// memberList shows the member list to those who are no members yet.
type memberList struct{ d *Daemon }

var _ httpapi.MemberList = memberList{}

// Members implements [httpapi.MemberList].
func (l memberList) Members() []deimos.Member { return l.d.machine.Members() }

// Status implements [httpapi.MemberList].
func (l memberList) Status() httpapi.Status {
	return httpapi.Status{ClusterID: l.d.storage.identity.ClusterID, RaftIndex: l.d.node.Applied(), RaftTerm: l.d.node.Term()}
}
