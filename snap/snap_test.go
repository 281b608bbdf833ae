package snap

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos/internal/fsx"
	"github.com/marsevilspirit/deimos/internal/fsx/fsxtest"
)

func TestSavedSnapshotIsReadBackUnchanged(t *testing.T) {
	for _, n := range []int{0, 1, 999, chunkMaxBytes - 1, chunkMaxBytes, chunkMaxBytes + 1, 3*chunkMaxBytes + 17} {
		disk := fsxtest.NewDisk(t)
		s := mustOpen(t, disk, 0)
		body := bodyOf(n, n)
		mustSave(t, s, metaAt(7, 2), body)
		wantSettled(t, disk, "Save")
		if got := mustLoad(t, s, 7); !bytes.Equal(got, body) {
			t.Errorf("Load after Save of %d bytes returned %d other bytes", n, len(got))
		}
		got, err := s.List()
		if err != nil {
			t.Fatalf("List() = %v", err)
		}
		wantEqual(t, "List()", got, []raftpb.SnapshotMetadata{metaAt(7, 2)})
	}
}

func TestNewestFallsBackToOlderSnapshot(t *testing.T) {
	recorded := []raftpb.SnapshotMetadata{metaAt(10, 1), metaAt(20, 2), metaAt(30, 2)}
	at := func(m raftpb.SnapshotMetadata) string { return filepath.Join(testDir, entryOf(m, false).name) }
	for _, tt := range []struct {
		name   string
		harm   func(d *fsxtest.Disk)
		allow  []raftpb.SnapshotMetadata
		want   uint64
		broken int
	}{
		{"all good", func(*fsxtest.Disk) {}, recorded, 30, 0},
		{"newest not recorded", func(*fsxtest.Disk) {}, recorded[:2], 20, 0},
		{"other term recorded", func(*fsxtest.Disk) {}, []raftpb.SnapshotMetadata{metaAt(10, 1), metaAt(30, 3)}, 10, 0},
		{"newest missing", func(d *fsxtest.Disk) {
			if err := errors.Join(d.Remove(at(recorded[2])), d.SyncDir(testDir)); err != nil {
				t.Fatal(err)
			}
		}, recorded, 20, 0},
		{"newest truncated", func(d *fsxtest.Disk) { d.Put(at(recorded[2]), d.Content(at(recorded[2]))[:90]) }, recorded, 20, 1},
		{"newest empty", func(d *fsxtest.Disk) { d.Put(at(recorded[2]), nil) }, recorded, 20, 1},
		{"newest is another one", func(d *fsxtest.Disk) { d.Put(at(recorded[2]), d.Content(at(recorded[0]))) }, recorded, 20, 1},
		{"two damaged", func(d *fsxtest.Disk) {
			d.Put(at(recorded[2]), []byte("x"))
			d.Put(at(recorded[1]), []byte("y"))
		}, recorded, 10, 2},
		{"all damaged", func(d *fsxtest.Disk) {
			for _, m := range recorded {
				d.Put(at(m), []byte("x"))
			}
		}, recorded, 0, 3},
		{"nothing recorded", func(*fsxtest.Disk) {}, nil, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			disk := fsxtest.NewDisk(t)
			s := mustOpen(t, disk, 0)
			for _, m := range recorded {
				mustSave(t, s, m, bodyOf(int(m.Index), 300))
			}
			tt.harm(disk)
			got, err := s.Newest(tt.allow)
			if tt.want == 0 {
				if !errors.Is(err, ErrNone) {
					t.Fatalf("Newest() = %v, %v, want ErrNone", got, err)
				}
			} else if err != nil || got.Index != tt.want || len(got.ConfState.Voters) != 3 {
				t.Fatalf("Newest() = %v, %v, want raft index %d with its voters", got, err, tt.want)
			}
			names, err := disk.List(testDir)
			if err != nil {
				t.Fatal(err)
			}
			broken := slices.DeleteFunc(names, func(n string) bool { return !strings.HasSuffix(n, brokenSuffix) })
			if len(broken) != tt.broken {
				t.Errorf("files kept aside = %v, want %d", broken, tt.broken)
			}
			wantSettled(t, disk, "Newest")
		})
	}
}

