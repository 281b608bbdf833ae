package transport

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/server/v3/etcdserver/api/rafthttp"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/internal/faultproxy"
)

// endPause is longer than any pause of the monitor.
const endPause = time.Hour

func metric(t testing.TB, reg *prometheus.Registry, name, label string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && len(m.GetLabel()) == 1 && m.GetLabel()[0].GetValue() == label {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return 0
}

func TestConfigIsChecked(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"no cluster id", func(c *Config) { c.ClusterID = 0 }, "cluster id"},
		{"no member id", func(c *Config) { c.MemberID = 0 }, "member id"},
		{"no incarnation", func(c *Config) { c.Incarnation = deimos.Incarnation{} }, "incarnation"},
		{"no receiver", func(c *Config) { c.Receiver = nil }, "receiver"},
		{"no URLs", func(c *Config) { c.PeerURLs = nil }, "peer URL"},
		{"bad URL", func(c *Config) { c.PeerURLs = []string{"http://x"} }, `"http://x"`},
		{"bad introducer", func(c *Config) { c.Introducers = []string{"http://y"} }, `"http://y"`},
		{"no directory", func(c *Config) { c.SnapDir = file + "/none" }, file},
		{"not a directory", func(c *Config) { c.SnapDir = file }, file},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := newHTTPRig(t).config(t, 1, newRecorder())
			tt.change(&cfg)
			h, err := NewHTTP(cfg)
			if err == nil {
				h.Stop()
				t.Fatal("NewHTTP() = nil, want an error")
			}
			if !strings.HasPrefix(err.Error(), "transport: ") || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("NewHTTP() = %v, want an error that names %q", err, tt.want)
			}
		})
	}
}

func TestPeerURLsAreChecked(t *testing.T) {
	for _, tt := range []struct {
		url string
		ok  bool
	}{
		{"http://127.0.0.1:7001", true},
		{"https://example.com:443", true},
		{"http://[::1]:7001", true},
		{"", false},
		{"127.0.0.1:7001", false},
		{" http://127.0.0.1:7001", false},
		{"http://127.0.0.1:7001/", false},
		{"http://127.0.0.1:7001/raft", false},
		{"http://127.0.0.1:7001?a=b", false},
		{"http://127.0.0.1:7001#a", false},
		{"http://user@127.0.0.1:7001", false},
		{"http://127.0.0.1", false},
		{"http://127.0.0.1:0", false},
		{"http://127.0.0.1:70000", false},
		{"http://127.0.0.1:http", false},
		{"http://:7001", false},
		{"http://a b:7001", false},
		{"http://%zz:7001", false},
		{"unix://socket:1", false},
		{"ftp://127.0.0.1:21", false},
	} {
		t.Run(tt.url, func(t *testing.T) {
			if err := checkURL(tt.url); (err == nil) != tt.ok {
				t.Errorf("checkURL(%q) = %v, want ok %t", tt.url, err, tt.ok)
			}
		})
	}
	r := newHTTPRig(t)
	h := r.start(t, 1, 2).sender
	bad := deimos.Member{ID: 3, PeerURLs: []string{"http://127.0.0.1:1", "http://127.0.0.1"}}
	if err := h.AddPeer(bad); err == nil {
		t.Errorf("AddPeer(%v) = nil, want an error", bad)
	}
	bad.ID = 2
	if err := h.UpdatePeer(bad); err == nil {
		t.Errorf("UpdatePeer(%v) = nil, want an error", bad)
	}
	if err := h.AddPeer(deimos.Member{ID: 4}); err == nil {
		t.Error("AddPeer(no URL) = nil, want an error")
	}
}

