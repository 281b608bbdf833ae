package daemon_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/daemon"
	"github.com/marsevilspirit/deimos/internal/clustertest"
)

// segments returns the paths of the segments of a log.
func segments(t *testing.T, dataDir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dataDir, "wal", "*.wal"))
	if err != nil || len(files) == 0 {
		t.Fatalf("segments %q, %v, want some", files, err)
	}
	return files
}

// flip changes a bit where a text is first written in the newest segment.
func flip(t *testing.T, dataDir, text string) {
	t.Helper()
	name := slices.Max(segments(t, dataDir))
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(data, []byte(text))
	if at < 0 {
		t.Fatalf("void: %q is not in %s", text, name)
	}
	data[at] ^= 0x10
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// files returns the content of the log and the snapshots.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, sub := range []string{"wal", "snap"} {
		entries, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if filepath.Ext(e.Name()) == ".tmp" {
				continue // allocated in advance
			}
			text, err := os.ReadFile(filepath.Join(dir, sub, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			all[sub+"/"+e.Name()] = strings.TrimRight(string(text), "\x00")
		}
	}
	return all
}

func wantSameFiles(t *testing.T, what string, got, want map[string]string) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: %d files, want %d", what, len(got), len(want))
	}
	for name, text := range want {
		if got[name] != text {
			t.Errorf("%s: %s is not as it was", what, name)
		}
	}
}

func openOffline(t *testing.T, dataDir string) *daemon.Offline {
	t.Helper()
	o, err := daemon.OpenOffline(dataDir)
	if err != nil {
		t.Fatalf("OpenOffline() = %v", err)
	}
	t.Cleanup(func() { _ = o.Close() }) // the test may have
	return o
}

// mustRecover recovers a member that is damaged.
func mustRecover(t *testing.T, m *clustertest.Member, forceNewCluster bool) (r *daemon.LogReport, kept string) {
	t.Helper()
	o := openOffline(t, m.DataDir())
	r, err := o.Inspect()
	if err != nil || r.Damage == nil || r.Recovery == nil {
		t.Fatalf("Inspect() = %+v, %v, want damage and a recovery", r, err)
	}
	if kept, err = o.Recover(r, forceNewCluster); err != nil {
		t.Fatalf("Recover() = %v", err)
	}
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	return r, kept
}

// wantDamage starts a member that has to be refused.
func wantDamage(t *testing.T, m *clustertest.Member, want ...string) {
	t.Helper()
	err := m.TryStart()
	if err == nil || daemon.FailureOf(err) != daemon.FailureDamage {
		t.Fatalf("Open() = %v, want damage", err)
	}
	for _, text := range want {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("Open() = %v, want %q in it", err, text)
		}
	}
}

