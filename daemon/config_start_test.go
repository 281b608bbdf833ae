package daemon

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// lists returns a bootstrap list of members on loopback addresses.
func lists(names ...string) []BootstrapMember {
	var members []BootstrapMember
	for i, name := range names {
		members = append(members, BootstrapMember{name, []string{"http://127.0.0.1:" + string(rune('1'+i))}})
	}
	return members
}

const registry = "http://reg:4001/keys/d/1"

func TestValidateOfWhatADaemonStartsFrom(t *testing.T) {
	found := Discovery{URL: registry}
	records := Discovery{SRV: "example.com"}
	for _, tt := range []struct {
		name   string
		config Config
		want   string // empty: valid
	}{
		{"member that joins", Config{Name: "b", InitialClusterState: "existing", Bootstrap: lists("a", "b")}, ""},
		{"joining beside a member without a name", Config{Name: "b", InitialClusterState: "existing", Bootstrap: lists("a", "b", "")}, ""},
		{"joining without a list", Config{InitialClusterState: "existing"},
			"--initial-cluster-state existing needs --bootstrap-config with this member and at least one of the others"},
		{"joining nobody", Config{Name: "a", InitialClusterState: "existing", Bootstrap: lists("a")},
			"--initial-cluster-state existing needs --bootstrap-config with this member and at least one of the others"},
		{"joining without being listed", Config{Name: "c", InitialClusterState: "existing", Bootstrap: lists("a", "b")},
			`no member with name="c" in bootstrap-config`},
		{"joining by discovery", Config{InitialClusterState: "existing", Discovery: found},
			"--discovery is for the first members of a cluster: with --initial-cluster-state existing give --bootstrap-config"},
		{"joining by records", Config{InitialClusterState: "existing", Discovery: records},
			"--discovery-srv is for the first members of a cluster: with --initial-cluster-state existing give --bootstrap-config"},

		{"recovery", Config{ForceNewCluster: true}, ""},
		{"recovery with the old list", Config{Name: "a", ForceNewCluster: true, Bootstrap: lists("a", "b")}, ""},
		{"recovery that joins", Config{Name: "a", ForceNewCluster: true, InitialClusterState: "existing", Bootstrap: lists("a", "b")},
			"--force-new-cluster starts from the data directory alone: leave out --initial-cluster-state existing"},
		{"recovery by discovery", Config{ForceNewCluster: true, Discovery: found},
			"--force-new-cluster starts from the data directory alone: leave out --discovery"},
		{"recovery by records", Config{ForceNewCluster: true, Discovery: records},
			"--force-new-cluster starts from the data directory alone: leave out --discovery-srv"},
		{"recovery of a proxy", Config{ForceNewCluster: true, Proxy: "on", Bootstrap: lists("a")},
			"--force-new-cluster starts from the data directory alone: leave out --proxy"},

		{"discovery", Config{Discovery: found}, ""},
		{"discovery that ends", Config{Discovery: Discovery{URL: "https://reg:4001/v2/keys/d/1", Fallback: "exit"}}, ""},
		{"discovery and a list", Config{Name: "a", Discovery: found, Bootstrap: lists("a")},
			"--discovery and --bootstrap-config both say who the first members are: leave one of them out"},
		{"records and a list", Config{Name: "a", Discovery: records, Bootstrap: lists("a")},
			"--discovery-srv and --bootstrap-config both say who the first members are: leave one of them out"},
		{"discovery and records", Config{Discovery: Discovery{URL: registry, SRV: "example.com"}},
			"--discovery and --discovery-srv both say who the first members are: leave one of them out"},
		{"records of one of several clusters", Config{Discovery: Discovery{SRV: "example.com.", SRVName: "blue"}}, ""},
		{"name of records without a domain", Config{Discovery: Discovery{SRVName: "blue"}}, "--discovery-srv-name needs --discovery-srv"},
		{"fallback", Config{Discovery: Discovery{Fallback: "stop"}}, `discovery-fallback "stop" is none of proxy, exit`},
		{"domain", Config{Discovery: Discovery{SRV: "a..b"}},
			`discovery-srv "a..b": a domain is labels of letters, digits, dashes and underscores with dots between`},
		{"label", Config{Discovery: Discovery{SRV: "a", SRVName: "b.c"}},
			`discovery-srv-name "b.c": a label is up to 63 letters, digits, dashes and underscores, without a dash at either end`},

		{"proxy", Config{Proxy: "on", Bootstrap: lists("a", "b")}, ""},
		{"proxy of members elsewhere", Config{Proxy: "readonly", Bootstrap: []BootstrapMember{{"a", []string{"http://10.0.0.1:1"}}}}, ""},
		{"proxy by discovery", Config{Proxy: "readonly", Discovery: found}, ""},
		{"proxy by records", Config{Proxy: "on", Discovery: records}, ""},
		{"proxy that knows nobody", Config{Proxy: "on"},
			"--proxy on needs --bootstrap-config, --discovery or --discovery-srv to find the members"},
		{"proxy as a word", Config{Proxy: "maybe"}, `proxy "maybe" is none of off, readonly, on`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.config.Validate()
			if tt.want == "" {
				if err != nil {
					t.Errorf("Validate() = %v, want nil", err)
				}
				return
			}
			usage, ok := errors.AsType[*UsageError](err)
			if !ok || usage.Error() != tt.want {
				t.Errorf("Validate() = %v, want the usage error %s", err, tt.want)
			}
		})
	}
}

