package pki

import (
	"bytes"
	"context"
	"log"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"
)

// failureLogInterval is the time between two log lines about failed handshakes
// of one kind: an operator needs to know that and why, not how often.
const failureLogInterval = time.Minute

// ErrorLog returns the logger for the field ErrorLog of an [net/http.Server]
// that serves the port o.Port, with TLS or without. A failed handshake is
// counted in deimos_tls_handshake_failures_total and logged as a warning with
// the address of the other side and the reason, at most once a minute for each
// kind of reason; the line also says how many of the kind went unlogged before
// it. Everything else that the server has to say is logged at debug level, also
// that it closed a connection itself during a handshake, which is how it ends.
func ErrorLog(o Options) *log.Logger {
	o = o.withDefaults()
	m, err := newMetrics(o.Metrics)
	if err != nil {
		o.Log.Error("failed handshakes will not be counted", "port", o.Port, "error", err)
	}
	m.handshakeFailures.WithLabelValues(o.Port) // shown from the start, as 0
	return log.New(&errorLog{opts: o, metrics: m, kinds: make(map[failureKind]*failureCount)}, "", 0)
}

// errorLog is the writer behind an [ErrorLog].
type errorLog struct {
	opts    Options
	metrics *metrics

	mu    sync.Mutex
	kinds map[failureKind]*failureCount
}

type failureCount struct {
	logged   time.Time
	unlogged int
}

// Write implements [io.Writer]: each call brings one line.
func (l *errorLog) Write(line []byte) (int, error) {
	text := string(bytes.TrimRight(line, "\n"))
	address, reason, ok := parseHandshakeError(text)
	if !ok || strings.Contains(reason, net.ErrClosed.Error()) {
		l.opts.Log.Debug("http server", "port", l.opts.Port, "message", text)
		return len(line), nil
	}
	l.metrics.handshakeFailures.WithLabelValues(l.opts.Port).Inc()
	if unlogged, due := l.due(kindOf(reason)); due {
		l.warn(address, reason, unlogged)
	}
	return len(line), nil
}

// due counts a failure and tells whether it is to be logged, and how many of
// its kind were not.
func (l *errorLog) due(kind failureKind) (unlogged int, due bool) {
	now := l.opts.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.kinds[kind]
	if c == nil {
		c = new(failureCount)
		l.kinds[kind] = c
	} else if d := now.Sub(c.logged); d >= 0 && d < failureLogInterval {
		c.unlogged++
		return 0, false
	}
	unlogged = c.unlogged
	*c = failureCount{logged: now}
	return unlogged, true
}

func (l *errorLog) warn(address, reason string, unlogged int) {
	attrs := []slog.Attr{slog.String("port", l.opts.Port), slog.String("address", address), slog.String("reason", reason)}
	if unlogged > 0 {
		attrs = append(attrs, slog.Int("unlogged", unlogged))
	}
	l.opts.Log.LogAttrs(context.Background(), slog.LevelWarn, "TLS handshake failed", attrs...)
}

// parseHandshakeError takes apart what net/http says about a failed handshake.
func parseHandshakeError(line string) (address, reason string, ok bool) {
	_, rest, ok := strings.Cut(line, "TLS handshake error from ")
	if !ok {
		return "", "", false
	}
	return strings.Cut(rest, ": ")
}

// failureKind is what failed handshakes have in common that differ in names,
// addresses and times. There are few, so that a stranger cannot fill memory by
// failing in ever new ways.
type failureKind int

const (
	failureOther failureKind = iota
	failureClosed
	failureTimeout
	failurePlainHTTP
	failureNoCertificate
	failureVersion
	failureAuthority
	failureValidity
	failureUsage
	failureName
	failureTheirs
)

// failureTexts tell the kind of a failure; the first that fits counts.
var failureTexts = []struct {
	text string
	kind failureKind
}{
	{"remote error", failureTheirs},
	{"HTTP request to an HTTPS server", failurePlainHTTP},
	{"didn't provide a certificate", failureNoCertificate},
	{"unsupported versions", failureVersion},
	{"protocol version", failureVersion},
	{"none of which is allowed", failureName},
	{"unknown authority", failureAuthority},
	{"expired or is not yet valid", failureValidity},
	{"incompatible key usage", failureUsage},
	{"timeout", failureTimeout},
	{"deadline exceeded", failureTimeout},
	{"EOF", failureClosed},
	{"connection reset", failureClosed},
	{"broken pipe", failureClosed},
}

func kindOf(reason string) failureKind {
	for _, f := range failureTexts {
		if strings.Contains(reason, f.text) {
			return f.kind
		}
	}
	return failureOther
}
