package daemon

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos/internal/syncbuf"
	"github.com/marsevilspirit/deimos/snap"
	"github.com/marsevilspirit/deimos/wal"
)

func TestTheFreeSpaceIsLookedAtOnceInAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reserve := max(reserveMin, 2*wal.SegmentBytes())
		var looks, free atomic.Int64
		var failing atomic.Bool
		var log syncbuf.Buffer
		look := func(dir string) (int64, error) {
			looks.Add(1)
			if failing.Load() {
				return 0, syscall.EIO
			}
			return free.Load(), nil
		}
		free.Store(reserve - 1)
		space := watchDiskSpace(look, "/data", slog.New(slog.NewTextHandler(&log, nil)))
		for _, step := range []struct {
			name   string
			free   int64
			fails  bool
			wait   time.Duration
			low    bool
			looks  int64
			logged string // "": nothing
		}{
			{"before anything else", reserve - 1, false, 0, true, 1, "below the reserve"},
			{"too soon for another look", reserve, false, spaceInterval - 1, true, 1, ""},
			{"exactly the reserve", reserve, false, 1, false, 2, "above the reserve again"},
			{"still", reserve, false, spaceInterval, false, 3, ""},
			{"full", reserve - 1, false, spaceInterval, true, 4, "below the reserve"},
			{"unknown counts as before", reserve, true, spaceInterval, true, 5, "not known"},
			{"and is said once", reserve, true, spaceInterval, true, 6, ""},
			{"known again", reserve, false, spaceInterval, false, 7, "above the reserve again"},
		} {
			said := len(log.String())
			if step.wait == 0 { // by the first look, which was before
				said = 0
			}
			free.Store(step.free)
			failing.Store(step.fails)
			<-time.After(step.wait)
			synctest.Wait()
			if got := space.Low(); got != step.low || looks.Load() != step.looks {
				t.Errorf("%s: Low() = %v after %d looks, want %v after %d", step.name, got, looks.Load(), step.low, step.looks)
			}
			if got := log.String()[said:]; !strings.Contains(got, step.logged) || (step.logged == "" && got != "") {
				t.Errorf("%s: logged %q, want %q", step.name, got, step.logged)
			}
		}
		space.Close()
		space.Close()
		<-time.After(time.Minute)
		if got := looks.Load(); got != 7 {
			t.Errorf("%d looks a minute after Close, want 7", got)
		}
	})
}

// Whoever asks is a request or the loop of the node, and neither may wait for a
// file system.
func TestAFileSystemThatHangsKeepsNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hung := make(chan struct{})
		looks := 0
		space := watchDiskSpace(func(string) (int64, error) {
			if looks++; looks > 1 {
				<-hung
			}
			return 0, nil
		}, "/data", slog.New(slog.DiscardHandler))
		<-time.After(time.Second)
		if !space.Low() {
			t.Error("Low() = false while the file system hangs, want what was found before")
		}
		close(hung)
		space.Close()
	})
}

func TestASnapshotThatWouldEatTheReserveIsPutOff(t *testing.T) {
	snapshots, err := snap.Open(snap.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	space := &diskSpace{}
	space.low.Store(true)
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
	if err := thrifty.Save(meta, write); err != nil {
		t.Errorf("Save above the reserve: %v", err)
	}
}
