package main

import (
	"fmt"

	"github.com/spf13/pflag"

	"github.com/marsevilspirit/deimos/daemon"
)

// The sections of --help, in their order.
const (
	sectionMember   = "Member"
	sectionCluster  = "Cluster"
	sectionLimits   = "Limits"
	sectionTiming   = "Timing"
	sectionStorage  = "Storage"
	sectionSecurity = "Security"
	sectionLogging  = "Logging"
	sectionProgram  = "Program"
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
	// planned names what the option asks for and this version cannot do; the
	// value that asks for nothing is fallback. Empty for options that work.
	planned string
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
	case kindURLs, kindBootstrap, kindOrigins:
		return true
	}
	return false
}

// refusal returns a usage error if the option asks for what this version
// cannot do, naming the place where it was set; that is empty if it was not.
func (o *option) refusal(source string) error {
	if source == "" || o.planned == "" || o.value.String() == o.fallback {
		return nil
	}
	return daemon.Usagef("%s: %s is not supported by this version yet", source, o.planned)
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
		{sectionLimits, s.limitOptions()},
		{sectionTiming, s.timingOptions()},
		{sectionStorage, s.storageOptions()},
		{sectionSecurity, s.securityOptions()},
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
			usage: "client URLs of this member, published in the member list"},
		{name: "listen-client-urls", fallback: "as advertise-client-urls",
			value: into(&u.ListenClient, kindURLs, parseURLs),
			usage: "where the member listens for clients"},
		{name: "advertise-peer-urls", alias: "initial-advertise-peer-urls", fallback: daemon.DefaultPeerURLs,
			value: into(&u.AdvertisePeer, kindURLs, parseReachable),
			usage: "peer URLs of this member; where bootstrap-config is given, its URLs for name count instead"},
		{name: "listen-peer-urls", fallback: "as advertise-peer-urls",
			value: into(&u.ListenPeer, kindURLs, parseURLs),
			usage: "where the member listens for the other members"},
	}
}

func (s *settings) clusterOptions() []*option {
	c, p := &s.config, &s.planned
	return []*option{
		{name: "bootstrap-config", alias: "initial-cluster", fallback: "<name>= each of advertise-peer-urls",
			value: into(&c.Bootstrap, kindBootstrap, parseBootstrap),
			usage: "the first members, the same list on all of them; a repeated name collects URLs; " +
				"read only while the data directory holds no member"},
		{name: "initial-cluster-state", fallback: daemon.ClusterStateNew,
			value: into(&c.InitialClusterState, kindChoice,
				choice(daemon.ClusterStateNew, daemon.ClusterStateExisting)),
			planned: "joining an existing cluster",
			usage:   "new, or existing for a member added to a running cluster"},
		{name: "initial-cluster-token", fallback: daemon.DefaultClusterToken,
			value: into(&c.InitialClusterToken, kindText, parseText),
			usage: "part of the cluster id; tells clusters with the same URLs apart"},
		{name: "proxy", fallback: "off", planned: "proxy mode",
			value: into(&p.proxy, kindChoice, choice("off", "readonly", "on")),
			usage: "forward requests to the members instead of being one: off, readonly or on"},
		{name: "discovery", planned: "bootstrap through discovery",
			value: into(&p.discovery, kindText, parseDiscovery),
			usage: "keys URL of a directory in another cluster through which the first members find each other"},
		{name: "discovery-fallback", fallback: "proxy", planned: "bootstrap through discovery",
			value: into(&p.discoveryFallback, kindChoice, choice("proxy", "exit")),
			usage: "what to do when the discovered cluster is full: proxy or exit"},
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
			usage: "applied entries between two snapshots"},
		{name: "max-snapshots", fallback: fmt.Sprint(daemon.DefaultMaxSnapshots),
			value: into(&l.MaxSnapshots, kindNumber, number[int](daemon.MaxSnapshotsMin, 0)),
			usage: fmt.Sprintf("snapshot files to keep, at least %d", daemon.MaxSnapshotsMin)},
		{name: "max-wals", fallback: fmt.Sprint(daemon.DefaultMaxWALs),
			value: into(&l.MaxWALs, kindNumber, number[int](1, 0)),
			usage: "whole log segments to keep that no snapshot needs any more"},
	}
}

func (s *settings) securityOptions() []*option {
	const clientTLS, peerTLS = "TLS on the client port", "TLS between members"
	p := &s.planned
	file := func(target *string, name, planned, usage string) *option {
		return &option{name: name, planned: planned, usage: usage, value: into(target, kindPath, parseOptional)}
	}
	return []*option{
		{name: "cors", value: into(&s.config.CORS, kindOrigins, parseOrigins),
			usage: "origins (scheme://host or scheme://host:port) whose web pages may use the client port, or *"},
		{name: "insecure-peers", fallback: "false", value: into(&s.config.InsecurePeers, kindBool, parseBool),
			usage: "the network between the members is trusted; required unless all peer URLs are loopback"},
		file(&p.peerSecretFile, "peer-secret-file", "a shared secret between members",
			"file with the secret by which members prove themselves, at least 16 bytes"),
		file(&p.certFile, "cert-file", clientTLS, "certificate of the client port"),
		file(&p.keyFile, "key-file", clientTLS, "key of cert-file"),
		file(&p.caFile, "ca-file", clientTLS, "demand certificates of clients, signed by one of these"),
		file(&p.peerCertFile, "peer-cert-file", peerTLS, "certificate of this member among the members"),
		file(&p.peerKeyFile, "peer-key-file", peerTLS, "key of peer-cert-file"),
		file(&p.peerCAFile, "peer-ca-file", peerTLS, "demand certificates of members, signed by one of these"),
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
