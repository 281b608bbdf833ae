package main

import (
	"bufio"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// A member, or a proxy, is asked to end by a signal, and whether somebody reads
// its log has no say in how it ends.
func TestAMemberClosesAtEverySignalThatAsksForIt(t *testing.T) {
	listen := []string{"--listen-client-urls", "http://127.0.0.1:0", "--listen-peer-urls", "http://127.0.0.1:0"}
	proxy := []string{"--proxy", "on", "--bootstrap-config", "a=http://127.0.0.1:1", "--listen-client-urls", "http://127.0.0.1:0"}
	for _, tt := range []struct {
		name   string
		args   []string
		signal os.Signal
		unread bool // the reader of the log goes away before
	}{
		{"SIGTERM", listen, syscall.SIGTERM, false},
		{"SIGHUP", listen, syscall.SIGHUP, false},
		{"SIGTERM when nobody reads the log", listen, syscall.SIGTERM, true},
		{"SIGTERM to a proxy when nobody reads the log", proxy, syscall.SIGTERM, true},
		{"SIGHUP to a proxy", proxy, syscall.SIGHUP, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(t.TempDir(), "data")
			cmd := exec.CommandContext(t.Context(), self, append([]string{"--data-dir", dir}, tt.args...)...)
			cmd.Env = append(os.Environ(), envRunMain+"=1")
			log, err := cmd.StderrPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(log)
			for lines.Scan() && !strings.Contains(lines.Text(), " serves\"") {
			}
			if err := lines.Err(); err != nil {
				t.Fatal(err)
			}
			if tt.unread {
				if err := log.Close(); err != nil {
					t.Fatal(err)
				}
			}
			if err := cmd.Process.Signal(tt.signal); err != nil {
				t.Fatal(err)
			}
			for lines.Scan() { // to its end, if somebody reads it
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("deimos ended with %v after %v, want 0", err, tt.signal)
			}
			if _, err := os.Lstat(filepath.Join(dir, "wal", "clean-stop")); err != nil && tt.args[0] != "--proxy" {
				t.Errorf("the mark of a clean stop: %v", err)
			}
		})
	}
}

func TestSIGHUPEndsNeitherCommandsNorWhatWasStartedByNohup(t *testing.T) {
	if got := endSignals([]string{"--name", "a"}); !slices.Contains(got, os.Signal(syscall.SIGHUP)) {
		t.Errorf("endSignals of a member = %v, want SIGHUP among them", got)
	}
	if got := endSignals([]string{"lock", "n"}); slices.Contains(got, os.Signal(syscall.SIGHUP)) {
		t.Errorf("endSignals of a command = %v, want no SIGHUP", got)
	}
	signal.Ignore(syscall.SIGHUP)
	defer signal.Reset(syscall.SIGHUP)
	if got := endSignals(nil); slices.Contains(got, os.Signal(syscall.SIGHUP)) {
		t.Errorf("endSignals where SIGHUP is ignored = %v, want no SIGHUP", got)
	}
}