// TestADamagedOnlyMemberIsRecovered is row D3: nobody else has what the only
// member has, and what precedes the damage can be had back.
func TestADamagedOnlyMemberIsRecovered(t *testing.T) {
	const keys = 40
	for _, tt := range []struct {
		name      string
		snapshots uint64 // entries between two
		stop      bool
		harm      func(t *testing.T, dir string)
		keeps     int // keys at least
		most      int
		torn      bool
	}{
		{"in the middle of the log", 10_000, false, func(t *testing.T, dir string) { flip(t, dir, "/k20") }, 20, 20, false},
		{"after a clean stop", 10_000, true, func(t *testing.T, dir string) { flip(t, dir, "/k39") }, 39, 39, false},
		{"in the marker of a clean stop", 10_000, true, func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, "wal", "clean-stop"), []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, keys, keys, false},
		{"below a snapshot of its own", 10, false, func(t *testing.T, dir string) { flip(t, dir, "/k02") }, 20, keys, false},
		{"a lost end of the log", 10, false, func(t *testing.T, dir string) {
			name := slices.Max(segments(t, dir))
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			clear(data[bytes.Index(data, []byte("/k02"))-64:]) // a few batches before it, as if it had never been written
			if err := os.WriteFile(name, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}, 20, keys, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := clustertest.New(t, 1, func(cfg *daemon.Config) { cfg.Limits.SnapshotCount = tt.snapshots }).Member(0)
			for i := range keys {
				put(t, m, fmt.Sprintf("/k%02d", i), "v")
			}
			if tt.snapshots < keys {
				clustertest.Eventually(t, "a snapshot", func() bool {
					found, err := filepath.Glob(filepath.Join(m.DataDir(), "snap", "*.snap"))
					return err == nil && slices.Max(found) > filepath.Join(m.DataDir(), "snap", fmt.Sprintf("%016x", 24))
				})
			}
			if tt.stop {
				m.Stop()
			} else {
				m.Kill()
			}
			id := m.MemberID()
			tt.harm(t, m.DataDir())
			before := files(t, m.DataDir())
			wantDamage(t, m, "`deimos log inspect --data-dir "+m.DataDir()+"`", "`deimos log recover --data-dir "+m.DataDir()+"`")
			if tt.torn { // what a crash has cut short is cut off before the snapshot is found to be above it
				before = files(t, m.DataDir())
			}
			r, kept := mustRecover(t, m, false)
			if !r.Recovery.OnlyVoter() || r.Recovery.Self.ID != id || len(r.Recovery.Others) > 0 {
				t.Errorf("Inspect() = %+v, want the only member", r.Recovery)
			}
			if filepath.Dir(kept) != m.DataDir() {
				t.Errorf("Recover() keeps the old log in %s, want it in %s", kept, m.DataDir())
			}
			wantSameFiles(t, "what was replaced", files(t, kept), before)
			for range 2 { // the second time from the log that was written since
				m.Start()
				m.WaitReady()
				for i := range keys {
					status, body := m.Do(http.MethodGet, fmt.Sprintf("/keys/k%02d", i), nil)
					if i < tt.keeps && status != http.StatusOK || i >= tt.most && status != http.StatusNotFound {
						t.Errorf("GET /keys/k%02d = %d %s, want what was written before the damage and nothing else", i, status, body)
					}
				}
				if _, body := m.Put("/new", "1"); !strings.Contains(body, `"modifiedIndex":10000`) {
					t.Errorf("PUT = %s, want an index that no client has seen", body)
				}
				if list := memberList(t, m); len(list) != 1 || m.MemberID() != id {
					t.Errorf("members %+v, want %s alone", list, deimos.FormatID(id))
				}
				m.Kill()
			}
			o := openOffline(t, m.DataDir())
			if r, err := o.Inspect(); err != nil || r.Damage != nil || r.Err() != nil || r.Recovery != nil {
				t.Errorf("Inspect() of a member that was recovered = %+v, %v, want no damage", r, err)
			} else if _, err := o.Recover(r, false); err == nil {
				t.Error("Recover() of a member that is not damaged = nil, want an error")
			}
		})
	}
}

