package daemon_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/daemon"
	"github.com/marsevilspirit/deimos/internal/clustertest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		http.DefaultClient.CloseIdleConnections()
		os.Exit(code)
	}), goleak.IgnoreTopFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreTopFunction("net/http.(*persistConn).writeLoop"))
}

func put(t *testing.T, m *clustertest.Member, key, value string) {
	t.Helper()
	if status, body := m.Put(key, value); status != http.StatusOK && status != http.StatusCreated {
		t.Fatalf("PUT %s = %d %s", key, status, body)
	}
}

func valueAt(t *testing.T, m *clustertest.Member, key string) string {
	t.Helper()
	status, body := m.Do(http.MethodGet, "/keys"+key, nil)
	var e deimos.Event
	if err := json.Unmarshal([]byte(body), &e); err != nil || status != http.StatusOK || e.Node == nil || e.Node.Value == nil {
		t.Fatalf("GET %s = %d %s", key, status, body)
	}
	return *e.Node.Value
}

func TestAWriteAtAnyMemberIsReadAtEveryMember(t *testing.T) {
	c := clustertest.New(t, 3)
	for i, writer := range c.Members() {
		put(t, writer, "/k", fmt.Sprint(i))
		for _, reader := range c.Members() {
			if got := valueAt(t, reader, "/k"); got != fmt.Sprint(i) {
				t.Errorf("read %q after %d was acknowledged", got, i)
			}
		}
	}
}

func TestWritesGoOnWhenTheLeaderIsKilled(t *testing.T) {
	c := clustertest.New(t, 3)
	put(t, c.Leader(), "/a", "1")
	old := c.Leader()
	old.Kill()
	second := c.Leader()
	clustertest.Eventually(t, "a write to succeed", func() bool {
		status, _ := second.Put("/b", "2")
		return status == http.StatusCreated || status == http.StatusOK
	})
	old.Start()
	old.WaitReady()
	if a, b := valueAt(t, old, "/a"), valueAt(t, old, "/b"); a != "1" || b != "2" {
		t.Errorf("the old leader reads %q and %q after its return, want 1 and 2", a, b)
	}
}

func TestAllMembersKilledLoseNothing(t *testing.T) {
	c := clustertest.New(t, 3, func(cfg *daemon.Config) { cfg.Limits.SnapshotCount = 20 })
	for round := range 3 {
		for i := range 30 {
			put(t, c.Member(i%3), fmt.Sprintf("/r%d/k%d", round, i), "v")
		}
		for _, m := range c.Members() {
			m.Kill()
		}
		for _, m := range c.Members() {
			m.Start()
		}
		for _, m := range c.Members() {
			m.WaitReady()
			for r := range round + 1 {
				status, body := m.Do(http.MethodGet, fmt.Sprintf("/keys/r%d", r), nil)
				if got := strings.Count(body, `"value"`); status != http.StatusOK || got != 30 {
					t.Fatalf("round %d: %d keys of round %d, want 30 (%d)", round, got, r, status)
				}
			}
		}
	}
}

func TestAnOnlyMemberThatIsKilledKeepsWhatItAcknowledged(t *testing.T) {
	c := clustertest.New(t, 1)
	m := c.Member(0)
	for round := range 5 {
		put(t, m, fmt.Sprintf("/k%d", round), "v")
		m.Restart()
		m.WaitReady()
		for i := range round + 1 {
			if got := valueAt(t, m, fmt.Sprintf("/k%d", i)); got != "v" {
				t.Fatalf("round %d: /k%d = %q", round, i, got)
			}
		}
	}
}

func TestAMemberThatWasAwayForLongGetsASnapshot(t *testing.T) {
	c := clustertest.New(t, 3, func(cfg *daemon.Config) { cfg.Limits.SnapshotCount = 200 })
	away := c.Follower()
	away.Kill()
	leader := c.Leader()
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			for i := range 400 {
				if status, body := leader.Put(fmt.Sprintf("/w%d/k%d", w, i%10), "v"); status >= 300 {
					t.Errorf("PUT = %d %s", status, body)
					return
				}
			}
		})
	}
	wg.Wait()
	put(t, leader, "/last", "1")
	away.Start()
	away.WaitReady()
	if got := valueAt(t, away, "/last"); got != "1" {
		t.Errorf("/last = %q at the member that returned", got)
	}
	files, err := filepath.Glob(filepath.Join(away.DataDir(), "snap", "*.snap"))
	if err != nil || len(files) < 2 {
		t.Errorf("snapshot files %q, %v: want the first one and one that was received", files, err)
	}
	// It recovers from what it got, too.
	away.Restart()
	away.WaitReady()
	if got := valueAt(t, away, "/last"); got != "1" {
		t.Errorf("/last = %q after another restart", got)
	}
}

