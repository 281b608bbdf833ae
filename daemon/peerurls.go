package daemon

import (
	"slices"
	"strings"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/server"
)

// This file makes the member list, and not a configuration that is for a first
// start, say where a member with data is to be found by the others.

// listensByList tells whether nobody has said where the member is for the
// others, so that the member list decides if the directory holds one.
func (c *Config) listensByList() bool {
	return c.Network == nil && c.derivesAdvertisePeer() && slices.Equal(c.URLs.ListenPeer, c.derived.ListenPeer)
}

// derivesAdvertisePeer tells whether the advertised peer URLs are a default or
// those of bootstrap-config.
func (c *Config) derivesAdvertisePeer() bool {
	return slices.Equal(c.URLs.AdvertisePeer, c.derived.AdvertisePeer)
}

// ownPeerURLs returns the peer URLs that the member list has for this member, with
// the changes in the log that are known to be committed and not applied yet. It
// is nil for a member that is not in the list.
func (s *storage) ownPeerURLs(machine *server.Machine) []string {
	var changes []raftpb.ConfChange
	for i := range s.recovered.Entries {
		e := &s.recovered.Entries[i]
		if e.Index > s.recovered.HardState.Commit {
			break
		}
		var cc raftpb.ConfChange
		if e.Type == raftpb.EntryConfChange && cc.Unmarshal(e.Data) == nil { // the apply loop tells of one that cannot be read
			changes = append(changes, cc)
		}
	}
	for _, m := range machine.MembersAfter(changes) {
		if m.ID == s.identity.MemberID {
			return m.PeerURLs
		}
	}
	return nil
}

// followList takes over the peer URLs that the list has for this member, own, as
// far as nobody has given others, and warns of those that are not theirs. The
// member has data, and listens for no member yet if it listens by the list.
func (c *Config) followList(own []string, id uint64) error {
	if len(own) == 0 || c.Network != nil {
		return nil
	}
	if c.listensByList() {
		c.URLs.ListenPeer = listenAt(own, c.PeerTLS)
		if err := firstError(c.validatePorts, c.validatePeerTrust); err != nil {
			return err
		}
	} else if !listensFor(c.URLs.ListenPeer, own) && c.derivesAdvertisePeer() {
		c.Log.Warn("the member listens on other ports than those of its peer URLs in the member list, where the others look for it: "+
			"leave --listen-peer-urls out, or change the list", "listen-peer-urls", c.URLs.ListenPeer, "listed", own, "id", deimos.FormatID(id))
	}
	if c.derivesAdvertisePeer() {
		c.URLs.AdvertisePeer = slices.Clone(own)
		c.derived.AdvertisePeer = c.URLs.AdvertisePeer
		return nil
	}
	if !sameURLs(c.URLs.AdvertisePeer, own) {
		c.Log.Warn("advertise-peer-urls differs from the member list, by which the others look for this member: change the list, or leave the flag out",
			"advertise-peer-urls", c.URLs.AdvertisePeer, "listed", own, "id", deimos.FormatID(id))
	}
	return nil
}

// listenAt returns where to listen for these URLs. TLS may have been given to the
// port, or taken from it, since the list was written.
func listenAt(urls []string, tls TLS) []string {
	scheme := "http"
	if tls.Enabled() {
		scheme = "https"
	}
	out := make([]string, 0, len(urls))
	for _, u := range urls {
		_, place, _ := strings.Cut(u, "://")
		out = append(out, scheme+"://"+place)
	}
	return out
}

// listensFor reports whether one of the listening URLs has a port of the listed
// ones. Which hosts are the same machine is not known here.
func listensFor(listening, listed []string) bool {
	return slices.ContainsFunc(listening, func(a string) bool {
		_, portA, _ := listenAddress(a)
		return slices.ContainsFunc(listed, func(b string) bool {
			_, portB, _ := listenAddress(b)
			return portA == portB
		})
	})
}
