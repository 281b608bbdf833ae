// Package clustertest runs whole members in one process, for tests: real
// daemons with real logs in temporary directories, and between them a network
// that can be cut ([New]) or HTTP over loopback ([NewHTTP]). A cluster cleans up
// after itself, and many can run at once.
package clustertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos/daemon"
	"github.com/marsevilspirit/deimos/transport"
)

// patience bounds every wait of the package. It is far above what anything
// takes, because reaching it is a failure.
const patience = 30 * time.Second

// Cluster is a running cluster. Its methods are for the test's goroutine.
type Cluster struct {
	t         testing.TB
	network   *transport.Network // nil: HTTP
	dir       string
	bootstrap []daemon.BootstrapMember
	change    []func(*daemon.Config)
	members   []*Member
}

// Member is one member, running or not.
type Member struct {
	*daemon.Daemon
	cluster *Cluster
	config  daemon.Config
	running bool
	id      uint64
	full    atomic.Bool // see FillDisk
}

// New starts a cluster of n members with fast clocks and waits until all are
// ready. change, if any, changes the configuration of each member.
func New(t testing.TB, n int, change ...func(*daemon.Config)) *Cluster {
	t.Helper()
	next := 0
	c := &Cluster{t: t, network: transport.NewNetwork(), dir: t.TempDir(), change: change}
	c.start(n, func() string { // names, nobody listens there
		next++
		return fmt.Sprintf("http://127.0.0.1:%d", next)
	})
	return c
}

// NewHTTP is [New] with members that talk over HTTP. They cannot be cut from
// each other, and others can join them.
func NewHTTP(t testing.TB, n int, change ...func(*daemon.Config)) *Cluster {
	t.Helper()
	c := &Cluster{t: t, dir: t.TempDir(), change: change}
	c.start(n, func() string { return "http://" + FreeAddress(t) })
	return c
}

// FreeAddress returns an address of this machine on which nobody listens.
func FreeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("clustertest: %v", err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (c *Cluster) start(n int, peerURL func() string) {
	t := c.t
	t.Helper()
	for i := range n {
		c.bootstrap = append(c.bootstrap, daemon.BootstrapMember{Name: fmt.Sprintf("m%d", i+1), PeerURLs: []string{peerURL()}})
	}
	for _, b := range c.bootstrap {
		c.prepare(b)
	}
	t.Cleanup(func() {
		for _, m := range c.members {
			if m.running {
				m.Daemon.Kill()
			}
		}
	})
	for _, m := range c.members {
		m.Start()
	}
	for _, m := range c.members {
		m.WaitReady()
	}
}

// prepare makes a member that does not run yet.
func (c *Cluster) prepare(b daemon.BootstrapMember) *Member {
	config := daemon.Config{
		Name:      b.Name,
		DataDir:   filepath.Join(c.dir, b.Name),
		Bootstrap: c.bootstrap,
		URLs:      daemon.URLs{ListenClient: []string{"http://127.0.0.1:0"}},
		Timing:    daemon.Timing{Heartbeat: 20 * time.Millisecond, Election: 200 * time.Millisecond},
		Network:   c.network,
		Log:       slog.New(slog.NewTextHandler(c.t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo})),
	}
	if c.network == nil { // others are told of the address
		config.URLs.ListenClient = []string{"http://" + FreeAddress(c.t)}
		config.URLs.AdvertiseClient = config.URLs.ListenClient
	}
	for _, f := range c.change {
		f(&config)
	}
	m := &Member{cluster: c, config: config}
	m.config.FreeSpace = func(string) (int64, error) {
		if m.full.Load() {
			return 0, nil
		}
		return math.MaxInt64, nil
	}
	c.members = append(c.members, m)
	return m
}

// Join prepares another member of a cluster of [NewHTTP]: one that is to be
// added to the member list at the URL that is returned and then started.
func (c *Cluster) Join(name string) (m *Member, peerURL string) {
	c.t.Helper()
	peerURL = "http://" + FreeAddress(c.t)
	b := daemon.BootstrapMember{Name: name, PeerURLs: []string{peerURL}}
	m = c.prepare(b)
	m.config.Bootstrap = append(slices.Clone(c.bootstrap), b)
	m.config.InitialClusterState = daemon.ClusterStateExisting
	return m, peerURL
}

// Member returns the i-th member, from 0.
func (c *Cluster) Member(i int) *Member { return c.members[i] }

// Members returns all members.
func (c *Cluster) Members() []*Member { return c.members }

// URLs returns the base URLs of the client ports of all members. Those of [NewHTTP]
// stay the same over restarts.
func (c *Cluster) URLs() []string {
	var urls []string
	for _, m := range c.members {
		urls = append(urls, m.URL())
	}
	return urls
}

