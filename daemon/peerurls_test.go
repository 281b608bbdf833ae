package daemon

import (
	"bytes"
	"log/slog"
	"slices"
	"strings"
	"testing"
)

func TestPeerURLsThatNobodyGaveAreThoseOfTheList(t *testing.T) {
	at := func(port string) []string { return []string{"http://127.0.0.1:" + port} }
	https := func(port string) []string { return []string{"https://127.0.0.1:" + port} }
	stale := []BootstrapMember{{Name: "a", PeerURLs: at("1")}}
	for _, tt := range []struct {
		name              string
		config            Config
		listed            []string
		listen, advertise []string
		warning           string // empty: none
		refusal           string // empty: none
	}{
		{"nothing is given", Config{}, at("9"), at("9"), at("9"), "", ""},
		{"a list that is out of date", Config{Bootstrap: stale}, at("9"), at("9"), at("9"), "", ""},
		{"where to listen is given", Config{URLs: URLs{ListenPeer: []string{"http://[::1]:9"}}}, at("9"), []string{"http://[::1]:9"}, at("9"), "", ""},
		{"where to listen is given, and is elsewhere", Config{URLs: URLs{ListenPeer: at("8")}}, at("9"), at("8"), at("9"),
			"listen-peer-urls=[http://127.0.0.1:8] listed=[http://127.0.0.1:9]", ""},
		{"what to advertise is given", Config{URLs: URLs{AdvertisePeer: at("9")}}, at("9"), at("9"), at("9"), "", ""},
		{"what to advertise is given, and is another", Config{URLs: URLs{AdvertisePeer: at("8")}}, at("9"), at("8"), at("8"),
			"advertise-peer-urls=[http://127.0.0.1:8] listed=[http://127.0.0.1:9]", ""},
		{"both are given, for a port that is passed on", Config{URLs: URLs{ListenPeer: at("8"), AdvertisePeer: at("9")}}, at("9"), at("8"), at("9"), "", ""},
		{"the list does not have the member", Config{Bootstrap: stale}, nil, at("1"), at("1"), "", ""},
		{"the port has got TLS", Config{PeerTLS: TLS{Auto: true}}, at("9"), https("9"), at("9"), "", ""},
		{"the port has lost TLS", Config{}, https("9"), at("9"), https("9"), "", ""},
		{"the members do not prove themselves", Config{}, []string{"http://10.0.0.1:9"}, nil, nil, "", "http://10.0.0.1:9 is not a loopback address"},
		{"clients have the port", Config{URLs: URLs{ListenClient: at("9")}}, at("9"), nil, nil, "", "are the same port"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := tt.config
			c.Name = "a"
			for range 2 { // as the command does
				if err := c.Validate(); err != nil {
					t.Fatal(err)
				}
			}
			var log bytes.Buffer
			c.Log = slog.New(slog.NewTextHandler(&log, nil))
			err := c.followList(tt.listed, 7)
			if tt.refusal != "" {
				if FailureOf(err) != FailureUsage || err == nil || !strings.Contains(err.Error(), tt.refusal) {
					t.Errorf("followList(%q) = %v, want a usage error with %q", tt.listed, err, tt.refusal)
				}
				return
			}
			if err != nil || !slices.Equal(c.URLs.ListenPeer, tt.listen) || !slices.Equal(c.URLs.AdvertisePeer, tt.advertise) {
				t.Errorf("followList(%q) = %v with %q and %q, want %q and %q", tt.listed, err, c.URLs.ListenPeer, c.URLs.AdvertisePeer, tt.listen, tt.advertise)
			}
			if got := log.String(); (got != "") != (tt.warning != "") || !strings.Contains(got, tt.warning) {
				t.Errorf("followList(%q) logs %q, want %q", tt.listed, got, tt.warning)
			}
		})
	}
}
