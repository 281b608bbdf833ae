package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/transport"
)

// lookUpElections is for how many election timeouts a list is asked for again
// that does not have this member as it should be.
const lookUpElections = 3

// origin is what a member knows of its cluster before it has a state.
type origin struct {
	members   []deimos.Member
	self      uint64
	clusterID uint64
	// joins is set for a member that was added to a running cluster. It begins
	// with an empty log and waits for a snapshot.
	joins bool
}

// originFinder finds an origin; fresh tells that there is no data directory yet.
type originFinder func(fresh bool) (origin, error)

// findOrigin finds out where a member comes from that has no state: from the
// members it was configured with, or from the running cluster that it joins.
func findOrigin(ctx context.Context, cfg *Config, s *security, fresh bool) (origin, error) {
	if cfg.InitialClusterState == ClusterStateExisting {
		return lookUp(ctx, cfg, s, fresh)
	}
	members, self := firstMembers(cfg.Bootstrap, cfg.InitialClusterToken, cfg.Name)
	o := origin{members: members, self: self.ID, clusterID: clusterID(members, cfg.InitialClusterToken)}
	if fresh {
		return o, o.checkNotRunning(ctx, cfg, s)
	}
	return o, nil
}

// checkNotRunning refuses to begin a cluster beside one that runs already: two
// members that were added to it and do not know so would be a quorum of their
// own. Who cannot be reached has not started yet, as far as anybody knows.
func (o *origin) checkNotRunning(ctx context.Context, cfg *Config, s *security) error {
	if len(cfg.Bootstrap) < 2 || cfg.Network != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	client := transport.NewClient(transport.ClientConfig{Secret: s.secret, TLS: s.peer.dial()})
	defer client.Close()
	info, err := askOnce(ctx, client.Members, cfg)
	var foreign *disagreementError
	switch {
	case errors.As(err, &foreign): // one of the two is not this one
		return Usagef("%v", foreign)
	case err != nil || info.ClusterID == o.clusterID:
		return nil //nolint:nilerr // see above
	}
	return Usagef("a cluster with another id, %s, runs at the peer URLs in bootstrap-config, which describe cluster %s: "+
		"start a member that was added to it with --initial-cluster-state existing, or correct --bootstrap-config and --initial-cluster-token",
		deimos.FormatID(info.ClusterID), deimos.FormatID(o.clusterID))
}

// lookUp asks the members of a running cluster who they are, and finds this
// member among them. fresh tells that it has no data directory yet.
func lookUp(ctx context.Context, cfg *Config, s *security, fresh bool) (origin, error) {
	for began := time.Now(); ; {
		info, err := askMembers(ctx, cfg, s)
		if err != nil {
			return origin{}, err
		}
		o, err := findSelf(cfg, info)
		if err == nil && fresh {
			err = o.checkNotStarted(cfg)
		}
		// Those who answered may not have heard of a change that was made just now.
		if err == nil || FailureOf(err) == FailureUsage || time.Since(began) > lookUpElections*cfg.Timing.Election {
			return o, err
		}
		select {
		case <-time.After(lookUpPause):
		case <-ctx.Done():
			return o, err
		}
	}
}

// findSelf finds a member in a list by its peer URLs.
func findSelf(cfg *Config, info transport.MembersInfo) (origin, error) {
	o := origin{members: info.Members, clusterID: info.ClusterID, joins: true}
	var self *deimos.Member
	for i := range info.Members {
		m := &info.Members[i]
		if slices.ContainsFunc(cfg.URLs.AdvertisePeer, func(u string) bool { return slices.Contains(m.PeerURLs, u) }) {
			if self != nil {
				return o, Usagef("the peer URLs %s belong to two members of cluster %s, %s and %s: give this member's own with --advertise-peer-urls",
					strings.Join(cfg.URLs.AdvertisePeer, ","), deimos.FormatID(info.ClusterID), deimos.FormatID(self.ID), deimos.FormatID(m.ID))
			}
			self = m
		}
	}
	if self == nil {
		return o, fmt.Errorf("cluster %s has no member with the peer URL %s: add this member first, with %s",
			deimos.FormatID(info.ClusterID), strings.Join(cfg.URLs.AdvertisePeer, ","), addCommand(clientURL(info.Members, 0), cfg.URLs.AdvertisePeer))
	}
	o.self = self.ID
	for _, m := range info.Members {
		if m.Name == cfg.Name && m.ID != self.ID {
			return o, Usagef("cluster %s already has a member called %q: choose another --name", deimos.FormatID(info.ClusterID), cfg.Name)
		}
	}
	return o, nil
}

// checkNotStarted refuses to make a second data directory for a member that
// has started before: what the first one promised must not be forgotten.
func (o *origin) checkNotStarted(cfg *Config) error {
	for _, m := range o.members {
		if m.ID == o.self && m.Name != "" {
			return &DataDirError{Dir: cfg.DataDir, Err: fmt.Errorf(
				"member %s (%q) has started before with another data directory, and this one is empty: %s",
				deimos.FormatID(m.ID), m.Name, replaceCommands(clientURL(o.members, m.ID), m.ID, m.PeerURLs))}
		}
	}
	return nil
}
