package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestValidateFillsDefaults(t *testing.T) {
	peers := []string{"http://localhost:2380", "http://localhost:7001"}
	clients := []string{"http://localhost:2379", "http://localhost:4001"}
	want := Config{
		Name:                "default",
		DataDir:             "default.deimos",
		Version:             "dev",
		Bootstrap:           []BootstrapMember{{"default", peers}},
		InitialClusterState: "new",
		InitialClusterToken: "deimos-cluster",
		Discovery:           Discovery{Fallback: "proxy"},
		Proxy:               "off",
		URLs:                URLs{peers, clients, peers, clients},
		Timing:              Timing{100 * time.Millisecond, time.Second, 5 * time.Second, 5 * time.Minute},
		Limits:              Limits{10000, 5, 5, 1048576, 100000, 67108864},
	}
	var got Config
	if err := got.Validate(); err != nil {
		t.Fatalf("Validate() = %v, want nil", err)
	}
	if got.Log == nil {
		t.Error("Validate() leaves Log nil, want a logger that discards")
	}
	ignore := cmpopts.IgnoreFields(Config{}, "Log", "derived")
	if diff := cmp.Diff(want, got, ignore, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("Validate() of the zero value (-want +got):\n%s", diff)
	}
	again := got
	if err := again.Validate(); err != nil {
		t.Fatalf("second Validate() = %v, want nil", err)
	}
	if diff := cmp.Diff(got, again, ignore); diff != "" {
		t.Errorf("second Validate() changes (-first +second):\n%s", diff)
	}
}

func TestValidateResolvesURLs(t *testing.T) {
	three := []BootstrapMember{
		{"n1", []string{"http://127.0.0.1:7001", "http://127.0.0.1:07001"}},
		{"n2", []string{"http://127.0.0.1:7002"}},
		{"n3", []string{"http://127.0.0.1:7003"}},
	}
	for _, tt := range []struct {
		name   string
		config Config
		want   URLs
		log    string
	}{
		{
			name:   "bootstrap gives the peer URLs",
			config: Config{Name: "n2", Bootstrap: three},
			want: URLs{
				AdvertisePeer: []string{"http://127.0.0.1:7002"}, ListenPeer: []string{"http://127.0.0.1:7002"},
				AdvertiseClient: strings.Split(DefaultClientURLs, ","), ListenClient: strings.Split(DefaultClientURLs, ","),
			},
		},
		{
			name: "bootstrap wins with a warning",
			config: Config{Name: "n1", Bootstrap: three, URLs: URLs{
				AdvertisePeer: []string{"http://localhost:9"}, AdvertiseClient: []string{"http://LOCALHOST:1", "http://localhost:1"},
			}},
			want: URLs{
				AdvertisePeer: []string{"http://127.0.0.1:7001"}, ListenPeer: []string{"http://127.0.0.1:7001"},
				AdvertiseClient: []string{"http://localhost:1"}, ListenClient: []string{"http://localhost:1"},
			},
			log: "advertise-peer-urls differs from bootstrap-config",
		},
		{
			name: "TLS may end before the member",
			config: Config{URLs: URLs{
				AdvertisePeer: []string{"http://[::1]:7001"}, AdvertiseClient: []string{"https://kv.example:443"},
				ListenPeer: []string{"http://127.1.2.3:0"}, ListenClient: []string{"http://0.0.0.0:0"},
			}},
			want: URLs{
				AdvertisePeer: []string{"http://[::1]:7001"}, AdvertiseClient: []string{"https://kv.example:443"},
				ListenPeer: []string{"http://127.1.2.3:0"}, ListenClient: []string{"http://0.0.0.0:0"},
			},
			log: "https is advertised and http is listened on",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var log bytes.Buffer
			c := tt.config
			c.Log = slog.New(slog.NewTextHandler(&log, nil))
			if err := c.Validate(); err != nil {
				t.Fatalf("Validate() = %v, want nil", err)
			}
			if diff := cmp.Diff(tt.want, c.URLs); diff != "" {
				t.Errorf("Validate() resolves URLs (-want +got):\n%s", diff)
			}
			if got := log.String(); !strings.Contains(got, tt.log) || (got == "") != (tt.log == "") {
				t.Errorf("Validate() logs %q, want %q in it", got, tt.log)
			}
		})
	}
}

func TestValidateDoesNotChangeWhatItWasGiven(t *testing.T) {
	urls := []string{"http://LOCALHOST:1", "http://localhost:1"}
	bootstrap := []BootstrapMember{{"a", urls}}
	c := Config{Name: "a", Bootstrap: bootstrap, URLs: URLs{AdvertiseClient: urls, ListenClient: []string{"http://localhost:2"}}}
	if err := c.Validate(); err != nil {
		t.Fatalf("Validate() = %v, want nil", err)
	}
	want := []string{"http://LOCALHOST:1", "http://localhost:1"}
	if diff := cmp.Diff(want, bootstrap[0].PeerURLs); diff != "" {
		t.Errorf("Validate() changes its input (-want +got):\n%s", diff)
	}
}

