package transport

import (
	"context"
	"log/slog"
	"sync"

	"github.com/marsevilspirit/deimos"
)

// logBook is a log that a test can ask. It is a slog.Handler for each member.
type logBook struct {
	mu    sync.Mutex
	lines []logLine
}

type logLine struct {
	member  uint64
	level   slog.Level
	message string
	attrs   map[string]string
}

func newLogBook() *logBook { return &logBook{} }

func (b *logBook) of(member uint64) slog.Handler { return logPage{b, member, nil} }

// find returns the lines of a member with this message, at Info or above unless
// debug is set.
func (b *logBook) find(member uint64, message string, debug bool) []logLine {
	b.mu.Lock()
	defer b.mu.Unlock()
	var found []logLine
	for _, l := range b.lines {
		if l.member == member && l.message == message && (debug || l.level >= slog.LevelInfo) {
			found = append(found, l)
		}
	}
	return found
}

// loud returns how many lines a member wrote at Info or above.
func (b *logBook) loud(member uint64) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range b.lines {
		if l.member == member && l.level >= slog.LevelInfo {
			n++
		}
	}
	return n
}

// streams counts the streams from one member to another that rafthttp says it
// has open for writing.
func (b *logBook) streams(from, to uint64) (n int) {
	for _, l := range b.find(from, "established TCP streaming connection with remote peer", true) {
		if l.attrs["stream-writer-type"] != "" && l.attrs["remote-peer-id"] == deimos.FormatID(to) {
			n++
		}
	}
	return n
}

type logPage struct {
	book   *logBook
	member uint64
	attrs  []slog.Attr
}

func (p logPage) Enabled(context.Context, slog.Level) bool { return true }
func (p logPage) WithGroup(string) slog.Handler            { return p }

func (p logPage) WithAttrs(attrs []slog.Attr) slog.Handler {
	p.attrs = append(p.attrs[:len(p.attrs):len(p.attrs)], attrs...)
	return p
}

func (p logPage) Handle(_ context.Context, r slog.Record) error {
	l := logLine{p.member, r.Level, r.Message, make(map[string]string)}
	for _, a := range p.attrs {
		l.attrs[a.Key] = a.Value.String()
	}
	r.Attrs(func(a slog.Attr) bool {
		l.attrs[a.Key] = a.Value.String()
		return true
	})
	p.book.mu.Lock()
	defer p.book.mu.Unlock()
	p.book.lines = append(p.book.lines, l)
	return nil
}
