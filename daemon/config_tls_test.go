package daemon

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var (
	noTLS   = TLS{}
	pair    = TLS{CertFile: "c", KeyFile: "k"}
	mutual  = TLS{CertFile: "c", KeyFile: "k", CAFile: "a"}
	autoTLS = TLS{Auto: true}
)

func TestTLSEnabled(t *testing.T) {
	for _, tt := range []struct {
		name string
		tls  TLS
		want bool
	}{
		{"none", noTLS, false}, {"pair", pair, true}, {"mutual", mutual, true}, {"automatic", autoTLS, true},
	} {
		if got := tt.tls.Enabled(); got != tt.want {
			t.Errorf("Enabled() of %s = %t, want %t", tt.name, got, tt.want)
		}
	}
}

func TestValidateRefusesHalfOfTLS(t *testing.T) {
	for _, tt := range []struct {
		name string
		tls  TLS
		want string // of the client port; that of the peer port has its prefix
	}{
		{"key alone", TLS{KeyFile: "k"}, "--key-file needs --cert-file"},
		{"certificate alone", TLS{CertFile: "c"}, "--cert-file needs --key-file"},
		{"authority alone", TLS{CAFile: "a"}, "--ca-file needs --cert-file and --key-file"},
		{"authority without key", TLS{CertFile: "c", CAFile: "a"}, "--ca-file needs --cert-file and --key-file"},
		{"authority without certificate", TLS{KeyFile: "k", CAFile: "a"}, "--ca-file needs --cert-file and --key-file"},
		{"authority and automatic", TLS{Auto: true, CAFile: "a"}, "--ca-file needs --cert-file and --key-file"},
		{"automatic and given", TLS{Auto: true, CertFile: "c", KeyFile: "k"},
			"--auto-tls makes a certificate of its own: leave out --cert-file and --key-file, or --auto-tls"},
		{"automatic and a key", TLS{Auto: true, KeyFile: "k"},
			"--auto-tls makes a certificate of its own: leave out --cert-file and --key-file, or --auto-tls"},
		{"names without authority", TLS{CertFile: "c", KeyFile: "k", AllowedNames: []string{"n"}},
			"--allowed-names needs --ca-file, without which certificates are not asked for"},
		{"empty name", TLS{CertFile: "c", KeyFile: "k", CAFile: "a", AllowedNames: []string{"n", ""}},
			`allowed-names: name "": a name is not empty`},
		{"name with a line break", TLS{CertFile: "c", KeyFile: "k", CAFile: "a", AllowedNames: []string{"n\n"}},
			`allowed-names: name "n\n": a name has no control characters`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			refuses(t, Config{ClientTLS: tt.tls}, tt.want)
			want := strings.ReplaceAll(tt.want, "--", "--peer-")
			if !strings.Contains(want, "--") {
				want = "peer-" + want
			}
			refuses(t, Config{PeerTLS: tt.tls}, want)
			refuses(t, Config{PeerTLS: tt.tls, Proxy: ProxyOn, Bootstrap: lists("a")}, want)
		})
	}
}

func refuses(t *testing.T, c Config, want string) {
	t.Helper()
	err := c.Validate()
	usage, ok := errors.AsType[*UsageError](err)
	if !ok || usage.Error() != want {
		t.Errorf("Validate() = %v, want the usage error %s", err, want)
	}
}

