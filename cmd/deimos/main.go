// Command deimos runs one member of a Deimos cluster or a proxy in front of
// one. Its commands are for the operators and scripts around a cluster: they
// read and write keys, coordinate programs, and prepare certificates.
//
// The command is the only part of the program that reads flags, the
// environment, the configuration file and signals, and the only one that ends
// the process. It keeps no state: everything that lives longer than the command
// line belongs to package daemon.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	sddaemon "github.com/coreos/go-systemd/v22/daemon"

	"github.com/marsevilspirit/deimos/daemon"
	"github.com/marsevilspirit/deimos/internal/timerslack"
)

// closeGrace is how long closing may take beyond the time that running
// requests are given: leadership is handed over and the log is closed in it.
const closeGrace = 10 * time.Second

func main() {
	if code, ok := runGuard(os.Args); ok {
		os.Exit(code)
	}
	later := &laterSignals{}
	ctx, cancel := context.WithCancelCause(later.in(context.Background()))
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, endSignals(os.Args[1:])...)
	go watchSignals(signals, func(s os.Signal) { cancel(signalError{s}) }, later.pass, func(s os.Signal) {
		fmt.Fprintf(os.Stderr, "deimos: ended at once by a second signal, %s, before it had closed\n", s)
		os.Exit(exitFailure)
	})
	os.Exit(run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

// run is the program without the process around it: it returns the exit code.
// Cancelling ctx is the request to end gracefully. A code other than 0 is
// preceded by one sentence on stderr.
func run(ctx context.Context, args, env []string, stdout, stderr io.Writer) int {
	err := start(ctx, args, env, stdout, stderr)
	if err != nil && err.Error() != "" { // a command that was run has said it
		fmt.Fprintln(stderr, "deimos: "+oneLine(trimPackage(err)))
	}
	return exitCode(err)
}

func start(ctx context.Context, args, env []string, stdout, stderr io.Writer) error {
	if isCommand(args) {
		return runCommand(ctx, args, env, stdout, stderr)
	}
	s, err := parse(args, env)
	if err != nil {
		return err
	}
	switch {
	case s.help:
		return printHelp(stdout)
	case s.version:
		if _, err := fmt.Fprintf(stdout, "deimos version %s\n", versionString()); err != nil {
			return fmt.Errorf("print version: %w", err)
		}
		return nil
	}

	// When the reader of the log goes away, lines are lost, and not the member.
	signal.Ignore(syscall.SIGPIPE)
	log := newLogger(s.logLevel, s.logFormat, stderr)
	log.Info("deimos starts", "version", versionString(), "go", runtime.Version(), "gomaxprocs", runtime.GOMAXPROCS(0))
	if err := timerslack.Raise(); err != nil {
		log.Info("timers stay as precise as they are, which costs processor time: build with CGO_ENABLED=0", "error", err)
	}
	if len(s.unknownEnv) > 0 {
		log.Warn("unknown environment variables are ignored", "names", s.unknownEnv)
	}
	s.config.Log = log
	s.config.Version = versionString()
	return serve(ctx, s.config, daemon.Start)
}

// serve runs a member or a proxy until ctx is done or it fails.
func serve(ctx context.Context, config daemon.Config, open func(context.Context, daemon.Config) (daemon.Process, error)) error {
	log := config.Log
	d, err := open(ctx, config)
	if err != nil {
		if ctx.Err() != nil && isContextError(err) {
			return nil // asked to stop before there was anything to close
		}
		return err
	}
	notify(log, sddaemon.SdNotifyReady)
	select {
	case err := <-d.Failed():
		// Nothing is closed any more: after a failed write the disk is not to be
		// touched again, and the end of the process releases the rest.
		notify(log, sddaemon.SdNotifyStopping)
		return err
	case <-ctx.Done():
	}
	notify(log, sddaemon.SdNotifyStopping)
	log.Info("deimos stops")
	requests := config.Timing.Request
	if requests == 0 {
		requests = daemon.DefaultRequest
	}
	closeCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requests+closeGrace)
	defer cancel()
	return d.Close(closeCtx)
}

// notify tells the service manager, if there is one.
func notify(log *slog.Logger, state string) {
	if _, err := sddaemon.SdNotify(false, state); err != nil {
		log.Warn("the service manager was not told", "state", state, "error", err)
	}
}

// newLogger writes records to w; the format is "json" or else text.
func newLogger(level slog.Level, format string, w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	if format == formatJSON {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// oneLine keeps the promise of one sentence for errors joined from several.
func oneLine(text string) string {
	return strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}
