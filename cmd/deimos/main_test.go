package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/marsevilspirit/deimos/daemon"
	"github.com/marsevilspirit/deimos/raftnode"
	"github.com/marsevilspirit/deimos/snap"
	"github.com/marsevilspirit/deimos/wal"
)

func TestRunWithoutADaemon(t *testing.T) {
	for _, tt := range []struct {
		name         string
		args         []string
		env          []string
		code         int
		stdout, fail string // exact, but for a stdout that ends in "…"
	}{
		{"version", []string{"--version"}, []string{"DEIMOS_TIMEOUT=soon"}, 0, "deimos version " + versionString() + "\n", ""},
		{"help", []string{"--help"}, nil, 0, "Usage: deimos …", ""},
		{"short help", []string{"-h"}, nil, 0, "Usage: deimos …", ""},
		{"bad flag", []string{"-bad"}, nil, 2, "", "deimos: unknown flag --bad, see deimos --help\n"},
		{"bad variable", nil, []string{"DEIMOS_TIMEOUT=soon"}, 2, "", "deimos: DEIMOS_TIMEOUT: invalid value \"soon\"\n"},
		{"command", []string{"help"}, nil, 0, "Without a command, …", ""},
		{"bad command", []string{"ca", "--bad"}, nil, 2, "", "deimos: deimos ca: unknown flag: --bad, see deimos ca --help\n"},
		{"member that cannot join", []string{"--initial-cluster-state", "existing"}, nil, 2, "",
			"deimos: --initial-cluster-state existing needs --bootstrap-config with this member and at least one of the others\n"},
		{"https without a certificate", []string{"-listen-client-urls", "https://0.0.0.0:4001"}, nil, 2, "",
			"deimos: https needs --cert-file and --key-file\n"},
		{"one port for both", []string{"--listen-client-urls", "http://localhost:4001", "--listen-peer-urls", "http://0.0.0.0:4001", "--insecure-peers"}, nil, 2, "",
			"deimos: --listen-client-urls http://localhost:4001 and --listen-peer-urls http://0.0.0.0:4001 are the same port: give each its own\n"},
		{"bad combination", []string{"-election-timeout", "15"}, nil, 2, "", "deimos: 15ms is below 5 × heartbeat-interval (500ms)\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := run(t.Context(), tt.args, tt.env, &stdout, &stderr)
			if code != tt.code || stderr.String() != tt.fail {
				t.Errorf("run(%q) = %d with stderr %q, want %d with %q", tt.args, code, stderr.String(), tt.code, tt.fail)
			}
			got := stdout.String()
			if prefix, ok := strings.CutSuffix(tt.stdout, "…"); ok {
				got = got[:min(len(got), len(prefix))] + "…"
			}
			if got != tt.stdout {
				t.Errorf("run(%q) prints %q, want %q", tt.args, got, tt.stdout)
			}
		})
	}
}

// brokenWriter is a pipe whose reader has gone.
type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, syscall.EPIPE }

func TestRunReportsOutputThatCannotBeWritten(t *testing.T) {
	for _, arg := range []string{"--version", "--help"} {
		var stderr bytes.Buffer
		if code := run(t.Context(), []string{arg}, nil, brokenWriter{}, &stderr); code != exitFailure {
			t.Errorf("run(%s) = %d, want %d", arg, code, exitFailure)
		}
		if !strings.HasSuffix(stderr.String(), ": broken pipe\n") {
			t.Errorf("run(%s) says %q, want the broken pipe", arg, stderr.String())
		}
	}
}

func TestHelpNamesEveryOption(t *testing.T) {
	var out bytes.Buffer
	if err := printHelp(&out); err != nil {
		t.Fatalf("printHelp() = %v, want nil", err)
	}
	text := out.String()
	for _, o := range new(settings).options() {
		if o.usage == "" || o.section == "" {
			t.Errorf("option %s has usage %q and section %q, want both", o.name, o.usage, o.section)
		}
		wants := []string{"  --" + o.name, "\n" + o.section + ":\n", "env: " + envName(o.name)}
		if o.alias != "" {
			wants = append(wants, "alias: --"+o.alias)
		}
		if o.fallback != "" {
			wants = append(wants, "default: "+o.fallback+";")
		}
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("help has no %q", want)
			}
		}
	}
	for _, want := range []string{"--help", "--version"} {
		if !strings.Contains(text, want) {
			t.Errorf("help has no %q", want)
		}
	}
}

