package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/marsevilspirit/deimos/wal"
)

func TestAFailureOfTheDiskIsNoFaultOfTheDirectory(t *testing.T) {
	pathError := func(err error) error { return &fs.PathError{Op: "write", Path: "/d/lock", Err: err} }
	const space = "free space on the disk that holds /d, of which a member keeps 128 MB in reserve"
	for _, tt := range []struct {
		err  error
		kind Failure
		want string
	}{
		{dirFailure("/d", pathError(syscall.ENOSPC)), FailureIO, "data directory: write /d/lock: no space left on device: " + space},
		{dirFailure("/d", pathError(syscall.EDQUOT)), FailureIO, "data directory: write /d/lock: disk quota exceeded: " + space},
		{dirFailure("/d", pathError(syscall.EIO)), FailureIO, "data directory: write /d/lock: input/output error"},
		{dirFailure("/d", pathError(syscall.EROFS)), FailureIO, "data directory: write /d/lock: read-only file system"},
		{dirFailure("/d", pathError(syscall.EACCES)), FailureDataDir, "data directory /d: write /d/lock: permission denied"},
		{fmt.Errorf("wal: create /d/wal: %w", errors.Join(wal.ErrIO, syscall.ENOSPC)), FailureIO, space},
		{fmt.Errorf("tls: %w", pathError(syscall.ENOSPC)), FailureIO, space},
	} {
		err := explainSpace("/d", tt.err)
		if got := FailureOf(err); got != tt.kind || !strings.HasSuffix(err.Error(), tt.want) {
			t.Errorf("FailureOf(%v) = %v, want %v and a sentence that ends in %q", err, got, tt.kind, tt.want)
		}
	}
}

func TestAFullDiskAtTheStartIsAnIOFailure(t *testing.T) {
	const full = "/dev/full" // no write to it finds space
	if _, err := os.Stat(full); err != nil {
		t.Skipf("the system has no such device: %v", err)
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil { //nolint:gosec // a directory needs the x bit
		t.Fatal(err)
	}
	if err := os.Symlink(full, filepath.Join(dir, lockName)); err != nil {
		t.Fatal(err)
	}
	_, err := Open(t.Context(), Config{DataDir: dir})
	if FailureOf(err) != FailureIO || !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "free space") {
		t.Errorf("Open() = %v, want an I/O failure that asks for space", err)
	}
}

// A start must not need more space than the directory has already.
func TestTheProcessIDIsWrittenInItsPlace(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil { //nolint:gosec // a directory needs the x bit
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, lockName), []byte("1234567890123\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := openDataDir(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, lockName))
	if want := fmt.Sprintf("%d\n", os.Getpid()); err != nil || string(text) != want {
		t.Errorf("the lock file holds %q, %v, want %q", text, err, want)
	}
	if err := d.release(); err != nil {
		t.Error(err)
	}
}

func TestAFileInThePlaceOfTheDirectoryIsNamedWithTheWayOut(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{file, filepath.Join(file, "below")} {
		_, err := Open(t.Context(), Config{DataDir: dir})
		if FailureOf(err) != FailureDataDir || !strings.HasSuffix(err.Error(), "not a directory: choose another --data-dir, or move the file out of the way") {
			t.Errorf("Open(%s) = %v, want a DataDirError with the way out", dir, err)
		}
	}
}