func TestAnIsolatedLeaderAcknowledgesAndReadsNothing(t *testing.T) {
	c := clustertest.New(t, 3, func(cfg *daemon.Config) { cfg.Timing.Request = 2 * time.Second })
	old := c.Leader()
	put(t, old, "/k", "1")
	c.Isolate(old)
	var second *clustertest.Member
	clustertest.Eventually(t, "another leader", func() bool {
		for _, m := range c.Members() {
			if m != old && m.Status().IsLeader() {
				second = m
				return true
			}
		}
		return false
	})
	put(t, second, "/k", "2")
	if status, body := old.Put("/k", "3"); status < 500 {
		t.Errorf("the isolated leader answered a write with %d %s", status, body)
	}
	if status, body := old.Do(http.MethodGet, "/keys/k", nil); status != http.StatusInternalServerError {
		t.Errorf("the isolated leader answered a linearizable read with %d %s", status, body)
	}
	if status, body := old.Do(http.MethodGet, "/v2/keys/k", nil); status != http.StatusOK || !strings.Contains(body, `"value":"1"`) {
		t.Errorf("the isolated leader answered a local read with %d %s, want the old value", status, body)
	}
	if status, body := old.Do(http.MethodGet, "/readyz", nil); status != http.StatusServiceUnavailable || body != "not ready: no leader\n" {
		t.Errorf("/readyz without a quorum = %d %q", status, body)
	}
	c.Heal()
	clustertest.Eventually(t, "the old leader to follow", func() bool {
		status, body := old.Do(http.MethodGet, "/keys/k", nil)
		return status == http.StatusOK && strings.Contains(body, `"value":"2"`)
	})
}

func TestAWatchOnAFollowerResumesAfterItsMemberWasKilled(t *testing.T) {
	c := clustertest.New(t, 3)
	m := c.Follower()
	seen := uint64(1)
	for round := range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, http.MethodGet,
			fmt.Sprintf("%s/keys/w?wait=true&recursive=true&stream=true&waitIndex=%d", m.URL(), seen+1), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(resp.Body)
		for range 5 {
			put(t, c.Leader(), "/w/k", fmt.Sprint(round))
		}
		for range 5 {
			if !lines.Scan() {
				t.Fatalf("the stream ended: %v", lines.Err())
			}
			var e deimos.Event
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
				t.Fatal(err)
			}
			if e.Node.ModifiedIndex != seen+1 {
				t.Fatalf("event %d follows %d: the watch has a gap", e.Node.ModifiedIndex, seen)
			}
			seen = e.Node.ModifiedIndex
		}
		cancel()
		resp.Body.Close()
		put(t, c.Leader(), "/w/missed", "x") // while nobody watches
		m.Restart()
		m.WaitReady()
		status, body := m.Do(http.MethodGet, fmt.Sprintf("/keys/w?wait=true&recursive=true&waitIndex=%d", seen+1), nil)
		if status != http.StatusOK || !strings.Contains(body, fmt.Sprintf(`"modifiedIndex":%d`, seen+1)) {
			t.Fatalf("resumed watch = %d %s, want index %d", status, body, seen+1)
		}
		seen++
	}
}

func TestKeysExpireAcrossALeaderChange(t *testing.T) {
	c := clustertest.New(t, 3)
	begin := time.Now()
	status, body := c.Leader().Do(http.MethodPut, "/keys/t?ttl=1", map[string][]string{"value": {"x"}})
	if status != http.StatusCreated {
		t.Fatalf("PUT = %d %s", status, body)
	}
	watcher := c.Follower()
	c.Leader().Kill()
	status, body = watcher.Do(http.MethodGet, "/keys/t?wait=true&waitIndex=3", nil)
	took := time.Since(begin)
	if status != http.StatusOK || !strings.Contains(body, `"action":"expire"`) {
		t.Fatalf("watch = %d %s, want the expiry", status, body)
	}
	if took < time.Second {
		t.Errorf("the key expired after %v, before its second was over", took)
	}
}

