package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// putOnce writes a key and returns the status, the Retry-After header and an
// error of the connection.
func putOnce(ctx context.Context, base, key string) (status int, retryAfter string, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPut, base+"/keys/"+key, strings.NewReader("value=1"))
	if err != nil {
		return 0, "", err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	return resp.StatusCode, resp.Header.Get("Retry-After"), nil
}

// waitStatus waits until a write is answered with a status. Each status has a
// key of its own: a member notices within 50 ms that its disk is full, and a write
// that it accepts until then must not make a later one an update.
func waitStatus(t *testing.T, base string, want int, most time.Duration) (retryAfter string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), most)
	defer cancel()
	err := until(ctx, func() error {
		status, after, err := putOnce(ctx, base, fmt.Sprintf("probe-%d", want))
		if err == nil && status != want {
			err = fmt.Errorf("status %d, want %d", status, want)
		}
		retryAfter = after
		return err
	})
	if err != nil {
		t.Fatalf("waited %v: %v", most, err)
	}
	return retryAfter
}

// mountSmall mounts a file system of the given size in memory, or skips.
func mountSmall(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("layer TMPFS: a file system cannot be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir
}

func TestFullDiskRefusesWritesUntilThereIsSpaceAgain(t *testing.T) {
	t.Parallel()
	disk := mountSmall(t, "320m")
	n := newNode(t, "n1")
	for i, arg := range n.args {
		if arg == n.dir {
			n.args[i] = filepath.Join(disk, "data")
		}
	}
	n.start(t)
	n.waitReady(t)
	load := startLoad(t, 4, n.client)
	load.waitAcks(t, 400)

	var st syscall.Statfs_t
	if err := syscall.Statfs(disk, &st); err != nil {
		t.Fatal(err)
	}
	ballast, err := os.Create(filepath.Join(disk, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Fallocate(int(ballast.Fd()), 0, 0, int64(st.Bavail)*st.Bsize-(20<<20)); err != nil {
		t.Fatalf("void: the disk could not be filled: %v", err)
	}
	if after := waitStatus(t, n.client, http.StatusInsufficientStorage, 2*time.Second); after != "5" {
		t.Errorf("Retry-After of a write on a full disk = %q, want 5", after)
	}
	load.stop(t)
	if status, body, err := get(t.Context(), n.client+"/keys/?recursive=true"); err != nil || status != http.StatusOK {
		t.Errorf("read on a full disk = %d %s, %v, want 200", status, body, err)
	}
	n.kill(t) // and it starts again with the disk still full
	n.start(t)
	n.waitReady(t)
	waitStatus(t, n.client, http.StatusInsufficientStorage, 2*time.Second)

	if err := ballast.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(ballast.Name()); err != nil {
		t.Fatal(err)
	}
	waitStatus(t, n.client, http.StatusCreated, 5*time.Second)
	load.wantAll(t, n.client)
	n.run.signal(t, syscall.SIGTERM)
	if code := n.run.wait(t, exitMax); code != 0 {
		t.Errorf("exit code = %d, want 0", code)
	}
}

func TestFailedFsyncEndsTheProcessAndAcknowledgesNothing(t *testing.T) {
	t.Parallel()
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("layer STRACE: strace is not installed")
	}
	for _, nth := range []int{60, 111} {
		t.Run(fmt.Sprintf("from the %dth on", nth), func(t *testing.T) {
			t.Parallel()
			n := newNode(t, "n1")
			inject := fmt.Sprintf("inject=fdatasync,fsync:error=EIO:when=%d+", nth)
			n.run = startCommand(t, "", strace, append([]string{"-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync,fsync", "-e", inject, program}, n.args...)...)
			n.waitReady(t)
			load := startLoad(t, 4, n.client)
			code := n.run.wait(t, exitMax)
			load.stop(t)
			if code != 74 {
				t.Errorf("exit code after a failed fsync = %d, want 74\n%s", code, n.run.stderr.tail())
			}
			if !strings.Contains(n.run.stderr.String(), "input/output error") {
				t.Errorf("stderr does not say what failed:\n%s", n.run.stderr.tail())
			}
			if load.acks() == 0 {
				t.Error("void: nothing was acknowledged before the failure")
			}
			n.start(t) // on a disk that works again
			n.waitReady(t)
			load.wantAll(t, n.client)
		})
	}
}
