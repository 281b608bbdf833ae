package main

import (
	"fmt"

	"github.com/spf13/pflag"

	"github.com/marsevilspirit/deimos/daemon"
)

// The sections of --help, in their order.
const (
	sectionMember    = "Member"
	sectionCluster   = "Cluster"
	sectionDiscovery = "Discovery and proxy"
	sectionSecurity  = "Security"
	sectionLimits    = "Limits"
	sectionTiming    = "Timing"
	sectionStorage   = "Storage"
	sectionLogging   = "Logging"
	sectionProgram   = "Program"
)

const (
	optionConfigFile = "config-file"

	formatText = "text"
	formatJSON = "json"
)

// option is one setting under its one or two names.
type option struct {
	section     string
	name, alias string
	usage       string
	// fallback is the default as --help shows it; empty for none.
	fallback string
	value    pflag.Value
}

// names returns the name and the alias, if there is one.
func (o *option) names() []string {
	if o.alias == "" {
		return []string{o.name}
	}
	return []string{o.name, o.alias}
}

// isList tells whether the option may be a list in the configuration file.
func (o *option) isList() bool {
	switch o.value.Type() {
	case kindURLs, kindBootstrap, kindOrigins, kindNames:
		return true
	}
	return false
}

// options returns all options but help and version, in the order of --help.
// Their values write into s.
func (s *settings) options() []*option {
	s.logFormat = formatText
	var all []*option
	for _, group := range []struct {
		section string
		options []*option
	}{
		{sectionMember, s.memberOptions()},
		{sectionCluster, s.clusterOptions()},
		{sectionDiscovery, s.discoveryOptions()},
		{sectionSecurity, s.securityOptions()},
		{sectionLimits, s.limitOptions()},
		{sectionTiming, s.timingOptions()},
		{sectionStorage, s.storageOptions()},
		{sectionLogging, s.loggingOptions()},
		{sectionProgram, s.programOptions()},
	} {
		for _, o := range group.options {
			o.section = group.section
			all = append(all, o)
		}
	}
	return all
}

func (s *settings) memberOptions() []*option {
	u := &s.config.URLs
	return []*option{
		{name: "name", fallback: daemon.DefaultName, value: into(&s.config.Name, kindText, parseName),
			usage: "name of this member, unique in the cluster; no '=', ',', space or control character"},
		{name: "advertise-client-urls", fallback: daemon.DefaultClientURLs,
			value: into(&u.AdvertiseClient, kindURLs, parseReachable),
			usage: "client URLs of this member, published in the member list; the default is https with TLS"},
		{name: "listen-client-urls", fallback: "as advertise-client-urls",
			value: into(&u.ListenClient, kindURLs, parseURLs),
			usage: "where the member or proxy listens for clients"},
		{name: "advertise-peer-urls", alias: "initial-advertise-peer-urls", fallback: daemon.DefaultPeerURLs,
			value: into(&u.AdvertisePeer, kindURLs, parseReachable),
			usage: "peer URLs of this member; where bootstrap-config is given, its URLs for name count instead; " +
				"the default is https with TLS; a member with data has those of the member list by default"},
		{name: "listen-peer-urls", fallback: "as advertise-peer-urls",
			value: into(&u.ListenPeer, kindURLs, parseURLs),
			usage: "where the member listens for the other members; a member with data that is given neither this nor " +
				"advertise-peer-urls listens where the member list says"},
	}
}

