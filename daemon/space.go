package daemon

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
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
	// spaceInterval is how long a look at the free space counts. Even a fast
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

// diskSpace watches the free space of the data directory. Its methods may be
// called from any goroutine.
type diskSpace struct {
	reserve int64
	free    func() (int64, error) // bytes that are left for us
	log     *slog.Logger

	start    time.Time
	lookedAt atomic.Int64 // time since start of the last look
	low      atomic.Bool
}

func newDiskSpace(dir string, log *slog.Logger) *diskSpace {
	return &diskSpace{
		reserve: reserveBytes(),
		free: func() (int64, error) {
			var st unix.Statfs_t
			if err := unix.Statfs(dir, &st); err != nil {
				return 0, fmt.Errorf("daemon: free space of %s: %w", dir, err)
			}
			return int64(st.Bavail) * int64(st.Bsize), nil //nolint:unconvert // their types differ from system to system
		},
		log:   log,
		start: time.Now().Add(-spaceInterval), // so that the first look is one
	}
}

// Low reports whether less than the reserve is free. It looks at most once in
// spaceInterval, so that asking for each write costs nothing.
func (d *diskSpace) Low() bool {
	now, last := int64(time.Since(d.start)), d.lookedAt.Load()
	if now-last < int64(spaceInterval) || !d.lookedAt.CompareAndSwap(last, now) {
		return d.low.Load()
	}
	free, err := d.free()
	if err != nil {
		d.log.Warn("the free disk space is not known", "error", err)
		return d.low.Load()
	}
	low := free < d.reserve
	if d.low.Swap(low) != low {
		if low {
			d.log.Error("disk space is below the reserve: writes are refused", "freeBytes", free, "reserveBytes", d.reserve)
		} else {
			d.log.Info("disk space is above the reserve again: writes are accepted", "freeBytes", free)
		}
	}
	return low
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
