package daemon_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/marsevilspirit/deimos/daemon"
	"github.com/marsevilspirit/deimos/internal/clustertest"
)

// limitOpenFiles lets the process open so many files until the end of the test.
func limitOpenFiles(t *testing.T, files uint64) {
	t.Helper()
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	limit := before
	limit.Cur = files
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
			t.Error(err)
		}
	})
}

func TestTooFewOpenFilesAreToldBeforeAnythingIsTouched(t *testing.T) {
	m := clustertest.New(t, 1).Member(0)
	m.Stop()
	marker := filepath.Join(m.DataDir(), "wal", "clean-stop")
	if _, err := os.Lstat(marker); err != nil {
		t.Fatal(err)
	}
	// What is left serves to open everything but the connections.
	limitOpenFiles(t, 150)
	wantUsage := func(what string, err error) {
		t.Helper()
		if err == nil || daemon.FailureOf(err) != daemon.FailureUsage || !strings.Contains(err.Error(), "ulimit -n") {
			t.Errorf("%s = %v, want a usage error about ulimit -n", what, err)
		}
	}
	wantUsage("Open", m.TryStart())
	if _, err := os.Lstat(marker); err != nil {
		t.Errorf("the mark of the clean stop after a start that was refused: %v", err)
	}
	dir := filepath.Join(t.TempDir(), "data")
	urls := daemon.URLs{ListenClient: []string{"http://127.0.0.1:0"}, ListenPeer: []string{"http://127.0.0.1:0"}}
	_, err := daemon.Start(t.Context(), daemon.Config{DataDir: dir, URLs: urls})
	wantUsage("Start", err)
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Lstat of the data directory after a start that was refused = %v, want %v", err, fs.ErrNotExist)
	}
}
