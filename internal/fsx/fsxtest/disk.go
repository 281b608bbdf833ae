// Package fsxtest is the file system for tests of durability: [Disk] keeps
// what was written and what is durable apart and can crash, and [Faults] makes
// chosen operations fail. It starts no goroutine.
package fsxtest

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/marsevilspirit/deimos/internal/fsx"
)

// Reporter is told about broken rules; a *testing.T is one.
type Reporter interface {
	Helper()
	Errorf(format string, args ...any)
}

// Disk is a file system in memory that separates what was written from what a
// power loss leaves. It reports to the test when a name is relied on that is
// not durable yet: a file is renamed to its final name before its content was
// synced, or something is removed while another name in the same directory
// still waits for its directory sync. It may be used from any goroutine.
type Disk struct {
	mu      sync.Mutex
	t       Reporter
	names   map[string]*inode // what programs see
	durable map[string]*inode // what a power loss leaves
	pending []change          // name changes that no SyncDir has covered
	dirs    map[string]bool
}

type inode struct {
	data   []byte
	synced []byte
}

// change is one rename, creation or removal, which reaches the disk as a whole.
type change struct {
	dir  string
	sets map[string]*inode // nil: the name is gone
}

var _ fsx.FS = (*Disk)(nil)

// NewDisk returns an empty disk that reports broken rules to t.
func NewDisk(t Reporter) *Disk {
	return &Disk{t: t, names: map[string]*inode{}, durable: map[string]*inode{}, dirs: map[string]bool{}}
}

// Crash loses what is not durable. With a nil rng everything that was not
// synced is lost; otherwise each unsynced name change, and each unsynced
// 512-byte sector of each file, survives or not as rng says. Files that were
// open are of no use afterwards.
func (d *Disk) Crash(rng *rand.Rand) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if rng != nil {
		for _, c := range d.pending {
			if rng.IntN(2) == 0 {
				apply(d.durable, c.sets)
			}
		}
	}
	d.pending = nil
	names := make(map[string]*inode, len(d.durable))
	seen := map[*inode]*inode{}
	paths := make([]string, 0, len(d.durable))
	for path := range d.durable {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	for _, path := range paths {
		old := d.durable[path]
		if seen[old] == nil {
			data := old.survivors(rng)
			seen[old] = &inode{data: data, synced: bytes.Clone(data)}
		}
		names[path] = seen[old]
	}
	d.names = names
	d.durable = make(map[string]*inode, len(names))
	apply(d.durable, names)
}

const sectorBytes = 512

func (n *inode) survivors(rng *rand.Rand) []byte {
	if rng == nil {
		return bytes.Clone(n.synced)
	}
	out := bytes.Clone(n.synced)
	for at := 0; at < len(n.data); at += sectorBytes {
		if rng.IntN(2) == 0 {
			continue
		}
		end := min(at+sectorBytes, len(n.data))
		if len(out) < end {
			out = append(out, make([]byte, end-len(out))...)
		}
		copy(out[at:end], n.data[at:end])
	}
	return out
}

func apply(m, sets map[string]*inode) {
	for name, n := range sets {
		if n == nil {
			delete(m, name)
		} else {
			m[name] = n
		}
	}
}

// Unsynced returns the names whose change is not durable yet, and the files
// whose content is not, sorted. Nothing that a function has reported as done
// may be among them.
func (d *Disk) Unsynced() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []string
	for _, c := range d.pending {
		for name := range c.sets {
			out = append(out, name)
		}
	}
	for name, n := range d.names {
		if !bytes.Equal(n.data, n.synced) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Put stores a durable file, as if it had always been there.
func (d *Disk) Put(name string, data []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := &inode{data: bytes.Clone(data), synced: bytes.Clone(data)}
	d.names[name], d.durable[name] = n, n
	d.dirs[filepath.Dir(name)] = true
}

// Content returns a copy of the content that programs see; nil if there is no
// such file.
func (d *Disk) Content(name string) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := d.names[name]; n != nil {
		return append([]byte{}, n.data...)
	}
	return nil
}

func (d *Disk) change(dir string, sets map[string]*inode) {
	apply(d.names, sets)
	d.pending = append(d.pending, change{dir: dir, sets: sets})
}

func missing(op, name string) error {
	return &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
}

// Create implements [fsx.FS].
func (d *Disk) Create(name string) (fsx.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	dir := filepath.Dir(name)
	if !d.dirs[dir] {
		return nil, missing("create", name)
	}
	n := d.names[name]
	if n == nil {
		n = &inode{}
		d.change(dir, map[string]*inode{name: n})
	}
	n.data = nil
	return &file{disk: d, inode: n, name: name, writable: true}, nil
}

// Open implements [fsx.FS].
func (d *Disk) Open(name string) (fsx.File, error) { return d.open(name, false) }

