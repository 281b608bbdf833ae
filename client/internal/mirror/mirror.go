// Package mirror keeps a copy of the files below a directory, for programs that
// read it more often than it changes. It follows a watch, and compares the
// copy with what a read shows every few seconds, so that it knows how old the
// copy may be and notices a watch that has silently stopped.
//
// It never gives a state up because of an error: what was there last stays
// until there is a newer one. It writes nothing, and keeps nothing on disk.
//
// A [Mirror] owns three goroutines, and [Mirror.Close] waits for them.
package mirror

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/client"
	"github.com/marsevilspirit/deimos/client/internal/retry"
)

const (
	// checkInterval is how often the copy is compared with a read, and how long
	// that may take. Each file adds checkPerFile, so that the reads of a large
	// directory stay cheap.
	checkInterval = 5 * time.Second
	checkPerFile  = 5 * time.Millisecond
	// The pauses before a watch that failed is begun anew.
	pauseMin = 100 * time.Millisecond
	pauseMax = 5 * time.Second
)

// Source is what a mirror needs of a [client.Client].
type Source interface {
	Get(ctx context.Context, key string, opts ...client.GetOption) (*client.Response, error)
	Watch(ctx context.Context, key string, opts ...client.WatchOption) iter.Seq2[client.WatchEvent, error]
}

// Mirror is a copy of the files below a directory. Make it with [Open]. Its
// methods may be called from any goroutine.
type Mirror struct {
	source  Source
	dir     string
	base    string
	log     *slog.Logger
	deliver func(Files)

	cancel  context.CancelFunc
	running sync.WaitGroup
	done    chan struct{} // closed when the copy changes no more
	ready   chan struct{} // closed after the first delivery
	changed chan struct{} // holds a token while a delivery is due

	mu    sync.Mutex
	files Files  // nil until there is a state
	index uint64 // of the last event
	// current is when the files were last known to be those of the cluster.
	current time.Time
	err     error // why they have not been since; nil: no reason is known
	// pending is a read that the files have not been seen to agree with yet.
	pending *reading
	restart context.CancelFunc // ends the watch under way
}

// reading is what a read has shown.
type reading struct {
	files Files
	index uint64
	begun time.Time
}

// Open begins to mirror dir and waits for the first state; that there is no
// such directory is one. It tries until ctx ends, which has no meaning for the
// mirror later on, or until an error says that it will never work.
//
// deliver gets every state, from one goroutine, the first one before Open
// returns. The map is the receiver's own. States that come while it is at work
// are merged: it gets the newest one next. It must not call Close.
func Open(ctx context.Context, source Source, dir string, log *slog.Logger, deliver func(Files)) (*Mirror, error) {
	m := &Mirror{
		source: source, dir: dir, base: base(dir), log: log, deliver: deliver,
		done: make(chan struct{}), ready: make(chan struct{}), changed: make(chan struct{}, 1),
	}
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	m.cancel = cancel
	m.running.Go(func() { m.follow(life) })
	m.running.Go(func() { m.publish(life) })
	m.running.Go(func() { m.keepChecked(life) })
	select {
	case <-m.ready:
		return m, nil
	case <-m.done:
	case <-ctx.Done():
	}
	m.Close()
	switch err, cause := m.Err(), context.Cause(ctx); {
	case cause == nil:
		return nil, err
	case err == nil:
		return nil, cause
	default:
		return nil, fmt.Errorf("%w; the last failure was: %w", cause, err)
	}
}

// Close ends the mirror and waits for its goroutines. It may be called more
// than once.
func (m *Mirror) Close() {
	m.cancel()
	m.running.Wait()
}

// Done is closed when the mirror follows no more: it or its client was closed.
func (m *Mirror) Done() <-chan struct{} { return m.done }

// Age returns how long ago the files were last known to be exactly those of the
// cluster.
func (m *Mirror) Age() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Since(m.current)
}

// Healthy reports whether none of the last three comparisons has failed.
func (m *Mirror) Healthy() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Since(m.current) <= 3*m.interval()
}

// Err returns why the files are not known to be those of the cluster now, and
// nil if they are or no reason is known.
func (m *Mirror) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

// interval is the time between two comparisons. The caller holds the mutex.
func (m *Mirror) interval() time.Duration {
	return checkInterval + time.Duration(len(m.files))*checkPerFile
}

