package e2e

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// state is what no stranger may change.
type state struct {
	applied, term, index float64
	members              string
}

func stateOf(t testing.TB, n *node) state {
	t.Helper()
	var s state
	for name, v := range map[string]*float64{
		"deimos_server_proposals_applied_total": &s.applied,
		"deimos_server_raft_term":               &s.term,
		"deimos_store_index":                    &s.index,
	} {
		var err error
		if *v, err = metric(t.Context(), n.client, name); err != nil {
			t.Fatal(err)
		}
	}
	var status int
	if status, s.members = askMembers(t, http.MethodGet, n.client+"/members", ""); status != http.StatusOK {
		t.Fatalf("GET /members = %d %s", status, s.members)
	}
	return s
}

// statesOf returns the states of all members once they agree.
func (c *cluster) statesOf(t testing.TB) []state {
	t.Helper()
	waitPublished(t, c)
	c.wantAgreement(t)
	states := make([]state, len(c.nodes))
	untilWithin(t, readyMax, func(context.Context) error {
		for i, n := range c.nodes {
			states[i] = stateOf(t, n)
		}
		if states[1] != states[0] || states[2] != states[0] {
			return fmt.Errorf("the members differ: %+v", states)
		}
		return nil
	})
	return states
}

func TestStrangersChangeNothingWhereMembersShareASecret(t *testing.T) {
	t.Parallel()
	secret := newSecret()
	c := &cluster{}
	var members []string
	for _, name := range []string{"n1", "n2", "n3"} {
		n := newNode(t, name, "--peer-secret-file", writeSecret(t, secret+"\n"))
		c.nodes = append(c.nodes, n)
		members = append(members, name+"="+n.peer)
	}
	// The other members reach n1 through a recorder.
	n := c.nodes[0]
	address, other := strings.TrimPrefix(n.peer, "http://"), strings.TrimPrefix(c.nodes[1].peer, "http://")
	recorded, detour := record(t, address)
	members[0] = "n1=http://" + detour
	for _, n := range c.nodes {
		n.args = append(n.args, "--bootstrap-config", strings.Join(members, ","))
	}
	c.start(t)
	load := startLoad(t, 2, c.others(nil)...)
	load.waitAcks(t, 200)
	load.stop(t)
	before, base := c.statesOf(t), readGauges(t, n)
	x := newTarget(t, n, c.nodes[1], address, other)

	t.Run("a proof as it is documented is let in", func(t *testing.T) {
		if res := call(t, address, x.opening("GET", "/members", nil).signed(secret).bytes()); res == nil || res.StatusCode != http.StatusOK {
			t.Fatalf("void: GET /members with a good proof = %v, want 200", res)
		}
	})
	t.Run("without a proof", func(t *testing.T) {
		for _, o := range x.forged() {
			wantRefused(t, o.method+" "+o.path, call(t, address, o.bytes()))
		}
	})
	t.Run("with a proof of another secret", func(t *testing.T) {
		for _, o := range x.forged() {
			wantRefused(t, o.method+" "+o.path, call(t, address, o.signed(newSecret()).bytes()))
		}
	})
	t.Run("with something changed after the proof", func(t *testing.T) {
		good := x.opening("GET", "/members", nil).signed(secret)
		for key := range good.header {
			if key != "X-Server-Version" && key != "X-Min-Cluster-Version" && key != "X-Peerurls" {
				wantRefused(t, "GET /members with another "+key, call(t, address, good.with(key, "1"+good.header.Get(key)[1:]+"0").bytes()))
			}
		}
		message := x.opening("POST", "/raft", nil).signed(secret)
		message.body = x.message(3)
		wantRefused(t, "POST /raft with another body", call(t, address, message.bytes()))
		old := x.opening("GET", "/members", nil).with("X-Deimos-Time", strconv.FormatInt(time.Now().Add(-6*time.Minute).UnixMilli(), 10))
		wantRefused(t, "GET /members of 6 minutes ago", call(t, address, old.signed(secret).bytes()))
	})
	t.Run("replayed", func(t *testing.T) {
		used := false
		for _, kept := range recorded.all() {
			text := kept.String()
			if strings.Contains(text, secret) {
				t.Error("the secret itself was sent")
			}
			res := call(t, address, []byte(text))
			wantRefused(t, "a replayed request", res)
			used = used || res != nil && res.Header.Get("X-Deimos-Refused") == "secret" && strings.Contains(text, x.run)
		}
		if !used {
			t.Errorf("void: none of %d recorded calls was refused because it was used before", len(recorded.all()))
		}
	})
	t.Run("guessing", func(t *testing.T) {
		ip := hostileIP()
		paused := false
		for range 30 {
			conn := dialAs(t, ip, address)
			defer conn.Close()
			res := exchangeOn(conn, x.opening("GET", "/members", nil).signed(newSecret()).bytes())
			paused = paused || res != nil && res.StatusCode == http.StatusTooManyRequests
		}
		if !paused {
			t.Error("an address that failed 30 times at once is still listened to")
		}
	})
	t.Run("at random", func(t *testing.T) { shoutAtRandom(t, x, 3000) })
	t.Run("without end", func(t *testing.T) { shoutWithoutEnd(t, n, address) })

	untilWithin(t, 10*time.Second, func(context.Context) error {
		if now := readGauges(t, n); now.goroutines > base.goroutines+10 || now.files > base.files+10 {
			return fmt.Errorf("goroutines = %v and open files = %v, want at most 10 more than %v and %v", now.goroutines, now.files, base.goroutines, base.files)
		}
		return nil
	})
	if after := c.statesOf(t); !slices.Equal(after, before) {
		t.Errorf("state = %+v, want %+v as before", after, before)
	}
	calls := recorded.all()
	restart(t, n)
	t.Run("replayed after a restart", func(t *testing.T) {
		for _, kept := range calls {
			wantRefused(t, "a replayed request", call(t, address, []byte(kept.String())))
		}
	})
	again := startLoad(t, 2, c.others(nil)...)
	again.waitAcks(t, 100)
	again.stop(t)
	c.wantAgreement(t)
	load.wantAll(t, n.client)
}

