package daemon

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/marsevilspirit/deimos/transport"
)

// The values that stand for the zero values of [Config].
const (
	DefaultName         = "default"
	DefaultClusterToken = "deimos-cluster"
	// DefaultPeerURLs and DefaultClientURLs are comma-separated lists.
	// Where a port has TLS, its URLs begin with https:// instead.
	DefaultPeerURLs   = "http://localhost:2380,http://localhost:7001"
	DefaultClientURLs = "http://localhost:2379,http://localhost:4001"

	DefaultHeartbeat = 100 * time.Millisecond
	DefaultElection  = time.Second
	DefaultRequest   = 5 * time.Second
	DefaultWatch     = 5 * time.Minute

	DefaultSnapshotCount = 10000
	DefaultMaxSnapshots  = 5
	DefaultMaxWALs       = 5
	DefaultMaxValueBytes = 1 << 20
	DefaultHistoryEvents = 100000
	DefaultHistoryBytes  = 64 << 20
)

// The bounds that [Config.Validate] enforces.
const (
	NameMaxBytes = 255

	// HeartbeatMin keeps the tick of raft above the resolution of its timers.
	HeartbeatMin = time.Millisecond
	// ElectionMax is the longest time a cluster may be left without a leader.
	ElectionMax = 50 * time.Second
	// ElectionHeartbeats is how many heartbeats fit into an election timeout at
	// least: fewer, and one lost packet starts an election.
	ElectionHeartbeats = 5

	// MaxSnapshotsMin leaves an older snapshot to fall back to.
	MaxSnapshotsMin = 2

	MaxValueBytesMin = 1 << 10
	MaxValueBytesMax = 8 << 20
)

// Config says everything a daemon needs to know. It is a plain value: nothing
// in it is read from flags, files or the environment, and the zero value of
// each field has the meaning written beside it. [Config.Validate] turns zero
// values into the defaults.
type Config struct {
	// Name is the member's name, unique in the cluster: valid UTF-8 without
	// '=', ',', space or control characters, at most NameMaxBytes long.
	// Empty: DefaultName.
	Name string
	// DataDir is made with mode 0700 if it is missing, and locked while the
	// daemon runs. Empty: Name with ".deimos" appended, in the current directory.
	DataDir string
	// Version is what the /version endpoint calls this build. Empty: "dev".
	Version string

	// Bootstrap lists the first members of the cluster in the order given, the
	// same on all of them, and must contain Name. It counts only while DataDir
	// holds no member. A member that joins a running cluster lists the members
	// it was told when it was added, itself among them; a proxy lists members to
	// ask for the member list, and needs no Name in it. Empty: Name alone, at
	// URLs.AdvertisePeer; with Discovery it stays empty, and whoever fills it
	// with what was found clears Discovery.
	Bootstrap []BootstrapMember
	// InitialClusterState is ClusterStateNew for the first members of a cluster,
	// ClusterStateExisting for a member that was added to a running cluster.
	// Empty: ClusterStateNew.
	InitialClusterState string
	// InitialClusterToken is part of the cluster id, so that two clusters with
	// the same URLs do not take each other for the same. Empty:
	// DefaultClusterToken.
	InitialClusterToken string
	// ForceNewCluster makes the member in DataDir the only member of a cluster
	// with a new id, for when the quorum of its cluster is lost for good. Writes
	// that reached only the lost members are lost with them.
	ForceNewCluster bool
	// Discovery finds the first members where Bootstrap does not list them. It
	// counts only while DataDir holds no member.
	Discovery Discovery
	// Proxy is ProxyOff for a member, ProxyOn for a daemon that forwards the
	// requests of its clients to the members, ProxyReadonly for one that forwards
	// reads only. A proxy keeps nothing in DataDir but certificates that
	// [TLS.Auto] made. Empty: ProxyOff.
	Proxy string

	// ClientTLS and PeerTLS are the certificates of the two ports. Zero: no TLS.
	ClientTLS TLS
	PeerTLS   TLS
	// PeerSecretFile holds the secret by which members prove themselves to each
	// other, the same on all of them. Empty: none.
	PeerSecretFile string
	// InsecurePeers says that the network between the members is trusted. Unless
	// PeerTLS has a CAFile or there is a PeerSecretFile, it is required for peer
	// URLs that are not loopback addresses.
	InsecurePeers bool

	URLs URLs
	// derived has the peer URLs that Validate has filled in, where the member list
	// knows better once there is one.
	derived URLs
	Timing  Timing
	Limits  Limits

	// CORS lists the origins ("scheme://host", with or without ":port") whose
	// web pages may use the client port, or is "*" alone. Empty: none.
	CORS []string

	// Network joins the daemons of one process without sockets between them, for
	// tests; the peer URLs are names only then. Nil: HTTP between members.
	Network *transport.Network
	// FreeSpace returns how many bytes are free for files in a directory, for
	// tests. Nil: asks the file system.
	FreeSpace func(dir string) (int64, error)

	// Log receives what an operator may act on. Nil: discarded.
	Log *slog.Logger
}

