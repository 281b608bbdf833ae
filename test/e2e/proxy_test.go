package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos/internal/keystest"
	"github.com/marsevilspirit/deimos/internal/proctest"
)

// newProxy prepares a proxy in front of members; flags come after the usual
// ones. It is a node without directory and peer URL.
func newProxy(t testing.TB, mode string, members []*node, flags ...string) *node {
	t.Helper()
	p := &node{name: "proxy", client: "http://" + proctest.FreeAddress(t)}
	var list []string
	for _, n := range members {
		list = append(list, n.name+"="+n.peer)
	}
	p.args = append([]string{
		"--proxy", mode, "--bootstrap-config", strings.Join(list, ","),
		"--listen-client-urls", p.client, "--advertise-client-urls", p.client,
	}, flags...)
	return p
}

// startProxy starts a proxy and waits until it has found a member.
func startProxy(t testing.TB, mode string, members []*node, flags ...string) *node {
	t.Helper()
	p := newProxy(t, mode, members, flags...)
	p.start(t)
	p.waitReady(t)
	return p
}

// startProxied starts three members and a proxy that knows all of them.
func startProxied(t testing.TB, flags ...string) (*cluster, *node) {
	t.Helper()
	c := startCluster(t, flags...)
	waitPublished(t, c)
	return c, startProxy(t, "on", c.nodes)
}

// localIndex is the index up to which a member has applied the log.
func localIndex(ctx context.Context, base string) (string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodHead, base+"/keys/?quorum=false", nil)
	if err != nil {
		return "", err
	}
	res, err := probe.Do(r)
	if err != nil {
		return "", err
	}
	return res.Header.Get("X-Deimos-Index"), res.Body.Close()
}

// waitSameIndex waits until all running members have applied the same.
func waitSameIndex(ctx context.Context, c *cluster) error {
	return until(ctx, func() error {
		first := ""
		for _, n := range c.nodes {
			if n.run.ended() {
				continue
			}
			index, err := localIndex(ctx, n.client)
			if err != nil {
				return err
			}
			if first == "" {
				first = index
			}
			if index != first {
				return fmt.Errorf("%s is at index %s, another member at %s", n.name, index, first)
			}
		}
		return nil
	})
}

// proxyDoor leads through a proxy. What a member answers from its own state is
// asked when all members have the same state, for the stories tell its index.
type proxyDoor struct {
	keystest.Door
	c *cluster
	// atStory is called when that many stories have ended.
	atStory int
	then    func()
	ended   int
}

func (d *proxyDoor) Do(r *http.Request) (*http.Response, error) {
	local := strings.Contains(r.URL.RawQuery, "wait=") || strings.Contains(r.URL.RawQuery, "quorum=")
	if local {
		ctx, cancel := context.WithTimeout(r.Context(), readyMax)
		defer cancel()
		if err := waitSameIndex(ctx, d.c); err != nil {
			return nil, err
		}
	}
	res, err := d.Door.Do(r)
	// Each story ends with the removal of its directory, when its watches are
	// closed.
	if last := r.Method == http.MethodDelete && strings.HasPrefix(r.URL.Opaque, "/v2/keys/k") &&
		strings.Count(r.URL.Opaque, "/") == 3 && r.URL.RawQuery == "recursive=true"; last {
		if d.ended++; d.ended == d.atStory {
			d.then()
		}
	}
	return res, err
}

// freshProxyDoor can start other clusters in addition.
type freshProxyDoor struct{ *proxyDoor }

func (freshProxyDoor) Fresh(t testing.TB, flags ...string) keystest.Door {
	c, p := startProxied(t, flags...)
	return &proxyDoor{Door: keystest.URL(p.client), c: c}
}

func TestKeysThroughAProxy(t *testing.T) {
	t.Parallel()
	c, p := startProxied(t)
	keystest.Run(t, freshProxyDoor{&proxyDoor{Door: keystest.URL(p.client), c: c}}, keystest.Options{})
}

