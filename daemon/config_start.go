package daemon

import (
	"errors"
	"slices"
	"strings"

	"github.com/marsevilspirit/deimos/discovery"
)

// The states of a cluster that a member without a data directory can start
// into, see [Config.InitialClusterState].
const (
	ClusterStateNew      = "new"
	ClusterStateExisting = "existing"
)

// Whether a daemon is a member or forwards requests, see [Config.Proxy].
const (
	ProxyOff      = "off"
	ProxyReadonly = "readonly"
	ProxyOn       = "on"
)

// What a daemon becomes that finds its cluster full, see [Discovery.Fallback].
const (
	DiscoveryProxy = "proxy"
	DiscoveryExit  = "exit"
)

// Discovery says how the first members of a cluster find each other. At most
// one of URL and SRV is given.
type Discovery struct {
	// URL is the keys URL of a directory in another cluster, with a path under
	// /keys/ or /v2/keys/; see [CheckDiscoveryURL]. Empty: none.
	URL string
	// Fallback tells what this daemon does when the cluster at URL is full: it
	// becomes a proxy with DiscoveryProxy, and ends with DiscoveryExit. Empty:
	// DiscoveryProxy.
	Fallback string
	// SRV is the domain whose DNS SRV records name the first members; see
	// [CheckDomain]. Empty: none.
	SRV string
	// SRVName is put behind the name of the service that is looked up, after a
	// dash, so that one domain can hold several clusters. It is a single label
	// of a domain and needs SRV. Empty: nothing.
	SRVName string
}

// Enabled tells whether the first members are to be discovered.
func (d Discovery) Enabled() bool { return d.URL != "" || d.SRV != "" }

// isProxy tells whether the daemon is no member of the cluster. It counts once
// the defaults are set.
func (c *Config) isProxy() bool { return c.Proxy == ProxyOn || c.Proxy == ProxyReadonly }

// validateStart checks that what the daemon starts as and what it starts from
// go together. It sees the list of first members as it was given.
func (c *Config) validateStart() error {
	if err := c.Discovery.validate(); err != nil {
		return err
	}
	if c.Discovery.Enabled() && len(c.Bootstrap) > 0 {
		return Usagef("--%s and --bootstrap-config both say who the first members are: leave one of them out", c.Discovery.flag())
	}
	switch {
	case c.ForceNewCluster:
		return c.validateForce()
	case c.isProxy():
		if len(c.Bootstrap) == 0 && !c.Discovery.Enabled() {
			return Usagef("--proxy %s needs --bootstrap-config, --discovery or --discovery-srv to find the members", c.Proxy)
		}
	case c.InitialClusterState == ClusterStateExisting:
		return c.validateExisting()
	}
	return nil
}

// validateForce keeps a recovery apart from everything that expects others.
func (c *Config) validateForce() error {
	const text = "--force-new-cluster starts from the data directory alone: leave out "
	switch {
	case c.isProxy():
		return Usagef(text + "--proxy")
	case c.Discovery.Enabled():
		return Usagef(text+"--%s", c.Discovery.flag())
	case c.InitialClusterState == ClusterStateExisting:
		return Usagef(text + "--initial-cluster-state existing")
	}
	return nil
}

// validateExisting demands that a member that joins knows whom to ask.
func (c *Config) validateExisting() error {
	if c.Discovery.Enabled() {
		return Usagef("--%s is for the first members of a cluster: with --initial-cluster-state existing give --bootstrap-config",
			c.Discovery.flag())
	}
	if !slices.ContainsFunc(c.Bootstrap, func(m BootstrapMember) bool { return m.Name != c.Name }) {
		return Usagef("--initial-cluster-state existing needs --bootstrap-config with this member and at least one of the others")
	}
	return nil
}

// flag names the option that switched discovery on.
func (d Discovery) flag() string {
	if d.URL != "" {
		return "discovery"
	}
	return "discovery-srv"
}

func (d Discovery) validate() error {
	switch {
	case d.URL != "" && d.SRV != "":
		return Usagef("--discovery and --discovery-srv both say who the first members are: leave one of them out")
	case d.SRVName != "" && d.SRV == "":
		return Usagef("--discovery-srv-name needs --discovery-srv")
	}
	for _, check := range []struct {
		flag, text string
		check      func(string) error
	}{
		{"discovery", d.URL, CheckDiscoveryURL},
		{"discovery-srv", d.SRV, CheckDomain},
		{"discovery-srv-name", d.SRVName, CheckLabel},
	} {
		if check.text == "" {
			continue
		}
		if err := check.check(check.text); err != nil {
			return Usagef("%s %q: %v", check.flag, check.text, err)
		}
	}
	return nil
}

// CheckDiscoveryURL reports why text cannot be [Discovery.URL], or nil.
func CheckDiscoveryURL(text string) error { return discovery.ParseURL(text) }

// The bounds of DNS on names.
const (
	labelMaxBytes  = 63
	domainMaxBytes = 253
)

// CheckDomain reports why text cannot be [Discovery.SRV], or nil. A dot at the
// end is allowed.
func CheckDomain(text string) error {
	name := strings.TrimSuffix(text, ".")
	if len(name) > domainMaxBytes {
		return errors.New("a domain has at most 253 bytes")
	}
	for label := range strings.SplitSeq(name, ".") {
		if CheckLabel(label) != nil {
			return errors.New("a domain is labels of letters, digits, dashes and underscores with dots between")
		}
	}
	return nil
}

// CheckLabel reports why text cannot be [Discovery.SRVName], or nil.
func CheckLabel(text string) error {
	odd := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
	}
	if text == "" || len(text) > labelMaxBytes || strings.ContainsFunc(text, odd) ||
		strings.HasPrefix(text, "-") || strings.HasSuffix(text, "-") {
		return errors.New("a label is up to 63 letters, digits, dashes and underscores, without a dash at either end")
	}
	return nil
}
