// Package fsx is the door to the file system for every file that Deimos opens
// itself: snapshots, identity files, markers and copies. Behind the door is
// either the operating system or, in tests, a disk that loses what was not
// synced and fails on demand (package fsxtest).
//
// The package refuses to be a general file library: it has only what a
// sequence of temporary file, write, sync, rename and directory sync needs. It
// starts no goroutine.
package fsx

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// The modes of everything that is created here, whatever the umask.
const (
	FileMode = 0o600
	DirMode  = 0o700
)

// TempSuffix ends the name of every file that is not finished. Whoever opens a
// directory may remove what a crash left under such a name.
const TempSuffix = ".tmp"

// FS is a file system. Its methods may be called from any goroutine. Errors
// name the file and match the errors of package io/fs.
type FS interface {
	// Create makes a file for writing and empties one that exists.
	Create(name string) (File, error)
	// Open opens a file for reading.
	Open(name string) (File, error)
	// Edit opens a file that exists for writing from its start, without
	// emptying it.
	Edit(name string) (File, error)
	// Rename gives a file its final name and replaces what had it.
	Rename(from, to string) error
	// Remove removes a file.
	Remove(name string) error
	// SyncDir makes durable which names a directory holds.
	SyncDir(dir string) error
	// MakeDir makes a directory and its parents. One that exists is left as
	// it is.
	MakeDir(dir string) error
	// List returns the names in a directory, sorted.
	List(dir string) ([]string, error)
}

// File is an open file. It has one user at a time.
type File interface {
	io.Reader
	io.ReaderAt
	io.Writer
	io.WriterAt
	io.Closer
	// Sync makes the content durable. After an error the content is not to be
	// trusted, and Sync is not to be called again.
	Sync() error
	// Truncate sets the size in bytes; new bytes are zero.
	Truncate(size int64) error
	// Size returns the size in bytes.
	Size() (int64, error)
}

// OS is the file system of the operating system.
type OS struct{}

var _ FS = OS{}

type osFile struct{ *os.File }

// Size implements [File].
func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Create implements [FS].
func (OS) Create(name string) (File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, FileMode)
	if err != nil {
		return nil, err
	}
	if err := f.Chmod(FileMode); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return osFile{f}, nil
}

// Open implements [FS].
func (OS) Open(name string) (File, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// Edit implements [FS].
func (OS) Edit(name string) (File, error) {
	f, err := os.OpenFile(name, os.O_RDWR, FileMode)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// Rename implements [FS].
func (OS) Rename(from, to string) error { return os.Rename(from, to) }

// Remove implements [FS].
func (OS) Remove(name string) error { return os.Remove(name) }

// SyncDir implements [FS].
func (OS) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// MakeDir implements [FS]. The directories it makes are synced into their
// parents before it returns.
func (o OS) MakeDir(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case err == nil && info.IsDir():
		return nil
	case err == nil:
		return &fs.PathError{Op: "mkdir", Path: dir, Err: errors.New("a file has this name")}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := o.MakeDir(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, DirMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := os.Chmod(dir, DirMode); err != nil {
		return err
	}
	return o.SyncDir(parent)
}

// List implements [FS].
func (OS) List(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	names, err := d.Readdirnames(-1)
	if err := errors.Join(err, d.Close()); err != nil {
		return nil, err
	}
	slices.Sort(names)
	return names, nil
}

// WriteFile makes name hold data, durably and all at once: temporary file,
// write, sync, rename, directory sync. A crash leaves the old content or the
// new one. Errors name the step and the file.
func WriteFile(fsys FS, name string, data []byte) error {
	temp := name + TempSuffix
	err := writeSynced(fsys, temp, data)
	if err == nil {
		err = fsys.Rename(temp, name)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", name, err), RemoveIfExists(fsys, temp))
	}
	if err := fsys.SyncDir(filepath.Dir(name)); err != nil {
		return fmt.Errorf("sync directory of %s: %w", name, err)
	}
	return nil
}

func writeSynced(fsys FS, name string, data []byte) error {
	f, err := fsys.Create(name)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// ReadFile returns the content of a file of at most sizeMax bytes. A larger
// file is an error, before memory is taken for it.
func ReadFile(fsys FS, name string, sizeMax int64) (data []byte, err error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > sizeMax {
		return nil, fmt.Errorf("%s has %d bytes, more than %d", name, size, sizeMax)
	}
	data = make([]byte, size)
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return data, nil
}

// RemoveIfExists removes a file and takes a missing one for removed.
func RemoveIfExists(fsys FS, name string) error {
	if err := fsys.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