// Edit implements [fsx.FS].
func (d *Disk) Edit(name string) (fsx.File, error) { return d.open(name, true) }

func (d *Disk) open(name string, writable bool) (fsx.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.names[name]
	if n == nil {
		return nil, missing("open", name)
	}
	return &file{disk: d, inode: n, name: name, writable: writable}, nil
}

// Rename implements [fsx.FS].
func (d *Disk) Rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.names[from]
	if n == nil {
		return missing("rename", from)
	}
	if !bytes.Equal(n.data, n.synced) {
		d.t.Helper()
		d.t.Errorf("%s was renamed to %s before its content was synced", from, to)
	}
	d.change(filepath.Dir(to), map[string]*inode{from: nil, to: n})
	return nil
}

// Remove implements [fsx.FS].
func (d *Disk) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.names[name] == nil {
		return missing("remove", name)
	}
	if !strings.HasSuffix(name, fsx.TempSuffix) {
		for _, c := range d.pending {
			for other, n := range c.sets {
				if n != nil && other != name && c.dir == filepath.Dir(name) {
					d.t.Helper()
					d.t.Errorf("%s was removed before the directory sync that makes %s durable", name, other)
				}
			}
		}
	}
	d.change(filepath.Dir(name), map[string]*inode{name: nil})
	return nil
}

// SyncDir implements [fsx.FS].
func (d *Disk) SyncDir(dir string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.dirs[dir] {
		return missing("sync", dir)
	}
	d.pending = slices.DeleteFunc(d.pending, func(c change) bool {
		if c.dir == dir {
			apply(d.durable, c.sets)
		}
		return c.dir == dir
	})
	return nil
}

// MakeDir implements [fsx.FS]. Directories are durable at once.
func (d *Disk) MakeDir(dir string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for !d.dirs[dir] {
		d.dirs[dir] = true
		dir = filepath.Dir(dir)
	}
	return nil
}

// List implements [fsx.FS].
func (d *Disk) List(dir string) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.dirs[dir] {
		return nil, missing("list", dir)
	}
	var names []string
	for name := range d.names {
		if filepath.Dir(name) == dir {
			names = append(names, filepath.Base(name))
		}
	}
	slices.Sort(names)
	return names, nil
}

type file struct {
	disk     *Disk
	inode    *inode
	name     string
	writable bool
	at       int64
	closed   bool
}

func (f *file) check(op string, write bool) error {
	if f.closed {
		return &fs.PathError{Op: op, Path: f.name, Err: fs.ErrClosed}
	}
	if write && !f.writable {
		return &fs.PathError{Op: op, Path: f.name, Err: fs.ErrPermission}
	}
	return nil
}

// Read implements [fsx.File].
func (f *file) Read(p []byte) (int, error) {
	n, err := f.ReadAt(p, f.at)
	f.at += int64(n)
	if n > 0 {
		err = nil
	}
	return n, err
}

// ReadAt implements [fsx.File].
func (f *file) ReadAt(p []byte, off int64) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if err := f.check("read", false); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, fmt.Errorf("read %s at %d", f.name, off)
	}
	if off >= int64(len(f.inode.data)) {
		if len(p) == 0 {
			return 0, nil
		}
		return 0, io.EOF
	}
	n := copy(p, f.inode.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Write implements [fsx.File].
func (f *file) Write(p []byte) (int, error) {
	n, err := f.WriteAt(p, f.at)
	f.at += int64(n)
	return n, err
}

// WriteAt implements [fsx.File].
func (f *file) WriteAt(p []byte, off int64) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if err := f.check("write", true); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, fmt.Errorf("write %s at %d", f.name, off)
	}
	end := off + int64(len(p))
	if grow := end - int64(len(f.inode.data)); grow > 0 {
		f.inode.data = append(f.inode.data, make([]byte, grow)...)
	}
	copy(f.inode.data[off:end], p)
	return len(p), nil
}

// Sync implements [fsx.File].
func (f *file) Sync() error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if err := f.check("sync", false); err != nil {
		return err
	}
	f.inode.synced = bytes.Clone(f.inode.data)
	return nil
}

// Truncate implements [fsx.File].
func (f *file) Truncate(size int64) error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if err := f.check("truncate", true); err != nil {
		return err
	}
	if grow := size - int64(len(f.inode.data)); grow > 0 {
		f.inode.data = append(f.inode.data, make([]byte, grow)...)
	}
	f.inode.data = f.inode.data[:size]
	return nil
}

// Size implements [fsx.File].
func (f *file) Size() (int64, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if err := f.check("stat", false); err != nil {
		return 0, err
	}
	return int64(len(f.inode.data)), nil
}

// Close implements [fsx.File].
func (f *file) Close() error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if err := f.check("close", false); err != nil {
		return err
	}
	f.closed = true
	return nil
}