func TestValidateLeavesTheListToDiscovery(t *testing.T) {
	for name, c := range map[string]Config{
		"member":  {Name: "a", Discovery: Discovery{URL: registry}},
		"records": {Name: "a", Discovery: Discovery{SRV: "example.com"}},
		"proxy":   {Name: "a", Proxy: ProxyOn, Discovery: Discovery{URL: registry}},
	} {
		t.Run(name, func(t *testing.T) {
			if err := c.Validate(); err != nil {
				t.Fatalf("Validate() = %v, want nil", err)
			}
			if len(c.Bootstrap) != 0 {
				t.Errorf("Validate() lists %v as first members, want none before they have found each other", c.Bootstrap)
			}
			again := c
			if err := again.Validate(); err != nil {
				t.Fatalf("second Validate() = %v, want nil", err)
			}
			if diff := cmp.Diff(c, again, cmpopts.IgnoreFields(Config{}, "Log", "derived")); diff != "" {
				t.Errorf("second Validate() changes (-first +second):\n%s", diff)
			}
			found := c
			found.Discovery, found.Bootstrap = Discovery{}, lists("a", "b")
			if err := found.Validate(); err != nil {
				t.Errorf("Validate() = %v with the members that were found, want nil", err)
			}
		})
	}
}

func TestValidateLooksAtDiscoveredMembers(t *testing.T) {
	c := Config{Name: "a", Discovery: Discovery{URL: registry}}
	if err := c.Validate(); err != nil {
		t.Fatalf("Validate() = %v, want nil", err)
	}
	c.Discovery = Discovery{}
	c.Bootstrap = append(lists("a"), BootstrapMember{"b", []string{"http://10.0.0.1:1"}})
	if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "http://10.0.0.1:1 is not a loopback address") {
		t.Errorf("Validate() = %v, want a refusal of http://10.0.0.1:1", err)
	}
}

func TestCheckDomain(t *testing.T) {
	long := strings.Repeat("a", 63)
	for _, tt := range []struct {
		text   string
		domain bool
		label  bool
	}{
		{"example", true, true},
		{"Example-1", true, true},
		{"_a", true, true},
		{"example.com", true, false},
		{"example.com.", true, false},
		{"", false, false},
		{".", false, false},
		{"a..b", false, false},
		{"-a", false, false},
		{"a-", false, false},
		{"a b", false, false},
		{"a:1", false, false},
		{"a/b", false, false},
		{"é", false, false},
		{long, true, true},
		{long + "a", false, false},
		{strings.Repeat("a.", 126) + "a", true, false},
		{strings.Repeat("a.", 126) + "ab", false, false},
	} {
		if err := CheckDomain(tt.text); (err == nil) != tt.domain {
			t.Errorf("CheckDomain(%q) = %v, want valid = %t", tt.text, err, tt.domain)
		}
		if err := CheckLabel(tt.text); (err == nil) != tt.label {
			t.Errorf("CheckLabel(%q) = %v, want valid = %t", tt.text, err, tt.label)
		}
	}
}

func TestCheckDiscoveryURL(t *testing.T) {
	for text, valid := range map[string]bool{
		registry:                       true,
		"https://reg:4001/v2/keys/d/1": true,
		"http://reg:4001/keys/d":       true,
		"http://reg:4001/keys":         false,
		"http://reg:4001/keys/":        false,
		"http://reg:4001/v1/keys/d":    false,
		"http://reg:4001/keys/d?a=b":   false,
		"http://u@reg:4001/keys/d":     false,
		"ftp://reg:4001/keys/d":        false,
		"reg:4001/keys/d":              false,
		"":                             false,
	} {
		if err := CheckDiscoveryURL(text); (err == nil) != valid {
			t.Errorf("CheckDiscoveryURL(%q) = %v, want valid = %t", text, err, valid)
		}
	}
}