func TestEveryChangedByteIsNoticed(t *testing.T) {
	good := encoded(t, metaAt(9, 3), bodyOf(1, 700))
	if meta, err := verifyBytes(t, good); err != nil || meta.Index != 9 {
		t.Fatalf("verify of a good file = %v, %v", meta, err)
	}
	var damage *DamageError
	for i := range good {
		for bit := range 8 {
			bad := bytes.Clone(good)
			bad[i] ^= 1 << bit
			if _, err := verifyBytes(t, bad); !errors.As(err, &damage) {
				t.Fatalf("verify with bit %d of byte %d flipped = %v, want a DamageError", bit, i, err)
			}
		}
		if _, err := verifyBytes(t, good[:i]); !errors.As(err, &damage) {
			t.Fatalf("verify of the first %d bytes = %v, want a DamageError", i, err)
		}
	}
	if _, err := verifyBytes(t, append(bytes.Clone(good), 0)); !errors.As(err, &damage) {
		t.Fatalf("verify with a byte behind the end mark = %v, want a DamageError", err)
	}
}

func TestChunksCannotMove(t *testing.T) {
	body := bodyOf(2, 3*chunkMaxBytes)
	good := encoded(t, metaAt(9, 3), body)
	head := len(good) - trailerBytes - 3*(chunkMaxBytes+8)
	chunk := func(i int) []byte { return good[head+i*(chunkMaxBytes+8) : head+(i+1)*(chunkMaxBytes+8)] }
	tail := good[len(good)-trailerBytes:]
	for _, tt := range []struct {
		name  string
		parts [][]byte
	}{
		{"swapped", [][]byte{good[:head], chunk(1), chunk(0), chunk(2), tail}},
		{"left out", [][]byte{good[:head], chunk(0), chunk(2), tail}},
		{"repeated", [][]byte{good[:head], chunk(0), chunk(0), chunk(1), chunk(2), tail}},
		{"last left out", [][]byte{good[:head], chunk(0), chunk(1), tail}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var damage *DamageError
			if _, err := verifyBytes(t, slices.Concat(tt.parts...)); !errors.As(err, &damage) {
				t.Errorf("verify = %v, want a DamageError", err)
			}
		})
	}
}

func TestNewerFormatIsRefusedAndNotTouched(t *testing.T) {
	disk := fsxtest.NewDisk(t)
	s := mustOpen(t, disk, 0)
	mustSave(t, s, metaAt(5, 1), bodyOf(1, 10))
	name := filepath.Join(testDir, entryOf(metaAt(5, 1), false).name)
	newer := disk.Content(name)
	newer[len(magic)] = formatVersion + 1
	meta := metaAt(5, 1)
	sumAt := prefixBytes + meta.Size()
	sum := crcOf(newer[:sumAt])
	copy(newer[sumAt:], []byte{byte(sum), byte(sum >> 8), byte(sum >> 16), byte(sum >> 24)})
	disk.Put(name, newer)
	_, err := s.Newest([]raftpb.SnapshotMetadata{metaAt(5, 1)})
	if !errors.Is(err, ErrVersion) || !strings.Contains(err.Error(), "version 2") || !strings.Contains(err.Error(), "version 1") {
		t.Errorf("Newest() = %v, want ErrVersion with both versions", err)
	}
	if !bytes.Equal(disk.Content(name), newer) {
		t.Errorf("the newer file was changed")
	}
}

// TestSaveFailsAtEveryStep makes each operation of a Save fail in turn: the
// older snapshot stays, and a failed one is never seen.
func TestSaveFailsAtEveryStep(t *testing.T) {
	for _, cause := range []error{syscall.EIO, syscall.ENOSPC, fsxtest.ErrShort} {
		for step := 1; ; step++ {
			disk := fsxtest.NewDisk(t)
			mustSave(t, mustOpen(t, disk, 0), metaAt(10, 1), bodyOf(1, 2000))
			count, synced := 0, map[string]int{}
			faults := &fsxtest.Faults{FS: disk}
			s := mustOpen(t, faults, 0)
			faults.Hook = func(op, name string) error {
				count++
				if op == fsxtest.OpSync {
					synced[name]++
				}
				if count == step {
					return cause
				}
				return nil
			}
			err := s.Save(metaAt(20, 1), writer(bodyOf(2, chunkMaxBytes+5)))
			if count < step {
				if err != nil {
					t.Fatalf("Save without a fault = %v", err)
				}
				break
			}
			if !errors.Is(err, ErrIO) || !errors.Is(err, cause) {
				t.Fatalf("Save with %v at step %d = %v, want ErrIO with the cause", cause, step, err)
			}
			for name, n := range synced {
				if n > 1 {
					t.Errorf("%s was synced %d times with %v at step %d", name, n, cause, step)
				}
			}
			faults.Hook = nil
			disk.Crash(nil)
			wantOldOrNew(t, disk)
		}
	}
}