func TestValidateRefuses(t *testing.T) {
	local := func(name string, port int) BootstrapMember {
		return BootstrapMember{name, []string{fmt.Sprintf("http://localhost:%d", port)}}
	}
	const notLoopback = " is not a loopback address and the members do not prove themselves: " +
		"give --peer-cert-file, --peer-key-file and --peer-ca-file, or --peer-secret-file, " +
		"or --insecure-peers if the network between the members is trusted"
	for _, tt := range []struct {
		name   string
		config Config
		want   string
	}{
		{"name", Config{Name: "a=b"}, `name "a=b": a name has no '=', ',', space or control character`},
		{"long name", Config{Name: strings.Repeat("n", 256)}, fmt.Sprintf("name %q: a name has at most 255 bytes", strings.Repeat("n", 256))},
		{"state", Config{InitialClusterState: "old"}, `initial-cluster-state "old" is none of new, existing`},
		{"not in bootstrap", Config{Name: "X", Bootstrap: []BootstrapMember{local("a", 1)}}, `no member with name="X" in bootstrap-config`},
		{"bad name in bootstrap", Config{Bootstrap: []BootstrapMember{local("a b", 1)}},
			`bootstrap-config: name "a b": a name has no '=', ',', space or control character`},
		{"member twice", Config{Name: "a", Bootstrap: []BootstrapMember{local("a", 1), local("a", 2)}},
			`bootstrap-config: member "a" is listed twice`},
		{"member without URL", Config{Name: "a", Bootstrap: []BootstrapMember{{Name: "a"}}}, `bootstrap-config: member "a" has no peer URL`},
		{"URL twice", Config{Name: "a", Bootstrap: []BootstrapMember{local("a", 1), local("b", 1)}},
			`bootstrap-config: members "a" and "b" have the same peer URL http://localhost:1`},
		{"bootstrap URL", Config{Name: "a", Bootstrap: []BootstrapMember{{"a", []string{"a:1"}}}},
			`bootstrap-config: URL "a:1": a URL begins with http:// or https://`},
		{"bootstrap port 0", Config{Name: "a", Bootstrap: []BootstrapMember{local("a", 0)}},
			`bootstrap-config: URL "http://localhost:0": port 0 is for listening only`},
		{"listen URL", Config{URLs: URLs{ListenClient: []string{"http://a"}}}, `listen-client-urls: URL "http://a": a URL has host:port`},
		{"advertised port 0", Config{URLs: URLs{AdvertiseClient: []string{"http://a:00"}}},
			`advertise-client-urls: URL "http://a:00": port 0 is for listening only`},
		{"https clients", Config{URLs: URLs{ListenClient: []string{"https://0.0.0.0:4001"}}}, "https needs --cert-file and --key-file"},
		{"https clients by default", Config{URLs: URLs{AdvertiseClient: []string{"https://a:1"}}}, "https needs --cert-file and --key-file"},
		{"https peers", Config{URLs: URLs{ListenPeer: []string{"https://localhost:1"}}}, "https needs --peer-cert-file and --peer-key-file"},
		{"peers listen everywhere", Config{URLs: URLs{ListenPeer: []string{"http://0.0.0.0:1"}}}, "peer URL http://0.0.0.0:1" + notLoopback},
		{"peers advertise a name", Config{URLs: URLs{AdvertisePeer: []string{"http://a:1"}, ListenPeer: []string{"http://localhost:1"}}},
			"peer URL http://a:1" + notLoopback},
		{"another member is elsewhere", Config{Name: "a", Bootstrap: []BootstrapMember{local("a", 1), {"b", []string{"http://10.0.0.1:1"}}}},
			"peer URL http://10.0.0.1:1" + notLoopback},
		{"heartbeat below zero", Config{Timing: Timing{Heartbeat: -1}}, "heartbeat-interval -1ns is not above 0"},
		{"heartbeat too short", Config{Timing: Timing{Heartbeat: 999 * time.Microsecond}}, "heartbeat-interval 999µs is below 1ms"},
		{"heartbeat too long", Config{Timing: Timing{Heartbeat: time.Duration(1<<63 - 1)}},
			"heartbeat-interval 2562047h47m16.854775807s is above 10s: election-timeout, at most 50s, has to hold 5 of them"},
		{"election too short", Config{Timing: Timing{Election: 15 * time.Millisecond}}, "15ms is below 5 × heartbeat-interval (500ms)"},
		{"election too long", Config{Timing: Timing{Election: 50*time.Second + 1}}, "election-timeout 50.000000001s is above 50s"},
		{"request", Config{Timing: Timing{Request: -time.Second}}, "timeout -1s is not above 0"},
		{"watch", Config{Timing: Timing{Watch: -time.Second}}, "watch-timeout -1s is not above 0"},
		{"value too small", Config{Limits: Limits{MaxValueBytes: 1023}}, "max-value-bytes 1023 is not in 1024 … 8388608"},
		{"value too large", Config{Limits: Limits{MaxValueBytes: 8388609}}, "max-value-bytes 8388609 is not in 1024 … 8388608"},
		{"history events", Config{Limits: Limits{HistoryEvents: -1}}, "history-events, -1, is not above 0"},
		{"history bytes", Config{Limits: Limits{HistoryBytes: -1}}, "history-bytes, -1, is not above 0"},
		{"snapshots", Config{Limits: Limits{MaxSnapshots: -1}}, "max-snapshots, -1, is not above 0"},
		{"one snapshot", Config{Limits: Limits{MaxSnapshots: 1}}, "max-snapshots 1 is below 2"},
		{"segments", Config{Limits: Limits{MaxWALs: -1}}, "max-wals, -1, is not above 0"},
		{"origin", Config{CORS: []string{"a"}}, `cors "a": an origin is scheme://host or scheme://host:port, or * for all`},
		{"star and origin", Config{CORS: []string{"*", "http://a"}}, `cors: "*" stands alone or not at all`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.config.Validate()
			usage, ok := errors.AsType[*UsageError](err)
			if !ok || usage.Error() != tt.want {
				t.Errorf("Validate() = %v, want the usage error %s", err, tt.want)
			}
		})
	}
}

