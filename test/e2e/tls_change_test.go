package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// measured is a load that tells how many requests failed and how long they took.
type measured struct {
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu            sync.Mutex
	count, failed int
	slowest       time.Duration
	failure       error // the first one
}

// measure starts writers, which turn to the next URL when a request fails.
func measure(t testing.TB, writers int, config *tls.Config, urls ...string) *measured {
	ctx, cancel := context.WithCancel(context.Background())
	m := &measured{cancel: cancel}
	client := &http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{TLSClientConfig: config, MaxIdleConnsPerHost: writers},
	}
	for i := range writers {
		m.done.Go(func() {
			for turn, seq := i, 0; ctx.Err() == nil; seq++ {
				began := time.Now()
				_, err := put(ctx, client, urls[turn%len(urls)], fmt.Sprintf("/measured/%d", i), fmt.Sprint(seq))
				if err != nil {
					turn++
				}
				if ctx.Err() == nil {
					m.add(time.Since(began), err)
				}
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		m.done.Wait()
		client.CloseIdleConnections()
	})
	return m
}

func (m *measured) add(took time.Duration, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.count++
	m.slowest = max(m.slowest, took)
	if err != nil {
		m.failed++
		if m.failure == nil {
			m.failure = err
		}
	}
}

// more waits for that many requests more.
func (m *measured) more(t testing.TB, count int) {
	t.Helper()
	total := func() int {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.count
	}
	want := total() + count
	untilWithin(t, 20*time.Second, func(context.Context) error {
		if got := total(); got < want {
			return fmt.Errorf("%d requests, want %d", got, want)
		}
		return nil
	})
}

// stop ends the load and fails the test when too many requests failed, or one
// took too long.
func (m *measured) stop(t testing.TB, failedMax float64, slowestMax time.Duration) {
	t.Helper()
	m.cancel()
	m.done.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	t.Logf("%d requests, %d failed, the slowest took %v", m.count, m.failed, m.slowest)
	if m.count < 1000 {
		t.Errorf("void: only %d requests", m.count)
	}
	if part := float64(m.failed) / float64(max(m.count, 1)); part > failedMax {
		t.Errorf("%d of %d requests failed, want at most %v %%; the first: %v", m.failed, m.count, failedMax*100, m.failure)
	}
	if m.slowest > slowestMax {
		t.Errorf("the slowest request took %v, want at most %v", m.slowest, slowestMax)
	}
}

// restart ends a member gracefully and starts it again.
func restart(t testing.TB, n *node) {
	t.Helper()
	n.run.signal(t, syscall.SIGTERM)
	if code := n.run.wait(t, 15*time.Second); code != 0 {
		t.Errorf("%s ended with %d, want 0\n%s", n.name, code, n.run.stderr.tail())
	}
	n.start(t)
	n.waitReady(t)
}

func TestRollingRestartOfASecureCluster(t *testing.T) {
	t.Parallel()
	c := startSecureCluster(t)
	m := measure(t, 6, c.ca.config(t, "alice"), c.direct...)
	m.more(t, 1000)
	for _, n := range c.nodes {
		restart(t, n)
		m.more(t, 1000)
	}
	m.stop(t, 0.01, 3*time.Second)
	c.wantAgreement(t)
}

// waitSerial waits until a port presents a certificate.
func waitSerial(t testing.TB, url string, config *tls.Config, want *big.Int) {
	t.Helper()
	untilWithin(t, 3*time.Second, func(ctx context.Context) error {
		_, cert, err := getTLS(ctx, url, config)
		if err == nil && cert.SerialNumber.Cmp(want) != 0 {
			err = fmt.Errorf("%s presents the certificate %x, want %x", url, cert.SerialNumber, want)
		}
		return err
	})
}

// replace moves new files over old ones.
func replace(t testing.TB, from, to authority, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := os.Rename(from.file(name), to.file(name)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReplacedCertificatesAreUsedWithoutARestart(t *testing.T) {
	t.Parallel()
	n, direct, ca := startSecureNode(t)
	alice, member := ca.config(t, "alice"), ca.config(t, "n1")
	renewed := authority{filepath.Join(t.TempDir(), "renewed")}
	mustRun(t, "ca", "issue", "--dir", ca.dir, "--out", renewed.dir, "n1")
	pair, err := tls.LoadX509KeyPair(renewed.file("n1.crt"), renewed.file("n1.key"))
	if err != nil {
		t.Fatal(err)
	}
	replace(t, renewed, ca, "n1.key", "n1.crt")
	waitSerial(t, direct+"/keys/", alice, pair.Leaf.SerialNumber)
	waitSerial(t, n.peer+"/members", member, pair.Leaf.SerialNumber)

	for _, broken := range []struct{ name, text string }{
		{"n1.key", "no key"},
		{"n1.crt", readText(t, ca.file("alice.crt"))},
	} {
		good := readText(t, ca.file(broken.name))
		const counter = `deimos_tls_reload_failures_total{port="client"}`
		before, err := metric(t.Context(), n.client, counter)
		if err != nil {
			t.Fatal(err)
		}
		lines := func() int { return linesOf(n.run.stderr.String(), "cannot be used, the old one stays", "port=client") }
		told := lines()
		if err := os.WriteFile(ca.file(broken.name), []byte(broken.text), 0o600); err != nil {
			t.Fatal(err)
		}
		untilWithin(t, 3*time.Second, func(ctx context.Context) error {
			if status, cert, err := getTLS(ctx, direct+"/keys/", alice); err != nil || status != http.StatusOK || cert.SerialNumber.Cmp(pair.Leaf.SerialNumber) != 0 {
				t.Fatalf("with a broken %s: GET = %d, %v, want 200 with the old certificate", broken.name, status, err)
			}
			after, err := metric(ctx, n.client, counter)
			if err == nil && after != before+1 {
				err = fmt.Errorf("%s = %v, want %v", counter, after, before+1)
			}
			return err
		})
		if got := lines() - told; got != 1 {
			t.Errorf("%d log lines about a broken %s, want 1", got, broken.name)
		}
		if err := os.WriteFile(ca.file(broken.name), []byte(good), 0o600); err != nil {
			t.Fatal(err)
		}
		waitSerial(t, direct+"/keys/", alice, pair.Leaf.SerialNumber)
	}
	if n.run.ended() {
		t.Errorf("the member ended with %d", n.run.code)
	}
}

func TestTheAuthorityIsReplacedWhileTheClusterServes(t *testing.T) {
	t.Parallel()
	c := startSecureCluster(t)
	next := newAuthority(t, "n1", "n2", "n3")
	both := c.ca.config(t, "alice")
	if !both.RootCAs.AppendCertsFromPEM([]byte(readText(t, next.file("ca.crt")))) {
		t.Fatal("the new authority has no certificate")
	}
	bob := both.Clone()
	bob.Certificates = next.config(t, "alice").Certificates
	m := measure(t, 4, both, c.direct...)
	m.more(t, 200)

	// First everybody trusts both, then everybody proves himself by the new one,
	// and then nobody trusts the old one any more.
	writeBoth := readText(t, c.ca.file("ca.crt")) + readText(t, next.file("ca.crt"))
	if err := os.WriteFile(c.ca.file("ca.crt"), []byte(writeBoth), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, url := range c.direct {
		untilWithin(t, 3*time.Second, func(ctx context.Context) error {
			_, _, err := getTLS(ctx, url+"/keys/", bob)
			return err
		})
	}
	for i, name := range []string{"n1", "n2", "n3"} {
		pair, err := tls.LoadX509KeyPair(next.file(name+".crt"), next.file(name+".key"))
		if err != nil {
			t.Fatal(err)
		}
		replace(t, next, c.ca, name+".key", name+".crt")
		waitSerial(t, c.direct[i]+"/keys/", both, pair.Leaf.SerialNumber)
	}
	m.more(t, 800)
	m.stop(t, 0, 3*time.Second)

	replace(t, next, c.ca, "ca.crt")
	for _, url := range c.direct {
		untilWithin(t, 3*time.Second, func(ctx context.Context) error {
			if status, _, err := getTLS(ctx, url+"/keys/", both); err == nil {
				return fmt.Errorf("GET %s with a certificate of the old authority = %d, want no answer", url, status)
			}
			return nil
		})
	}
	// The connections between the members are made anew as well.
	secured := measure(t, 4, bob, c.direct...)
	c.nodes[0].kill(t)
	c.nodes[0].client = "http://" + tunnel(t, strings.TrimPrefix(c.direct[0], "https://"), bob)
	c.nodes[0].start(t)
	c.nodes[0].waitReady(t)
	secured.more(t, 1000)
	secured.stop(t, 0.05, 10*time.Second)
}

func TestAutoTLSOfThreeMembers(t *testing.T) {
	t.Parallel()
	c := &cluster{}
	var members, direct []string
	for i := range 3 {
		n := newNode(t, fmt.Sprintf("n%d", i+1), "--auto-tls", "--peer-auto-tls")
		direct = append(direct, secure(t, n, &tls.Config{InsecureSkipVerify: true}))
		c.nodes = append(c.nodes, n)
		members = append(members, n.name+"="+n.peer)
	}
	for _, n := range c.nodes {
		n.args = append(n.args, "--bootstrap-config", strings.Join(members, ","))
	}
	c.start(t)
	load := startLoad(t, 4, c.others(nil)...)
	load.waitAcks(t, 300)

	// Whoever is given the certificate can verify it.
	n := c.nodes[0]
	config := &tls.Config{RootCAs: x509.NewCertPool()}
	if !config.RootCAs.AppendCertsFromPEM([]byte(readText(t, filepath.Join(n.dir, "tls", "client", "self-signed.crt")))) {
		t.Fatal("the self-signed certificate is none")
	}
	_, before, err := getTLS(t.Context(), direct[0]+"/keys/", config)
	if err != nil {
		t.Fatalf("GET with the certificate of the data directory: %v", err)
	}
	restart(t, n)
	waitSerial(t, direct[0]+"/keys/", config, before.SerialNumber)
	if status, _, err := getTLS(t.Context(), direct[1]+"/keys/", config); err == nil {
		t.Errorf("the certificate of n1 is good for n2 as well: %d", status)
	}
	for _, port := range []string{"client", "peer"} {
		if linesOf(n.run.stderr.String(), "encrypts and proves nothing", map[string]string{"client": "flag=--auto-tls", "peer": "flag=--peer-auto-tls"}[port]) != 1 {
			t.Errorf("no warning about the self-signed certificate of the %s port:\n%s", port, n.run.stderr.tail())
		}
		key := filepath.Join(n.dir, "tls", port, "self-signed.key")
		if info, err := os.Stat(key); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v, want mode 0600", key, info, err)
		}
	}
	load.waitAcks(t, load.acks()+200)
	load.stop(t)
	c.wantAgreement(t)
	load.wantAll(t, n.client)
}

func TestPeersWithSelfSignedCertificatesAndASecret(t *testing.T) {
	t.Parallel()
	secret := writeSecret(t, newSecret())
	n := newNode(t, "n1", "--auto-tls", "--peer-auto-tls", "--peer-secret-file", secret)
	secure(t, n, &tls.Config{InsecureSkipVerify: true})
	n.start(t)
	n.waitReady(t)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	res, err := client.Get(n.peer + "/members")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if err = errors.Join(err, res.Body.Close()); err != nil || res.StatusCode != http.StatusUnauthorized {
		t.Errorf("GET /members on the peer port without a proof = %d %s, %v, want 401", res.StatusCode, body, err)
	}
}