func TestAStoppedLeaderHandsOverAndEndsItsWatches(t *testing.T) {
	c := clustertest.New(t, 3)
	leader := c.Leader()
	resp, err := http.Get(leader.URL() + "/keys/w?wait=true")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	term := leader.Status().Term
	began := time.Now()
	leader.Stop()
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("stopping took %v with a watch open", took)
	}
	if n, err := resp.Body.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("read %d bytes, %v from the watch, want its end", n, err)
	}
	next := c.Leader()
	if got := next.Status().Term; got != term+1 {
		t.Errorf("term %d after a hand-over from term %d: there was an election too many", got, term)
	}
}

func TestASecondDaemonOnTheSameDirectoryIsRefused(t *testing.T) {
	c := clustertest.New(t, 1)
	m := c.Member(0)
	_, err := daemon.Open(t.Context(), daemon.Config{
		DataDir: m.DataDir(),
		URLs:    daemon.URLs{ListenClient: []string{"http://127.0.0.1:0"}, ListenPeer: []string{"http://127.0.0.1:0"}},
	})
	var dirErr *daemon.DataDirError
	if !errors.As(err, &dirErr) || daemon.FailureOf(err) != daemon.FailureDataDir || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Errorf("Open = %v, want a DataDirError that names process %d", err, os.Getpid())
	}
	put(t, m, "/k", "still here")
}

func TestABusyPortFailsOpenAndLeavesNothingOpen(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cfg := daemon.Config{
		DataDir: filepath.Join(t.TempDir(), "d"),
		URLs:    daemon.URLs{ListenClient: []string{"http://127.0.0.1:0", "http://" + l.Addr().String()}, ListenPeer: []string{"http://127.0.0.1:0"}},
	}
	if _, err := daemon.Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), l.Addr().String()) {
		t.Fatalf("Open on a busy port = %v, want an error that names it", err)
	}
	cfg.URLs.ListenClient = cfg.URLs.ListenClient[:1]
	d, err := daemon.Open(t.Context(), cfg)
	if err != nil {
		t.Fatalf("Open after the failed one: %v", err)
	}
	if err := d.Close(t.Context()); err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := d.Close(t.Context()); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func TestDataDirectories(t *testing.T) {
	open := func(t *testing.T, dir string) error {
		t.Helper()
		d, err := daemon.Open(t.Context(), daemon.Config{
			DataDir: dir,
			URLs:    daemon.URLs{ListenClient: []string{"http://127.0.0.1:0"}, ListenPeer: []string{"http://127.0.0.1:0"}},
		})
		if err != nil {
			return err
		}
		return d.Close(context.WithoutCancel(t.Context()))
	}
	t.Run("is made with mode 0700, parents included", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "a", "b")
		if err := open(t, dir); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(dir)
		if err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("mode = %v, %v, want 0700", info.Mode(), err)
		}
	})
	t.Run("that everybody may write is refused", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		var dirErr *daemon.DataDirError
		if err := open(t, dir); !errors.As(err, &dirErr) || daemon.FailureOf(err) != daemon.FailureDataDir {
			t.Errorf("Open = %v, want a DataDirError", err)
		}
	})
	t.Run("that is a file is refused", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(dir, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		var dirErr *daemon.DataDirError
		if err := open(t, dir); !errors.As(err, &dirErr) || daemon.FailureOf(err) != daemon.FailureDataDir {
			t.Errorf("Open = %v, want a DataDirError", err)
		}
	})
}

