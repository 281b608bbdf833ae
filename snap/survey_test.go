package snap

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos/internal/fsx"
)

func TestSurveyTellsWhichFilesAreSoundAndChangesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "snap")
	if files, err := View(dir).Survey(); err != nil || len(files) != 0 {
		t.Fatalf("Survey() of a directory that does not exist = %v, %v, want none", files, err)
	}
	s, err := Open(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	for _, index := range []uint64{10, 20, 30} {
		mustSave(t, s, metaAt(index, 2), bodyOf(1, 5000))
	}
	at := func(index uint64, received bool) string {
		return filepath.Join(dir, entryOf(metaAt(index, 2), received).name)
	}
	damaged, err := os.ReadFile(at(20, false))
	if err != nil {
		t.Fatal(err)
	}
	damaged[len(damaged)/2] ^= 1
	err = errors.Join(os.WriteFile(at(20, false), damaged, fsx.FileMode), os.Rename(at(30, false), at(30, true)),
		os.WriteFile(filepath.Join(dir, "x"+fsx.TempSuffix), nil, fsx.FileMode))
	if err != nil {
		t.Fatal(err)
	}
	before, err := fsx.OS{}.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	files, err := View(dir).Survey()
	if err != nil {
		t.Fatalf("Survey() = %v", err)
	}
	var damage *DamageError
	if len(files) != 3 || !errors.As(files[1].Err, &damage) || files[0].Err != nil || files[2].Err != nil {
		t.Fatalf("Survey() = %+v, want three files, the middle one damaged", files)
	}
	wantEqual(t, "metadata", []raftpb.SnapshotMetadata{files[0].Meta, files[2].Meta}, []raftpb.SnapshotMetadata{metaAt(30, 2), metaAt(10, 2)})
	if !files[0].Received || files[2].Received || files[1].Path != at(20, false) || files[1].Meta.Index != 20 {
		t.Errorf("Survey() = %+v, want the newest received, and the damaged one named", files)
	}
	if after, err := (fsx.OS{}).List(dir); err != nil || !slices.Equal(after, before) {
		t.Errorf("files after Survey() = %v, %v, want %v", after, err, before)
	}
	// A received snapshot above the log may not have been mentioned in it yet.
	for last, want := range map[uint64]bool{9: true, 19: true, 20: false, 30: false} {
		if err := CheckEnd(files, last); (err != nil) != want {
			t.Errorf("CheckEnd(%d) = %v, want an error: %v", last, err, want)
		}
	}
}
