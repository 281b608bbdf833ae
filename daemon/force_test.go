package daemon

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// tree returns the files below a directory.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestAForcedClusterIsFinishedFromEveryStep(t *testing.T) {
	// The steps of finishForced, as the moves that a crash may have left undone.
	steps := [][2]string{
		{"wal", "forced/replaced-old/wal"},
		{"forced/wal", "wal"},
		{"snap", "forced/replaced-old/snap"},
		{"forced/snap", "snap"},
		{"forced/forced-cluster", "forced-cluster"},
		{"forced/replaced-old", "replaced-1"},
	}
	for done := range len(steps) + 1 {
		dir := &dataDir{path: t.TempDir()}
		for _, name := range []string{"wal/old", "snap/old", "forced/wal/new", "forced/snap/new", "forced/wal.lock", "forced/forced-cluster"} {
			path := filepath.Join(dir.path, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Mkdir(filepath.Join(dir.path, "forced", "replaced-old"), 0o700); err != nil {
			t.Fatal(err)
		}
		for _, s := range steps[:done] {
			if err := os.Rename(filepath.Join(dir.path, s[0]), filepath.Join(dir.path, s[1])); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 { // a second time there is nothing to do
			if err := finishForced(dir); err != nil {
				t.Fatalf("after %d steps: %v", done, err)
			}
			want := []string{"forced-cluster", "replaced-1/snap/old", "replaced-1/wal/old", "snap/new", "wal/new"}
			if got := tree(t, dir.path); !slices.Equal(got, want) {
				t.Errorf("after %d steps: %v, want %v", done, got, want)
			}
		}
	}
}

func TestAForcedClusterThatCannotBePutInPlaceIsAnIOFailure(t *testing.T) {
	dir := &dataDir{path: t.TempDir()}
	// What is to be moved aside cannot be: its place is taken by a file.
	for _, name := range []string{"wal/old", "forced/wal/new"} {
		path := filepath.Join(dir.path, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir.path, "forced", "replaced-old"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := finishForced(dir)
	if got := FailureOf(err); got != FailureIO {
		t.Errorf("finishForced = %v (kind %v), want an I/O failure", err, got)
	}
	if got := tree(t, dir.path); !slices.Contains(got, "wal/old") || !slices.Contains(got, "forced/wal/new") {
		t.Errorf("files %v, want the old and the new log still there", got)
	}
}
