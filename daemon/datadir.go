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
	"time"

	"golang.org/x/sys/unix"
)

// DataDirError says why a data directory cannot be used.
type DataDirError struct {
	Dir string
	Err error
}

// Error implements the error interface.
func (e *DataDirError) Error() string { return fmt.Sprintf("data directory %s: %v", e.Dir, e.Err) }

// Unwrap returns the reason.
func (e *DataDirError) Unwrap() error { return e.Err }

// dirFailure tells an I/O failure from a directory that cannot be used as it is.
func dirFailure(dir string, err error) error {
	for _, failed := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EIO, syscall.EROFS} {
		if errors.Is(err, failed) {
			return ioFailure(err)
		}
	}
	return &DataDirError{Dir: dir, Err: err}
}

// lockName is the file whose lock says that a process uses the directory. Its
// content, the process id, is for people.
const lockName = "lock"

// dataDir is the locked directory of a member.
type dataDir struct {
	path string
	lock *os.File
}

// walName is the name of the log in a data directory. A directory with a log
// holds a member.
const (
	walName  = "wal"
	snapName = "snap"
)

func (d *dataDir) wal() string  { return filepath.Join(d.path, walName) }
func (d *dataDir) snap() string { return filepath.Join(d.path, snapName) }

// openDataDir makes the directory if it is missing and locks it.
func openDataDir(path string, log *slog.Logger) (*dataDir, error) {
	if err := makeDir(path); err != nil {
		if errors.Is(err, syscall.ENOTDIR) {
			err = fmt.Errorf("%w: choose another --data-dir, or move the file out of the way", err)
		}
		return nil, dirFailure(path, err)
	}
	return lockDataDir(path, log)
}

// lockDataDir locks a directory that exists.
func lockDataDir(path string, log *slog.Logger) (*dataDir, error) {
	fail := func(err error) (*dataDir, error) { return nil, dirFailure(path, err) }
	info, err := os.Stat(path)
	if err != nil {
		return fail(err)
	}
	switch mode := info.Mode().Perm(); {
	case mode&0o002 != 0:
		return fail(fmt.Errorf("mode %04o lets everybody write: run chmod 700 on it", mode))
	case mode&0o077 != 0:
		log.Warn("the data directory can be read by others; chmod 700 is advised", "dir", path, "mode", fmt.Sprintf("%04o", mode))
	}
	lock, err := os.OpenFile(filepath.Join(path, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fail(err)
	}
	if err := flock(lock); err != nil {
		holder := lockHolder(lock)
		_ = lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return fail(fmt.Errorf("in use by process %s: stop it or choose another --data-dir", holder))
		}
		return fail(fmt.Errorf("lock: %w", err))
	}
	if err := writePid(lock); err != nil {
		_ = lock.Close()
		return fail(err)
	}
	return &dataDir{path: path, lock: lock}, nil
}

// lockPatience is how long a start waits for the lock: a process that was
// killed a moment ago may still be giving back its memory.
const lockPatience = 500 * time.Millisecond

func flock(f *os.File) error {
	ticker := time.NewTicker(lockPatience / 10)
	defer ticker.Stop()
	for began := time.Now(); ; <-ticker.C {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Since(began) > lockPatience {
			return err
		}
	}
}

// makeDir makes path with mode 0700 whatever the umask, and makes its name
// durable. Missing parents are made as mkdir -p does.
func makeDir(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	err := os.Mkdir(path, 0o700)
	if errors.Is(err, fs.ErrExist) {
		info, err := os.Stat(path)
		if err == nil && !info.IsDir() {
			return syscall.ENOTDIR
		}
		return err
	}
	if err != nil {
		return err
	}
	if err := os.Chmod(path, 0o700); err != nil { //nolint:gosec // a directory needs the x bit
		return err
	}
	parent, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer parent.Close()
	return parent.Sync()
}

func lockHolder(lock *os.File) string {
	text := make([]byte, 20)
	n, err := lock.ReadAt(text, 0)
	if pid := strings.TrimSpace(string(text[:n])); pid != "" && (err == nil || n > 0) {
		return pid
	}
	return "unknown"
}

// writePid replaces the content in its place, which needs no space on a disk that
// is full.
func writePid(lock *os.File) error {
	n, err := lock.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	if err != nil {
		return err
	}
	return lock.Truncate(int64(n))
}

// release lets another process use the directory.
func (d *dataDir) release() error {
	if err := d.lock.Close(); err != nil {
		return dirFailure(d.path, err)
	}
	return nil
}
