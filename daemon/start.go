package daemon

import (
	"context"

	"github.com/marsevilspirit/deimos/discovery"
)

// Process is a daemon that runs: a member, or a proxy.
type Process interface {
	// Failed delivers the error that ended the daemon by itself, at most one.
	Failed() <-chan error
	// Close ends the daemon gracefully, at the latest when ctx is done.
	Close(ctx context.Context) error
}

var (
	_ Process = (*Daemon)(nil)
	_ Process = (*Proxy)(nil)
)

// Start starts what the configuration asks for: a proxy, else a member as [Open]
// does. Where the first members have to be discovered and DataDir holds no
// member, it waits until they have found each other, and starts a proxy if they
// were complete without this one. [FailureOf] tells the kind of its error.
func Start(ctx context.Context, cfg Config) (Process, error) {
	if err := firstError(cfg.Validate, func() error { return checkOpenFiles(&cfg) }); err != nil {
		return nil, err
	}
	if err := discoverFirst(ctx, &cfg); err != nil {
		return nil, err
	}
	if cfg.isProxy() {
		p, err := openProxy(cfg)
		if err != nil {
			return nil, err // not into the interface: a nil *Proxy in it would not be nil
		}
		return p, nil
	}
	d, err := openMember(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return d, nil
}

// discoverFirst fills in the first members where they have to be discovered. A
// member that has a past is never registered again: neither is one that may have
// one, because its directory cannot be read.
func discoverFirst(ctx context.Context, cfg *Config) error {
	if !cfg.Discovery.Enabled() {
		return nil
	}
	if !cfg.isProxy() {
		held, err := (&dataDir{path: cfg.DataDir}).holdsMember()
		if held || err != nil {
			return err
		}
	}
	return discover(ctx, cfg)
}

// discover fills in the first members, and makes a proxy of a daemon that is
// one too many.
func discover(ctx context.Context, cfg *Config) error {
	if cfg.Discovery.SRV != "" {
		return discoverSRV(ctx, cfg)
	}
	id := func(name string, peerURLs []string) uint64 {
		return memberID(BootstrapMember{Name: name, PeerURLs: peerURLs}, cfg.InitialClusterToken)
	}
	config := discovery.Config{
		URL: cfg.Discovery.URL, MemberID: id, Log: cfg.Log,
		Self: discovery.Registration{ID: id(cfg.Name, cfg.URLs.AdvertisePeer), Name: cfg.Name, PeerURLs: cfg.URLs.AdvertisePeer},
	}
	find := discovery.Join
	if cfg.isProxy() {
		find = discovery.Observe
	}
	cfg.Log.Info("looking for the first members", "discovery", cfg.Discovery.URL, "name", cfg.Name)
	result, err := find(ctx, config)
	if err != nil {
		return err
	}
	members := bootstrapOf(result.Members)
	cfg.Discovery, cfg.Bootstrap = Discovery{Fallback: cfg.Discovery.Fallback}, members
	if result.Full && !cfg.isProxy() {
		if cfg.Discovery.Fallback == DiscoveryExit {
			return discovery.ErrFull
		}
		cfg.Log.Warn("the cluster is full without this daemon, which becomes a proxy", "members", len(members))
		cfg.Proxy = ProxyOn
	}
	return cfg.Validate()
}

// discoverSRV takes the first members from DNS. Every member computes the same
// list from the same records, its own name among them.
func discoverSRV(ctx context.Context, cfg *Config) error {
	config := discovery.SRVConfig{Domain: cfg.Discovery.SRV, ServiceName: cfg.Discovery.SRVName, Log: cfg.Log}
	if !cfg.isProxy() {
		config.PeerURLs = cfg.URLs.AdvertisePeer
	}
	found, err := discovery.SRV(ctx, config)
	if err != nil {
		return err
	}
	if !cfg.isProxy() && found.Self.Name != cfg.Name {
		cfg.Log.Info("the records of discovery-srv name this member", "domain", cfg.Discovery.SRV, "name", found.Self.Name, "configured", cfg.Name)
		cfg.Name = found.Self.Name
	}
	cfg.Discovery, cfg.Bootstrap = Discovery{}, bootstrapOf(found.Members)
	return cfg.Validate()
}

func bootstrapOf(found []discovery.Registration) []BootstrapMember {
	members := make([]BootstrapMember, 0, len(found))
	for _, r := range found {
		members = append(members, BootstrapMember{Name: r.Name, PeerURLs: r.PeerURLs})
	}
	return members
}
