package client

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"sync"
	"testing"

	"github.com/marsevilspirit/deimos/internal/clustertest"
)

// startEtcd starts an etcd with the v2 API, and skips the test where there is
// none.
func startEtcd(t *testing.T) *Client {
	t.Helper()
	bin, err := exec.LookPath("etcd")
	if err != nil {
		t.Skip("etcd is not installed (Debian package etcd-server)")
	}
	url, peer := "http://"+clustertest.FreeAddress(t), "http://"+clustertest.FreeAddress(t)
	cmd := exec.Command(bin, "--enable-v2", "--name", "other", "--data-dir", t.TempDir(),
		"--listen-client-urls", url, "--advertise-client-urls", url,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "other="+peer)
	cmd.Env = append(os.Environ(), "ETCD_UNSUPPORTED_ARCH=arm64")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Kill(); err != nil {
			t.Errorf("stopping etcd: %v", err)
		}
		if err := cmd.Wait(); err != nil && !errors.As(err, new(*exec.ExitError)) {
			t.Errorf("waiting for etcd: %v", err)
		}
	})
	c := open(t, Config{Prefix: "/v2/keys"}, url)
	clustertest.Eventually(t, "etcd to answer", func() bool {
		_, err := c.Get(t.Context(), "/")
		return err == nil
	})
	return c
}

func TestCallsOnKeysOfEtcd(t *testing.T) {
	c := startEtcd(t)
	useFiles(t, c, "/files")
	useDirs(t, c, "/dirs")
	endpoint := c.Endpoints()[0]
	if v, err := c.Version(t.Context(), endpoint); err != nil || v.Deimos != "" || v.EtcdServer == "" {
		t.Errorf("Version = %+v, %v, want one of etcd", v, err)
	}
	if healthy, err := c.Health(t.Context(), endpoint); !healthy || err != nil {
		t.Errorf("Health = %v, %v, want true", healthy, err)
	}
	if err := c.Sync(t.Context()); err != nil || !slices.Equal(c.Endpoints(), []string{endpoint}) {
		t.Errorf("Sync: %v, endpoints %v, want %s", err, c.Endpoints(), endpoint)
	}
}

// etcd has no event streams and remembers 1000 events.
func TestWatchOfEtcd(t *testing.T) {
	c := startEtcd(t)
	r, err := c.Set(t.Context(), "/w/first", "1")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var writers sync.WaitGroup
	defer writers.Wait()
	writers.Go(func() {
		for i := range 20 {
			if _, err := c.Set(ctx, "/w/live", fmt.Sprint(i)); err != nil {
				t.Error(err)
			}
		}
	})
	next := r.Index
	for e, err := range c.Watch(ctx, "/w", WithRecursive(), WithWaitIndex(r.Index)) {
		if err != nil || e.Reset || e.Index != next {
			t.Fatalf("event %+v, %v, want index %d", e, err, next)
		}
		if next++; next == r.Index+21 {
			break
		}
	}
	for i := range 10 {
		writers.Go(func() {
			for range 101 {
				if _, err := c.Set(ctx, fmt.Sprintf("/w/%d", i), "x"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	for e, err := range c.Watch(ctx, "/w", WithRecursive(), WithWaitIndex(r.Index)) {
		if err != nil || !e.Reset || len(e.Node.Nodes) != 12 {
			t.Errorf("event %+v, %v, want a Reset with 12 keys", e, err)
		}
		break
	}
}
