package load

import (
	"bytes"
	"fmt"
	"sync"
	"time"
)

// fanout follows each event from its write to its last watcher.
type fanout struct {
	run      *run
	watchers int
	recorder *recorder

	mu     sync.Mutex
	events []event // by number
	first  int     // all events below it are settled
}

type event struct {
	due  time.Duration
	left int // watchers that do not have it yet; 0: settled
}

func newFanout(r *run, watchers int) *fanout {
	f := &fanout{run: r, watchers: watchers, recorder: new(recorder)}
	r.recorders = append(r.recorders, f.recorder)
	return f
}

// written tells that an event is about to be written.
func (f *fanout) written(number int64, due time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for int64(len(f.events)) <= number {
		f.events = append(f.events, event{})
	}
	f.events[number] = event{due, f.watchers}
}

// forget tells that the write failed: nobody waits for the event any more.
func (f *fanout) forget(number int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events[number].left = 0
}

// got tells that a watcher has an event.
func (f *fanout) got(number int64, now time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if number >= int64(len(f.events)) || f.events[number].left == 0 {
		return // of somebody else, or given up
	}
	e := &f.events[number]
	e.left--
	if e.due < f.run.plan.from() {
		return
	}
	f.recorder.delivered()
	if e.left == 0 {
		f.recorder.success(fanning, now-e.due, 0, 0)
	}
}

// giveUp stops waiting for events that are overdue. Each watcher that has not
// got one is a failure.
func (f *fanout) giveUp(now time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for ; f.first < len(f.events); f.first++ {
		e := &f.events[f.first]
		if e.left > 0 && now-e.due <= f.run.cfg.Timeout {
			return
		}
		if e.due >= f.run.plan.from() {
			f.recorder.missed(e.left, now-e.due)
		}
		e.left = 0
	}
}

// settled tells whether no event is awaited.
func (f *fanout) settled() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range f.events[f.first:] {
		if e.left > 0 {
			return false
		}
	}
	return true
}

// watcher holds a stream open. A stream that ends is opened again; the events
// of the meantime are missed.
type watcher struct {
	fanout  *fanout
	at      *endpoint
	request []byte
	answer  answer
	line    []byte // one that has not arrived whole
	now     time.Duration
	last    int64 // the newest event; -1: none
	wasUp   bool
	asked   time.Duration // when the stream was asked for
	waiting bool          // for its head
}

// lineMaxBytes bounds an event: its value twice, escaped.
const lineMaxBytes = 16*ValueBytesMax + 64<<10

func newWatcher(f *fanout, e *endpoint) *watcher {
	var w renderer
	w.path("GET", &f.run.cfg)
	fmt.Fprintf(&w.text, "?wait=true&stream=true HTTP/1.1\r\nHost: %s\r\n\r\n", e.host)
	c := &watcher{fanout: f, at: e, request: w.done().text, last: -1}
	c.answer.body = c.take
	return c
}

func (w *watcher) server() *endpoint { return w.at }

func (w *watcher) connected(time.Duration) {}

func (w *watcher) next(now time.Duration) ([]byte, time.Duration, verdict) {
	w.answer.reset()
	w.line = w.line[:0]
	w.asked, w.waiting = now, true
	return w.request, 0, send
}

func (w *watcher) receive(data []byte, now time.Duration) (done, keep bool) {
	w.now = now
	_, done, err := w.answer.feed(data)
	if err != nil {
		w.fanout.recorder.failure(Failure{Kind: KindMalformed}, fanning, 0)
		return true, false
	}
	if w.waiting && w.answer.state != inHead {
		w.waiting = false
		w.opened()
	}
	return done, !w.answer.closing
}

// opened looks at the head of the stream.
func (w *watcher) opened() {
	switch {
	case w.answer.status != 200:
		w.fanout.recorder.failure(Failure{Kind: KindStatus, Status: w.answer.status}, fanning, 0)
	case w.wasUp:
		w.fanout.recorder.reconnected()
	default:
		w.wasUp = true
		w.fanout.run.arrived()
	}
}

// take cuts the body into lines, each of which is an event.
func (w *watcher) take(piece []byte) {
	for {
		i := bytes.IndexByte(piece, '\n')
		if i < 0 {
			if len(w.line)+len(piece) <= lineMaxBytes {
				w.line = append(w.line, piece...)
			}
			return
		}
		line := piece[:i]
		if len(w.line) > 0 {
			w.line = append(w.line, line...)
			line = w.line
		}
		w.event(line)
		w.line, piece = w.line[:0], piece[i+1:]
	}
}

// event reads the number of an event, which is the beginning of its value.
func (w *watcher) event(line []byte) {
	i := bytes.Index(line, valueField)
	if i < 0 || len(line) < i+len(valueField)+eventDigits {
		return // of somebody else
	}
	digits := line[i+len(valueField):][:eventDigits]
	number, ok := numberOf(digits, 10)
	if !ok {
		return
	}
	if number <= w.last {
		w.fanout.recorder.failure(Failure{Kind: KindOrder}, fanning, 0)
		return
	}
	w.last = number
	w.fanout.got(number, w.now)
}

func (w *watcher) lost(kind string, _ time.Duration) {
	w.waiting = false
	w.fanout.recorder.failure(Failure{Kind: kind}, fanning, 0)
}

// overdue tells whether the head does not come. A stream may be silent.
func (w *watcher) overdue(now time.Duration) bool {
	return w.waiting && now-w.asked > w.fanout.run.cfg.Timeout
}