// TestADamagedMemberOfSeveralIsReplaced holds that a member whose entries others
// have is not recovered, unless they are lost for ever.
func TestADamagedMemberOfSeveralIsReplaced(t *testing.T) {
	c := clustertest.New(t, 3)
	m := c.Follower()
	for i := range 20 {
		put(t, m, fmt.Sprintf("/k%02d", i), "v")
	}
	for _, other := range c.Members() {
		other.Kill()
	}
	id := m.MemberID()
	flip(t, m.DataDir(), "/k10")
	replace := []string{"curl -X DELETE ", "/members/" + deimos.FormatID(id), "curl -X POST ", "--initial-cluster-state existing"}
	before := files(t, m.DataDir())
	wantDamage(t, m, append(replace, "deimos log inspect --data-dir "+m.DataDir())...)
	o := openOffline(t, m.DataDir())
	r, err := o.Inspect()
	if err != nil || r.Recovery == nil || r.Recovery.OnlyVoter() || len(r.Recovery.Others) != 2 {
		t.Fatalf("Inspect() = %+v, %v, want two others", r, err)
	}
	_, err = o.Recover(r, false)
	if daemon.FailureOf(err) != daemon.FailureUsage {
		t.Fatalf("Recover() of one of three = %v, want a usage error", err)
	}
	for _, text := range append(replace, "--force-new-cluster") {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("Recover() of one of three = %v, want %q in it", err, text)
		}
	}
	wantSameFiles(t, "after a refusal", files(t, m.DataDir()), before)
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	old := clusterOf(t, m.DataDir())
	mustRecover(t, m, true)
	m.Start()
	m.WaitReady()
	if list := memberList(t, m); len(list) != 1 || list[0].ID != deimos.FormatID(id) {
		t.Errorf("members %+v, want %s alone", list, deimos.FormatID(id))
	}
	valueAt(t, m, "/k09")
	m.Kill()
	if now := clusterOf(t, m.DataDir()); now == old {
		t.Errorf("the cluster has the id %s as before, want another one: the old members must be refused", old)
	}
}

func clusterOf(t *testing.T, dataDir string) string {
	t.Helper()
	o := openOffline(t, dataDir)
	r, err := o.Inspect()
	if err := errors.Join(err, o.Close()); err != nil {
		t.Fatal(err)
	}
	return deimos.FormatID(r.Log.Identity.ClusterID)
}

// TestLearnersOfADamagedOnlyVoterAreLeftOut holds that a learner, which may have
// what its leader has lost, does not go on with it.
func TestLearnersOfADamagedOnlyVoterAreLeftOut(t *testing.T) {
	c := clustertest.NewHTTP(t, 1)
	m := c.Member(0)
	learner, peerURL := c.Join("m2")
	added := add(t, m, peerURL, true)
	learner.Start()
	learner.WaitReady()
	for i := range 20 {
		put(t, m, fmt.Sprintf("/k%02d", i), "v")
	}
	learner.Kill()
	m.Kill()
	flip(t, m.DataDir(), "/k10")
	wantDamage(t, m, "deimos log recover --data-dir "+m.DataDir())
	old := clusterOf(t, m.DataDir())
	r, _ := mustRecover(t, m, false)
	if len(r.Recovery.Others) != 1 || deimos.FormatID(r.Recovery.Others[0].ID) != added.ID {
		t.Errorf("Inspect() = others %+v, want the learner %s", r.Recovery.Others, added.ID)
	}
	m.Start()
	m.WaitReady()
	if list := memberList(t, m); len(list) != 1 {
		t.Errorf("members %+v, want the voter alone", list)
	}
	m.Kill()
	if now := clusterOf(t, m.DataDir()); now == old {
		t.Errorf("the cluster has the id %s as before, want another one: its learner must be refused", old)
	}
}

func TestNothingIsLeftToRecover(t *testing.T) {
	m := clustertest.New(t, 1).Member(0)
	put(t, m, "/k", "v")
	m.Stop()
	names, err := filepath.Glob(filepath.Join(m.DataDir(), "snap", "*.snap"))
	if err != nil || len(names) != 1 {
		t.Fatalf("snapshots %q, %v, want one", names, err)
	}
	if err := os.Truncate(names[0], 40); err != nil {
		t.Fatal(err)
	}
	o := openOffline(t, m.DataDir())
	r, err := o.Inspect()
	if err != nil || r.Damage == nil || r.Recovery != nil || r.Hopeless == nil || len(r.Snapshots) != 1 || r.Snapshots[0].Err == nil {
		t.Fatalf("Inspect() = %+v, %v, want damage beyond recovery", r, err)
	}
	if _, err := o.Recover(r, true); daemon.FailureOf(err) != daemon.FailureDamage {
		t.Errorf("Recover() = %v, want damage", err)
	}
}