// shoutAtRandom sends requests that are forged ones with something changed.
func shoutAtRandom(t *testing.T, x target, count int) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var wg sync.WaitGroup
	var answered atomic.Int64
	// Many of them, because a request that lost its end is answered late.
	const workers = 24
	for worker := range uint64(workers) {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, worker))
			for range count / workers {
				o := x.forged()[r.IntN(13)]
				request := o.with("X-Deimos-Proof", fmt.Sprintf("%064x", r.Uint64())).bytes()
				for range r.IntN(20) {
					request[r.IntN(len(request))] = byte(r.Uint32())
				}
				// An answer with less than 400 would be to a request that has
				// become another one altogether.
				if res := call(t, x.address, request); res != nil {
					answered.Add(1)
					if res.StatusCode != http.StatusTooManyRequests {
						wantRefused(t, fmt.Sprintf("%.200q", request), res)
					}
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d of %d were answered", answered.Load(), count)
}

// shoutWithoutEnd sends heads and bodies that do not end.
func shoutWithoutEnd(t *testing.T, n *node, address string) {
	const callers, most = 200, 512 << 10
	before := residentBytes(t, n, "VmRSS")
	began := time.Now()
	var wg sync.WaitGroup
	for i := range 2 * callers {
		conn := dialFrom(t, address)
		defer conn.Close()
		head, more := "POST /raft HTTP/1.1\r\nHost: peer\r\n", "X-Filler: "+strings.Repeat("a", 4000)+"\r\n"
		if i%2 == 1 {
			head += "Content-Length: 1099511627776\r\n\r\n"
		}
		wg.Go(func() {
			_, err := io.WriteString(conn, head)
			for sent := 0; err == nil && sent < most; sent += len(more) {
				_, err = io.WriteString(conn, more)
			}
		})
		wg.Go(func() { _, _ = io.Copy(io.Discard, conn) }) // until it is closed
	}
	wg.Wait()
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("requests without end were closed after %v, want 5 s", took)
	}
	if rise := residentBytes(t, n, "VmHWM") - before; rise > 32<<20 {
		t.Errorf("the memory rose by %d MiB under %d requests without end, want at most 32", rise>>20, 2*callers)
	}
	if status, _, err := get(t.Context(), n.client+"/readyz"); err != nil || status != http.StatusOK {
		t.Errorf("/readyz = %d, %v, want 200", status, err)
	}
}