// TestSaveSurvivesPowerLossAtEveryStep cuts the power before each operation.
func TestSaveSurvivesPowerLossAtEveryStep(t *testing.T) {
	off := errors.New("power is off")
	for step := 1; ; step++ {
		done := false
		for seed := range uint64(20) {
			disk := fsxtest.NewDisk(t)
			mustSave(t, mustOpen(t, disk, 0), metaAt(10, 1), bodyOf(1, 2000))
			count := 0
			faults := &fsxtest.Faults{FS: disk}
			s := mustOpen(t, faults, 0)
			faults.Hook = func(string, string) error {
				if count++; count >= step {
					return off
				}
				return nil
			}
			err := s.Save(metaAt(20, 1), writer(bodyOf(2, 5000)))
			done = err == nil
			var rng *rand.Rand
			if seed > 0 {
				rng = rand.New(rand.NewPCG(seed, uint64(step)))
			}
			disk.Crash(rng)
			if got := wantOldOrNew(t, disk); err == nil && got != 20 {
				t.Errorf("seed %d: Save returned nil and the snapshot is gone", seed)
			}
		}
		if done {
			return
		}
	}
}

// wantOldOrNew checks what a restart finds: raft index 10 is intact, and 20 is
// either intact or not there.
func wantOldOrNew(t *testing.T, disk *fsxtest.Disk) uint64 {
	t.Helper()
	s := mustOpen(t, disk, 0)
	got, err := s.Newest([]raftpb.SnapshotMetadata{metaAt(10, 1), metaAt(20, 1)})
	if err != nil {
		t.Fatalf("Newest() after the crash = %v", err)
	}
	if old := mustLoad(t, s, 10); !bytes.Equal(old, bodyOf(1, 2000)) {
		t.Fatalf("the older snapshot has changed")
	}
	names, err := disk.List(testDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, fsx.TempSuffix) || strings.HasSuffix(name, brokenSuffix) {
			t.Errorf("%s is left after Open", name)
		}
	}
	return got.Index
}

func TestErrorOfTheWriterIsNotAnIOError(t *testing.T) {
	disk := fsxtest.NewDisk(t)
	s := mustOpen(t, disk, 0)
	cause := errors.New("state is broken")
	err := s.Save(metaAt(3, 1), func(io.Writer) error { return cause })
	if !errors.Is(err, cause) || errors.Is(err, ErrIO) {
		t.Errorf("Save() = %v, want the writer's error alone", err)
	}
	if names, _ := disk.List(testDir); len(names) != 0 {
		t.Errorf("files after a failed Save = %v, want none", names)
	}
}

func TestReadBackThatDiffersFailsTheSave(t *testing.T) {
	disk := fsxtest.NewDisk(t)
	faults := &fsxtest.Faults{FS: disk}
	s := mustOpen(t, faults, 0)
	faults.Hook = func(op, name string) error {
		if op == fsxtest.OpOpen && strings.HasSuffix(name, fsx.TempSuffix) {
			data := disk.Content(name)
			data[len(data)/2] ^= 1
			disk.Put(name, data)
		}
		return nil
	}
	if err := s.Save(metaAt(3, 1), writer(bodyOf(1, 500))); !errors.Is(err, ErrIO) {
		t.Errorf("Save() with a disk that changes bytes = %v, want ErrIO", err)
	}
	if found, err := s.List(); err != nil || len(found) != 0 {
		t.Errorf("List() = %v, %v, want nothing", found, err)
	}
}

func TestInstallTakesOverAReceivedFile(t *testing.T) {
	body := bodyOf(4, 5000)
	sender := fsxtest.NewDisk(t)
	from := mustOpen(t, sender, 0)
	mustSave(t, from, metaAt(40, 4), body)
	meta, size, stream, err := from.Open()
	if err != nil {
		t.Fatalf("Open() = %v", err)
	}
	sent, err := io.ReadAll(stream)
	if err := errors.Join(err, stream.Close()); err != nil || int64(len(sent)) != size {
		t.Fatalf("the body has %d bytes, %v, want %d", len(sent), err, size)
	}
	wantEqual(t, "metadata of Open()", meta, metaAt(40, 4))

	disk := fsxtest.NewDisk(t)
	s := mustOpen(t, disk, 0)
	received := filepath.Join(testDir, receivedName(40))
	disk.Put(received, sent)
	for range 2 { // the second time it is there already
		if err := s.Install(meta); err != nil {
			t.Fatalf("Install() = %v", err)
		}
		wantSettled(t, disk, "Install")
	}
	if got := mustLoad(t, s, 40); !bytes.Equal(got, body) {
		t.Errorf("Load() of the installed snapshot differs")
	}

	for _, tt := range []struct {
		name string
		data []byte
		meta raftpb.SnapshotMetadata
	}{
		{"half received", sent[:len(sent)/2], metaAt(41, 4)},
		{"of another term", sent, metaAt(40, 5)},
		{"of another index", sent, metaAt(42, 4)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			name := filepath.Join(testDir, receivedName(tt.meta.Index))
			disk.Put(name, tt.data)
			var damage *DamageError
			if err := s.Install(tt.meta); !errors.As(err, &damage) {
				t.Errorf("Install() = %v, want a DamageError", err)
			}
			if disk.Content(name) != nil {
				t.Errorf("the file is still there and would keep the peer from sending again")
			}
		})
	}
	if err := s.Install(metaAt(99, 9)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Install() of nothing = %v, want ErrNotExist", err)
	}
}