func TestOptionDefaultsAreValidValues(t *testing.T) {
	for _, o := range new(settings).options() {
		if o.fallback == "" || strings.HasPrefix(o.fallback, "<name>") || strings.HasPrefix(o.fallback, "as ") {
			continue
		}
		if err := o.value.Set(o.fallback); err != nil {
			t.Errorf("Set(%q) of %s = %v, want nil", o.fallback, o.name, err)
		}
	}
}

func TestOptionDefaultsAreThoseOfTheDaemon(t *testing.T) {
	s := &settings{}
	for _, o := range s.options() {
		if o.fallback == "" || strings.HasPrefix(o.fallback, "<name>") || strings.HasPrefix(o.fallback, "as ") {
			continue
		}
		if err := o.value.Set(o.fallback); err != nil {
			t.Fatalf("Set(%q) of %s = %v, want nil", o.fallback, o.name, err)
		}
	}
	var want daemon.Config
	for _, c := range []*daemon.Config{&s.config, &want} {
		c.Log = slog.New(slog.DiscardHandler)
		if err := c.Validate(); err != nil {
			t.Fatalf("Validate() = %v, want nil", err)
		}
	}
	want.Log, s.config.Log = nil, nil
	// Which values were given is no value.
	if diff := cmp.Diff(want, s.config, cmpopts.IgnoreUnexported(daemon.Config{}), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("the defaults of the flags are not those of the daemon (-daemon +flags):\n%s", diff)
	}
}

func TestExitCode(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		want int
	}{
		{"no error", nil, 0},
		{"plain error", errors.New("port in use"), 1},
		{"usage", daemon.Usagef("bad"), 2},
		{"wrapped usage", fmt.Errorf("daemon: %w", daemon.Usagef("bad")), 2},
		{"damaged log", fmt.Errorf("daemon: %w", &wal.DamageError{Err: errors.New("bad checksum")}), 65},
		{"damaged snapshot", &snap.DamageError{Err: errors.New("bad checksum")}, 65},
		{"rolled back log", &raftnode.LostLogError{LastIndex: 1, CommitIndex: 2}, 65},
		{"locked data directory", &daemon.DataDirError{Dir: "d", Err: errors.New("in use")}, 73},
		{"newer log", fmt.Errorf("daemon: %w", wal.ErrVersion), 73},
		{"joined I/O failure", errors.Join(errors.New("a"), fmt.Errorf("wal: %w", wal.ErrIO)), 74},
		{"failed snapshot", fmt.Errorf("raftnode: %w", snap.ErrIO), 74},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := exitCode(tt.err); got != tt.want {
				t.Errorf("exitCode(%v) = %d, want %d", tt.err, got, tt.want)
			}
		})
	}
}

func TestNoOptionTakesASecret(t *testing.T) {
	for _, o := range new(settings).options() {
		if secret := strings.Contains(o.name, "secret") || strings.Contains(o.name, "key"); secret && o.value.Type() != kindPath {
			t.Errorf("option %s takes a %s, want the path of a file: flags show in the list of processes", o.name, o.value.Type())
		}
	}
}

// fakeProcess is a daemon that fails or closes as it is told.
type fakeProcess struct {
	failed   chan error
	closeErr error
	closed   chan time.Duration // receives the time Close was given
}

func (p *fakeProcess) Failed() <-chan error { return p.failed }

func (p *fakeProcess) Close(ctx context.Context) error {
	deadline, _ := ctx.Deadline()
	p.closed <- time.Until(deadline)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return p.closeErr
}

func newFakeProcess() *fakeProcess {
	return &fakeProcess{failed: make(chan error, 1), closed: make(chan time.Duration, 1)}
}

