package daemon

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos/snap"
)

func TestDiskSpaceIsLookedAtOnceInAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		looks, free, failure := 0, int64(100), error(nil)
		d := &diskSpace{reserve: 50, log: slog.New(slog.DiscardHandler), start: time.Now().Add(-spaceInterval)}
		d.free = func() (int64, error) { looks++; return free, failure }
		for _, step := range []struct {
			name    string
			free    int64
			failure error
			wait    time.Duration
			low     bool
			looks   int
		}{
			{"at first", 100, nil, 0, false, 1},
			{"too soon for another look", 10, nil, 0, false, 1},
			{"full", 10, nil, spaceInterval, true, 2},
			{"unknown counts as before", 100, syscall.EIO, spaceInterval, true, 3},
			{"exactly the reserve", 50, nil, spaceInterval, false, 4},
		} {
			free, failure = step.free, step.failure
			<-time.After(step.wait)
			if got := d.Low(); got != step.low || looks != step.looks {
				t.Errorf("%s: Low() = %v after %d looks, want %v after %d", step.name, got, looks, step.low, step.looks)
			}
		}
	})
}

func TestASnapshotThatWouldEatTheReserveIsPutOff(t *testing.T) {
	snapshots, err := snap.Open(snap.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	free := int64(10)
	space := &diskSpace{
		reserve: 50, free: func() (int64, error) { return free, nil },
		log: slog.New(slog.DiscardHandler), start: time.Now().Add(-spaceInterval),
	}
	thrifty := thriftySnapshots{snapshots, space}
	meta := raftpb.SnapshotMetadata{Index: 7, Term: 1}
	write := func(w io.Writer) error { _, err := io.Copy(w, bytes.NewReader(make([]byte, 1000))); return err }
	if err := thrifty.Save(meta, write); !errors.Is(err, syscall.ENOSPC) || errors.Is(err, snap.ErrIO) {
		t.Errorf("Save below the reserve = %v, want ENOSPC that is no I/O failure", err)
	}
	if found, err := snapshots.List(); err != nil || len(found) != 0 {
		t.Errorf("List() = %v, %v, want nothing", found, err)
	}
	space.low.Store(false)
	free = 100
	space.lookedAt.Store(-int64(spaceInterval))
	if err := thrifty.Save(meta, write); err != nil {
		t.Errorf("Save above the reserve: %v", err)
	}
}
