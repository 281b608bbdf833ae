package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/marsevilspirit/deimos/daemon"
	"github.com/marsevilspirit/deimos/internal/clustertest"
)

// restingMember returns the data directory of a member that has stopped.
func restingMember(t *testing.T) string {
	t.Helper()
	m := clustertest.New(t, 1).Member(0)
	for _, key := range []string{"/a", "/b", "/c"} {
		m.Put(key, "v")
	}
	m.Stop()
	return m.DataDir()
}

func damage(t *testing.T, dir string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "wal", "*.wal"))
	if err != nil || len(names) != 1 {
		t.Fatalf("segments %q, %v, want one", names, err)
	}
	text, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	text[bytes.Index(text, []byte("/b"))] ^= 0x10
	if err := os.WriteFile(names[0], text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestLogInspectAndRecover(t *testing.T) {
	dir := restingMember(t)
	for _, args := range [][]string{{"inspect"}, {"recover"}, {"recover", "--accept-loss"}} {
		out := mustCommand(t, append([]string{"log", "--data-dir", dir}, args...)...)
		if !strings.Contains(out, "clean: raft index 2 to ") && !strings.Contains(out, "Nothing is damaged, and nothing was changed.\n") {
			t.Errorf("deimos log %q of a sound log printed %q", args, out)
		}
	}
	damage(t, dir)
	for _, tt := range []struct {
		args string
		code int
		want []string
	}{
		{"inspect", exitDamaged, []string{"segment ", "snapshot ", "raft index 1: sound", "recoverable ", "lost "}},
		{"inspect -o table", exitDamaged, []string{"WHAT", "NAME", "STATE"}},
		{"inspect -o json", exitDamaged, []string{`"verdict":"damaged"`, `"recovery":{"snapshotRaftIndex":1,`, `"onlyVoter":true`}},
		{"recover", exitUsage, []string{"Damage: ", "Can be recovered: ", "Is lost: raft index "}},
		{"recover -o json", exitUsage, []string{`"recovery":{"snapshotRaftIndex":1,`}},
		{"recover --accept-loss", exitOK, []string{"kept in " + filepath.Join(dir, "replaced-1")}},
		{"inspect", exitOK, []string{"clean: "}},
	} {
		out, err := command(t, append([]string{"log", "--data-dir", dir}, strings.Fields(tt.args)...)...)
		if got := exitCode(err); got != tt.code {
			t.Errorf("deimos log %s = %v (exit code %d), want %d", tt.args, err, got, tt.code)
		}
		for _, want := range tt.want {
			if !strings.Contains(out, want) {
				t.Errorf("deimos log %s printed %q, want %q in it", tt.args, out, want)
			}
		}
		if strings.Contains(tt.args, formatJSON) && !json.Valid([]byte(out)) {
			t.Errorf("deimos log %s printed %q, want one JSON value", tt.args, out)
		}
	}
}

func TestLogRefuses(t *testing.T) {
	dir := restingMember(t)
	cutShort := filepath.Join(dir, "forced")
	for _, tt := range []struct {
		args string
		code int
		want string
	}{
		{"log", exitUsage, "inspect, recover"},
		{"log nothing", exitUsage, "nothing"},
		{"log inspect", exitUsage, "needs --data-dir"},
		{"log recover --data-dir " + dir + " more", exitUsage, "more"},
		{"log recover --data-dir " + dir + " -o table", exitUsage, "plain or json"},
		{"log inspect --data-dir " + filepath.Join(dir, "none"), exitDataDir, "no such directory"},
		{"log inspect --data-dir " + filepath.Join(dir, "snap"), exitDataDir, "holds no member"},
	} {
		_, err := command(t, strings.Fields(tt.args)...)
		if got := exitCode(err); got != tt.code || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("deimos %s = %v (exit code %d), want %q and %d", tt.args, err, got, tt.want, tt.code)
		}
	}
	if err := os.Mkdir(cutShort, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := command(t, "log", "inspect", "--data-dir", dir); daemon.FailureOf(err) != daemon.FailureDataDir || !strings.Contains(err.Error(), "cut short") {
		t.Errorf("deimos log inspect of a recovery that was cut short = %v, want a refusal", err)
	}
	if out := mustCommand(t, "log", "recover", "--data-dir", dir); !strings.Contains(out, "Recovered.") {
		t.Errorf("deimos log recover of a recovery that was cut short printed %q", out)
	}
	if _, err := os.Stat(cutShort); err == nil {
		t.Errorf("%s is left behind", cutShort)
	}
}

func TestHelpOfLogCommands(t *testing.T) {
	for _, name := range []string{"inspect", "recover"} {
		got := mustCommand(t, "log", name, "--help")
		if !strings.Contains(got, "Examples:\n  deimos log "+name) || !strings.Contains(got, "Exit codes: ") {
			t.Errorf("deimos log %s --help printed %q, want an example and the exit codes", name, got)
		}
		for line := range strings.Lines(got) {
			if len(line) > 110 {
				t.Errorf("deimos log %s --help: the line %q is long", name, line)
			}
		}
	}
}
