package wal

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/marsevilspirit/deimos/internal/fsx"
)

const lockSuffix = ".lock"

// lock keeps other processes away from a log. The file lies beside the
// directory, because the log is created under another name, and its segments
// are replaced.
type lock struct{ f *os.File }

// takeLock locks the log in dir, or returns a [LockedError] at once.
func takeLock(dir string) (*lock, error) {
	name := dir + lockSuffix
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, fsx.FileMode)
	if err != nil {
		return nil, ioError("open", name, err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, errors.Join(&LockedError{Dir: dir, PID: holder(f)}, f.Close())
	}
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = fmt.Fprintf(f, "%d\n", os.Getpid())
	}
	if err != nil {
		return nil, errors.Join(ioError("lock", name, err), f.Close())
	}
	return &lock{f: f}, nil
}

// holder reads who wrote the lock file.
func holder(f *os.File) int {
	b := make([]byte, 20)
	n, err := f.ReadAt(b, 0)
	if err != nil && n == 0 {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	if err != nil {
		return 0
	}
	return pid
}

// release may be called more than once.
func (l *lock) release() error {
	if l.f == nil {
		return nil
	}
	f := l.f
	l.f = nil
	return f.Close()
}