func TestKeysThroughAProxyWhileAMemberIsKilled(t *testing.T) {
	t.Parallel()
	const half = 90 // stories
	for _, tt := range []struct {
		name string
		who  func(*cluster, testing.TB) *node
	}{
		{"a follower", (*cluster).follower},
		{"the leader", (*cluster).leader},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, p := startProxied(t)
			door := &proxyDoor{Door: keystest.URL(p.client), c: c, atStory: half}
			door.then = func() {
				tt.who(c, t).kill(t)
				c.leader(t)
			}
			keystest.Run(t, door, keystest.Options{})
			if door.ended < half+20 {
				t.Errorf("void: %d stories were played, the member was killed after %d", door.ended, half)
			}
		})
	}
}

// ask sends a request on a connection of its own; the body is a form.
func ask(t testing.TB, method, url, form string, header ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(form))
	if err != nil {
		t.Fatal(err)
	}
	if form != "" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	r.Close = true
	res, err := probe.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

func TestAReadonlyProxyServesReadsAlone(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	index, err := put(t.Context(), probe, n.client, "/a", "1")
	if err != nil {
		t.Fatal(err)
	}
	p := startProxy(t, "readonly", []*node{n})
	for _, method := range []string{"PUT", "POST", "DELETE", "PATCH", "QUERY"} {
		for _, path := range []string{"/keys/a", "/v2/keys/a", "/members", "/nowhere"} {
			res, body := ask(t, method, p.client+path, "value=2", "X-Request-Id", "r1")
			if want := "{\"message\":\"this proxy is read-only\"}\n"; res.StatusCode != http.StatusNotImplemented ||
				body != want || res.Header.Get("Content-Type") != "application/json" || res.Header.Get("X-Request-Id") != "r1" {
				t.Errorf("%s %s = %d %q %v, want 501 %q with type and id", method, path, res.StatusCode, body, res.Header, want)
			}
		}
	}
	for method, status := range map[string]int{"GET": http.StatusOK, "HEAD": http.StatusOK, "OPTIONS": http.StatusOK} {
		direct, wantBody := ask(t, method, n.client+"/keys/a", "")
		res, body := ask(t, method, p.client+"/keys/a", "")
		if res.StatusCode != status || res.StatusCode != direct.StatusCode || body != wantBody || res.Header.Get("Allow") != direct.Header.Get("Allow") {
			t.Errorf("%s /keys/a = %d %q, want %d %q as the member says", method, res.StatusCode, body, direct.StatusCode, wantBody)
		}
	}
	watch := openWatch(t, p.client, "/keys/a?wait=true&stream=true", 0)
	next, err := put(t.Context(), probe, n.client, "/a", "3")
	if err != nil || next != index+1 {
		t.Errorf("the next index is %d (%v), want %d: nothing was to be written", next, err, index+1)
	}
	if text, err := watch.body.ReadString('\n'); err != nil || !strings.Contains(text, `"value":"3"`) {
		t.Errorf("the watch delivers %q, %v", text, err)
	}
}

func TestAProxyKeepsRequestIDs(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	p := startProxy(t, "on", []*node{n})
	res, _ := ask(t, "GET", p.client+"/keys/", "", "X-Request-Id", "a-b-c")
	if got := res.Header.Get("X-Request-Id"); res.StatusCode != http.StatusOK || got != "a-b-c" {
		t.Errorf("GET /keys/ = %d with X-Request-Id %q, want 200 and a-b-c", res.StatusCode, got)
	}
}

// wantNobody waits until a proxy says that there is no member.
func wantNobody(t testing.TB, p *node) {
	t.Helper()
	untilWithin(t, readyMax, func(ctx context.Context) error {
		if p.run.ended() {
			t.Fatalf("the proxy has ended with %d\n%s", p.run.code, p.run.stderr.tail())
		}
		r, err := http.NewRequestWithContext(ctx, http.MethodPut, p.client+"/keys/a", strings.NewReader("value=1"))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		res, err := probe.Do(r)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != http.StatusServiceUnavailable || string(body) != "{\"message\":\"no reachable member\"}\n" ||
			res.Header.Get("Retry-After") != "1" || res.Header.Get("Content-Type") != "application/json" {
			err = errors.Join(err, fmt.Errorf("PUT without members = %d %q %v, want 503", res.StatusCode, body, res.Header))
		}
		return err
	})
}