func TestADirectoryThatLostItsLogIsNotTakenForNew(t *testing.T) {
	for _, tt := range []struct {
		name string
		lose func(t *testing.T, dir string)
	}{
		{"the directory of the log", func(t *testing.T, dir string) {
			if err := os.RemoveAll(filepath.Join(dir, "wal")); err != nil {
				t.Fatal(err)
			}
		}},
		{"all that was in it", func(t *testing.T, dir string) {
			if err := os.Rename(filepath.Join(dir, "wal"), filepath.Join(dir, "moved away")); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(filepath.Join(dir, "wal"), 0o700); err != nil {
				t.Fatal(err)
			}
		}},
		{"its segments", func(t *testing.T, dir string) {
			segments, err := filepath.Glob(filepath.Join(dir, "wal", "*.wal"))
			if err != nil || len(segments) == 0 {
				t.Fatalf("no segments: %v", err)
			}
			for _, s := range segments {
				if err := os.Remove(s); err != nil {
					t.Fatal(err)
				}
			}
		}},
	} {
		for _, snapshots := range []struct {
			name  string
			count uint64
		}{{"with later snapshots", 5}, {"with the first snapshot only", daemon.DefaultSnapshotCount}} {
			t.Run(tt.name+" "+snapshots.name, func(t *testing.T) {
				c := clustertest.New(t, 1, func(cfg *daemon.Config) { cfg.Limits.SnapshotCount = snapshots.count })
				m := c.Member(0)
				for i := range 20 {
					put(t, m, fmt.Sprintf("/k%d", i), "v")
				}
				m.Stop()
				tt.lose(t, m.DataDir())
				if err := m.TryStart(); daemon.FailureOf(err) != daemon.FailureDamage || err == nil || !strings.Contains(err.Error(), "is missing") {
					t.Errorf("Open = %v, want damage: the log is missing", err)
				}
			})
		}
	}
}

func TestADirectoryOfAnotherMemberIsRefused(t *testing.T) {
	c := clustertest.New(t, 1)
	m := c.Member(0)
	m.Stop()
	_, err := daemon.Open(t.Context(), daemon.Config{
		Name: "m2", DataDir: m.DataDir(),
		URLs: daemon.URLs{ListenClient: []string{"http://127.0.0.1:0"}, ListenPeer: []string{"http://127.0.0.1:0"}},
	})
	if daemon.FailureOf(err) != daemon.FailureDataDir || err == nil || !strings.Contains(err.Error(), `belongs to member "m1"`) {
		t.Errorf("Open with another name = %v, want a DataDirError that names m1", err)
	}
}

func TestAnIgnoredBootstrapConfigIsTold(t *testing.T) {
	c := clustertest.New(t, 1)
	m := c.Member(0)
	m.Stop()
	var log bytes.Buffer
	d, err := daemon.Open(t.Context(), daemon.Config{
		Name: "m1", DataDir: m.DataDir(), InitialClusterToken: "another",
		URLs: daemon.URLs{ListenClient: []string{"http://127.0.0.1:0"}, ListenPeer: []string{"http://127.0.0.1:0"}},
		Log:  slog.New(slog.NewTextHandler(&log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "level=WARN") || !strings.Contains(log.String(), "they are ignored") {
		t.Errorf("the log says nothing of the ignored token:\n%s", log.String())
	}
}

func TestMetricsNameWhatTheContractNames(t *testing.T) {
	c := clustertest.New(t, 1)
	put(t, c.Member(0), "/k", "v")
	_, body := c.Member(0).Do(http.MethodGet, "/metrics", nil)
	for _, want := range []string{
		"deimos_server_has_leader 1", "deimos_server_is_learner 0", "deimos_cluster_voters 1", "deimos_cluster_learners 0",
		"deimos_server_disk_low 0", "deimos_cluster_writes_refused 0", "deimos_server_is_leader 1", "deimos_server_leader_changes_total 1",
		"deimos_server_proposals_committed_total ", "deimos_server_proposals_applied_total ",
		"deimos_server_proposals_failed_total 0", "deimos_server_proposals_pending 0",
		"deimos_store_index 2", "deimos_store_nodes 1", "deimos_store_watchers 0", "deimos_store_expires_total 0",
		"deimos_wal_fsync_duration_seconds_count ", `deimos_http_requests_total{code="201",method="PUT"} 1`,
	} {
		if !strings.Contains(body, "\n"+want) {
			t.Errorf("/metrics lacks %q", want)
		}
	}
}
