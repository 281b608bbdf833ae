package daemon_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos/daemon"
	"github.com/marsevilspirit/deimos/internal/clustertest"
)

// A log that cannot be listed is there, as far as anybody knows: the start ends
// with an I/O failure, and neither makes a new member nor registers one.
func TestALogThatCannotBeReadIsNotTakenForMissing(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*daemon.Config)
	}{
		{"a member", func(*daemon.Config) {}},
		{"with discovery", func(cfg *daemon.Config) { cfg.Discovery.URL = "http://127.0.0.1:1/keys/token" }},
		{"with DNS discovery", func(cfg *daemon.Config) { cfg.Discovery.SRV = "cluster.invalid" }},
		{"with a forced cluster", func(cfg *daemon.Config) { cfg.ForceNewCluster = true }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := clustertest.New(t, 1).Member(0)
			put(t, m, "/k", "v")
			m.Stop()
			log := filepath.Join(m.DataDir(), "wal")
			if err := os.Rename(log, log+"-kept"); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("wal", log); err != nil { // to look it up fails, as with a bad disk
				t.Fatal(err)
			}
			cfg := daemon.Config{
				Name: "m1", DataDir: m.DataDir(),
				URLs: daemon.URLs{ListenClient: []string{"http://127.0.0.1:0"}, ListenPeer: []string{"http://127.0.0.1:0"}},
			}
			tt.change(&cfg)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // who looks for other members would wait for ever
			defer cancel()
			if _, err := daemon.Start(ctx, cfg); err == nil || daemon.FailureOf(err) != daemon.FailureIO {
				t.Errorf("Start() = %v, want an I/O failure", err)
			}
		})
	}
}