func TestAProxyWithoutMembersSays503AndFindsThemLater(t *testing.T) {
	t.Parallel()
	n := newNode(t, "n1")
	p := newProxy(t, "on", []*node{n})
	p.start(t)
	wantNobody(t, p)
	n.start(t)
	n.waitReady(t)
	began := time.Now()
	p.waitReady(t)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the member was found after %v, want some seconds at most", took)
	}
	if _, err := put(t.Context(), probe, p.client, "/a", "1"); err != nil {
		t.Error(err)
	}
	n.kill(t)
	wantNobody(t, p)
	n.start(t)
	n.waitReady(t)
	p.waitReady(t)
	if status, body, err := get(t.Context(), p.client+"/keys/a"); err != nil || status != http.StatusOK {
		t.Errorf("GET /keys/a = %d %s (%v)", status, body, err)
	}
}

// aliasOf is another name of a loopback URL, which a proxy does not know to be
// its own.
func aliasOf(url string) string { return strings.Replace(url, "127.0.0.1", "localhost", 1) }

func TestProxiesThatLeadToThemselvesSay508(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		proxies int
	}{
		{"one that points at itself", 1},
		{"two that point at each other", 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var members, proxies []*node
			for range tt.proxies {
				members = append(members, newNode(t, "n1"))
			}
			for i := range tt.proxies {
				proxies = append(proxies, newProxy(t, "on", members[i:i+1]))
			}
			for i, n := range members {
				n.args = append(n.args, "--advertise-client-urls", aliasOf(proxies[(i+1)%tt.proxies].client))
				n.start(t)
				n.waitReady(t)
			}
			for _, p := range proxies {
				p.start(t)
			}
			for _, p := range proxies {
				var res *http.Response
				untilWithin(t, readyMax, func(context.Context) error { // it has to find its member first
					if status, body, err := get(t.Context(), p.client+"/keys/"); err != nil || status != http.StatusLoopDetected {
						return fmt.Errorf("GET = %d %s (%v), want 508", status, body, err)
					}
					return nil
				})
				for i := range 50 {
					method, path := "GET", "/keys/a?wait=true"
					if i%2 == 0 {
						method, path = "PUT", "/keys/a"
					}
					began := time.Now()
					var body string
					res, body = ask(t, method, p.client+path, "value=1")
					if res.StatusCode != http.StatusLoopDetected || !strings.Contains(body, `{"message":"a loop: `) {
						t.Fatalf("%s %s = %d %s, want 508 and a message", method, path, res.StatusCode, body)
					}
					if took := time.Since(began); took > time.Second {
						t.Errorf("%s %s was answered after %v", method, path, took)
					}
				}
			}
			for _, p := range proxies {
				p.run.signal(t, syscall.SIGTERM)
				if code := p.run.wait(t, exitMax); code != 0 {
					t.Errorf("ended with %d, want 0", code)
				}
				used := p.run.cmd.ProcessState.UserTime() + p.run.cmd.ProcessState.SystemTime()
				if used > time.Second {
					t.Errorf("the proxy has used %v of processor time for 50 requests", used)
				}
				t.Logf("processor time: %v", used)
			}
		})
	}
}