// BootstrapMember is one first member of a cluster. A name appears once in
// [Config.Bootstrap]; it has at least one peer URL. With ClusterStateExisting
// the name may be empty: that of a member which was added and has not started.
type BootstrapMember struct {
	Name     string
	PeerURLs []string
}

// URLs are the addresses of a member. Each is http://host:port or
// https://host:port without path, query or user; after [Config.Validate] they
// are in the form that [ParseURL] returns, without duplicates, in the order
// given. Where a port has TLS, all URLs that it listens on are https.
type URLs struct {
	// AdvertisePeer is where the other members find this one. Where Bootstrap is
	// given, its URLs for Name count instead. Empty: what the member list has for
	// this member while DataDir holds it, else DefaultPeerURLs.
	AdvertisePeer []string
	// AdvertiseClient is published in the member list. Empty: DefaultClientURLs.
	AdvertiseClient []string
	// ListenPeer and ListenClient are where the daemon listens; port 0 picks a
	// free port. Empty: as AdvertisePeer, as AdvertiseClient. A member with data
	// that was given neither peer list, or only Bootstrap, listens at the URLs
	// that the member list has for it.
	ListenPeer   []string
	ListenClient []string
}

// Timing holds the durations of a daemon.
type Timing struct {
	// Heartbeat is the time between two signs of life of the leader and the
	// length of one raft tick, at least HeartbeatMin. 0: DefaultHeartbeat.
	Heartbeat time.Duration
	// Election is how long a follower waits for the leader before it asks for
	// an election: at least ElectionHeartbeats × Heartbeat and at most
	// ElectionMax. 0: DefaultElection.
	Election time.Duration
	// Request is how long a request may take, and how long running requests are
	// waited for at the end. 0: DefaultRequest.
	Request time.Duration
	// Watch is how long a watch without an event is kept. 0: DefaultWatch.
	Watch time.Duration
}

// Limits holds the bounds on what a daemon keeps and accepts.
type Limits struct {
	// SnapshotCount is the number of applied entries between two snapshots; there
	// are more when one takes long. 0: DefaultSnapshotCount.
	SnapshotCount uint64
	// MaxSnapshots is the number of snapshot files that are kept, at least
	// MaxSnapshotsMin; MaxWALs that of whole log segments that no snapshot needs
	// any more. 0: DefaultMaxSnapshots, DefaultMaxWALs.
	MaxSnapshots int
	MaxWALs      int
	// MaxValueBytes bounds the value of a write, MaxValueBytesMin to
	// MaxValueBytesMax. It is checked by the member that receives the request,
	// never while an entry is applied. 0: DefaultMaxValueBytes.
	MaxValueBytes int
	// HistoryEvents and HistoryBytes bound the past events that a watch can
	// still ask for. 0: DefaultHistoryEvents, DefaultHistoryBytes.
	HistoryEvents int
	HistoryBytes  int
}

