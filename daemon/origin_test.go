package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/transport"
)

// openJoiner opens the storage of a member that joins, and returns it still
// open.
func openJoiner(t *testing.T, dir *dataDir, from origin) (*storage, error) {
	t.Helper()
	cfg := Config{Name: "b", DataDir: dir.path, InitialClusterState: ClusterStateExisting}
	cfg.setDefaults()
	find := func(bool) (origin, error) { return from, nil }
	if !from.joins {
		cfg.InitialClusterState = ClusterStateNew
	}
	return openStorage(&cfg, dir, find, newMachine(&cfg, nil), newMetrics())
}

func TestAJoinerThatWasStoppedBeforeItsFirstSnapshotGoesOn(t *testing.T) {
	dir := &dataDir{path: filepath.Join(t.TempDir(), "b.deimos")}
	from := origin{
		members: []deimos.Member{{ID: 1, Name: "a"}, {ID: 2, PeerURLs: []string{"http://127.0.0.1:2"}}},
		self:    2, clusterID: 7, joins: true,
	}
	first, err := openJoiner(t, dir, from)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.wal.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := openJoiner(t, dir, from)
	if err != nil {
		t.Fatal(err)
	}
	if again.identity != first.identity || again.recovered.Snapshot.Index != 0 {
		t.Errorf("identity %+v and snapshot %d, want %+v and 0", again.identity, again.recovered.Snapshot.Index, first.identity)
	}
	again.wal.Abandon()

	for _, tt := range []struct {
		name, want string
		change     func(*origin)
	}{
		{"another cluster", "cluster 8", func(o *origin) { o.clusterID = 8 }},
		{"another member", "member 3", func(o *origin) { o.self = 3 }},
		{"not said to join", "--initial-cluster-state existing", func(o *origin) { o.joins = false }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			other := from
			tt.change(&other)
			_, err := openJoiner(t, dir, other)
			if FailureOf(err) != FailureDataDir || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("openStorage = %v, want a refusal of the directory that says %q", err, tt.want)
			}
		})
	}
}

func TestAMemberIsFoundInAListByItsPeerURLs(t *testing.T) {
	list := []deimos.Member{
		{ID: 1, Name: "a", PeerURLs: []string{"http://127.0.0.1:1"}},
		{ID: 2, PeerURLs: []string{"http://127.0.0.1:2"}},
		{ID: 3, Name: "c", PeerURLs: []string{"http://127.0.0.1:3"}},
	}
	for _, tt := range []struct {
		name, member string
		urls         []string
		want         uint64
		refusal      string
	}{
		{"added", "b", []string{"http://127.0.0.1:2"}, 2, ""},
		{"not added", "b", []string{"http://127.0.0.1:4"}, 0, "add this member first"},
		{"the URLs of two", "b", []string{"http://127.0.0.1:2", "http://127.0.0.1:3"}, 0, "belong to two members"},
		{"the name of another", "a", []string{"http://127.0.0.1:2"}, 0, "choose another --name"},
		{"started before", "c", []string{"http://127.0.0.1:3"}, 0, "curl -X DELETE"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := Config{Name: tt.member, URLs: URLs{AdvertisePeer: tt.urls}}
			o, err := findSelf(&cfg, transport.MembersInfo{ClusterID: 7, Members: list})
			if err == nil {
				err = o.checkNotStarted(&cfg)
			}
			switch {
			case tt.refusal == "" && (err != nil || o.self != tt.want || o.clusterID != 7 || !o.joins):
				t.Errorf("origin %+v, %v, want member %d", o, err, tt.want)
			case tt.refusal != "" && (err == nil || !strings.Contains(err.Error(), tt.refusal)):
				t.Errorf("error = %v, want one that says %q", err, tt.refusal)
			}
		})
	}
}

func TestAJoinerKilledWhileItsFirstSnapshotIsInstalledStartsAgain(t *testing.T) {
	dir := &dataDir{path: filepath.Join(t.TempDir(), "b.deimos")}
	from := origin{
		members: []deimos.Member{{ID: 1, Name: "a"}, {ID: 2, PeerURLs: []string{"http://127.0.0.1:2"}}},
		self:    2, clusterID: 7, joins: true,
	}
	first, err := openJoiner(t, dir, from)
	if err != nil {
		t.Fatal(err)
	}
	// The received snapshot has its final name, and the log does not name it.
	meta := raftpb.SnapshotMetadata{Index: 40, Term: 3, ConfState: raftpb.ConfState{Voters: []uint64{1}, Learners: []uint64{2}}}
	if err := first.snapshots.Save(meta, newMachine(&Config{}, nil).Capture()); err != nil {
		t.Fatal(err)
	}
	saved, err := filepath.Glob(filepath.Join(dir.snap(), "*.snap"))
	if err != nil || len(saved) != 1 {
		t.Fatalf("snapshots %q, %v, want one", saved, err)
	}
	if err := os.Rename(saved[0], strings.TrimSuffix(saved[0], ".snap")+".received.snap"); err != nil {
		t.Fatal(err)
	}
	first.wal.Abandon()
	again, err := openJoiner(t, dir, from)
	if err != nil {
		t.Fatalf("second start: %v", err)
	}
	defer again.wal.Abandon()
	if again.identity != first.identity {
		t.Errorf("identity %+v, want %+v", again.identity, first.identity)
	}
	if left, err := again.snapshots.List(); err != nil || len(left) != 0 {
		t.Errorf("snapshots %v, %v, want none: the log does not know of any", left, err)
	}
}