func TestAProxyEndsGracefullyAndKeepsNothing(t *testing.T) {
	t.Parallel()
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(s.String(), func(t *testing.T) {
			t.Parallel()
			n := startNode(t)
			p := startProxy(t, "on", []*node{n})
			load := startLoad(t, 4, p.client)
			load.waitAcks(t, 100)
			watch := openWatch(t, p.client, "/keys/none?wait=true&stream=true", 0)
			poll := openWatch(t, p.client, "/keys/none?wait=true", 0)
			asked := time.Now()
			p.run.signal(t, s)
			if code := p.run.wait(t, exitMax); code != 0 {
				t.Errorf("exit code after %v = %d, want 0\n%s", s, code, p.run.stderr.tail())
			}
			if took := time.Since(asked); took > 5*time.Second {
				t.Errorf("the proxy ended after %v, want at most 5 s", took)
			}
			watch.wantOrdinaryEnd(t)
			poll.wantOrdinaryEnd(t)
			load.stop(t)
			load.wantAll(t, n.client)
			left, err := os.ReadDir(p.run.cmd.Dir)
			if err != nil || len(left) != 0 {
				t.Errorf("the proxy has left %v (%v), want nothing", left, err)
			}
		})
	}
}

func TestAProxyEndsGracefullyWithoutMembers(t *testing.T) {
	t.Parallel()
	p := newProxy(t, "on", []*node{newNode(t, "n1")})
	p.start(t)
	wantNobody(t, p)
	p.run.signal(t, syscall.SIGTERM)
	if code := p.run.wait(t, 5*time.Second); code != 0 {
		t.Errorf("ended with %d, want 0\n%s", code, p.run.stderr.tail())
	}
}

func TestWrongUseOfProxiesExitsWith2(t *testing.T) {
	t.Parallel()
	bootstrap := []string{"--bootstrap-config", "n1=http://127.0.0.1:7001"}
	for _, tt := range []struct {
		name string
		args []string
		want []string // in stderr
	}{
		{"a mode that is none", append(bootstrap, "--proxy", "maybe"), []string{"proxy", "maybe", "readonly"}},
		{"no members", []string{"--proxy", "on"}, []string{"--proxy on needs --bootstrap-config", "--discovery"}},
		{"a cluster that is to be forced", append(bootstrap, "--proxy", "on", "--force-new-cluster"), []string{"--force-new-cluster", "--proxy"}},
		{"members without name", []string{"--proxy", "on", "--bootstrap-config", "http://127.0.0.1:7001"}, []string{"bootstrap-config"}},
		{"members without port", []string{"--proxy", "readonly", "--bootstrap-config", "n1=http://127.0.0.1"}, []string{"bootstrap-config"}},
		{"https without a certificate", append(bootstrap, "--proxy", "on", "--listen-client-urls", "https://127.0.0.1:4001"), []string{"--cert-file"}},
		{"discovery and members", append(bootstrap, "--proxy", "on", "--discovery", "http://127.0.0.1:4001/keys/x/y"), []string{"--discovery", "--bootstrap-config"}},
		{"two ways of discovery", []string{"--discovery", "http://127.0.0.1:4001/keys/x/y", "--discovery-srv", "example.com"}, []string{"--discovery", "--discovery-srv"}},
		{"discovery of no URL", []string{"--discovery", "127.0.0.1:4001/keys/x/y"}, []string{"discovery"}},
		{"discovery outside of the keys", []string{"--discovery", "http://127.0.0.1:4001/x/y"}, []string{"discovery", "/keys/"}},
		{"discovery without a directory", []string{"--discovery", "http://127.0.0.1:4001/keys/"}, []string{"discovery"}},
		{"a fallback that is none", []string{"--discovery", "http://127.0.0.1:4001/keys/x/y", "--discovery-fallback", "wait"}, []string{"discovery-fallback", "wait"}},
		{"a name without a domain", []string{"--discovery-srv-name", "one"}, []string{"--discovery-srv-name", "--discovery-srv"}},
		{"a domain that is none", []string{"--discovery-srv", "http://example.com"}, []string{"discovery-srv"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := startProcess(t, tt.args...)
			if code := p.wait(t, exitMax); code != 2 {
				t.Errorf("deimos %v = exit code %d, want 2\n%s", tt.args, code, p.stderr.tail())
			}
			for _, want := range tt.want {
				if text := p.stderr.String(); !strings.Contains(text, want) {
					t.Errorf("deimos %v: stderr = %q, want it to name %q", tt.args, text, want)
				}
			}
		})
	}
}