// follow applies what the watch brings until ctx ends or the client is closed.
func (m *Mirror) follow(ctx context.Context) {
	defer close(m.done)
	for failures := 0; ; failures++ {
		err, ended := m.watch(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case ended: // by a check, because it has stopped
			failures = -1
			continue
		}
		m.note(err)
		if errors.Is(err, client.ErrClosed) || !m.isReady() && !retry.Helps(err) {
			return
		}
		m.log.Warn("directory cannot be watched", "dir", m.dir, "error", err)
		if retry.Sleep(ctx, retry.Pause(failures, pauseMin, pauseMax)) != nil {
			return
		}
	}
}

func (m *Mirror) isReady() bool {
	select {
	case <-m.ready:
		return true
	default:
		return false
	}
}

// watch follows one watch to its end. ended tells that a check has ended it.
func (m *Mirror) watch(ctx context.Context) (err error, ended bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	m.mu.Lock()
	m.restart = cancel
	m.mu.Unlock()
	for e, err := range m.source.Watch(ctx, m.dir, client.WithRecursive(), client.WithState()) {
		if err != nil {
			return err, ctx.Err() != nil
		}
		m.apply(e)
	}
	return fmt.Errorf("the watch of %s has ended", m.dir), false
}

// apply takes over an item of the watch.
func (m *Mirror) apply(e client.WatchEvent) {
	m.mu.Lock()
	defer m.mu.Unlock()
	changed := false
	switch {
	case e.Reset:
		files := flatten(m.base, e.Node)
		changed = m.files == nil || !maps.Equal(m.files, files)
		m.files, m.pending = files, nil
		m.current, m.err = time.Now(), nil
	default:
		changed = m.files.apply(m.base, e.Event)
	}
	m.index = e.Index
	m.settle()
	if changed {
		select {
		case m.changed <- struct{}{}:
		default:
		}
	}
}

// publish delivers the files whenever they have changed.
func (m *Mirror) publish(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.changed:
		}
		m.mu.Lock()
		files := maps.Clone(m.files)
		m.mu.Unlock()
		m.deliver(files)
		if !m.isReady() {
			close(m.ready)
		}
	}
}

// keepChecked compares the files with a read, time and again.
func (m *Mirror) keepChecked(ctx context.Context) {
	select {
	case <-m.ready:
	case <-m.done:
		return
	}
	for {
		m.mu.Lock()
		pause := retry.Pause(0, m.interval(), m.interval())
		m.mu.Unlock()
		select {
		case <-m.done:
			return
		case <-time.After(pause):
			m.check(ctx)
		}
	}
}

// check reads the directory and notes what it has to agree with. A watch that
// has not come to the last such state by now is begun anew.
func (m *Mirror) check(ctx context.Context) {
	m.mu.Lock()
	if m.pending != nil {
		m.log.Warn("watch is behind and is begun anew", "dir", m.dir, "index", m.index, "read_index", m.pending.index)
		m.pending = nil
		m.restart()
		m.mu.Unlock()
		return
	}
	ctx, cancel := context.WithTimeout(ctx, m.interval())
	m.mu.Unlock()
	defer cancel()
	r, err := m.read(ctx)
	if err != nil {
		m.log.Debug("directory cannot be read", "dir", m.dir, "error", err)
		m.note(err)
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pending = r
	m.settle()
}

// read reads the directory.
func (m *Mirror) read(ctx context.Context) (*reading, error) {
	begun := time.Now()
	r, err := m.source.Get(ctx, m.dir, client.WithRecursive())
	var e *deimos.Error
	switch {
	case err == nil:
		return &reading{files: flatten(m.base, r.Node), index: r.Index, begun: begun}, nil
	case errors.As(err, &e) && (e.Code == deimos.CodeKeyNotFound || e.Code == deimos.CodeNotDir):
		return &reading{files: Files{}, index: e.Index, begun: begun}, nil
	default:
		return nil, err
	}
}

// settle notes that the files are current if they have come to what the last
// read has shown, or beyond. The caller holds the mutex.
func (m *Mirror) settle() {
	if m.pending == nil || m.index <= m.pending.index && !maps.Equal(m.files, m.pending.files) {
		return
	}
	if m.pending.begun.After(m.current) {
		m.current, m.err = m.pending.begun, nil
	}
	m.pending = nil
}

// note remembers why the files may not be current.
func (m *Mirror) note(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
}