func TestUnfinishedFilesAreRemoved(t *testing.T) {
	cfg := newHTTPRig(t).config(t, 1, newRecorder())
	for _, name := range []string{"tmp123", "tmp9", "tmp", "tmp12x", "x.tmp", "0000000000000001.snap.db"} {
		if err := os.WriteFile(filepath.Join(cfg.SnapDir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h, err := NewHTTP(cfg)
	if err != nil {
		t.Fatal(err)
	}
	h.Stop()
	var got []string
	for _, f := range files(t, cfg.SnapDir) {
		got = append(got, filepath.Base(f))
	}
	if want := "0000000000000001.snap.db tmp tmp12x x.tmp"; strings.Join(got, " ") != want {
		t.Errorf("files = %v, want %s", got, want)
	}
}

func TestOtherClusterIsRefused(t *testing.T) {
	r, other := newHTTPRig(t), newHTTPRig(t)
	other.clusterID = 0xc2
	other.addrs[2] = strings.TrimPrefix(r.url(t, 2), "http://")
	r.addrs[1] = strings.TrimPrefix(other.url(t, 1), "http://")
	b := r.start(t, 2, 1)
	a := other.start(t, 1, 2)
	a.recv.wait(t, "report", func() bool { return a.recv.unreachable[2] > 0 }, func() {
		a.sender.Send([]raftpb.Message{heartbeat(1, 2, 1)})
	})
	a.sender.SendSnapshot(snapshotMessage(1, 2, 5), 10, &pattern{size: 10})
	waitSnapshot(t, a, 1, snapshotReport{2, raft.SnapshotFailure})
	if lines := other.log.find(1, "snapshot not sent", false); len(lines) != 1 || lines[0].attrs["raftIndex"] != "5" {
		t.Errorf("the log has %+v of the snapshot, want one line with its raft index", lines)
	}
	if got := b.recv.messages(); len(got) != 0 {
		t.Errorf("messages of another cluster = %v, want none", got)
	}
	if got := files(t, b.dir); len(got) != 0 {
		t.Errorf("files = %v, want none", got)
	}
	want := &ForeignError{Mine: 0xc2, Theirs: 0xc1, By: 2, URL: r.url(t, 2)}
	if got := end(t, a); !reflect.DeepEqual(got, want) {
		t.Errorf("Err() = %v, want %v", got, want)
	}
}

// Goal: a member that was away while the cluster grew and elected a new member
// is reached by it, and can answer.
func TestMemberThatTheLogHasNotToldOfIsHeard(t *testing.T) {
	r := newHTTPRig(t)
	old, fresh := r.start(t, 1, 3), r.start(t, 2, 1)
	r.start(t, 3, 1)
	r.list(deimos.Member{ID: 2, PeerURLs: []string{r.url(t, 2)}})
	old.recv.wait(t, "a message of the new member", func() bool { return len(old.recv.got) > 0 }, func() {
		fresh.sender.Send([]raftpb.Message{heartbeat(2, 1, 1)})
	})
	fresh.recv.wait(t, "an answer", func() bool { return len(fresh.recv.got) > 0 }, func() {
		old.sender.Send([]raftpb.Message{heartbeat(1, 2, 1)})
	})
	fresh.sender.SendSnapshot(snapshotMessage(2, 1, 5), 10, &pattern{size: 10})
	waitSnapshot(t, fresh, 1, snapshotReport{1, raft.SnapshotFinish})
}

func TestReceiverThatRefusesCostsTheConnection(t *testing.T) {
	r := newHTTPRig(t)
	a, b := r.start(t, 1, 2), r.start(t, 2, 1)
	r.link(t, a, b)
	before := r.log.streams(1, 2)
	b.recv.refuseWith(func(m raftpb.Message) error {
		if m.Commit == 666 {
			return errors.New("impossible")
		}
		return nil
	})
	a.sender.Send([]raftpb.Message{heartbeat(1, 2, 666)})
	eventually(t, "new streams", func() bool { return r.log.streams(1, 2) >= before+2 })
	if got := metric(t, r.metrics, "deimos_peer_messages_refused_total", "receiver"); got != 1 {
		t.Errorf("refused messages = %v, want 1", got)
	}
	if got := r.log.find(2, "messages refused", false); len(got) != 1 || !strings.Contains(got[0].attrs["error"], "impossible") {
		t.Errorf("log = %v, want one line with the reason", got)
	}
	b.recv.wait(t, "a message after it", func() bool { return len(b.recv.got) > 0 }, func() {
		a.sender.Send([]raftpb.Message{heartbeat(1, 2, 1)})
	})
}

// proxied starts two members, of which the first dials the second through a
// proxy.
func proxied(t *testing.T) (*httpRig, *faultproxy.Proxy, *node, *node) {
	t.Helper()
	r := newHTTPRig(t)
	p, err := faultproxy.New(t.Context(), strings.TrimPrefix(r.url(t, 2), "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	r.urls[direction{1, 2}] = "http://" + p.Addr()
	a, b := r.start(t, 1, 2), r.start(t, 2, 1)
	r.link(t, a, b)
	return r, p, a, b
}

func TestSnapshotCutInTheMiddleIsNeverLoaded(t *testing.T) {
	const size = 8 << 20
	_, p, a, b := proxied(t)
	body := &pattern{size: size, pace: func(at int64) {
		if at > size/2 {
			p.CloseAll()
		}
	}}
	a.sender.SendSnapshot(snapshotMessage(1, 2, 5), size, body)
	waitSnapshot(t, a, 1, snapshotReport{2, raft.SnapshotFailure})
	eventually(t, "clean directory", func() bool { return len(files(t, b.dir)) == 0 })
	if got := b.recv.messages(); len(got) != 0 {
		t.Errorf("messages = %v, want none", got)
	}
	a.sender.SendSnapshot(snapshotMessage(1, 2, 5), size, &pattern{size: size})
	waitSnapshot(t, a, 2, snapshotReport{2, raft.SnapshotFinish})
	checkFile(t, filepath.Join(b.dir, "0000000000000005.snap.db"), size)
}

func TestSnapshotThatTheNetworkSwallowsFails(t *testing.T) {
	const size = 64 << 20 // more than all buffers in between
	r, p, a, b := proxied(t)
	body := &pattern{size: size, pace: func(at int64) {
		if at > 0 {
			p.Cut(faultproxy.Both)
		}
	}}
	a.sender.SendSnapshot(snapshotMessage(1, 2, 5), size, body)
	h := a.sender.(*HTTP)
	w := watch{peers: make(map[uint64]*peerWatch)}
	now := time.Now()
	a.recv.wait(t, "failure", func() bool { return len(a.recv.snapshots) > 0 }, func() {
		now = now.Add(2 * snapshotStallTimeout)
		h.inspect(&w, now)
	})
	waitSnapshot(t, a, 1, snapshotReport{2, raft.SnapshotFailure})
	if got := r.log.find(1, "snapshot transfer makes no progress; connecting to the peer anew", false); len(got) == 0 {
		t.Error("log has no line about the stalled transfer")
	}
	p.Heal()
	eventually(t, "clean directory", func() bool { return len(files(t, b.dir)) == 0 })
	if got := b.recv.messages(); len(got) != 0 {
		t.Errorf("messages = %v, want none", got)
	}
}

func TestRemovePeerDoesNotWaitForASilentPeer(t *testing.T) {
	_, p, a, _ := proxied(t)
	p.Cut(faultproxy.Both)
	for i := range uint64(1000) {
		a.sender.Send([]raftpb.Message{appendMessage(1, 2, i, strings.Repeat("x", 16<<10))})
	}
	start := time.Now()
	a.sender.RemovePeer(2)
	a.sender.Send([]raftpb.Message{heartbeat(1, 2, 1)})
	if got := time.Since(start); got > idleTimeout/2 {
		t.Errorf("RemovePeer() took %v with a silent peer, want well below %v", got, idleTimeout)
	}
}

// A learner says nothing of its own accord, and its leader has nothing more to
// say to it once it was removed. It must not go on as if it were a member.
func TestAMemberThatSaysNothingIsToldOfItsRemoval(t *testing.T) {
	r, p, a, b := proxied(t)
	p.Cut(faultproxy.Both)
	eventually(t, "inactive peer", func() bool { return a.sender.ActiveSince(2).IsZero() })
	r.markRemoved(1)
	b.sender.RemovePeer(1)
	p.Heal()
	select {
	case err := <-a.sender.Err():
		if !errors.Is(err, ErrRemoved) {
			t.Errorf("Err() = %v, want %v", err, ErrRemoved)
		}
	case <-time.After(patience):
		t.Errorf("no news of the removal within %s", patience)
	}
}

func TestSilentPeerIsNoticed(t *testing.T) {
	_, p, a, b := proxied(t)
	// The streams from 2 to 1 were opened through the proxy, those from 1 to 2
	// were not: 2 is silent for 1, and still hears it.
	p.Cut(faultproxy.ToClient)
	eventually(t, "inactive peer", func() bool { return a.sender.ActiveSince(2).IsZero() })
	b.recv.wait(t, "a message in the other direction", func() bool { return len(b.recv.got) > 0 }, func() {
		a.sender.Send([]raftpb.Message{heartbeat(1, 2, 1)})
	})
	p.Heal()
	eventually(t, "active peer", func() bool { return !a.sender.ActiveSince(2).IsZero() })
}

func TestLogHasOneLineWhenAPeerGoesAndOneWhenItIsBack(t *testing.T) {
	r := newHTTPRig(t)
	a, b := r.start(t, 1, 2), r.start(t, 2, 1)
	r.link(t, a, b)
	h := a.sender.(*HTTP)
	line := func(message string, n int) []logLine {
		t.Helper()
		var got []logLine
		eventually(t, message, func() bool { got = r.log.find(1, message, false); return len(got) == n })
		return got
	}
	line("peer is reachable", 1)
	r.stop(b)
	a.recv.wait(t, "losses", func() bool { return a.recv.unreachable[2] > 0 }, func() {
		for range 100 {
			a.sender.Send([]raftpb.Message{heartbeat(1, 2, 1)})
		}
	})
	if got := line("peer is unreachable", 1); got[0].attrs["reason"] == "" || got[0].level != slog.LevelWarn {
		t.Errorf("line about the lost peer = %v, want a warning with the reason", got[0])
	}
	if got := metric(t, r.metrics, "deimos_peer_active", "2"); got != 0 {
		t.Errorf("deimos_peer_active = %v, want 0", got)
	}
	if got := metric(t, r.metrics, "deimos_peer_messages_dropped_total", "2"); got == 0 {
		t.Error("deimos_peer_messages_dropped_total = 0, want more")
	}
	r.start(t, 2, 1)
	line("peer is reachable", 2)
	eventually(t, "gauge", func() bool { return metric(t, r.metrics, "deimos_peer_active", "2") == 1 })
	if got := r.log.loud(1); got != 3 {
		t.Errorf("%d lines at Info or above, want 3", got)
	}
	h.RemovePeer(2)
	if got := metric(t, r.metrics, "deimos_peer_messages_dropped_total", "2"); got != 0 {
		t.Errorf("deimos_peer_messages_dropped_total of a removed peer = %v, want none", got)
	}
}

func TestPeerThatNeverAppearsIsLoggedOnce(t *testing.T) {
	r := newHTTPRig(t)
	a := r.start(t, 1)
	h := a.sender.(*HTTP)
	if err := h.AddPeer(deimos.Member{ID: 2, PeerURLs: []string{r.url(t, 2)}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a failed dial", func() bool { return h.reasons.of(2) != "" })
	w := watch{peers: make(map[uint64]*peerWatch)}
	now := time.Now()
	for _, step := range []struct {
		after time.Duration
		want  int
	}{{0, 0}, {idleTimeout - 1, 0}, {1, 1}, {endPause, 1}} {
		now = now.Add(step.after)
		h.inspect(&w, now)
		if got := r.log.find(1, "peer is unreachable", false); len(got) != step.want {
			t.Errorf("lines %v later = %d, want %d", step.after, len(got), step.want)
		}
	}
}

func TestMetricsAreSharedAndChecked(t *testing.T) {
	r := newHTTPRig(t)
	cfg := r.config(t, 1, newRecorder())
	for range 2 {
		h, err := NewHTTP(cfg)
		if err != nil {
			t.Fatalf("NewHTTP() = %v, want nil for a shared registry", err)
		}
		h.Stop()
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "deimos_peer_active", Help: "another"}))
	cfg.Metrics = reg
	if h, err := NewHTTP(cfg); err == nil {
		h.Stop()
		t.Error("NewHTTP() = nil, want an error for a name that is taken")
	}
}

func TestFatalLogOfRafthttpBecomesAnError(t *testing.T) {
	h := newHTTPRig(t).start(t, 1).sender.(*HTTP)
	err := guard(func() { h.rt.AddPeer(2, []string{"ftp://x"}) })
	if err == nil || !strings.Contains(err.Error(), "ftp://x") {
		t.Errorf("guard(AddPeer of a bad URL) = %v, want an error that names it", err)
	}
	defer func() {
		if v := recover(); v != "other" {
			t.Errorf("recover() = %v, want the panic that is not a log record", v)
		}
	}()
	_ = guard(func() { panic("other") })
}

func TestRafthttpHasTheFieldsThatAreReplaced(t *testing.T) {
	if err := install(&rafthttp.Transport{}, nil, nil); err != nil {
		t.Fatalf("install() = %v, want nil", err)
	}
	typ := reflect.TypeFor[rafthttp.Transport]()
	for _, name := range []string{"streamRt", "pipelineRt", "streamProber", "pipelineProber"} {
		if _, ok := typ.FieldByName(name); !ok {
			t.Errorf("rafthttp.Transport has no field %s", name)
		}
	}
}