func (s *settings) clusterOptions() []*option {
	c := &s.config
	return []*option{
		{name: "bootstrap-config", alias: "initial-cluster", fallback: "<name>= each of advertise-peer-urls",
			value: into(&c.Bootstrap, kindBootstrap, parseBootstrap),
			usage: "the first members, the same list on all of them; a repeated name collects URLs; " +
				"only the first start takes anything from it, later ones just ask at its URLs who an unknown member is"},
		{name: "initial-cluster-state", fallback: daemon.ClusterStateNew,
			value: into(&c.InitialClusterState, kindChoice,
				choice(daemon.ClusterStateNew, daemon.ClusterStateExisting)),
			usage: "new, or existing for a member added to a running cluster; bootstrap-config lists that cluster then"},
		{name: "initial-cluster-token", fallback: daemon.DefaultClusterToken,
			value: into(&c.InitialClusterToken, kindText, parseText),
			usage: "part of the cluster id; tells clusters with the same URLs apart"},
		{name: "force-new-cluster", fallback: "false", value: into(&c.ForceNewCluster, kindBool, parseBool),
			usage: "make the member in the data directory the only one of a new cluster, when the quorum of its " +
				"cluster is lost for good; writes that reached only the lost members are lost"},
	}
}

func (s *settings) discoveryOptions() []*option {
	c, d := &s.config, &s.config.Discovery
	return []*option{
		{name: "discovery", value: into(&d.URL, kindText, optional(daemon.CheckDiscoveryURL)),
			usage: "keys URL of a directory in another cluster through which the first members find each other; " +
				"not together with bootstrap-config"},
		{name: "discovery-fallback", fallback: daemon.DiscoveryProxy,
			value: into(&d.Fallback, kindChoice, choice(daemon.DiscoveryProxy, daemon.DiscoveryExit)),
			usage: "what to do when the discovered cluster is full: proxy or exit"},
		{name: "discovery-srv", value: into(&d.SRV, kindText, optional(daemon.CheckDomain)),
			usage: "domain whose DNS SRV records name the first members; not together with bootstrap-config"},
		{name: "discovery-srv-name", value: into(&d.SRVName, kindText, optional(daemon.CheckLabel)),
			usage: "put behind the name of the service that is looked up, after a dash"},
		{name: "proxy", fallback: daemon.ProxyOff,
			value: into(&c.Proxy, kindChoice, choice(daemon.ProxyOff, daemon.ProxyReadonly, daemon.ProxyOn)),
			usage: "be no member and forward requests to the members that bootstrap-config or discovery names: " +
				"off, readonly (reads only) or on"},
	}
}

func (s *settings) securityOptions() []*option {
	c := &s.config
	all := []*option{
		{name: "cors", value: into(&c.CORS, kindOrigins, parseOrigins),
			usage: "origins (scheme://host or scheme://host:port) whose web pages may use the client port, or *"},
	}
	all = append(all, tlsOptions("", "the client port", "clients", &c.ClientTLS)...)
	all = append(all, tlsOptions("peer-", "the peer port", "members", &c.PeerTLS)...)
	return append(all,
		&option{name: "peer-secret-file", value: into(&c.PeerSecretFile, kindPath, parseOptional),
			usage: "file with the secret by which members prove themselves, at least 16 bytes, the same on all members"},
		&option{name: "insecure-peers", fallback: "false", value: into(&c.InsecurePeers, kindBool, parseBool),
			usage: "the network between the members is trusted; without it, peer-ca-file or peer-secret-file is " +
				"required unless all peer URLs are loopback"})
}

// tlsOptions returns the options about TLS of one port, which others call.
func tlsOptions(prefix, port, others string, t *daemon.TLS) []*option {
	file := func(target *string, name, alias, usage string) *option {
		if alias != "" {
			alias = prefix + alias
		}
		return &option{name: prefix + name, alias: alias, usage: usage, value: into(target, kindPath, parseOptional)}
	}
	return []*option{
		file(&t.CertFile, "cert-file", "", "certificate of "+port+", PEM; its URLs are https then; read again when it changes"),
		file(&t.KeyFile, "key-file", "", "key of "+prefix+"cert-file"),
		file(&t.CAFile, "ca-file", "trusted-ca-file", "demand certificates of "+others+", signed by one of these authorities"),
		{name: prefix + "allowed-names", value: into(&t.AllowedNames, kindNames, parseCertNames),
			usage: "demand that the certificates of " + others + " carry one of these, as DNS name or common name"},
		{name: prefix + "auto-tls", fallback: "false", value: into(&t.Auto, kindBool, parseBool),
			usage: "self-signed certificate for " + port + ", to try TLS out: it encrypts and proves nothing"},
	}
}

