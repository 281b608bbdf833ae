package server

import (
	"context"
	"errors"
	"time"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/raftnode"
	"github.com/marsevilspirit/deimos/server/serverpb"
)

const (
	// expiryBatchMax bounds the nodes that one entry may remove, so that many
	// deadlines in the same second do not hold up writes.
	expiryBatchMax = 1000
	// dutyTimeout bounds one proposal of the server itself.
	dutyTimeout = 5 * time.Second
	// recoverPause is the time between looks at how far the log is applied.
	recoverPause = 10 * time.Millisecond
	// promoteInterval is the time between looks at whether learners have caught
	// up.
	promoteInterval = time.Second
	// publishRetry is the pause after a failed publication.
	publishRetry = 100 * time.Millisecond
)

// expireLoop proposes an expiry entry when this member leads and a node is
// due. While nothing is due it proposes nothing: an idle cluster writes nothing.
// What the entry removes is decided when it is applied, by its own time.
func (s *Server) expireLoop(ctx context.Context) {
	ticker := time.NewTicker(s.cfg.ExpiryInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		for s.due() {
			if err := s.proposeDuty(ctx, &serverpb.Command{
				Kind:   serverpb.KindExpire,
				Expire: &serverpb.Expire{Limit: expiryBatchMax},
			}); err != nil {
				s.cfg.Log.Debug("expiry not proposed", "error", err)
				break
			}
		}
	}
}

func (s *Server) due() bool {
	deadlineMS, ok := s.store.View().NextDeadline()
	return ok && s.cfg.Node.Status().IsLeader() && deadlineMS < s.cfg.Node.ClusterTimeMS()
}

// recoverLoop lets local reads and watches begin once they see what was seen
// before the restart. Without a quorum that is what the log says; a commit index
// that moved just before the restart may not have been written.
func (s *Server) recoverLoop(ctx context.Context) {
	defer func() {
		if ctx.Err() == nil {
			close(s.recovered)
		}
	}()
	readCtx, cancel := context.WithTimeout(ctx, s.cfg.RecoverTimeout)
	defer cancel()
	for readCtx.Err() == nil {
		err := s.cfg.Node.Read(readCtx)
		if err == nil {
			return
		}
		if !errors.Is(err, raftnode.ErrNoLeader) {
			break
		}
		pauseFor(readCtx, recoverPause)
	}
	for ctx.Err() == nil && s.cfg.Node.Status().Applied < s.cfg.Recovered {
		pauseFor(ctx, recoverPause)
	}
}

func pauseFor(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// publishLoop makes the member list show this member's name and client URLs.
// It ends when they are there.
func (s *Server) publishLoop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		err := s.publishSelf(ctx)
		if err == nil {
			return
		}
		if _, refused := errors.AsType[*deimos.MemberError](err); refused {
			s.cfg.Log.Error("the cluster does not take this member for the one in its list", "error", err)
			return
		}
		s.cfg.Log.Debug("member not published yet", "error", err)
		timer.Reset(publishRetry)
	}
}

// publishSelf proposes this member's attributes, unless the member list, read
// linearizably, has them: a restart writes nothing.
func (s *Server) publishSelf(ctx context.Context) error {
	readCtx, cancel := context.WithTimeout(ctx, dutyTimeout)
	defer cancel()
	if err := s.cfg.Node.Read(readCtx); err != nil {
		return err
	}
	self := s.cfg.Self
	own := member{
		Member:      deimos.Member{ID: self.ID, Name: self.Name, ClientURLs: self.ClientURLs},
		incarnation: s.cfg.Incarnation,
	}
	if m, ok := s.cfg.Machine.members.Load().byID[self.ID]; ok && m.is(own) {
		return nil
	}
	attributes := memberToProto(own)
	if err := s.proposeDuty(ctx, &serverpb.Command{Kind: serverpb.KindAttributes, Attributes: &attributes}); err != nil {
		return err
	}
	s.cfg.Log.Info("member published", "name", self.Name, "clientURLs", self.ClientURLs)
	return nil
}

func (s *Server) proposeDuty(ctx context.Context, c *serverpb.Command) error {
	data, err := encode(c)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, dutyTimeout)
	defer cancel()
	result, err := s.cfg.Node.Propose(ctx, data)
	if err != nil {
		return err
	}
	err, _ = result.(error)
	return err
}
