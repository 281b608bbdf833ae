package daemon

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"golang.org/x/sys/unix"

	"github.com/marsevilspirit/deimos/snap"
	"github.com/marsevilspirit/deimos/wal"
)

const (
	// reserveMin is the least that is kept free for elections, expiry and
	// member changes, which go on when writes are refused.
	reserveMin = 64 << 20
	// spaceInterval is the time between looks at the free space. Even a fast
	// disk does not take in the reserve in this time.
	spaceInterval = 50 * time.Millisecond
)

// reserveBytes is how much has to be free for a member that accepts writes.
func reserveBytes() int64 { return max(reserveMin, 2*wal.SegmentBytes()) }

// noSpaceError says that a start has met the end of the disk.
type noSpaceError struct {
	dir     string
	reserve int64 // bytes
	err     error
}

func (e *noSpaceError) Error() string {
	const mb = 1_000_000
	return fmt.Sprintf("%v: free space on the disk that holds %s, of which a member keeps %d MB in reserve", e.err, e.dir, (e.reserve+mb-1)/mb)
}

func (e *noSpaceError) Unwrap() error { return e.err }

// explainSpace adds to the error of a start what to do when the disk is full.
func explainSpace(dir string, err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return &noSpaceError{dir: dir, reserve: reserveBytes(), err: err}
	}
	return err
}

// diskSpace watches the free space of the data directory, by a goroutine of its
// own: a file system that hangs keeps nobody waiting who asks. Its methods may be
// called from any goroutine.
type diskSpace struct {
	reserve int64
	free    func() (int64, error) // bytes that are left for us
	log     *slog.Logger
	low     atomic.Bool
	unknown bool // whether the last look failed; belongs to watch

	once sync.Once
	stop chan struct{}
	done chan struct{}
}

// watchDiskSpace looks once and goes on to look until Close. free is as
// [Config.FreeSpace].
func watchDiskSpace(free func(string) (int64, error), dir string, log *slog.Logger) *diskSpace {
	if free == nil {
		free = freeSpace
	}
	d := &diskSpace{
		reserve: reserveBytes(),
		free:    func() (int64, error) { return free(dir) },
		log:     log,
		stop:    make(chan struct{}),
		done:    make(chan struct{}),
	}
	d.look()
	go d.watch()
	return d
}

func freeSpace(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("daemon: free space of %s: %w", dir, err)
	}
	return int64(st.Bavail) * int64(st.Bsize), nil //nolint:unconvert // their types differ from system to system
}

// Close ends the watch; what it has found last stays. It may be called more than
// once.
func (d *diskSpace) Close() {
	d.once.Do(func() { close(d.stop) })
	<-d.done
}

// Low reports whether less than the reserve was free at the last look.
func (d *diskSpace) Low() bool { return d.low.Load() }

func (d *diskSpace) watch() {
	defer close(d.done)
	ticker := time.NewTicker(spaceInterval)
	defer ticker.Stop()
	for {
		select {
		case <-d.stop:
			return
		case <-ticker.C:
			d.look()
		}
	}
}

func (d *diskSpace) look() {
	free, err := d.free()
	failed := err != nil
	if failed && !d.unknown {
		d.log.Warn("the free disk space is not known, what was known counts", "error", err)
	}
	if d.unknown = failed; failed {
		return
	}
	low := free < d.reserve
	if d.low.Swap(low) == low {
		return
	}
	if low {
		d.log.Error("disk space is below the reserve: writes are refused", "freeBytes", free, "reserveBytes", d.reserve)
	} else {
		d.log.Info("disk space is above the reserve again: writes are accepted", "freeBytes", free)
	}
}

// thriftySnapshots puts snapshots off that would eat up the reserve.
type thriftySnapshots struct {
	*snap.Snapshots
	space *diskSpace
}

// Save implements raftnode.Snapshots.
func (s thriftySnapshots) Save(meta raftpb.SnapshotMetadata, write func(io.Writer) error) error {
	return s.Snapshots.Save(meta, func(w io.Writer) error { return write(thriftyWriter{w, s.space}) })
}

type thriftyWriter struct {
	io.Writer
	space *diskSpace
}

// Write implements [io.Writer].
func (w thriftyWriter) Write(b []byte) (int, error) {
	if w.space.Low() {
		return 0, fmt.Errorf("daemon: disk space is below the reserve: %w", syscall.ENOSPC)
	}
	return w.Writer.Write(b)
}
