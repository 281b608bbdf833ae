package daemon_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/marsevilspirit/deimos/daemon"
	"github.com/marsevilspirit/deimos/internal/clustertest"
)

// A first start may end at any of its steps. The next one begins again, and
// what it has made is then no more taken for new than any other member.
func TestAFirstStartThatWasCutShortBeginsAgain(t *testing.T) {
	m := clustertest.New(t, 1).Member(0)
	m.Kill() // it has written nothing but what a first start writes
	made := m.DataDir()
	if _, err := os.Lstat(filepath.Join(made, "first-start")); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("Lstat(first-start) of a member = %v, want %v", err, fs.ErrNotExist)
	}
	names, err := filepath.Glob(filepath.Join(made, "snap", "*.snap"))
	if err != nil || len(names) != 1 {
		t.Fatalf("snapshots %q, %v, want one", names, err)
	}
	snapshot := filepath.Join("snap", filepath.Base(names[0]))
	var content []byte
	if content, err = os.ReadFile(names[0]); err != nil {
		t.Fatal(err)
	}
	write := func(name string, text []byte) func(string) error {
		return func(dir string) error { return os.WriteFile(filepath.Join(dir, name), text, 0o600) }
	}
	mkdir := func(name string) func(string) error {
		return func(dir string) error { return os.Mkdir(filepath.Join(dir, name), 0o700) }
	}
	rename := func(from, to string) func(string) error {
		return func(dir string) error { return os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)) }
	}
	steps := []struct {
		name string
		take func(dir string) error
	}{
		{"the directory was made", mkdir("")},
		{"it was locked", write("lock", []byte("1\n"))},
		{"the directory of snapshots was made", mkdir("snap")},
		{"the mark was begun", write("first-start.tmp", nil)},
		{"the mark was made", rename("first-start.tmp", "first-start")},
		{"the snapshot was begun", write(snapshot+".tmp", content[:len(content)/2])},
		{"the snapshot was written", write(snapshot+".tmp", content)},
		{"the snapshot was made", rename(snapshot+".tmp", snapshot)},
		{"the log was locked", write("wal.lock", []byte("1\n"))},
		{"the log was begun", mkdir("wal.new.tmp")},
		{"the log was written", func(dir string) error {
			return os.CopyFS(filepath.Join(dir, "wal.new.tmp"), os.DirFS(filepath.Join(made, "wal")))
		}},
		{"the log was complete", rename("wal.new.tmp", "wal.new")},
		{"the log was made", rename("wal.new", "wal")},
	}
	for n := range steps {
		t.Run(steps[n].name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			for _, s := range steps[:n+1] {
				if err := s.take(dir); err != nil {
					t.Fatal(err)
				}
			}
			m.Configure(func(cfg *daemon.Config) { cfg.DataDir = dir })
			m.Start()
			m.WaitReady()
			put(t, m, "/k", "v")
			m.Stop()
			if err := os.RemoveAll(filepath.Join(dir, "wal")); err != nil {
				t.Fatal(err)
			}
			if err := m.TryStart(); err == nil || daemon.FailureOf(err) != daemon.FailureDamage {
				t.Errorf("Open without the log = %v, want damage", err)
			}
		})
	}
}

// What fails on the way is not to be taken for a loss by the next start.
func TestAFirstStartThatHasFailedBeginsAgain(t *testing.T) {
	for _, obstacle := range []string{"first-start.tmp", "wal.lock"} {
		t.Run(obstacle, func(t *testing.T) {
			m := clustertest.New(t, 1).Member(0)
			m.Stop()
			dir := filepath.Join(t.TempDir(), "data")
			m.Configure(func(cfg *daemon.Config) { cfg.DataDir = dir })
			if err := os.MkdirAll(filepath.Join(dir, obstacle), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := m.TryStart(); err == nil || daemon.FailureOf(err) != daemon.FailureIO {
				t.Fatalf("Open with a directory in the place of a file = %v, want an I/O failure", err)
			}
			if err := os.RemoveAll(filepath.Join(dir, obstacle)); err != nil {
				t.Fatal(err)
			}
			m.Start()
			m.WaitReady()
		})
	}
}