func TestValidateAcceptsTheEdges(t *testing.T) {
	for _, tt := range []struct {
		name   string
		config Config
	}{
		{"shortest timing", Config{Timing: Timing{Heartbeat: time.Millisecond, Election: 5 * time.Millisecond}}},
		{"longest timing", Config{Timing: Timing{Heartbeat: 10 * time.Second, Election: 50 * time.Second}}},
		{"smallest values", Config{Limits: Limits{1, 2, 1, 1024, 1, 1}}},
		{"largest values", Config{Limits: Limits{MaxValueBytes: 8388608}}},
		{"longest name", Config{Name: strings.Repeat("n", NameMaxBytes)}},
		{"all origins", Config{CORS: []string{"*", "*"}}},
		{"trusted network", Config{InsecurePeers: true, URLs: URLs{ListenPeer: []string{"http://0.0.0.0:7001"}}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.config.Validate(); err != nil {
				t.Errorf("Validate() = %v, want nil", err)
			}
		})
	}
}

func TestParseURL(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"http://localhost:2379", "http://localhost:2379"},
		{"HTTPS://Kv.Example:0443", "https://kv.example:443"},
		{"http://[::1]:1", "http://[::1]:1"},
		{"http://[fe80::1%25Eth0]:1", "http://[fe80::1%25Eth0]:1"},
		{"http://a:0", "http://a:0"},
		{"http://a:65535", "http://a:65535"},
		{"http://a:65536", ""},
		{"http://a", ""},
		{"http://a:", ""},
		{"http://:1", ""},
		{"http://::1:1", ""},
		{"a:1", ""},
		{"", ""},
		{"ftp://a:1", ""},
		{"unix://a:1", ""},
		{"http://a:1/", ""},
		{"http://a:1?", ""},
		{"http://a:1?b", ""},
		{"http://a:1#", ""},
		{"http://u@a:1", ""},
		{"http://a b:1", ""},
		{"http://a:1,http://b:1", ""},
		{"http://a\n:1", ""},
	} {
		got, err := ParseURL(tt.text)
		if got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("ParseURL(%q) = %q, %v, want %q", tt.text, got, err, tt.want)
		}
	}
}

func FuzzParseURL(f *testing.F) {
	for _, seed := range []string{"http://localhost:2379", "https://[::1]:01", "http://[fe80::1%25Eth0]:1", "http://A%41:1", "http://u@a:1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		once, err := ParseURL(text)
		if err != nil {
			return
		}
		if twice, err := ParseURL(once); err != nil || twice != once {
			t.Errorf("ParseURL(%q) = %q, %v, want it unchanged", once, twice, err)
		}
	})
}

func TestParseOrigin(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"*", "*"},
		{"http://Good.example", "http://good.example"},
		{"https://good.example:8443", "https://good.example:8443"},
		{"capacitor://localhost", "capacitor://localhost"},
		{"http://[::1]:80", "http://[::1]:80"},
		{"", ""},
		{"good.example", ""},
		{"http://", ""},
		{"http://a/", ""},
		{"http://a:", ""},
		{"http://a?b", ""},
		{"http://u@a", ""},
		{"http://a, http://b", ""},
		{"null", ""},
	} {
		got, err := ParseOrigin(tt.text)
		if got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("ParseOrigin(%q) = %q, %v, want %q", tt.text, got, err, tt.want)
		}
	}
}

func TestCheckName(t *testing.T) {
	for name, valid := range map[string]bool{
		"default": true, "é-1_.:/": true, "": false, "a b": false, "a,b": false, "a=b": false,
		"a\x00": false, "a\u0085": false, "a\u00a0": false, "a\xff": false,
	} {
		if err := CheckName(name); (err == nil) != valid {
			t.Errorf("CheckName(%q) = %v, want valid = %t", name, err, valid)
		}
	}
}
