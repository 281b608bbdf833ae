package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/marsevilspirit/deimos/internal/fsx"
)

// Repair is what was cut off the end of the log because a crash had left it
// half written.
type Repair struct {
	// File is the segment, and Offset where it was cut, in bytes.
	File   string
	Offset int64
	// Bytes is how much was cut off, and KeptIn the file that holds it.
	Bytes  int64
	KeptIn string
}

// prepare makes an inspected log ready for etcd's package: leftovers go, a torn
// batch is copied aside and cut off, and after an unclean stop the newest
// segment is replaced by a copy. Pages of it may look fine in the page cache
// without ever having reached the disk; the copy is what is trusted. The one
// that was made during the inspection serves if nothing has to be cut off. The
// marker of a clean stop goes last, before anything else can be written.
func prepare(cfg Config, r *Report) (*Repair, error) {
	if err := removeLeftovers(cfg, r.ahead); err != nil {
		return nil, err
	}
	if r.CleanStop {
		return nil, removeMarker(cfg.FS, cfg.Dir)
	}
	err := r.ahead.wait()
	noSpace := errors.Is(err, syscall.ENOSPC)
	if err != nil && !noSpace {
		return nil, err
	}
	if noSpace || r.Verdict == Torn {
		// Its place is needed: for what is cut off, and for a copy that may
		// find space now that the leftovers are gone.
		if err := r.ahead.discard(); err != nil {
			return nil, err
		}
	}
	seg := r.newest
	end := seg.end
	var repair *Repair
	if r.Verdict == Torn {
		end = r.TornOffset
		kept, err := keepAside(cfg.FS, seg, end)
		if err != nil {
			return nil, err
		}
		repair = &Repair{File: r.TornFile, Offset: r.TornOffset, Bytes: r.TornBytes, KeptIn: kept}
		cfg.Log.Warn("log was cut where a crash had left its last batch half written",
			"file", repair.File, "offset", repair.Offset, "bytes", repair.Bytes, "keptIn", kept)
	}
	if r.ahead.copied {
		err = r.ahead.take()
	} else {
		err = rewrite(cfg.FS, seg, end)
	}
	if errors.Is(err, syscall.ENOSPC) {
		err = rewriteInPlace(cfg.FS, seg, end)
	}
	return repair, err
}

// removeLeftovers removes files that were allocated in advance or left
// unfinished. etcd's package would use them again without emptying them. A copy
// that is being made stays.
func removeLeftovers(cfg Config, copied *ahead) error {
	names, err := cfg.FS.List(cfg.Dir)
	if err != nil {
		return ioError("list", cfg.Dir, err)
	}
	removed := false
	for _, name := range names {
		if !strings.HasSuffix(name, fsx.TempSuffix) || copied.uses(name) {
			continue
		}
		if err := cfg.FS.Remove(filepath.Join(cfg.Dir, name)); err != nil {
			return ioError("remove", filepath.Join(cfg.Dir, name), err)
		}
		removed = true
	}
	if !removed {
		return nil
	}
	return syncDir(cfg.FS, cfg.Dir)
}

// keepAside copies what will be cut off into a new file and returns its name.
func keepAside(fsys fsx.FS, seg *segment, from int64) (string, error) {
	name := seg.path + brokenSuffix
	for n := 1; ; n++ {
		f, err := fsys.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err == nil {
			err = f.Close()
		}
		if err != nil {
			return "", ioError("look for", name, err)
		}
		name = fmt.Sprintf("%s%s.%d", seg.path, brokenSuffix, n)
	}
	if err := fsx.WriteFile(fsys, name, seg.bytes(from, max(seg.end-from, 0))); err != nil {
		return "", ioError("keep the end of the log in", name, err)
	}
	return name, nil
}

// wholeWords rounds a size up to one that etcd's package can read to its end.
func wholeWords(size int64) int64 { return (size + frameBytes - 1) / frameBytes * frameBytes }

// rewrite replaces a segment by a copy of its first bytes, of the same size.
func rewrite(fsys fsx.FS, seg *segment, end int64) error {
	if err := writeCopy(fsys, seg.path, seg.bytes(0, end), wholeWords(seg.size)); err != nil {
		return err
	}
	return placeCopy(fsys, seg.path)
}

// writeCopy writes a durable copy of a segment beside it: its first bytes, and
// zeros up to the size. An error leaves no copy.
func writeCopy(fsys fsx.FS, path string, data []byte, size int64) error {
	temp := path + fsx.TempSuffix
	f, err := fsys.Create(temp)
	if err != nil {
		return ioError("create", temp, err)
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Truncate(size)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(ioError("copy", path, err), fsx.RemoveIfExists(fsys, temp))
	}
	return nil
}

// placeCopy gives the copy of a segment its name.
func placeCopy(fsys fsx.FS, path string) error {
	temp := path + fsx.TempSuffix
	if err := fsys.Rename(temp, path); err != nil {
		return errors.Join(ioError("copy", path, err), fsx.RemoveIfExists(fsys, temp))
	}
	return syncDir(fsys, filepath.Dir(path))
}

// rewriteInPlace writes the same bytes over themselves and syncs them, when
// there is no space for a copy. Blocks that were written before are changed
// only to what is in them already, so a crash on the way loses nothing.
func rewriteInPlace(fsys fsx.FS, seg *segment, end int64) error {
	f, err := fsys.Edit(seg.path)
	if err != nil {
		return ioError("open", seg.path, err)
	}
	_, err = f.Write(seg.bytes(0, end))
	if err == nil {
		err = f.Truncate(end)
	}
	if err == nil {
		err = f.Truncate(wholeWords(seg.size))
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return ioError("rewrite", seg.path, err)
	}
	return nil
}

func syncDir(fsys fsx.FS, dir string) error {
	if err := fsys.SyncDir(dir); err != nil {
		return ioError("sync directory", dir, err)
	}
	return nil
}