func serveFake(ctx context.Context, p *fakeProcess, openErr error) error {
	config := daemon.Config{Log: slog.New(slog.DiscardHandler)}
	return serve(ctx, config, func(context.Context, daemon.Config) (daemon.Process, error) { return p, openErr })
}

func TestServeClosesWhenAsked(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	p := newFakeProcess()
	cancel()
	if err := serveFake(ctx, p, nil); err != nil {
		t.Errorf("serve() = %v, want nil", err)
	}
	if left, limit := <-p.closed, daemon.DefaultRequest+closeGrace; left <= 0 || left > limit {
		t.Errorf("Close() was given %s, want up to %s", left, limit)
	}
}

func TestServeReturnsWhatClosingFailedWith(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	p := newFakeProcess()
	p.closeErr = wal.ErrIO
	cancel()
	if err := serveFake(ctx, p, nil); !errors.Is(err, wal.ErrIO) {
		t.Errorf("serve() = %v, want %v", err, wal.ErrIO)
	}
}

func TestServeReturnsWhatTheDaemonFailedWith(t *testing.T) {
	p := newFakeProcess()
	p.failed <- wal.ErrIO
	if err := serveFake(t.Context(), p, nil); !errors.Is(err, wal.ErrIO) {
		t.Errorf("serve() = %v, want %v", err, wal.ErrIO)
	}
	if len(p.closed) != 0 {
		t.Error("serve() closed a daemon that had failed, want it left alone")
	}
}

func TestServeReturnsWhatOpeningFailedWith(t *testing.T) {
	if err := serveFake(t.Context(), nil, wal.ErrIO); !errors.Is(err, wal.ErrIO) {
		t.Errorf("serve() = %v, want %v", err, wal.ErrIO)
	}
}

func TestServeEndsWellWhenStoppedWhileOpening(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := serveFake(ctx, nil, fmt.Errorf("daemon: open: %w", context.Canceled)); err != nil {
		t.Errorf("serve() = %v, want nil", err)
	}
	if err := serveFake(ctx, nil, wal.ErrIO); !errors.Is(err, wal.ErrIO) {
		t.Errorf("serve() = %v, want %v", err, wal.ErrIO)
	}
}

func TestServeTellsTheServiceManager(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	t.Setenv("NOTIFY_SOCKET", socket)
	if deadline, ok := t.Deadline(); ok {
		if err := conn.SetReadDeadline(deadline); err != nil {
			t.Fatal(err)
		}
	}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- serveFake(ctx, newFakeProcess(), nil) }()
	for _, want := range []string{"READY=1", "STOPPING=1"} {
		buf := make([]byte, 64)
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatalf("read of the service manager: %v", err)
		}
		if got := string(buf[:n]); got != want {
			t.Errorf("the service manager is told %q, want %q", got, want)
		}
		cancel()
	}
	if err := <-done; err != nil {
		t.Errorf("serve() = %v, want nil", err)
	}
}

func TestFailureIsOneSentence(t *testing.T) {
	err := errors.Join(errors.New("wal: sync x: input/output error"), errors.New("wal: close x: bad file"))
	if got, want := oneLine(err.Error()), "wal: sync x: input/output error; wal: close x: bad file"; got != want {
		t.Errorf("oneLine(%q) = %q, want %q", err.Error(), got, want)
	}
}

func TestLogFormatsAndLevels(t *testing.T) {
	for _, tt := range []struct {
		format string
		level  slog.Level
		want   string
	}{
		{formatText, slog.LevelInfo, "level=INFO msg=hello"},
		{formatJSON, slog.LevelInfo, `"level":"INFO","msg":"hello"`},
		{formatText, slog.LevelWarn, ""},
	} {
		var out bytes.Buffer
		newLogger(tt.level, tt.format, &out).Info("hello")
		if got := out.String(); !strings.Contains(got, tt.want) || (tt.want == "") != (got == "") {
			t.Errorf("newLogger(%s, %s) writes %q, want %q in it", tt.level, tt.format, got, tt.want)
		}
	}
}
