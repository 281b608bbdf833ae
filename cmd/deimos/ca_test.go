package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos/daemon"
	"github.com/marsevilspirit/deimos/internal/pki"
)

// command runs a command and returns what it printed.
func command(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	err := runCommand(t.Context(), args, nil, &stdout, &stderr)
	if stderr.Len() > 0 {
		t.Errorf("deimos %q wrote %q to stderr, want nothing", args, &stderr)
	}
	return stdout.String(), err
}

func mustCommand(t *testing.T, args ...string) string {
	t.Helper()
	out, err := command(t, args...)
	if err != nil {
		t.Fatalf("deimos %q = %v", args, err)
	}
	return out
}

func TestIsCommand(t *testing.T) {
	for _, tt := range []struct {
		args string
		want bool
	}{
		{"", false}, {"--name n1", false}, {"-name n1", false}, {"--help", false}, {"n1", false}, {"--name ca", false},
		{"ca", true}, {"get /a", true}, {"exec-watch", true}, {"ca issue n1", true}, {"help", true}, {"completion bash", true}, {"__complete ca", true},
	} {
		if got := isCommand(strings.Fields(tt.args)); got != tt.want {
			t.Errorf("isCommand(%q) = %t, want %t", tt.args, got, tt.want)
		}
	}
}

func TestFiveCommandsMakeTheCertificatesOfACluster(t *testing.T) {
	t.Chdir(t.TempDir())
	out := mustCommand(t, "ca", "create")
	for _, want := range []string{"deimos-ca/ca.crt", "deimos-ca/ca.key", "deimos ca issue n1 n2 n3\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("deimos ca create printed %q, want %q", out, want)
		}
	}
	out = mustCommand(t, "ca", "issue", "n1", "n2", "n3")
	for _, want := range []string{
		"Issued n3, valid until", "localhost, 127.0.0.1, ::1:\n",
		"--name n1", "--peer-cert-file deimos-ca/n1.crt --peer-key-file deimos-ca/n1.key --peer-ca-file deimos-ca/ca.crt",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("deimos ca issue printed %q, want %q", out, want)
		}
	}
	out = mustCommand(t, "ca", "issue", "--client", "alice")
	if want := "curl --cacert deimos-ca/ca.crt --cert deimos-ca/alice.crt --key deimos-ca/alice.key"; !strings.Contains(out, want) {
		t.Errorf("deimos ca issue --client printed %q, want %q", out, want)
	}
	for _, name := range []string{"n1", "n2", "n3", "alice"} {
		files := pki.Files{Cert: "deimos-ca/" + name + ".crt", Key: "deimos-ca/" + name + ".key", CA: "deimos-ca/ca.crt"}
		if _, err := pki.Open(files, pki.Options{Port: pki.PortPeer}); err != nil {
			t.Errorf("pki.Open(%+v) = %v", files, err)
		}
	}
}

func TestIssueGivesEachMemberItsHosts(t *testing.T) {
	dir := t.TempDir()
	ca, out := filepath.Join(dir, "ca"), filepath.Join(dir, "out")
	mustCommand(t, "ca", "create", "-dir", ca, "-name=Other CA", "-days", "30")
	printed := mustCommand(t, "ca", "issue", "--dir", ca, "--out", out, "--host", "localhost", "--days=90", "n1=10.0.0.1,n1.test", "n2")
	if want := "Issued n1, valid until " + date(time.Now().Add(30*day)) + " for localhost, n1.test, 10.0.0.1:"; !strings.Contains(printed, want) {
		t.Errorf("deimos ca issue printed %q, want %q", printed, want)
	}
	shown := mustCommand(t, "ca", "show", filepath.Join(ca, "ca.crt"), filepath.Join(out, "n1.crt"), filepath.Join(out, "n2.crt"))
	for _, want := range []string{
		`subject  "CN=Other CA"`, "usage    authority", "29 days left",
		filepath.Join(out, "n1.crt") + "\n", `subject  "CN=n1"`, `issuer   "CN=Other CA"`,
		"hosts    localhost, n1.test, 10.0.0.1\n", "hosts    localhost\n", "usage    server, client",
	} {
		if !strings.Contains(shown, want) {
			t.Errorf("deimos ca show printed %q, want %q", shown, want)
		}
	}
}