// residentBytes reads a size from what the system says about a process.
func residentBytes(t testing.TB, n *node, name string) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.run.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			kib, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(v), " kB"))
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatalf("void: no %s in the status of the process", name)
	return 0
}

func TestStrangersChangeNothingWhereMembersHaveCertificates(t *testing.T) {
	t.Parallel()
	c := startSecureCluster(t)
	n := c.nodes[0]
	load := startLoad(t, 2, c.others(nil)...)
	load.waitAcks(t, 200)
	load.stop(t)
	before, base := c.statesOf(t), readGauges(t, n)
	x := target{address: strings.TrimPrefix(n.peer, "https://"), self: idOf(t, n, "n1"), other: idOf(t, n, "n2")}
	for _, o := range x.forged() {
		if res := call(t, x.address, o.bytes()); res != nil && res.StatusCode != http.StatusBadRequest {
			t.Errorf("%s %s without TLS = %d, want 400", o.method, o.path, res.StatusCode)
		}
		for _, name := range []string{"", "alice"} {
			if status, _, err := getTLS(t.Context(), n.peer+o.path, c.ca.config(t, name)); err == nil {
				t.Errorf("GET %s with the certificate of %q = %d, want no answer", o.path, name, status)
			}
		}
	}
	shoutAtRandom(t, x, 1000)
	shoutWithoutEnd(t, n, x.address)
	untilWithin(t, 10*time.Second, func(context.Context) error {
		if now := readGauges(t, n); now.goroutines > base.goroutines+10 || now.files > base.files+10 {
			return fmt.Errorf("goroutines = %v and open files = %v, want at most 10 more than %v and %v", now.goroutines, now.files, base.goroutines, base.files)
		}
		return nil
	})
	if after := c.statesOf(t); !slices.Equal(after, before) {
		t.Errorf("state = %+v, want %+v as before", after, before)
	}
	load.wantAll(t, n.client)
}

func TestAMemberWithoutTheSecretIsRefusedAndTheOthersServe(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		flags []string
		words string // in the log of who refuses
	}{
		{"another secret", []string{"--peer-secret-file", writeSecret(t, newSecret())}, "another peer secret"},
		{"no secret", nil, "no proof that the sender knows the peer secret"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			refuseOneOfThree(t, tt.flags, tt.words)
		})
	}
}

// refuseOneOfThree starts two members that share a secret, and a third one with
// other flags, which gets the secret at the end.
func refuseOneOfThree(t *testing.T, flags []string, words string) {
	share := []string{"--peer-secret-file", writeSecret(t, newSecret())}
	c := &cluster{}
	var members []string
	for _, name := range []string{"n1", "n2", "n3"} {
		n := newNode(t, name)
		c.nodes = append(c.nodes, n)
		members = append(members, name+"="+n.peer)
	}
	out := c.nodes[2]
	for _, n := range c.nodes {
		n.args = append(n.args, "--bootstrap-config", strings.Join(members, ","))
		usual := n.args
		n.args = slices.Concat(usual, share)
		if n == out {
			n.args = slices.Concat(usual, flags)
		}
		n.start(t)
	}
	for _, n := range c.nodes[:2] {
		n.waitReady(t)
	}
	load := startLoad(t, 2, c.nodes[0].client, c.nodes[1].client)
	for _, n := range c.nodes[:2] {
		untilWithin(t, 15*time.Second, func(ctx context.Context) error {
			refused, err := metric(ctx, n.client, `deimos_peer_messages_refused_total{reason="secret"}`)
			said := linesOf(n.run.stderr.String(), "level=WARN", "messages refused", words)
			if err == nil && (refused == 0 || said == 0) {
				err = fmt.Errorf("%s has refused %v and says:\n%s", n.name, refused, n.run.stderr.tail())
			}
			return err
		})
	}
	load.waitAcks(t, 200)
	out.kill(t)
	out.args = slices.Concat(out.args[:len(out.args)-len(flags)], share)
	out.start(t)
	out.waitReady(t)
	load.waitAcks(t, load.acks()+100)
	load.stop(t)
	c.wantAgreement(t)
	load.wantAll(t, out.client)
}
