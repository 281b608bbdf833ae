package server

import (
	"fmt"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/raftnode"
	"github.com/marsevilspirit/deimos/server/serverpb"
)

// encode returns the data of a proposal, with the prefix that raftnode
// reserves.
func encode(c *serverpb.Command) ([]byte, error) {
	buf := make([]byte, raftnode.PrefixBytes+c.Size())
	if _, err := c.MarshalToSizedBuffer(buf[raftnode.PrefixBytes:]); err != nil {
		return nil, fmt.Errorf("server: encode %s: %w", c.Kind, err)
	}
	return buf, nil
}

func writeCommand(r *deimos.Request) serverpb.Command {
	return serverpb.Command{
		Kind: serverpb.KindWrite,
		Write: serverpb.Write{
			Op:           uint32(r.Op),
			Key:          r.Key,
			Value:        r.Value,
			Dir:          r.Dir,
			Recursive:    r.Recursive,
			Refresh:      r.Refresh,
			HasTTL:       r.HasTTL,
			TTLSeconds:   r.TTLSeconds,
			HasPrevValue: r.HasPrevValue,
			PrevValue:    r.PrevValue,
			PrevIndex:    r.PrevIndex,
		},
	}
}

func requestOf(w *serverpb.Write) deimos.Request {
	return deimos.Request{
		Op:           deimos.Op(w.Op),
		Key:          w.Key,
		Value:        w.Value,
		Dir:          w.Dir,
		Recursive:    w.Recursive,
		Refresh:      w.Refresh,
		HasTTL:       w.HasTTL,
		TTLSeconds:   w.TTLSeconds,
		HasPrevValue: w.HasPrevValue,
		PrevValue:    w.PrevValue,
		PrevIndex:    w.PrevIndex,
	}
}

func memberToProto(m member) serverpb.Member {
	p := serverpb.Member{
		ID: m.ID, Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs, IsLearner: m.IsLearner, Promote: m.promote,
	}
	if !m.incarnation.IsZero() {
		p.Incarnation = m.incarnation[:]
	}
	return p
}

// memberFromProto takes an incarnation of another length for none: those of
// this version always have one length, and applying an entry cannot fail.
func memberFromProto(p *serverpb.Member) member {
	m := member{
		Member:  deimos.Member{ID: p.ID, Name: p.Name, PeerURLs: p.PeerURLs, ClientURLs: p.ClientURLs, IsLearner: p.IsLearner},
		promote: p.Promote,
	}
	if len(p.Incarnation) == len(m.incarnation) {
		copy(m.incarnation[:], p.Incarnation)
	}
	return m
}
