package fsxtest

import (
	"errors"
	"io/fs"
	"sync"

	"github.com/marsevilspirit/deimos/internal/fsx"
)

// The operations that a [Faults] asks its hook about.
const (
	OpCreate   = "create"
	OpOpen     = "open"
	OpEdit     = "edit"
	OpRename   = "rename"
	OpRemove   = "remove"
	OpSyncDir  = "syncdir"
	OpMakeDir  = "mkdir"
	OpList     = "list"
	OpRead     = "read"
	OpWrite    = "write"
	OpSync     = "sync"
	OpTruncate = "truncate"
)

// ErrShort is what a hook returns for a write to let half of its bytes through
// before it fails.
var ErrShort = errors.New("short write")

// Faults is a file system whose operations fail when its hook says so. The
// hook sees every operation before it happens, with the name of its file
// (for a rename the new name); an error keeps it from happening and is
// returned in its place.
type Faults struct {
	fsx.FS
	// Hook may be nil: nothing fails. It is called on the goroutine of the
	// operation, by one at a time, and may not use the Faults itself.
	Hook func(op, name string) error

	mu sync.Mutex // held while the hook runs
}

func (f *Faults) ask(op, name string) error {
	if f.Hook == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.Hook(op, name); err != nil {
		return &fs.PathError{Op: op, Path: name, Err: err}
	}
	return nil
}

func (f *Faults) file(op, name string, open func(string) (fsx.File, error)) (fsx.File, error) {
	if err := f.ask(op, name); err != nil {
		return nil, err
	}
	inner, err := open(name)
	if err != nil {
		return nil, err
	}
	return &faultyFile{File: inner, faults: f, name: name}, nil
}

// Create implements [fsx.FS].
func (f *Faults) Create(name string) (fsx.File, error) { return f.file(OpCreate, name, f.FS.Create) }

// Open implements [fsx.FS].
func (f *Faults) Open(name string) (fsx.File, error) { return f.file(OpOpen, name, f.FS.Open) }

// Edit implements [fsx.FS].
func (f *Faults) Edit(name string) (fsx.File, error) { return f.file(OpEdit, name, f.FS.Edit) }

// Rename implements [fsx.FS].
func (f *Faults) Rename(from, to string) error {
	if err := f.ask(OpRename, to); err != nil {
		return err
	}
	return f.FS.Rename(from, to)
}

// Remove implements [fsx.FS].
func (f *Faults) Remove(name string) error {
	if err := f.ask(OpRemove, name); err != nil {
		return err
	}
	return f.FS.Remove(name)
}

// SyncDir implements [fsx.FS].
func (f *Faults) SyncDir(dir string) error {
	if err := f.ask(OpSyncDir, dir); err != nil {
		return err
	}
	return f.FS.SyncDir(dir)
}

// MakeDir implements [fsx.FS].
func (f *Faults) MakeDir(dir string) error {
	if err := f.ask(OpMakeDir, dir); err != nil {
		return err
	}
	return f.FS.MakeDir(dir)
}

// List implements [fsx.FS].
func (f *Faults) List(dir string) ([]string, error) {
	if err := f.ask(OpList, dir); err != nil {
		return nil, err
	}
	return f.FS.List(dir)
}

type faultyFile struct {
	fsx.File
	faults *Faults
	name   string
}

// Read implements [fsx.File].
func (f *faultyFile) Read(p []byte) (int, error) {
	if err := f.faults.ask(OpRead, f.name); err != nil {
		return 0, err
	}
	return f.File.Read(p)
}

// ReadAt implements [fsx.File].
func (f *faultyFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.faults.ask(OpRead, f.name); err != nil {
		return 0, err
	}
	return f.File.ReadAt(p, off)
}

// Write implements [fsx.File].
func (f *faultyFile) Write(p []byte) (int, error) {
	if err := f.faults.ask(OpWrite, f.name); err != nil {
		n := 0
		if errors.Is(err, ErrShort) {
			n, _ = f.File.Write(p[:len(p)/2])
		}
		return n, err
	}
	return f.File.Write(p)
}

// WriteAt implements [fsx.File].
func (f *faultyFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.faults.ask(OpWrite, f.name); err != nil {
		n := 0
		if errors.Is(err, ErrShort) {
			n, _ = f.File.WriteAt(p[:len(p)/2], off)
		}
		return n, err
	}
	return f.File.WriteAt(p, off)
}

// Sync implements [fsx.File].
func (f *faultyFile) Sync() error {
	if err := f.faults.ask(OpSync, f.name); err != nil {
		return err
	}
	return f.File.Sync()
}

// Truncate implements [fsx.File].
func (f *faultyFile) Truncate(size int64) error {
	if err := f.faults.ask(OpTruncate, f.name); err != nil {
		return err
	}
	return f.File.Truncate(size)
}
