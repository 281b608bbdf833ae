package daemon

import (
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/marsevilspirit/deimos/transport"
)

func TestValidateRefusesTheSamePortTwice(t *testing.T) {
	bootstrap := []BootstrapMember{{"a", []string{"http://localhost:1"}}}
	for _, tt := range []struct {
		client, peer []string
		want         string // of the usage error; empty: none
	}{
		{[]string{"http://localhost:1"}, []string{"http://localhost:1"},
			"--listen-client-urls http://localhost:1 and --listen-peer-urls http://localhost:1 are the same port: give each its own"},
		{[]string{"http://localhost:1"}, []string{"http://127.0.0.1:1"},
			"--listen-client-urls http://localhost:1 and --listen-peer-urls http://127.0.0.1:1 are the same port: give each its own"},
		{[]string{"http://0.0.0.0:1"}, nil,
			"--listen-client-urls http://0.0.0.0:1 and --listen-peer-urls http://localhost:1 are the same port: give each its own"},
		{[]string{"http://127.0.0.1:2", "http://10.0.0.1:1"}, []string{"http://[::]:1"},
			"--listen-client-urls http://10.0.0.1:1 and --listen-peer-urls http://[::]:1 are the same port: give each its own"},
		{[]string{"http://[::ffff:127.0.0.1]:1"}, nil,
			"--listen-client-urls http://[::ffff:127.0.0.1]:1 and --listen-peer-urls http://localhost:1 are the same port: give each its own"},
		{[]string{"http://HOST:1", "http://host:01"}, []string{"http://localhost:2"}, ""}, // one URL, given twice
		{[]string{"http://0.0.0.0:3", "http://127.0.0.1:3"}, nil,
			"--listen-client-urls: http://0.0.0.0:3 and http://127.0.0.1:3 are the same port: leave one of them out"},
		{[]string{"http://localhost:2"}, []string{"http://localhost:1"}, ""},
		{[]string{"http://127.0.0.1:1"}, []string{"http://127.0.0.2:1"}, ""},
		{[]string{"http://127.0.0.1:1"}, []string{"http://[::1]:1"}, ""},
		{[]string{"http://0.0.0.0:0"}, []string{"http://0.0.0.0:0"}, ""},
	} {
		c := Config{Name: "a", Bootstrap: bootstrap, InsecurePeers: true, URLs: URLs{ListenClient: tt.client, ListenPeer: tt.peer}}
		err := c.Validate()
		if _, ok := errors.AsType[*UsageError](err); (err != nil || tt.want != "") && (!ok || err.Error() != tt.want) {
			t.Errorf("Validate() of %q and %q = %v, want %q", tt.client, tt.peer, err, tt.want)
		}
	}
	clients := URLs{ListenClient: []string{"http://localhost:1"}}
	for _, c := range []Config{
		{Name: "a", Bootstrap: bootstrap, URLs: clients, Proxy: ProxyOn},
		{Name: "a", Bootstrap: bootstrap, URLs: clients, Network: transport.NewNetwork()},
	} {
		if err := c.Validate(); err != nil {
			t.Errorf("Validate() without a peer port = %v, want nil", err)
		}
	}
}

func TestAPortInUseIsToldWithTheWayOut(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, err = listen("listen-peer-urls", []string{"http://127.0.0.1:0", "http://" + taken.Addr().String()})
	if err == nil || !strings.HasSuffix(err.Error(), "address already in use: stop the process that listens there, or choose another --listen-peer-urls") {
		t.Errorf("listen(an address in use) = %v, want the way out", err)
	}
	_, err = listen("listen-client-urls", []string{"http://192.0.2.1:0"})
	if err == nil || !strings.HasSuffix(err.Error(), "give an address of this machine with --listen-client-urls") {
		t.Errorf("listen(an address of another machine) = %v, want the way out", err)
	}
}