// UsageError tells that a daemon was asked for something that cannot be: the
// operator has to change a setting. Its text is one sentence that names the
// setting by its flag and stands on its own.
type UsageError struct {
	text string
}

// Error implements the error interface.
func (e *UsageError) Error() string { return e.text }

// Usagef returns a [*UsageError] with a text formatted as by [fmt.Sprintf].
func Usagef(format string, args ...any) *UsageError {
	return &UsageError{text: fmt.Sprintf(format, args...)}
}

// Validate puts the default in the place of every zero field, brings the URLs
// into one form, and checks what the fields demand of themselves and of each
// other; it opens no file and asks nobody. Every error is a [*UsageError], and
// then c is left half changed. What is allowed and yet looks like a mistake is
// logged to c.Log as a warning. A valid Config stays as it is when it is
// validated again.
func (c *Config) Validate() error {
	c.setDefaults()
	err := firstError(c.validateMember, c.validateBootstrap, c.validateStart, c.parseURLs, c.validateTLS)
	if err != nil {
		return err
	}
	given := c.URLs
	c.resolveURLs()
	if err := c.validateSchemes(given); err != nil {
		return err
	}
	if err := firstError(c.validatePorts, c.validatePeerTrust, c.validateTiming, c.validateLimits, c.validateCORS); err != nil {
		return err
	}
	c.warn(given)
	return nil
}

