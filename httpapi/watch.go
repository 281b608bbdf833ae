package httpapi

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/store"
)

// flushMaxBytes is how much a stream writes before it flushes although more
// events are ready.
const flushMaxBytes = 64 << 10

// heartbeat is the comment that keeps an event stream alive.
const heartbeat = ": heartbeat\n\n"

// watch answers a watch. The answer begins at once, before any event, and ends
// with the watcher, the client or, except for event streams, the watch
// timeout.
func (c *call) watch(key string, o *options) {
	if ref := c.drainBody(); ref != nil {
		c.refuse(ref)
		return
	}
	watcher, err := c.h.backend.Watch(key, o.recursive, o.waitIndex)
	if err != nil {
		c.fail(err, deimos.CauseReadTimeout)
		return
	}
	defer watcher.Close()
	c.watching = true
	c.h.metrics.watches.Inc()
	defer c.h.metrics.watches.Dec()

	header := c.w.Header()
	c.setKeysHeaders(watcher.StartIndex(), -1)
	header["Content-Type"] = contentJSON
	if o.events {
		header["Content-Type"], header["Cache-Control"] = contentEvents, cacheNone
	}
	c.releaseBuffers()
	s := watchStream{call: c, rc: http.NewResponseController(c.w), watcher: watcher, events: o.events}
	s.extend()
	defer s.extend() // net/http writes the end of the body after this returns
	c.begin(http.StatusOK)
	if o.events {
		s.eventStream(c.r.Context())
		return
	}
	if !s.flush() {
		return
	}
	ctx, cancel := context.WithTimeout(c.r.Context(), c.h.watchTimeout)
	defer cancel()
	if !o.stream {
		s.longPoll(ctx)
		return
	}
	for s.batch(ctx) {
	}
}

// releaseBuffers gives the buffers to another call while a watch waits.
func (c *call) releaseBuffers() {
	other := newCall(c.h, c.buffers)
	c.buffers, c.form = nil, form{}
	other.reset()
	c.h.calls.Put(other)
}

// watchStream is the answer to a watch while it is being written. Events are
// sent whole or, when the connection breaks, not ended.
type watchStream struct {
	call    *call
	rc      *http.ResponseController
	watcher *store.Watcher
	// events tells an event stream from JSON lines.
	events bool
	// frame is what stands around the JSON of an event stream.
	frame []byte
	// takenBy is when the client must have taken what was written.
	takenBy time.Time
}

// longPoll sends one event.
func (s *watchStream) longPoll(ctx context.Context) {
	e, err := s.watcher.Next(ctx)
	if err != nil {
		return
	}
	s.extend()
	s.send(e)
}

// eventStream sends events, and heartbeats in between, until the watcher ends
// or the client goes.
func (s *watchStream) eventStream(ctx context.Context) {
	for ctx.Err() == nil {
		s.extend()
		if !s.write([]byte(heartbeat)) || !s.flush() {
			return
		}
		if !s.untilBeat(ctx) {
			return
		}
	}
}

// untilBeat sends events until the next heartbeat is due. It returns false
// when the stream has ended.
func (s *watchStream) untilBeat(ctx context.Context) bool {
	beat, cancel := context.WithTimeout(ctx, s.call.h.limits.heartbeat)
	defer cancel()
	for s.batch(beat) {
	}
	return errors.Is(beat.Err(), context.DeadlineExceeded) && ctx.Err() == nil
}

// batch waits for an event and sends it with those that are ready behind it,
// so that a flush is paid once for all of them. It returns false when there is
// nothing more to send or nobody to send it to.
func (s *watchStream) batch(ctx context.Context) bool {
	e, err := s.watcher.Next(ctx)
	if err != nil {
		return false
	}
	s.extend()
	sent := 0
	for {
		n, ok := s.send(e)
		if !ok {
			return false
		}
		if sent += n; sent >= flushMaxBytes || !s.watcher.Ready() {
			return s.flush()
		}
		if e, err = s.watcher.Next(ctx); err != nil {
			s.flush()
			return false
		}
	}
}

// send writes one event.
func (s *watchStream) send(e *store.Event) (bytes int, ok bool) {
	line := e.Encoded(s.call.h.encode)
	if !s.events {
		return len(line), s.write(line)
	}
	s.frame = append(s.frame[:0], "id: "...)
	s.frame = strconv.AppendUint(s.frame, e.Index(), 10)
	s.frame = append(s.frame, "\nevent: "...)
	s.frame = append(s.frame, e.Action()...)
	s.frame = append(s.frame, "\ndata: "...)
	return len(line), s.write(s.frame) && s.write(line) && s.write([]byte("\n"))
}

// write writes a part of the stream. It returns false when the client is gone
// or has read nothing for too long.
func (s *watchStream) write(b []byte) bool { return s.call.write(b) }

// flush sends what was written.
func (s *watchStream) flush() bool {
	if err := s.rc.Flush(); err != nil {
		s.call.h.log.Debug("watch not sent", "path", s.call.r.URL.Path, "error", err)
		return false
	}
	return true
}

// extend gives the client time to take what is written next. Moving a deadline
// is dear, so it is set too late, and not for each event of many.
func (s *watchStream) extend() {
	now, limit := time.Now(), s.call.h.limits.write
	if s.takenBy.Sub(now) >= limit {
		return
	}
	s.takenBy = now.Add(limit + limit/4)
	s.call.deadlineSet(s.rc.SetWriteDeadline(s.takenBy))
}
