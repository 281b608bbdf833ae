package wal

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
)

// Salvage cuts a damaged log off where the damage begins, when an operator has
// decided to go on with what precedes it: in a one-member cluster, where nobody
// else has the rest. Everything behind the first bad batch is lost to the
// cluster, acknowledged or not; it is kept in *.broken files. Salvage returns
// nil if nothing is damaged. Nothing calls it by itself.
//
// A crash on the way leaves a log that is still damaged, or cut; Salvage may
// then be called again.
func Salvage(cfg Config) (cut *Repair, err error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	if err := mustExist(cfg.FS, cfg.Dir, "salvage"); err != nil {
		return nil, err
	}
	l, err := takeLock(cfg.Dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.release()) }()
	r, err := inspect(cfg.FS, cfg.Dir, false)
	if err != nil || r.Damage == nil {
		return nil, err
	}
	if len(r.Snapshots) == 0 {
		return nil, fmt.Errorf("wal: salvage %s: nothing precedes the damage that a member could go on from: %w", cfg.Dir, r.Damage)
	}
	if err := removeMarker(cfg.FS, cfg.Dir); err != nil {
		return nil, err
	}
	cut = &Repair{File: r.Damage.File, Offset: r.badBatch}
	whole := r.bad != nil && r.badBatch == 0
	if cut.Moved, err = moveBehind(cfg, r, whole); err != nil {
		return nil, err
	}
	if r.bad != nil && !whole {
		cut.Bytes = max(r.bad.end-r.badBatch, 0)
		if cut.KeptIn, err = keepAside(cfg.FS, r.bad, r.badBatch); err != nil {
			return nil, err
		}
		if err := rewrite(cfg.FS, r.bad, r.badBatch); err != nil {
			return nil, err
		}
	}
	cfg.Log.Warn("damaged log was cut by the operator", "file", cut.File, "offset", cut.Offset, "bytes", cut.Bytes,
		"keptIn", cut.KeptIn, "moved", cut.Moved, "lastRaftIndex", r.LastRaftIndex)
	return cut, nil
}

// moveBehind renames the segments behind the last one that was inspected, and
// with whole set that one too. The newest goes first, so that no crash leaves
// a gap that was not there.
func moveBehind(cfg Config, r *Report, whole bool) ([]string, error) {
	names, err := cfg.FS.List(cfg.Dir)
	if err != nil {
		return nil, ioError("list", cfg.Dir, err)
	}
	last := r.Segments[len(r.Segments)-1].Name
	var moved []string
	for _, name := range slices.Backward(names) {
		if filepath.Ext(name) != segmentSuffix || name < last || name == last && !whole {
			continue
		}
		path := filepath.Join(cfg.Dir, name)
		if err := cfg.FS.Rename(path, path+brokenSuffix); err != nil {
			return moved, ioError("rename", path, err)
		}
		if err := syncDir(cfg.FS, cfg.Dir); err != nil {
			return moved, err
		}
		moved = append(moved, path+brokenSuffix)
	}
	return moved, nil
}