func firstError(checks ...func() error) error {
	for _, check := range checks {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

// setDefaults fills the fields whose default depends on no other field but
// the name. The URLs wait for resolveURLs.
func (c *Config) setDefaults() {
	setDefault(&c.Name, DefaultName)
	setDefault(&c.DataDir, c.Name+".deimos")
	setDefault(&c.Version, "dev")
	setDefault(&c.InitialClusterState, ClusterStateNew)
	setDefault(&c.InitialClusterToken, DefaultClusterToken)
	setDefault(&c.Proxy, ProxyOff)
	setDefault(&c.Discovery.Fallback, DiscoveryProxy)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}

	setDefault(&c.Timing.Heartbeat, DefaultHeartbeat)
	setDefault(&c.Timing.Election, DefaultElection)
	setDefault(&c.Timing.Request, DefaultRequest)
	setDefault(&c.Timing.Watch, DefaultWatch)

	setDefault(&c.Limits.SnapshotCount, DefaultSnapshotCount)
	setDefault(&c.Limits.MaxSnapshots, DefaultMaxSnapshots)
	setDefault(&c.Limits.MaxWALs, DefaultMaxWALs)
	setDefault(&c.Limits.MaxValueBytes, DefaultMaxValueBytes)
	setDefault(&c.Limits.HistoryEvents, DefaultHistoryEvents)
	setDefault(&c.Limits.HistoryBytes, DefaultHistoryBytes)
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func (c *Config) validateMember() error {
	if err := CheckName(c.Name); err != nil {
		return Usagef("name %q: %v", c.Name, err)
	}
	for _, w := range []struct {
		flag, word string
		words      []string
	}{
		{"initial-cluster-state", c.InitialClusterState, []string{ClusterStateNew, ClusterStateExisting}},
		{"proxy", c.Proxy, []string{ProxyOff, ProxyReadonly, ProxyOn}},
		{"discovery-fallback", c.Discovery.Fallback, []string{DiscoveryProxy, DiscoveryExit}},
	} {
		if !slices.Contains(w.words, w.word) {
			return Usagef("%s %q is none of %s", w.flag, w.word, strings.Join(w.words, ", "))
		}
	}
	return nil
}

// validateBootstrap checks the list of first members as it was given; a list
// that was not given is made by resolveURLs.
func (c *Config) validateBootstrap() error {
	if len(c.Bootstrap) == 0 {
		return nil
	}
	c.Bootstrap = slices.Clone(c.Bootstrap)
	names := make(map[string]bool, len(c.Bootstrap))
	owners := make(map[string]string)
	for i := range c.Bootstrap {
		m := &c.Bootstrap[i]
		joins := c.InitialClusterState == ClusterStateExisting
		if err := CheckName(m.Name); err != nil && (m.Name != "" || !joins) {
			return Usagef("bootstrap-config: name %q: %v", m.Name, err)
		}
		if names[m.Name] {
			return Usagef("bootstrap-config: member %q is listed twice", m.Name)
		}
		names[m.Name] = true
		if len(m.PeerURLs) == 0 {
			return Usagef("bootstrap-config: member %q has no peer URL", m.Name)
		}
		urls, err := parseList("bootstrap-config", m.PeerURLs, mustBeReachable)
		if err != nil {
			return err
		}
		m.PeerURLs = urls
		for _, u := range urls {
			if owner, taken := owners[u]; taken {
				return Usagef("bootstrap-config: members %q and %q have the same peer URL %s", owner, m.Name, u)
			}
			owners[u] = m.Name
		}
	}
	if !names[c.Name] && !c.isProxy() {
		return Usagef("no member with name=%q in bootstrap-config", c.Name)
	}
	return nil
}

func (c *Config) validateTiming() error {
	t := c.Timing
	for _, d := range []struct {
		flag  string
		value time.Duration
	}{
		{"heartbeat-interval", t.Heartbeat},
		{"election-timeout", t.Election},
		{"timeout", t.Request},
		{"watch-timeout", t.Watch},
	} {
		if d.value < 0 {
			return Usagef("%s %s is not above 0", d.flag, d.value)
		}
	}
	switch {
	case t.Heartbeat < HeartbeatMin:
		return Usagef("heartbeat-interval %s is below %s", t.Heartbeat, HeartbeatMin)
	case t.Heartbeat > ElectionMax/ElectionHeartbeats:
		return Usagef("heartbeat-interval %s is above %s: election-timeout, at most %s, has to hold %d of them",
			t.Heartbeat, ElectionMax/ElectionHeartbeats, ElectionMax, ElectionHeartbeats)
	case t.Election < ElectionHeartbeats*t.Heartbeat:
		return Usagef("%s is below %d × heartbeat-interval (%s)",
			t.Election, ElectionHeartbeats, ElectionHeartbeats*t.Heartbeat)
	case t.Election > ElectionMax:
		return Usagef("election-timeout %s is above %s", t.Election, ElectionMax)
	}
	return nil
}

func (c *Config) validateLimits() error {
	l := c.Limits
	for _, n := range []struct {
		name  string
		value int
	}{
		{"max-snapshots", l.MaxSnapshots},
		{"max-wals", l.MaxWALs},
		{"history-events", l.HistoryEvents},
		{"history-bytes", l.HistoryBytes},
	} {
		if n.value < 0 {
			return Usagef("%s, %d, is not above 0", n.name, n.value)
		}
	}
	if l.MaxSnapshots < MaxSnapshotsMin {
		return Usagef("max-snapshots %d is below %d", l.MaxSnapshots, MaxSnapshotsMin)
	}
	if l.MaxValueBytes < MaxValueBytesMin || l.MaxValueBytes > MaxValueBytesMax {
		return Usagef("max-value-bytes %d is not in %d … %d", l.MaxValueBytes, MaxValueBytesMin, MaxValueBytesMax)
	}
	return nil
}

func (c *Config) validateCORS() error {
	origins := make([]string, 0, len(c.CORS))
	for _, text := range c.CORS {
		origin, err := ParseOrigin(text)
		if err != nil {
			return Usagef("cors %q: %v", text, err)
		}
		if !slices.Contains(origins, origin) {
			origins = append(origins, origin)
		}
	}
	if len(origins) > 1 && slices.Contains(origins, "*") {
		return Usagef("cors: \"*\" stands alone or not at all")
	}
	c.CORS = slices.Clip(origins)
	return nil
}
