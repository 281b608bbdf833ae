package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"slices"
	"testing"
	"time"
)

const dayLong = 24 * time.Hour

// remote errors are those that the other side sends as an alert.
const remote = "remote error"

func TestServerJudgesTheCertificatesOfClients(t *testing.T) {
	r := newRig()
	now := r.clock.Now()
	ca, stranger := newIssuer(t, now, "CA", nil), newIssuer(t, now, "CA", nil)
	middle := newIssuer(t, now, "intermediate", ca)

	for _, tt := range []struct {
		name    string
		by      *issuer
		leaf    *leaf
		allowed []string
		want    string // what the server says
	}{
		{"member", ca, &leaf{cn: "n1"}, nil, ""},
		{"client", ca, &leaf{cn: "alice", usage: onlyClient, hosts: []string{}}, nil, "one of a client"},
		{"none", ca, nil, nil, "didn't provide a certificate"},
		{"other authority of the same name", stranger, &leaf{cn: "n1"}, nil, "unknown authority"},
		{"signed by itself", ca, &leaf{cn: "n1", self: true}, nil, "unknown authority"},
		{"expired", ca, &leaf{cn: "n1", from: -2 * dayLong, to: -time.Second}, nil, "expired or is not yet valid"},
		{"not yet valid", ca, &leaf{cn: "n1", from: time.Second, to: dayLong}, nil, "expired or is not yet valid"},
		{"for servers only", ca, &leaf{cn: "n1", usage: onlyServer}, nil, "incompatible key usage"},
		{"intermediate authority presented", middle, &leaf{cn: "n1", withChain: true}, nil, ""},
		{"intermediate authority missing", middle, &leaf{cn: "n1"}, nil, "unknown authority"},
		{"allowed common name", ca, &leaf{cn: "n1"}, []string{"n2", "N1"}, ""},
		{"allowed DNS name", ca, &leaf{cn: "x", hosts: []string{"a.test", "n1.test"}}, []string{"n1.TEST"}, ""},
		{"no allowed name", ca, &leaf{cn: "n9", hosts: []string{"a.test"}}, []string{"n1"}, `["a.test" "n9"], none of which is allowed`},
		{"wildcard is no allowed name", ca, &leaf{cn: "x", hosts: []string{"*.test"}}, []string{"n1.test"}, "none of which is allowed"},
		{"address is no allowed name", ca, &leaf{cn: "x", hosts: []string{"10.0.0.1"}}, []string{"10.0.0.1"}, "none of which is allowed"},
		{"no name at all", ca, &leaf{hosts: []string{"10.0.0.1"}}, []string{"", "n1"}, "none of which is allowed"},
		{"allowed name of a stranger", stranger, &leaf{cn: "n1"}, []string{"n1"}, "unknown authority"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			files := ca.files(t, now, &leaf{cn: "server"}, ca)
			files.AllowedNames = tt.allowed
			server := r.open(t, files, PortPeer)
			client := r.open(t, tt.by.files(t, now, tt.leaf, ca), PortPeer)
			out := connect(t, server.ServerConfig(), dialAs(client, "localhost"))
			checkError(t, "server", out.server, tt.want)
			if tt.want == "" {
				checkError(t, "client", out.client, "")
			} else {
				checkError(t, "client", out.client, remote)
			}
		})
	}
}

func TestTheClientPortLetsClientsIn(t *testing.T) {
	r := newRig()
	now := r.clock.Now()
	ca := newIssuer(t, now, "CA", nil)
	server := r.open(t, ca.files(t, now, &leaf{cn: "server"}, ca), PortClient)
	for _, l := range []*leaf{{cn: "alice", usage: onlyClient, hosts: []string{}}, {cn: "n1"}} {
		client := r.open(t, ca.files(t, now, l, ca), PortClient)
		out := connect(t, server.ServerConfig(), dialAs(client, "localhost"))
		checkError(t, l.cn+": server", out.server, "")
		checkError(t, l.cn+": client", out.client, "")
	}
}

func TestServerWithoutCAAsksNobodyForACertificate(t *testing.T) {
	r := newRig()
	now := r.clock.Now()
	ca := newIssuer(t, now, "CA", nil)
	server := r.open(t, ca.files(t, now, &leaf{}, nil), PortClient)
	client := r.open(t, ca.files(t, now, &leaf{}, ca), PortClient)
	out := connect(t, server.ServerConfig(), dialAs(client, "localhost"))
	checkError(t, "server", out.server, "")
	checkError(t, "client", out.client, "")
	if out.seen != nil {
		t.Errorf("the server saw the certificate of %s, want none", out.seen.Subject)
	}
}