func TestOfflineRefusesWhatIsNoMemberAtRest(t *testing.T) {
	m := clustertest.New(t, 1).Member(0)
	empty := t.TempDir()
	if err := os.Chmod(empty, 0o700); err != nil { //nolint:gosec // a directory needs the x bit
		t.Fatal(err)
	}
	for _, tt := range []struct{ dir, want string }{
		{m.DataDir(), fmt.Sprintf("in use by process %d", os.Getpid())},
		{filepath.Join(empty, "none"), "there is no such directory"},
		{empty, "it holds no member"},
	} {
		_, err := daemon.OpenOffline(tt.dir)
		if daemon.FailureOf(err) != daemon.FailureDataDir || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("OpenOffline(%s) = %v, want %q", tt.dir, err, tt.want)
		}
	}
	if _, err := os.Stat(filepath.Join(empty, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("OpenOffline() of a missing directory made it: %v", err)
	}
}

// TestARecoveryThatWasCutShortIsFinished begins one again after a crash at each
// of its moments that leave something behind.
func TestARecoveryThatWasCutShortIsFinished(t *testing.T) {
	damaged := func(t *testing.T) *clustertest.Member {
		m := clustertest.New(t, 1).Member(0)
		for i := range 20 {
			put(t, m, fmt.Sprintf("/k%02d", i), "v")
		}
		m.Kill()
		flip(t, m.DataDir(), "/k10")
		return m
	}
	t.Run("while the new log is built", func(t *testing.T) {
		m := damaged(t)
		left := filepath.Join(m.DataDir(), "forced.tmp", "wal")
		if err := errors.Join(os.MkdirAll(left, 0o700), os.WriteFile(filepath.Join(left, "half.wal"), []byte("x"), 0o600)); err != nil {
			t.Fatal(err)
		}
		wantDamage(t, m)
		mustRecover(t, m, false)
		m.Start()
		m.WaitReady()
		valueAt(t, m, "/k09")
	})
	t.Run("while it is put in its place", func(t *testing.T) {
		m := damaged(t)
		_, kept := mustRecover(t, m, false)
		// As after the first of the moves.
		dir := m.DataDir()
		old := filepath.Join(dir, "forced", "replaced-old")
		err := errors.Join(os.MkdirAll(old, 0o700), os.Rename(filepath.Join(dir, "wal"), filepath.Join(dir, "forced", "wal")),
			os.Rename(filepath.Join(kept, "wal"), filepath.Join(old, "wal")), os.Rename(filepath.Join(dir, "snap"), filepath.Join(dir, "forced", "snap")),
			os.Rename(filepath.Join(kept, "snap"), filepath.Join(dir, "snap")), os.Remove(kept))
		if err != nil {
			t.Fatal(err)
		}
		o := openOffline(t, dir)
		if replacing, err := o.Replacing(); !replacing || err != nil {
			t.Fatalf("Replacing() = %v, %v, want true", replacing, err)
		}
		if again, err := o.Finish(); err != nil || again != kept {
			t.Fatalf("Finish() = %s, %v, want %s", again, err, kept)
		}
		if err := o.Close(); err != nil {
			t.Fatal(err)
		}
		m.Start()
		m.WaitReady()
		valueAt(t, m, "/k09")
	})
	t.Run("by a disk that is not writable", func(t *testing.T) {
		m := damaged(t)
		// The place of what is built is taken by a file that cannot become a directory.
		o := openOffline(t, m.DataDir())
		r, err := o.Inspect()
		if err != nil {
			t.Fatal(err)
		}
		before := files(t, m.DataDir())
		if err := os.WriteFile(filepath.Join(m.DataDir(), "forced"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := o.Recover(r, false); daemon.FailureOf(err) != daemon.FailureIO {
			t.Errorf("Recover() = %v, want an I/O failure", err)
		}
		wantSameFiles(t, "after a failure", files(t, m.DataDir()), before)
	})
}
