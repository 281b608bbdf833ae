package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	client "go.etcd.io/etcd/client/v2"
)

// certified is a cluster of members that demand certificates on both ports.
type certified struct {
	*cluster
	dir  string // of the authority; holds alice's certificate for clients
	conf *tls.Config
}

// startCertified makes the certificates by the program itself and starts three
// members with them.
func startCertified(t testing.TB) *certified {
	t.Helper()
	c := &certified{cluster: &cluster{}, dir: filepath.Join(t.TempDir(), "ca")}
	for _, args := range [][]string{{"create"}, {"issue", "n1", "n2", "n3"}, {"issue", "--client", "alice"}} {
		p := startProcess(t, append(append([]string{"ca"}, args...), "--dir", c.dir)...)
		if code := p.wait(t, exitMax); code != 0 {
			t.Fatalf("deimos ca %v = exit code %d, want 0\n%s", args, code, p.stderr.tail())
		}
	}
	var members []string
	for _, name := range []string{"n1", "n2", "n3"} {
		n := newNode(t, name)
		n.client, n.peer = strings.Replace(n.client, "http:", "https:", 1), strings.Replace(n.peer, "http:", "https:", 1)
		for i, arg := range n.args {
			n.args[i] = strings.Replace(arg, "http:", "https:", 1)
		}
		for _, port := range []string{"--", "--peer-"} {
			n.args = append(n.args, port+"cert-file", c.file(name+".crt"), port+"key-file", c.file(name+".key"), port+"ca-file", c.file("ca.crt"))
		}
		members = append(members, name+"="+n.peer)
		c.nodes = append(c.nodes, n)
	}
	c.conf = c.trust(t)
	alice, err := tls.LoadX509KeyPair(c.file("alice.crt"), c.file("alice.key"))
	if err != nil {
		t.Fatal(err)
	}
	c.conf.Certificates = []tls.Certificate{alice}
	for _, n := range c.nodes {
		n.args = append(n.args, "--bootstrap-config", strings.Join(members, ","))
		n.start(t)
	}
	for _, n := range c.nodes {
		c.waitReady(t, n)
	}
	return c
}

func (c *certified) file(name string) string { return filepath.Join(c.dir, name) }

// trust is the configuration of a client that knows the authority and has no
// certificate.
func (c *certified) trust(t testing.TB) *tls.Config {
	t.Helper()
	pem, err := os.ReadFile(c.file("ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		t.Fatalf("%s holds no certificate", c.file("ca.crt"))
	}
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
}

// waitReady is the method of a node, as a client with a certificate.
func (c *certified) waitReady(t testing.TB, n *node) {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: c.conf}
	defer transport.CloseIdleConnections()
	h := &http.Client{Transport: transport, Timeout: 5 * time.Second}
	ctx, cancel := context.WithTimeout(t.Context(), readyMax)
	defer cancel()
	if err := until(ctx, func() error {
		if n.run.ended() {
			t.Fatalf("%s has ended with %d before it was ready:\n%s", n.name, n.run.code, n.run.stderr.tail())
		}
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, n.client+"/readyz", nil)
		if err != nil {
			return err
		}
		resp, err := h.Do(r)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("status %d", resp.StatusCode)
		}
		return nil
	}); err != nil {
		t.Fatalf("%s is not ready: %v\n%s", n.name, err, n.run.stderr.tail())
	}
}

// published waits until the client finds all three members in the list.
func (c *certified) published(t testing.TB, v2 *clientV2) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), readyMax)
	defer cancel()
	if err := until(ctx, func() error {
		if err := v2.Sync(ctx); err != nil {
			return err
		}
		if got := slices.Sorted(slices.Values(v2.Endpoints())); !slices.Equal(got, slices.Sorted(slices.Values(c.others(nil)))) {
			return fmt.Errorf("endpoints = %v, want %v", got, c.others(nil))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestRealClientsWithCertificates(t *testing.T) {
	t.Parallel()
	c := startCertified(t)
	v2 := newClientV2(t, client.Config{Endpoints: c.others(nil)}, c.conf)
	c.published(t, v2)

	t.Run("client/v2", func(t *testing.T) {
		w := v2.keys.Watcher("/v2", &client.WatcherOptions{AfterIndex: 1, Recursive: true})
		for i := range 5 {
			value := strconv.Itoa(i)
			if _, err := v2.keys.Set(t.Context(), "/v2/a", value, nil); err != nil {
				t.Fatalf("Set() = %v", err)
			}
			if r := next(t, w); r.Node.Value != value {
				t.Errorf("Next() = %s, want %s", responseText(r, nil), value)
			}
		}
		if m, err := v2.members.Leader(t.Context()); err != nil || !slices.Contains(c.others(nil), m.ClientURLs[0]) {
			t.Errorf("Leader() = %+v, %v, want one of the members", m, err)
		}
		for name, conf := range map[string]*tls.Config{"without a certificate": c.trust(t), "without the authority": {Certificates: c.conf.Certificates, MinVersion: tls.VersionTLS12}} {
			stranger := newClientV2(t, client.Config{Endpoints: c.others(nil)}, conf)
			if r, err := stranger.keys.Get(t.Context(), "/v2/a", nil); err == nil {
				t.Errorf("Get() %s = %s, want an error", name, responseText(r, err))
			}
		}
	})
	t.Run("etcdctl", func(t *testing.T) {
		bare := newEtcdctl(t, c.others(nil)...)
		trusting := bare.with("--ca-file", c.file("ca.crt"))
		e := trusting.with("--cert-file", c.file("alice.crt"), "--key-file", c.file("alice.key"))
		e.want(t, []string{"set", "/ctl", "1"}, 0, "1\n", "")
		e.want(t, []string{"get", "-q", "/ctl"}, 0, "1\n", "")
		if out := e.ok(t, "cluster-health"); strings.Count(out, " is healthy: got healthy result from https://") != 3 || !strings.HasSuffix(out, "cluster is healthy\n") {
			t.Errorf("cluster-health = %q, want three members that are healthy", out)
		}
		if out := e.ok(t, "member", "list"); strings.Count(out, "clientURLs=https://") != 3 || strings.Count(out, "isLeader=true") != 1 {
			t.Errorf("member list = %q, want three members with https, one of which leads", out)
		}
		for _, tt := range []struct {
			name string
			e    etcdctl
			want string
		}{
			{"without a certificate", trusting, "tls: certificate required"},
			{"without the authority", bare.with("--cert-file", c.file("alice.crt"), "--key-file", c.file("alice.key")), "x509: certificate signed by unknown authority"},
		} {
			if code, out, errs := tt.e.run(t, "set", "/ctl", "2"); code != 4 || !strings.Contains(errs, tt.want) {
				t.Errorf("etcdctl set %s = %d %q, want 4 and %q", tt.name, code, out+errs, tt.want)
			}
		}
		e.want(t, []string{"get", "-q", "/ctl"}, 0, "1\n", "")
	})
}
