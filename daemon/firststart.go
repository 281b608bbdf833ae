package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/marsevilspirit/deimos/internal/fsx"
	"github.com/marsevilspirit/deimos/snap"
	"github.com/marsevilspirit/deimos/wal"
)

// This file tells a first start that was cut short, which may begin again, from
// a member that has lost its log, which must not.

// firstStartName is a file that is there from before the first snapshot until
// after the log, and so only while the member has acknowledged nothing, voted
// for nobody and given no index.
const firstStartName = "first-start"

func (d *dataDir) firstStart() string { return filepath.Join(d.path, firstStartName) }

// holdsMember reports whether a member has been made in the directory, which its log
// tells.
func (d *dataDir) holdsMember() (bool, error) { return wal.Exists(d.wal()) }

// beginFirstStart marks that the directory is about to get its first member.
func (d *dataDir) beginFirstStart() error {
	return ioFailure(fsx.WriteFile(fsx.OS{}, d.firstStart(), []byte("the first start of this member has not come to its end\n")))
}

// endFirstStart removes the mark from a directory that has a log, before the
// member does anything that others rely on.
func (d *dataDir) endFirstStart() error {
	err := fsx.OS{}.Remove(d.firstStart())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = fsx.OS{}.SyncDir(d.path)
	}
	return ioFailure(err)
}

// checkNew makes sure that a directory without a log never held a member: the
// first snapshot may be there from a first start that was cut short, and
// nothing else.
func (d *dataDir) checkNew(snapshots *snap.Snapshots) error {
	found, err := snapshots.List()
	if err != nil {
		return err
	}
	begun, err := exists(d.firstStart())
	if err != nil {
		return err
	}
	for _, meta := range found {
		if meta.Index > bootstrapIndex || !begun {
			return &lostLogError{dir: d.wal(), reason: fmt.Sprintf("and there is a snapshot at raft index %d", meta.Index)}
		}
	}
	left, err := os.ReadDir(d.wal())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return dirFailure(d.path, err)
	}
	if len(left) > 0 {
		return &lostLogError{dir: d.wal(), reason: "and the directory is not empty"}
	}
	return nil
}