func TestClientJudgesTheCertificateOfTheServer(t *testing.T) {
	r := newRig()
	now := r.clock.Now()
	ca, stranger := newIssuer(t, now, "CA", nil), newIssuer(t, now, "CA", nil)
	middle := newIssuer(t, now, "intermediate", ca)

	for _, tt := range []struct {
		name    string
		by      *issuer
		leaf    leaf
		host    string
		allowed []string
		want    string // what the client says
	}{
		{"host name", ca, leaf{}, "localhost", nil, ""},
		{"address", ca, leaf{}, "127.0.0.1", nil, ""},
		{"IPv6 address", ca, leaf{hosts: []string{"::1"}}, "::1", nil, ""},
		{"wildcard", ca, leaf{hosts: []string{"*.example.test"}}, "n1.example.test", nil, ""},
		{"wrong host name", ca, leaf{}, "n1.test", nil, "not n1.test"},
		{"wrong address", ca, leaf{}, "127.0.0.2", nil, "not 127.0.0.2"},
		{"address, the certificate has names only", ca, leaf{hosts: []string{"localhost"}}, "127.0.0.1", nil, "IP SANs"},
		{"host name is the common name only", ca, leaf{cn: "n1.test", hosts: []string{"127.0.0.1"}}, "n1.test", nil, "n1.test"},
		{"other authority of the same name", stranger, leaf{}, "localhost", nil, "unknown authority"},
		{"other authority, by address", stranger, leaf{}, "127.0.0.1", nil, "unknown authority"},
		{"signed by itself", ca, leaf{self: true}, "localhost", nil, "unknown authority"},
		{"expired", ca, leaf{from: -2 * dayLong, to: -time.Second}, "localhost", nil, "expired or is not yet valid"},
		{"not yet valid", ca, leaf{from: time.Second, to: dayLong}, "localhost", nil, "expired or is not yet valid"},
		{"for clients only", ca, leaf{usage: onlyClient}, "localhost", nil, "incompatible key usage"},
		{"intermediate authority presented", middle, leaf{withChain: true}, "localhost", nil, ""},
		{"intermediate authority missing", middle, leaf{}, "localhost", nil, "unknown authority"},
		{"allowed common name", ca, leaf{cn: "n1"}, "127.0.0.1", []string{"n1"}, ""},
		{"no allowed name", ca, leaf{cn: "n9"}, "127.0.0.1", []string{"n1"}, "none of which is allowed"},
		{"allowed name, wrong host", ca, leaf{cn: "n1"}, "127.0.0.2", []string{"n1"}, "not 127.0.0.2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server := r.open(t, tt.by.files(t, now, &tt.leaf, nil), PortPeer)
			files := ca.files(t, now, nil, ca)
			files.AllowedNames = tt.allowed
			client := r.open(t, files, PortPeer)
			out := connect(t, server.ServerConfig(), dialAs(client, tt.host))
			checkError(t, "client", out.client, tt.want)
			if tt.want == "" {
				checkError(t, "server", out.server, "")
			} else {
				checkError(t, "server", out.server, "*")
			}
		})
	}
}

func TestClientWithoutCATrustsTheSystemOnly(t *testing.T) {
	r := newRig()
	now := r.clock.Now()
	ca := newIssuer(t, now, "CA", nil)
	server := r.open(t, ca.files(t, now, &leaf{}, nil), PortClient)
	out := connect(t, server.ServerConfig(), dialAs(r.open(t, Files{}, PortClient), "localhost"))
	checkError(t, "client", out.client, "unknown authority")
}

func TestUnverifiedClientTakesAnyServer(t *testing.T) {
	r := newRig()
	now := r.clock.Now()
	ca := newIssuer(t, now, "CA", nil)
	server := r.open(t, ca.files(t, now, &leaf{self: true}, nil), PortPeer)
	out := connect(t, server.ServerConfig(), dialAs(r.open(t, Files{Unverified: true}, PortPeer), "n1.test"))
	checkError(t, "client", out.client, "")
	checkError(t, "server", out.server, "")
}