func TestCheckRemovesAReceivedFileThatIsNotSound(t *testing.T) {
	disk := fsxtest.NewDisk(t)
	s := mustOpen(t, disk, 0)
	mustSave(t, s, metaAt(40, 4), bodyOf(4, 5000))
	sound := disk.Content(filepath.Join(testDir, entryOf(metaAt(40, 4), false).name))
	received := filepath.Join(testDir, receivedName(40))
	disk.Put(received, sound)
	if err := s.Check(metaAt(40, 4)); err != nil || disk.Content(received) == nil {
		t.Errorf("Check() of a sound file = %v, want nil and the file kept", err)
	}
	flipped := bytes.Clone(sound)
	flipped[len(flipped)/2] ^= 1
	disk.Put(received, flipped)
	var damage *DamageError
	if err := s.Check(metaAt(40, 4)); !errors.As(err, &damage) || disk.Content(received) != nil {
		t.Errorf("Check() of a flipped bit = %v, want a DamageError and the file gone", err)
	}
	if err := s.Check(metaAt(40, 4)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Check() of nothing = %v, want ErrNotExist", err)
	}
}

func TestPruneRemovesReceivedFilesThatCameTooLate(t *testing.T) {
	disk := fsxtest.NewDisk(t)
	s := mustOpen(t, disk, 0)
	mustSave(t, s, metaAt(40, 4), bodyOf(4, 100))
	late, timely := filepath.Join(testDir, receivedName(40)), filepath.Join(testDir, receivedName(41))
	disk.Put(late, []byte("x"))
	disk.Put(timely, []byte("x"))
	if _, err := s.Prune(); err != nil {
		t.Fatalf("Prune() = %v", err)
	}
	if disk.Content(late) != nil || disk.Content(timely) == nil {
		t.Error("Prune() keeps the late file or removes the one that is still to be installed")
	}
	if err := s.Discard(metaAt(40, 4)); err != nil {
		t.Fatalf("Discard() = %v", err)
	}
	if found, err := s.List(); err != nil || len(found) != 0 {
		t.Errorf("List() after Discard() = %v, %v, want nothing", found, err)
	}
}

func TestOpenRemovesWhatACrashLeft(t *testing.T) {
	disk := fsxtest.NewDisk(t)
	mustSave(t, mustOpen(t, disk, 0), metaAt(1, 1), nil)
	keep, err := disk.List(testDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"tmp123", receivedName(5), keep[0] + ".tmp"} {
		disk.Put(filepath.Join(testDir, name), []byte("half"))
	}
	disk.Put(filepath.Join(testDir, "note.broken"), []byte("kept"))
	mustOpen(t, disk, 0)
	wantSettled(t, disk, "Open")
	got, err := disk.List(testDir)
	if err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "names", got, append(keep, "note.broken"))
}

func TestPruneKeepsTheNewestAndNamesTheSecond(t *testing.T) {
	disk := fsxtest.NewDisk(t)
	s := mustOpen(t, disk, 3)
	for i, want := range []struct {
		release uint64
		left    int
	}{{0, 1}, {10, 2}, {20, 3}, {30, 3}, {40, 3}} {
		mustSave(t, s, metaAt(uint64(i+1)*10, 1), bodyOf(i, 50))
		got, err := s.Prune()
		if err != nil || got != want.release {
			t.Errorf("Prune() with %d snapshots = %d, %v, want %d", i+1, got, err, want.release)
		}
		wantSettled(t, disk, "Prune")
		if left, err := s.List(); err != nil || len(left) != want.left {
			t.Errorf("List() after %d snapshots = %v, %v, want %d", i+1, left, err, want.left)
		}
	}
}