// Leader waits for a running member that leads.
func (c *Cluster) Leader() *Member {
	c.t.Helper()
	var leader *Member
	Eventually(c.t, "a leader", func() bool {
		for _, m := range c.members {
			if m.running && m.Status().IsLeader() {
				leader = m
				return true
			}
		}
		return false
	})
	return leader
}

// Follower returns a running member that does not lead, once there is a leader.
func (c *Cluster) Follower() *Member {
	c.t.Helper()
	leader := c.Leader()
	for _, m := range c.members {
		if m.running && m != leader {
			return m
		}
	}
	c.t.Fatal("clustertest: no follower is running")
	return nil
}

// Cut stops all messages between two members.
func (c *Cluster) Cut(a, b *Member) { c.network.Cut(a.id, b.id) }

// Isolate stops all messages to and from a member.
func (c *Cluster) Isolate(m *Member) {
	for _, other := range c.members {
		if other != m {
			c.network.Cut(m.id, other.id)
		}
	}
}

// Heal undoes all cuts.
func (c *Cluster) Heal() { c.network.Heal() }

// Start starts a member that is not running.
func (m *Member) Start() {
	m.cluster.t.Helper()
	if err := m.TryStart(); err != nil {
		m.cluster.t.Fatalf("clustertest: start %s: %v", m.config.Name, err)
	}
}

// TryStart is Start for a member that may be refused.
func (m *Member) TryStart() error {
	d, err := daemon.Open(context.Background(), m.config)
	if err != nil {
		return err
	}
	m.Daemon, m.running, m.id = d, true, d.MemberID()
	return nil
}

// Configure changes the configuration for the next start.
func (m *Member) Configure(change func(*daemon.Config)) { change(&m.config) }

// Kill ends a member as a crash does.
func (m *Member) Kill() {
	m.Daemon.Kill()
	m.running = false
}

// Stop ends a member gracefully.
func (m *Member) Stop() {
	m.cluster.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := m.Close(ctx); err != nil {
		m.cluster.t.Fatalf("clustertest: stop %s: %v", m.config.Name, err)
	}
	m.running = false
}

// FillDisk makes the member believe that its disk is full, soon and over
// restarts, until EmptyDisk.
func (m *Member) FillDisk() { m.full.Store(true) }

// EmptyDisk makes it believe that there is space.
func (m *Member) EmptyDisk() { m.full.Store(false) }

// Restart kills the member if it runs, and starts it again.
func (m *Member) Restart() {
	m.cluster.t.Helper()
	if m.running {
		m.Kill()
	}
	m.Start()
}

// DataDir returns the member's data directory.
func (m *Member) DataDir() string { return m.config.DataDir }

// URL returns the base URL of the member's client port, without a slash at the
// end.
func (m *Member) URL() string { return "http://" + m.ClientAddrs()[0] }

// WaitReady waits until the member answers linearizable reads.
func (m *Member) WaitReady() {
	m.cluster.t.Helper()
	Eventually(m.cluster.t, m.config.Name+" to be ready", func() bool {
		resp, err := http.Get(m.URL() + "/readyz")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// Do sends a request to the member's client port and returns the status and
// the body. form is the body of the request, unless it is nil.
func (m *Member) Do(method, target string, form url.Values) (int, string) {
	m.cluster.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	req, err := http.NewRequestWithContext(ctx, method, m.URL()+target, body)
	if err != nil {
		m.cluster.t.Fatal(err)
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(text)
}

// Put writes a value and returns the status and the body of the answer.
func (m *Member) Put(key, value string) (int, string) {
	m.cluster.t.Helper()
	return m.Do(http.MethodPut, "/keys"+key, url.Values{"value": {value}})
}

// Eventually waits until cond holds, and fails the test when it takes too long.
func Eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for !cond() {
		select {
		case <-ticker.C:
		case <-deadline.C:
			t.Fatalf("clustertest: waited %v for %s", patience, what)
		}
	}
}

// RunMember runs a member in a temporary directory while use, which gets its
// base URL, is at work. It is for the examples of a package, which have no
// [testing.TB].
func RunMember(use func(url string)) (err error) {
	dir, err := os.MkdirTemp("", "deimos-examples-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	d, err := daemon.Open(context.Background(), daemon.Config{
		DataDir: dir,
		URLs: daemon.URLs{
			AdvertisePeer: []string{"http://127.0.0.1:1"}, ListenPeer: []string{"http://127.0.0.1:0"},
			ListenClient: []string{"http://127.0.0.1:0"},
		},
	})
	if err != nil {
		return err
	}
	use("http://" + d.ClientAddrs()[0])
	return d.Close(context.Background())
}
