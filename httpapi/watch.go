package httpapi

import (
	"context"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/httpapi/lane"
	"github.com/marsevilspirit/deimos/internal/hangup"
	"github.com/marsevilspirit/deimos/store"
)

// flushMaxBytes is how much a stream writes before it flushes although more
// events are ready.
const flushMaxBytes = 64 << 10

// heartbeat is the comment that keeps an event stream alive.
const heartbeat = ": heartbeat\n\n"

// watch makes a watch, which begins as a local read does: for a moment after a start
// of the member it has to wait.
func (c *call) watch(key string, o *options) {
	if _, ok := c.h.backend.View(); ok {
		c.beginWatch(key, o)
		return
	}
	later := *o
	if await := func(c *call) { c.awaitWatch(key, &later) }; !c.slow(await) {
		await(c)
	}
}

// awaitWatch makes a watch that has to wait.
func (c *call) awaitWatch(key string, o *options) {
	if _, err := c.h.backend.AwaitView(c.r.Context()); err != nil {
		c.fail(err, deimos.CauseReadTimeout)
		return
	}
	c.beginWatch(key, o)
}

// beginWatch begins to answer a watch. follow goes on from there. The answer begins at
// once, before any event, and ends with the watcher, the client or, except for
// event streams, the watch timeout.
func (c *call) beginWatch(key string, o *options) {
	watcher, err := c.h.backend.Watch(key, o.recursive, o.waitIndex)
	if err != nil {
		c.fail(err, deimos.CauseReadTimeout)
		return
	}
	c.watching = true
	c.h.metrics.watches.Inc()
	header := c.w.Header()
	c.setKeysHeaders(watcher.StartIndex(), -1)
	header["Content-Type"] = contentJSON
	if o.events {
		header["Content-Type"], header["Cache-Control"] = contentEvents, cacheNone
	}
	c.releaseBuffers()
	c.stream = newStream(c, watcher, o)
	c.begin(http.StatusOK)
	c.follow()
}

// follow sends the events that are there, together, and waits for more.
func (c *call) follow() {
	s := c.stream
	if s.watcher.Replays() && c.slow((*call).follow) {
		return
	}
	s.extend()
	if !s.beat() {
		s.end()
		return
	}
	for sent := 0; sent < flushMaxBytes; {
		e, err := s.poll()
		switch {
		case err != nil:
			s.end()
			return
		case e == nil:
			if s.watcher.Await(s.wake) {
				c.next, c.state = (*call).follow, lane.Streaming
				return
			}
			continue
		case isLongEvent(e) && c.slow((*call).follow):
			s.held = e
			return
		}
		n, ok := s.send(e)
		if !ok || s.single {
			s.end()
			return
		}
		sent += n
	}
	s.wake() // the others have their turn meanwhile
	c.next, c.state = (*call).follow, lane.Streaming
}

// idle waits for more events where nobody else does: it sends what was written,
// and returns when follow has something to do.
func (c *call) idle() {
	if err := http.NewResponseController(c.w).Flush(); err != nil {
		c.h.log.Debug("watch not sent", "path", c.r.URL.Path, "error", err)
		c.stream.gone = true
		return
	}
	select {
	case <-c.resumed:
	case <-c.stream.left():
		c.stream.gone = true
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
	watcher *store.Watcher
	// events tells an event stream from JSON lines, and single a long poll, which
	// ends with its first event.
	events, single bool
	// gone tells that the client has gone, where the request's context does not.
	// client ends then, and stopLooking ends looking for that; nil before left.
	gone        bool
	client      context.Context
	stopLooking func()
	held        *store.Event // to be sent before what the watcher has
	// frame is what stands around the JSON of an event stream.
	frame []byte
	// takenBy is when the client must have taken what was written.
	takenBy time.Time
	wake    func()      // the method value wakeCall, made once
	timer   *time.Timer // that calls ring

	mu   sync.Mutex // guards the rest
	rang bool       // the time of the timer has come
	over bool       // nobody must be woken any more
}

// newStream returns a stream whose timer runs: it tells when the watch ends or, for
// an event stream, when the next heartbeat is due, which it is at once.
func newStream(c *call, w *store.Watcher, o *options) *watchStream {
	s := &watchStream{call: c, watcher: w, events: o.events, single: !o.events && !o.stream, rang: o.events}
	s.wake = s.wakeCall
	limit := c.h.watchTimeout
	if s.events {
		limit = c.h.limits.heartbeat
	}
	s.timer = time.AfterFunc(limit, s.ring)
	return s
}

// left returns a channel that is closed when the client has gone, for where nobody
// else watches the connection.
func (s *watchStream) left() <-chan struct{} {
	if s.client == nil {
		s.client, s.stopLooking = hangup.Context(s.call.r.Context())
	}
	return s.client.Done()
}

func (s *watchStream) wakeCall() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.over {
		s.call.wake()
	}
}

func (s *watchStream) ring() {
	s.mu.Lock()
	s.rang = true
	s.mu.Unlock()
	s.wakeCall()
}

// end releases what the stream holds, once. Its answer is complete.
func (s *watchStream) end() {
	s.mu.Lock()
	ended := s.over
	s.over = true
	s.mu.Unlock()
	if ended {
		return
	}
	s.timer.Stop()
	if s.stopLooking != nil {
		s.stopLooking()
	}
	s.watcher.Close()
	s.call.h.metrics.watches.Dec()
	select {
	case <-s.call.resumed: // nobody waits for it any more
	default:
	}
	s.extend() // for the end of the body
}

// beat looks at the time, and writes a heartbeat when one is due. It returns false
// when the stream is to end.
func (s *watchStream) beat() bool {
	if s.gone || s.call.r.Context().Err() != nil {
		return false
	}
	s.mu.Lock()
	rang := s.rang
	s.rang = false
	s.mu.Unlock()
	if !rang {
		return true
	}
	if !s.events {
		return false
	}
	s.timer.Reset(s.call.h.limits.heartbeat)
	return s.call.write([]byte(heartbeat))
}

// poll returns the next event that is there, nil if there is none.
func (s *watchStream) poll() (*store.Event, error) {
	if e := s.held; e != nil {
		s.held = nil
		return e, nil
	}
	return s.watcher.Poll()
}

// send writes one event.
func (s *watchStream) send(e *store.Event) (bytes int, ok bool) {
	line := s.call.h.encoded(e)
	if !s.events {
		return len(line), s.call.write(line)
	}
	s.frame = append(s.frame[:0], "id: "...)
	s.frame = strconv.AppendUint(s.frame, e.Index(), 10)
	s.frame = append(s.frame, "\nevent: "...)
	s.frame = append(s.frame, e.Action()...)
	s.frame = append(s.frame, "\ndata: "...)
	return len(line), s.call.write(s.frame) && s.call.write(line) && s.call.write([]byte("\n"))
}

// extend gives the client time to take what is written next. Moving a deadline
// is dear, so it is set too late, and not for each event of many.
func (s *watchStream) extend() {
	now, limit := time.Now(), s.call.h.limits.write
	if s.takenBy.Sub(now) >= limit {
		return
	}
	s.takenBy = now.Add(limit + limit/4)
	s.call.deadlineSet(http.NewResponseController(s.call.w).SetWriteDeadline(s.takenBy))
}
