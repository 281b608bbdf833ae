package fsx_test

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/marsevilspirit/deimos/internal/fsx"
	"github.com/marsevilspirit/deimos/internal/fsx/fsxtest"
)

func TestWriteFileLeavesOldOrNew(t *testing.T) {
	const dir, name = "/d", "/d/x"
	for step := 1; ; step++ {
		var err error
		for seed := range uint64(10) {
			disk := fsxtest.NewDisk(t)
			disk.Put(name, []byte("old"))
			count := 0
			faults := &fsxtest.Faults{FS: disk, Hook: func(string, string) error {
				if count++; count >= step {
					return errors.New("power is off")
				}
				return nil
			}}
			err = fsx.WriteFile(faults, name, []byte("new"))
			disk.Crash(rand.New(rand.NewPCG(seed, 1)))
			got := string(disk.Content(name))
			if got != "new" && (err == nil || got != "old") {
				t.Fatalf("step %d: content after WriteFile() = %v is %q", step, err, got)
			}
		}
		if err == nil {
			return
		}
	}
}

func TestOSFilesArePrivateAndReadBack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	if err := (fsx.OS{}).MakeDir(dir); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "x")
	if err := fsx.WriteFile(fsx.OS{}, name, []byte("12345")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{dir: fsx.DirMode, filepath.Dir(dir): fsx.DirMode, name: fsx.FileMode} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("mode of %s = %v, %v, want %v", path, info.Mode(), err, want)
		}
	}
	if got, err := fsx.ReadFile(fsx.OS{}, name, 5); err != nil || !bytes.Equal(got, []byte("12345")) {
		t.Errorf("ReadFile() = %q, %v, want 12345", got, err)
	}
	if _, err := fsx.ReadFile(fsx.OS{}, name, 4); err == nil {
		t.Errorf("ReadFile() of 5 bytes with a limit of 4 = nil, want an error")
	}
	if _, err := fsx.ReadFile(fsx.OS{}, name+"y", 4); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ReadFile() of nothing = %v, want ErrNotExist", err)
	}
	if err := (fsx.OS{}).MakeDir(name); err == nil {
		t.Errorf("MakeDir() over a file = nil, want an error")
	}
	if got, err := (fsx.OS{}).List(dir); err != nil || !slices.Equal(got, []string{"x"}) {
		t.Errorf("List() = %v, %v, want [x]", got, err)
	}
	if err := errors.Join(fsx.RemoveIfExists(fsx.OS{}, name), fsx.RemoveIfExists(fsx.OS{}, name)); err != nil {
		t.Errorf("RemoveIfExists() twice = %v", err)
	}
}

// recorder counts broken rules instead of failing.
type recorder struct{ broken int }

func (*recorder) Helper()                 {}
func (r *recorder) Errorf(string, ...any) { r.broken++ }

func TestDiskNoticesWhatIsNotDurable(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(*fsxtest.Disk) error
		want int
	}{
		{"rename before the sync", func(d *fsxtest.Disk) error {
			f, err := d.Create("/d/x.tmp")
			if err != nil {
				return err
			}
			_, err = f.Write([]byte("1"))
			return errors.Join(err, f.Close(), d.Rename("/d/x.tmp", "/d/x"))
		}, 1},
		{"removal before the directory sync", func(d *fsxtest.Disk) error {
			return errors.Join(d.Rename("/d/old", "/d/new"), d.Remove("/d/other"))
		}, 1},
		{"removal after it", func(d *fsxtest.Disk) error {
			return errors.Join(d.Rename("/d/old", "/d/new"), d.SyncDir("/d"), d.Remove("/d/other"))
		}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := &recorder{}
			d := fsxtest.NewDisk(r)
			d.Put("/d/old", []byte("a"))
			d.Put("/d/other", []byte("b"))
			if err := tt.do(d); err != nil {
				t.Fatal(err)
			}
			if r.broken != tt.want {
				t.Errorf("broken rules = %d, want %d", r.broken, tt.want)
			}
			if len(d.Unsynced()) == 0 {
				t.Errorf("Unsynced() is empty, want the last change")
			}
			d.Crash(nil)
			if len(d.Unsynced()) != 0 {
				t.Errorf("Unsynced() after a crash = %v, want none", d.Unsynced())
			}
		})
	}
}