func (s *settings) limitOptions() []*option {
	l := &s.config.Limits
	return []*option{
		{name: "max-value-bytes", fallback: fmt.Sprint(daemon.DefaultMaxValueBytes),
			value: into(&l.MaxValueBytes, kindNumber, number[int](daemon.MaxValueBytesMin, daemon.MaxValueBytesMax)),
			usage: fmt.Sprintf("largest value of a key, %d … %d", daemon.MaxValueBytesMin, daemon.MaxValueBytesMax)},
		{name: "history-events", fallback: fmt.Sprint(daemon.DefaultHistoryEvents),
			value: into(&l.HistoryEvents, kindNumber, number[int](1, 0)),
			usage: "number of past events that a watch can ask for"},
		{name: "history-bytes", fallback: fmt.Sprint(daemon.DefaultHistoryBytes),
			value: into(&l.HistoryBytes, kindNumber, number[int](1, 0)),
			usage: "memory for past events"},
	}
}

func (s *settings) timingOptions() []*option {
	t := &s.config.Timing
	return []*option{
		{name: "heartbeat-interval", fallback: "100ms",
			value: into(&t.Heartbeat, kindDuration, parseMilliseconds),
			usage: "time between two signs of life of the leader; a bare integer is milliseconds"},
		{name: "election-timeout", fallback: "1s",
			value: into(&t.Election, kindDuration, parseMilliseconds),
			usage: "silence of the leader before an election; a bare integer is milliseconds; " +
				"at least 5 × heartbeat-interval, at most 50s"},
		{name: "timeout", alias: "request-timeout", fallback: "5s",
			value: into(&t.Request, kindDuration, parseDuration),
			usage: "how long a request may take, and how long running ones are waited for at the end"},
		{name: "watch-timeout", fallback: "5m",
			value: into(&t.Watch, kindDuration, parseDuration),
			usage: "how long a watch is kept: a long poll without an event, a stream from its start"},
	}
}

func (s *settings) storageOptions() []*option {
	l := &s.config.Limits
	return []*option{
		{name: "data-dir", fallback: "<name>.deimos", value: into(&s.config.DataDir, kindPath, parseText),
			usage: "directory of the log and the snapshots; created with mode 0700"},
		{name: "snapshot-count", fallback: fmt.Sprint(daemon.DefaultSnapshotCount),
			value: into(&l.SnapshotCount, kindNumber, number[uint64](1, 0)),
			usage: "applied entries between two snapshots; more when one takes long"},
		{name: "max-snapshots", fallback: fmt.Sprint(daemon.DefaultMaxSnapshots),
			value: into(&l.MaxSnapshots, kindNumber, number[int](daemon.MaxSnapshotsMin, 0)),
			usage: fmt.Sprintf("snapshot files to keep, at least %d", daemon.MaxSnapshotsMin)},
		{name: "max-wals", fallback: fmt.Sprint(daemon.DefaultMaxWALs),
			value: into(&l.MaxWALs, kindNumber, number[int](1, 0)),
			usage: "whole log segments to keep that no snapshot needs any more"},
	}
}

func (s *settings) loggingOptions() []*option {
	return []*option{
		{name: "log-level", fallback: "info", value: into(&s.logLevel, kindChoice, parseLevel),
			usage: "debug, info, warn or error"},
		{name: "log-format", fallback: formatText,
			value: into(&s.logFormat, kindChoice, choice(formatText, formatJSON)),
			usage: "text or json, on stderr"},
	}
}

func (s *settings) programOptions() []*option {
	return []*option{
		{name: optionConfigFile, value: into(&s.configFile, kindPath, parseText),
			usage: "YAML file with settings under these names, without dashes in front"},
	}
}