func TestValidateRefusesSchemesWithoutOrBesideCertificates(t *testing.T) {
	const a, as = "http://127.0.0.1:1", "https://127.0.0.1:1"
	for _, tt := range []struct {
		name   string
		config Config
		want   string
	}{
		{"https for clients", Config{URLs: URLs{ListenClient: []string{a, as}}}, "https needs --cert-file and --key-file"},
		{"https for clients of a proxy", Config{Proxy: ProxyOn, Bootstrap: lists("a"), URLs: URLs{ListenClient: []string{as}}},
			"https needs --cert-file and --key-file"},
		{"https for peers", Config{ClientTLS: pair, URLs: URLs{ListenPeer: []string{as}}}, "https needs --peer-cert-file and --peer-key-file"},
		{"https for peers in the list", Config{Name: "n", Bootstrap: []BootstrapMember{{"n", []string{as}}}},
			"https needs --peer-cert-file and --peer-key-file"},
		{"http for clients", Config{ClientTLS: pair, URLs: URLs{ListenClient: []string{"https://127.0.0.1:2", a}}},
			"--cert-file needs https URLs to listen on: change http://127.0.0.1:1 in listen-client-urls to https, or leave out --cert-file"},
		{"http for clients, advertised", Config{ClientTLS: autoTLS, URLs: URLs{AdvertiseClient: []string{a}}},
			"--auto-tls needs https URLs to listen on: change http://127.0.0.1:1 in advertise-client-urls to https, or leave out --auto-tls"},
		{"http for peers", Config{PeerTLS: autoTLS, URLs: URLs{ListenPeer: []string{a}}},
			"--peer-auto-tls needs https URLs to listen on: change http://127.0.0.1:1 in listen-peer-urls to https, or leave out --peer-auto-tls"},
		{"http for peers, advertised", Config{PeerTLS: pair, URLs: URLs{AdvertisePeer: []string{a}}},
			"--peer-cert-file needs https URLs to listen on: change http://127.0.0.1:1 in advertise-peer-urls to https, or leave out --peer-cert-file"},
		{"http for peers, listed", Config{PeerTLS: pair, Name: "n", Bootstrap: []BootstrapMember{{"n", []string{a}}}},
			"--peer-cert-file needs https URLs to listen on: change http://127.0.0.1:1 in bootstrap-config to https, or leave out --peer-cert-file"},
	} {
		t.Run(tt.name, func(t *testing.T) { refuses(t, tt.config, tt.want) })
	}
}

func TestValidateDemandsThatPeersProveThemselves(t *testing.T) {
	const far, farS = "http://10.0.0.1:1", "https://10.0.0.1:1"
	const give = "give --peer-cert-file, --peer-key-file and --peer-ca-file, or --peer-secret-file, " +
		"or --insecure-peers if the network between the members is trusted"
	const notHTTPS = "peer URL " + far + " is not https, without which --peer-ca-file proves nothing: use https, or --peer-secret-file"
	near := []string{"https://127.0.0.1:1"}
	members := func(others ...string) []BootstrapMember {
		return []BootstrapMember{{"n", near}, {"m", others}}
	}
	for _, tt := range []struct {
		name   string
		config Config
		want   string // empty: valid
	}{
		{"nothing", Config{URLs: URLs{AdvertisePeer: []string{far}}},
			"peer URL " + far + " is not a loopback address and the members do not prove themselves: " + give},
		{"self-signed", Config{PeerTLS: autoTLS, URLs: URLs{AdvertisePeer: []string{farS}}},
			"peer URL " + farS + " is not a loopback address and the members do not prove themselves, " +
				"which --peer-auto-tls alone does not change: " + give},
		{"certificates nobody asks for", Config{PeerTLS: pair, URLs: URLs{AdvertisePeer: []string{farS}}},
			"peer URL " + farS + " is not a loopback address and the members do not prove themselves, " +
				"which --peer-cert-file without --peer-ca-file does not change: " + give},
		{"client certificates", Config{ClientTLS: mutual, URLs: URLs{AdvertisePeer: []string{far}}},
			"peer URL " + far + " is not a loopback address and the members do not prove themselves: " + give},
		{"another member without https", Config{Name: "n", PeerTLS: mutual, Bootstrap: members(farS, far)}, notHTTPS},
		{"advertised without https", Config{PeerTLS: mutual, URLs: URLs{AdvertisePeer: []string{far}, ListenPeer: near}}, notHTTPS},

		{"mutual", Config{Name: "n", PeerTLS: mutual, Bootstrap: members(farS)}, ""},
		{"mutual and loopback", Config{PeerTLS: mutual, URLs: URLs{AdvertisePeer: []string{"http://127.0.0.1:1"}, ListenPeer: near}}, ""},
		{"secret", Config{PeerSecretFile: "s", URLs: URLs{AdvertisePeer: []string{far}}}, ""},
		{"secret and self-signed", Config{PeerSecretFile: "s", PeerTLS: autoTLS, URLs: URLs{AdvertisePeer: []string{farS}}}, ""},
		{"secret and a mixed list", Config{Name: "n", PeerSecretFile: "s", PeerTLS: mutual, Bootstrap: members(far)}, ""},
		{"trusted network", Config{InsecurePeers: true, PeerTLS: autoTLS, URLs: URLs{AdvertisePeer: []string{farS}}}, ""},
		{"self-signed on loopback", Config{PeerTLS: autoTLS}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.want != "" {
				refuses(t, tt.config, tt.want)
				return
			}
			if err := tt.config.Validate(); err != nil {
				t.Errorf("Validate() = %v, want nil", err)
			}
		})
	}
}