func TestWrongUseOfCommandsWritesNothing(t *testing.T) {
	t.Chdir(t.TempDir())
	mustCommand(t, "ca", "create")
	for _, tt := range []struct{ args, want string }{
		{"ca", "create, issue, show"},
		{"ca burn", `no command "burn"`},
		{"help burn", `no command "burn"`},
		{"help ca burn", `no command "ca burn"`},
		{"ca create now", `unexpected argument "now"`},
		{"ca create --days 0", "--days"},
		{"ca create --days x", "--days"},
		{"ca create --days 99999999999", "--days"},
		{"ca create --burn", "--burn"},
		{"ca issue", "needs a name"},
		{"ca issue n1 n1", "given twice"},
		{"ca issue n1 a/b", `name "a/b"`},
		{"ca issue n1 ca", `name "ca"`},
		{"ca issue n1 n2=", `n2: host ""`},
		{"ca issue n1 n2=n2.test:2380", "without a port"},
		{"ca issue n1 --host https://n1.test", "URL"},
		{"ca issue n2=n2.test n1 --host=", "n1: a member needs a host"},
		{"ca issue n1 --days 99999", "--days"},
		{"ca issue --client --host n1.test alice", "--client and --host"},
		{"ca issue --client bob alice=n1.test", "--client and"},
		{"ca show", "needs a file"},
	} {
		_, err := command(t, strings.Fields(tt.args)...)
		if _, ok := errors.AsType[*daemon.UsageError](err); !ok || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("deimos %s = %v, want a usage error with %q", tt.args, err, tt.want)
		}
		if got := exitCode(err); got != exitUsage {
			t.Errorf("deimos %s: exit code = %d, want %d", tt.args, got, exitUsage)
		}
	}
	if names := list(t, "deimos-ca"); !slices.Equal(names, []string{"ca.crt", "ca.key"}) {
		t.Errorf("files = %q, want ca.crt and ca.key", names)
	}
}

func list(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestFailuresOfCommandsNameTheFile(t *testing.T) {
	t.Chdir(t.TempDir())
	mustCommand(t, "ca", "create")
	mustCommand(t, "ca", "issue", "n2")
	if err := os.WriteFile("text", []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ args, want, printed string }{
		{"ca create", "deimos-ca/ca.key exists", ""},
		{"ca create --dir text/ca", "text", ""},
		{"ca issue --dir nowhere n1", "nowhere/ca.crt", ""},
		{"ca issue n1 n2 n3", "deimos-ca/n2.key exists", "Issued n1"},
		{"ca show deimos-ca/ca.crt text", "text", "CN=Deimos CA"},
	} {
		printed, err := command(t, strings.Fields(tt.args)...)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("deimos %s = %v, want one line with %q", tt.args, err, tt.want)
		}
		if got := exitCode(err); got != exitFailure {
			t.Errorf("deimos %s: exit code = %d, want %d", tt.args, got, exitFailure)
		}
		if !strings.Contains(printed, tt.printed) {
			t.Errorf("deimos %s printed %q, want %q", tt.args, printed, tt.printed)
		}
	}
	if names := list(t, "deimos-ca"); slices.Contains(names, "n3.key") {
		t.Errorf("files = %q, want nothing of n3, which comes after the error", names)
	}
}

func TestIssueStopsWhenItIsAskedTo(t *testing.T) {
	t.Chdir(t.TempDir())
	mustCommand(t, "ca", "create")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out bytes.Buffer
	if err := runCommand(ctx, []string{"ca", "issue", "n1"}, nil, &out, &out); !errors.Is(err, context.Canceled) {
		t.Errorf("deimos ca issue = %v, want %v", err, context.Canceled)
	}
}

func TestCommandsReportAnOutputThatFails(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	err := runCommand(t.Context(), []string{"ca", "create", "--dir", dir}, nil, brokenWriter{}, brokenWriter{})
	if !errors.Is(err, syscall.EPIPE) {
		t.Errorf("deimos ca create = %v, want %v", err, syscall.EPIPE)
	}
}

func TestHelpOfCommandsHasAnExample(t *testing.T) {
	for _, name := range []string{"create", "issue", "show"} {
		want := "deimos ca " + name
		for _, args := range [][]string{{"ca", name, "--help"}, {"ca", name, "-h"}, {"help", "ca", name}} {
			got := mustCommand(t, args...)
			if !strings.Contains(got, "Examples:\n  "+want) || !strings.Contains(got, "Usage:\n  "+want) {
				t.Errorf("deimos %q printed %q, want usage and example of %s", args, got, want)
			}
			for line := range strings.Lines(got) {
				if len(line) > 110 {
					t.Errorf("deimos %q: the line %q is long", args, line)
				}
			}
		}
	}
	for _, args := range [][]string{{"help"}, {"help", "ca"}, {"ca", "--help"}, {"completion", "bash"}} {
		if got := mustCommand(t, args...); !strings.Contains(got, "ca") {
			t.Errorf("deimos %q printed %q", args, got)
		}
	}
}

func TestShowQuotesWhatAStrangerWrote(t *testing.T) {
	dir := t.TempDir()
	mustCommand(t, "ca", "create", "--dir", dir, "--name", "a \u202e b")
	if got := mustCommand(t, "ca", "show", filepath.Join(dir, "ca.crt")); !strings.Contains(got, `\u202e`) {
		t.Errorf("deimos ca show printed %q, want the character escaped", got)
	}
}
