package daemon_test

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos/daemon"
	"github.com/marsevilspirit/deimos/internal/clustertest"
	"github.com/marsevilspirit/deimos/snap"
)

// A member whose snapshots are of no use must say so and touch nothing.
func TestUnusableSnapshotsStopTheStart(t *testing.T) {
	for _, tt := range []struct {
		name, want string
		harm       func(t *testing.T, dir string, m *clustertest.Member)
	}{
		{"every snapshot is damaged", "fits the log", func(t *testing.T, dir string, _ *clustertest.Member) {
			files, err := filepath.Glob(filepath.Join(dir, "*.snap"))
			if err != nil || len(files) == 0 {
				t.Fatalf("no snapshots: %v", err)
			}
			for _, name := range files {
				text, err := os.ReadFile(name)
				if err != nil {
					t.Fatal(err)
				}
				text[len(text)/2] ^= 1
				if err := os.WriteFile(name, text, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}},
		{"the checksums are right and the content is not", "cannot be restored", func(t *testing.T, dir string, m *clustertest.Member) {
			snapshots, err := snap.Open(snap.Config{Dir: dir})
			if err != nil {
				t.Fatal(err)
			}
			meta := raftpb.SnapshotMetadata{Index: 1, Term: 1, ConfState: raftpb.ConfState{Voters: []uint64{m.MemberID()}}}
			err = snapshots.Save(meta, func(w io.Writer) error { _, err := io.WriteString(w, "no state of ours"); return err })
			if err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := clustertest.New(t, 1).Member(0)
			put(t, m, "/k", "v")
			m.Stop()
			tt.harm(t, filepath.Join(m.DataDir(), "snap"), m)
			before := logOf(t, m.DataDir())
			_, err := daemon.Open(t.Context(), daemon.Config{
				Name: "m1", DataDir: m.DataDir(),
				URLs: daemon.URLs{ListenClient: []string{"http://127.0.0.1:0"}, ListenPeer: []string{"http://127.0.0.1:0"}},
			})
			if err == nil || daemon.FailureOf(err) != daemon.FailureDamage || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Open = %v, want damage with %q", err, tt.want)
			}
			if logOf(t, m.DataDir()) != before {
				t.Error("the log was changed by a start that was refused")
			}
		})
	}
}

// logOf returns the used part of the log.
func logOf(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "wal", "*.wal"))
	if err != nil || len(files) != 1 {
		t.Fatalf("segments %q, %v, want one", files, err)
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimRight(string(text), "\x00")
}