func TestValidateGivesDefaultURLsTheSchemeOfThePort(t *testing.T) {
	c := Config{ClientTLS: autoTLS, PeerTLS: mutual}
	if err := c.Validate(); err != nil {
		t.Fatalf("Validate() = %v, want nil", err)
	}
	peers := []string{"https://localhost:2380", "https://localhost:7001"}
	clients := []string{"https://localhost:2379", "https://localhost:4001"}
	if diff := cmp.Diff(URLs{peers, clients, peers, clients}, c.URLs); diff != "" {
		t.Errorf("Validate() resolves URLs (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]BootstrapMember{{"default", peers}}, c.Bootstrap); diff != "" {
		t.Errorf("Validate() resolves first members (-want +got):\n%s", diff)
	}
	again := c
	if err := again.Validate(); err != nil {
		t.Fatalf("second Validate() = %v, want nil", err)
	}
	if diff := cmp.Diff(c, again, cmpopts.IgnoreFields(Config{}, "Log", "derived")); diff != "" {
		t.Errorf("second Validate() changes (-first +second):\n%s", diff)
	}
}

func TestValidateWarns(t *testing.T) {
	plain, secure := []string{"http://127.0.0.1:1"}, []string{"https://127.0.0.1:1"}
	for _, tt := range []struct {
		name   string
		config Config
		want   []string // in the order of the lines
	}{
		{"nothing", Config{ClientTLS: pair, PeerTLS: mutual}, nil},
		{"self-signed certificates", Config{ClientTLS: autoTLS, PeerTLS: autoTLS}, []string{"flag=--auto-tls", "flag=--peer-auto-tls"}},
		{"trust beside a secret", Config{InsecurePeers: true, PeerSecretFile: "s"}, []string{"insecure-peers is given and not needed"}},
		{"trust beside certificates", Config{InsecurePeers: true, PeerTLS: mutual}, []string{"insecure-peers is given and not needed"}},
		{"trust beside self-signed certificates", Config{InsecurePeers: true, PeerTLS: autoTLS}, []string{"flag=--peer-auto-tls"}},
		{"https advertised only", Config{URLs: URLs{AdvertisePeer: secure, ListenPeer: plain}},
			[]string{"https is advertised and http is listened on"}},
		{"http advertised only", Config{ClientTLS: pair, PeerTLS: pair,
			URLs: URLs{AdvertiseClient: plain, ListenClient: []string{"https://127.0.0.1:2"}, AdvertisePeer: plain, ListenPeer: secure}},
			[]string{"advertise-client-urls=[http://127.0.0.1:1]", "advertise-peer-urls=[http://127.0.0.1:1]"}},
		{"proxy", Config{Proxy: ProxyOn, Bootstrap: lists("a"), URLs: URLs{AdvertisePeer: secure, ListenPeer: plain, ListenClient: plain}}, nil},
		{"proxy of its own name", Config{Name: "a", Proxy: ProxyOn, Bootstrap: lists("a"), URLs: URLs{AdvertisePeer: secure}}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var log bytes.Buffer
			c := tt.config
			c.Log = slog.New(slog.NewTextHandler(&log, nil))
			if err := c.Validate(); err != nil {
				t.Fatalf("Validate() = %v, want nil", err)
			}
			lines := strings.Split(strings.TrimSuffix(log.String(), "\n"), "\n")
			if log.Len() == 0 {
				lines = nil
			}
			if len(lines) != len(tt.want) {
				t.Fatalf("Validate() logs %q, want %d lines", lines, len(tt.want))
			}
			for i, want := range tt.want {
				if !strings.Contains(lines[i], want) {
					t.Errorf("Validate() logs %q, want %q in it", lines[i], want)
				}
			}
		})
	}
}
