package daemon

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/marsevilspirit/deimos"
)

// openJoiner opens the storage of a member that joins, and returns it still
// open.
func openJoiner(t *testing.T, dir *dataDir, from origin) (*storage, error) {
	t.Helper()
	cfg := Config{Name: "b", DataDir: dir.path, InitialClusterState: ClusterStateExisting}
	cfg.setDefaults()
	return openStorage(&cfg, dir, from, newMachine(&cfg, from.members, nil), newMetrics())
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

func TestAStartedMemberDoesNotGetASecondDirectory(t *testing.T) {
	dir := &dataDir{path: filepath.Join(t.TempDir(), "b.deimos")}
	from := origin{members: []deimos.Member{{ID: 2, Name: "b", PeerURLs: []string{"http://127.0.0.1:2"}}}, self: 2, clusterID: 7, joins: true}
	_, err := openJoiner(t, dir, from)
	if FailureOf(err) != FailureDataDir || !strings.Contains(err.Error(), "curl -X DELETE") {
		t.Errorf("openStorage = %v, want a refusal with the commands that replace the member", err)
	}
}
