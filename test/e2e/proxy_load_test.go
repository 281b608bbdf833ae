package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos"
)

// tally is a set of clients that ask each thing once, and what became of it:
// each in turn adds a value to a queue and reads a key.
type tally struct {
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu      sync.Mutex
	values  map[string]int // the status that adding the value was answered with
	ok      int            // requests that were answered as they should be
	failed  map[string]int // those that were not, by status and message
	slowest time.Duration
	wrong   error // an answer that must not be, or none at all
}

// startTally starts clients of a proxy.
func startTally(t testing.TB, clients int, base string) *tally {
	t.Helper()
	if _, err := put(t.Context(), probe, base, "/mark", "1"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	y := &tally{cancel: cancel, values: map[string]int{}, failed: map[string]int{}}
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: clients}}
	for i := range clients {
		y.done.Go(func() {
			for seq := 0; ctx.Err() == nil; seq++ {
				value := fmt.Sprintf("%d-%d", i, seq)
				y.ask(client, http.MethodPost, fmt.Sprintf("%s/keys/queue/%d", base, i), value)
				y.ask(client, http.MethodGet, base+"/keys/mark", "")
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		y.done.Wait()
		client.CloseIdleConnections()
	})
	return y
}

// ask sends one request, which is let go on when the tally stops.
func (y *tally) ask(client *http.Client, method, target, value string) {
	r, err := http.NewRequestWithContext(context.Background(), method, target, nil)
	if value != "" && err == nil {
		r, err = http.NewRequestWithContext(context.Background(), method, target, strings.NewReader("value="+url.QueryEscape(value)))
	}
	if err != nil {
		y.note(err)
		return
	}
	if value != "" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	began := time.Now()
	res, err := client.Do(r)
	if err != nil {
		y.note(fmt.Errorf("%s %s was not answered: %w", method, target, err))
		return
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		y.note(fmt.Errorf("%s %s: reading the answer: %w", method, target, err))
		return
	}
	var answer struct{ Message string }
	if err := json.Unmarshal(body, &answer); err != nil || res.StatusCode/100 != 2 && res.StatusCode < 500 ||
		method == http.MethodGet && res.StatusCode == http.StatusBadGateway && strings.Contains(answer.Message, "may or may not") {
		y.note(fmt.Errorf("%s %s = %d %s (%v)", method, target, res.StatusCode, body, err))
		return
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	y.slowest = max(y.slowest, time.Since(began))
	if value != "" {
		y.values[value] = res.StatusCode
	}
	if res.StatusCode/100 == 2 {
		y.ok++
	} else {
		y.failed[fmt.Sprintf("%s %d %s", method, res.StatusCode, answer.Message)]++
	}
}

func (y *tally) note(err error) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.wrong == nil {
		y.wrong = err
	}
}

func (y *tally) count() int {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.ok
}

// waitOK waits until that many more requests were answered as they should be.
func (y *tally) waitOK(t testing.TB, more int) {
	t.Helper()
	want := y.count() + more
	untilWithin(t, readyMax, func(context.Context) error {
		if got := y.count(); got < want {
			return fmt.Errorf("%d requests were answered, want %d", got, want)
		}
		return nil
	})
}

// stop ends the clients and returns how many requests have failed.
func (y *tally) stop(t testing.TB) (failed int) {
	t.Helper()
	y.cancel()
	y.done.Wait()
	if y.wrong != nil {
		t.Error(y.wrong)
	}
	for what, count := range y.failed {
		failed += count
		t.Logf("%d × %s", count, what)
	}
	t.Logf("%d requests were answered as they should be, the slowest after %v", y.ok, y.slowest)
	return failed
}

// wantOnce fails the test for each value that is there twice, that is missing
// although it was acknowledged, or that is there although no member was found.
func (y *tally) wantOnce(t testing.TB, base string) {
	t.Helper()
	status, body, err := get(t.Context(), base+"/keys/queue?recursive=true")
	var event deimos.Event
	if err == nil {
		err = json.Unmarshal([]byte(body), &event)
	}
	if err != nil || status != http.StatusOK {
		t.Fatalf("reading the queue: %d (%v)", status, err)
	}
	keys := map[string]string{}
	files(event.Node, keys)
	count := map[string]int{}
	for _, value := range keys {
		count[value]++
	}
	for value, status := range y.values {
		least, most := 0, 1
		switch status {
		case http.StatusCreated:
			least = 1
		case http.StatusServiceUnavailable:
			most = 0
		}
		if got := count[value]; got < least || got > most {
			t.Errorf("the value %s, answered with %d, was added %d times, want %d to %d", value, status, got, least, most)
		}
	}
}

func TestAProxyAppliesAWriteAtMostOnceWhileMembersAreKilled(t *testing.T) {
	t.Parallel()
	c, p := startProxied(t)
	y := startTally(t, 6, p.client)
	load := startLoad(t, 2, p.client)
	y.waitOK(t, 300)
	for round := range 4 {
		victim := c.follower(t)
		if round%2 == 1 {
			victim = c.leader(t)
		}
		victim.kill(t)
		y.waitOK(t, 300)
		victim.start(t)
		victim.waitReady(t)
		y.waitOK(t, 100)
	}
	// Nobody is left for a moment.
	for _, n := range c.nodes {
		n.kill(t)
	}
	wantNobody(t, p)
	c.start(t)
	y.waitOK(t, 200)
	y.stop(t)
	load.stop(t)
	c.wantAgreement(t)
	for _, n := range c.nodes {
		y.wantOnce(t, n.client)
		load.wantAll(t, n.client)
	}
}

func TestARollingRestartBehindAProxyIsHardlyNoticed(t *testing.T) {
	t.Parallel()
	c, p := startProxied(t)
	y := startTally(t, 6, p.client)
	y.waitOK(t, 500)
	for _, n := range c.nodes {
		n.run.signal(t, syscall.SIGTERM)
		if code := n.run.wait(t, exitMax); code != 0 {
			t.Errorf("%s ended with %d, want 0", n.name, code)
		}
		y.waitOK(t, 300)
		n.start(t)
		n.waitReady(t)
		y.waitOK(t, 300)
	}
	if failed := y.stop(t); failed*100 > y.ok {
		t.Errorf("%d requests have failed and %d have not, want at most one in a hundred", failed, y.ok)
	}
	if y.slowest > 3*time.Second {
		t.Errorf("the slowest request took %v, want at most 3 s", y.slowest)
	}
	y.wantOnce(t, c.nodes[0].client)
}

func TestAProxyWithTLSOnBothSides(t *testing.T) {
	t.Parallel()
	c := startSecureCluster(t, "--peer-allowed-names", "n1,n2,n3,proxy")
	waitPublished(t, c.cluster)
	mustRun(t, "ca", "issue", "--dir", c.ca.dir, "proxy")
	p := newProxy(t, "on", c.nodes, c.ca.flags("proxy")...)
	direct := secure(t, p, c.ca.config(t, "alice"))
	p.start(t)
	p.waitReady(t)
	if status, _, err := getTLS(t.Context(), direct+"/keys/", c.ca.config(t, "")); err == nil {
		t.Errorf("GET without a certificate = %d, want no answer", status)
	}
	f := startFollower(t, p.client, "stream")
	load := startLoad(t, 4, p.client)
	load.waitAcks(t, 200)
	killed := c.follower(t)
	killed.kill(t)
	load.waitAcks(t, load.acks()+200)
	load.stop(t)
	f.wantEvents(t, load.acknowledged())
	load.wantAll(t, p.client)
	p.run.signal(t, syscall.SIGTERM)
	if code := p.run.wait(t, 5*time.Second); code != 0 {
		t.Errorf("ended with %d, want 0", code)
	}
}

func TestAProxyNeedsTheSecretOfTheMembers(t *testing.T) {
	t.Parallel()
	secret := writeSecret(t, newSecret())
	n := startNode(t, "--peer-secret-file", secret)
	for _, tt := range []struct {
		name  string
		flags []string
		ok    bool
	}{
		{"the right one", []string{"--peer-secret-file", secret}, true},
		{"another one", []string{"--peer-secret-file", writeSecret(t, newSecret())}, false},
		{"none", nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := newProxy(t, "on", []*node{n}, tt.flags...)
			p.start(t)
			if tt.ok {
				p.waitReady(t)
				if _, err := put(t.Context(), probe, p.client, "/a", "1"); err != nil {
					t.Error(err)
				}
				return
			}
			wantNobody(t, p)
			untilWithin(t, 5*time.Second, func(context.Context) error {
				if linesOf(p.run.stderr.String(), "no member found", "secret") != 1 {
					return fmt.Errorf("the log does not say why, once:\n%s", p.run.stderr.tail())
				}
				return nil
			})
		})
	}
}