func TestServerWithoutCertificateFailsHandshakesOnly(t *testing.T) {
	r := newRig()
	out := connect(t, r.open(t, Files{}, PortClient).ServerConfig(), dialWith(&tls.Config{InsecureSkipVerify: true}))
	checkError(t, "server", out.server, "no certificates configured")
	checkError(t, "client", out.client, remote)
}

func TestOldVersionsAndWeakSuitesAreRefused(t *testing.T) {
	r := newRig()
	now := r.clock.Now()
	ca := newIssuer(t, now, "CA", nil)
	files := ca.files(t, now, &leaf{}, nil)
	const weak = tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA
	const strong = tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256

	for _, tt := range []struct {
		name, port string
		version    uint16
		suite      uint16
		want       string
	}{
		{"TLS 1.0, client port", PortClient, tls.VersionTLS10, weak, "unsupported versions"},
		{"TLS 1.1, client port", PortClient, tls.VersionTLS11, weak, "unsupported versions"},
		{"TLS 1.2, client port", PortClient, tls.VersionTLS12, strong, ""},
		{"TLS 1.2 with CBC, client port", PortClient, tls.VersionTLS12, weak, "no cipher suite"},
		{"TLS 1.2 without forward secrecy, client port", PortClient, tls.VersionTLS12, tls.TLS_RSA_WITH_AES_128_GCM_SHA256, "no cipher suite"},
		{"TLS 1.3, client port", PortClient, tls.VersionTLS13, 0, ""},
		{"TLS 1.2, peer port", PortPeer, tls.VersionTLS12, strong, "unsupported versions"},
		{"TLS 1.3, peer port", PortPeer, tls.VersionTLS13, 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			old := &tls.Config{
				MinVersion: tt.version, MaxVersion: tt.version, CipherSuites: []uint16{tt.suite}, InsecureSkipVerify: true,
			}
			out := connect(t, r.open(t, files, tt.port).ServerConfig(), dialWith(old))
			checkError(t, "server", out.server, tt.want)
			if (out.client != nil) != (tt.want != "") {
				t.Errorf("client: error = %v, want one: %t", out.client, tt.want != "")
			}

			pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
			if err != nil {
				t.Fatal(err)
			}
			old = &tls.Config{MinVersion: tt.version, MaxVersion: tt.version, CipherSuites: []uint16{tt.suite}, Certificates: []tls.Certificate{pair}}
			out = connect(t, old, dialAs(r.open(t, ca.files(t, now, nil, ca), tt.port), "localhost"))
			if (out.client != nil) != (tt.want != "") {
				t.Errorf("dialling: error = %v, want one: %t", out.client, tt.want != "")
			}
		})
	}
}

func TestConnectionsSpeakHTTP1AndDoNotResumeSessions(t *testing.T) {
	r := newRig()
	now := r.clock.Now()
	ca := newIssuer(t, now, "CA", nil)
	server := r.open(t, ca.files(t, now, &leaf{}, nil), PortClient).ServerConfig()
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		config := &tls.Config{
			RootCAs: x509.NewCertPool(), ServerName: "localhost", Time: r.clock.Now, MaxVersion: version,
			NextProtos: []string{"h2", "http/1.1"}, ClientSessionCache: tls.NewLRUClientSessionCache(8),
		}
		config.RootCAs.AddCert(ca.cert)
		for range 2 {
			out := connect(t, server, dialWith(config))
			checkError(t, "client", out.client, "")
			if got := out.state.NegotiatedProtocol; got != "http/1.1" {
				t.Errorf("%s: protocol = %q, want http/1.1", tls.VersionName(version), got)
			}
			if out.state.DidResume {
				t.Errorf("%s: the session was resumed", tls.VersionName(version))
			}
		}
	}
}

func TestNameErrorSaysWhichNamesThereWere(t *testing.T) {
	r := newRig()
	now := r.clock.Now()
	ca := newIssuer(t, now, "CA", nil)
	server := r.open(t, ca.files(t, now, &leaf{cn: "n9"}, nil), PortPeer)
	files := ca.files(t, now, nil, ca)
	files.AllowedNames = []string{"n1"}
	out := connect(t, server.ServerConfig(), dialAs(r.open(t, files, PortPeer), "localhost"))
	nameErr, ok := errors.AsType[*NameError](out.client)
	if !ok {
		t.Fatalf("client: error = %v, want a *NameError", out.client)
	}
	if want := []string{"localhost", "n9"}; !slices.Equal(nameErr.Names, want) {
		t.Errorf("Names = %q, want %q", nameErr.Names, want)
	}
}