func TestOpenBodyOutlivesPrune(t *testing.T) {
	s, err := Open(Config{Dir: filepath.Join(t.TempDir(), "snap"), MaxSnapshots: 2})
	if err != nil {
		t.Fatal(err)
	}
	mustSave(t, s, metaAt(1, 1), bodyOf(1, 10000))
	_, size, body, err := s.Open()
	if err != nil {
		t.Fatal(err)
	}
	for i := uint64(2); i < 5; i++ {
		mustSave(t, s, metaAt(i, 1), nil)
	}
	if _, err := s.Prune(); err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(body)
	if err := errors.Join(err, body.Close()); err != nil || int64(len(data)) != size {
		t.Errorf("the body has %d bytes, %v, want %d", len(data), err, size)
	}
	if _, err := verifyBytes(t, data); err != nil {
		t.Errorf("verify of what was sent = %v", err)
	}
}

func TestSettleRemovesWhatTheLogDoesNotName(t *testing.T) {
	disk := fsxtest.NewDisk(t)
	s := mustOpen(t, disk, 0)
	mustSave(t, s, metaAt(10, 1), nil)
	mustSave(t, s, metaAt(20, 1), nil)
	disk.Put(filepath.Join(testDir, entryOf(metaAt(90, 3), true).name), encoded(t, metaAt(90, 3), nil))
	recorded := []raftpb.SnapshotMetadata{metaAt(10, 1)}

	var damage *DamageError
	if err := s.Settle(metaAt(10, 1), recorded, 19); !errors.As(err, &damage) {
		t.Errorf("Settle() with an own snapshot above the end of the log = %v, want a DamageError", err)
	}
	if err := s.Settle(metaAt(10, 1), recorded, 25); err != nil {
		t.Fatalf("Settle() = %v", err)
	}
	wantSettled(t, disk, "Settle")
	left, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "List()", left, recorded)
}

func TestLoadReportsDamageBehindWhatWasRead(t *testing.T) {
	disk := fsxtest.NewDisk(t)
	s := mustOpen(t, disk, 0)
	mustSave(t, s, metaAt(6, 1), bodyOf(1, 3*chunkMaxBytes))
	name := filepath.Join(testDir, entryOf(metaAt(6, 1), false).name)
	data := disk.Content(name)
	data[len(data)-chunkMaxBytes/2] ^= 4
	disk.Put(name, data)
	var damage *DamageError
	for _, tt := range []struct {
		name string
		read func(io.Reader) error
	}{
		{"reader stops early", func(r io.Reader) error { _, err := io.ReadFull(r, make([]byte, 10)); return err }},
		{"reader hides the error", func(r io.Reader) error { _, _ = io.Copy(io.Discard, r); return nil }},
		{"reader returns the error", func(r io.Reader) error { _, err := io.Copy(io.Discard, r); return err }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := s.Load(6, tt.read); !errors.As(err, &damage) {
				t.Errorf("Load() = %v, want a DamageError", err)
			}
		})
	}
	if err := s.Load(7, nil); !errors.Is(err, ErrNone) {
		t.Errorf("Load() of a missing snapshot = %v, want ErrNone", err)
	}
}

func TestReadErrorIsNotTakenForDamage(t *testing.T) {
	disk := fsxtest.NewDisk(t)
	faults := &fsxtest.Faults{FS: disk}
	s := mustOpen(t, faults, 0)
	mustSave(t, s, metaAt(6, 1), bodyOf(1, 100))
	faults.Hook = func(op, _ string) error {
		if op == fsxtest.OpRead {
			return syscall.EIO
		}
		return nil
	}
	_, err := s.Newest([]raftpb.SnapshotMetadata{metaAt(6, 1)})
	if !errors.Is(err, ErrIO) || !errors.Is(err, syscall.EIO) {
		t.Errorf("Newest() with a failing disk = %v, want ErrIO", err)
	}
}

func TestFilesArePrivateWhateverTheUmask(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	dir := filepath.Join(t.TempDir(), "a", "snap")
	s, err := Open(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	mustSave(t, s, metaAt(6, 1), nil)
	for path, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, entryOf(metaAt(6, 1), false).name): 0o600} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("mode of %s = %v, want %v", path, got, want)
		}
	}
	if _, err := Verify(filepath.Join(dir, entryOf(metaAt(6, 1), false).name)); err != nil {
		t.Errorf("Verify() = %v", err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	for _, tt := range []struct {
		name string
		cfg  Config
	}{
		{"no directory", Config{}},
		{"too few", Config{Dir: testDir, MaxSnapshots: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.cfg.FS = fsxtest.NewDisk(t)
			if _, err := Open(tt.cfg); err == nil {
				t.Errorf("Open(%+v) = nil, want an error", tt.cfg)
			}
		})
	}
}
