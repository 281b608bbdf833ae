package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/marsevilspirit/deimos"
)

const (
	// silenceMax is how long an event stream may be silent. A member sends a sign
	// of life every 15 s.
	silenceMax = 40 * time.Second
	// pollSilenceMax is the same for a long poll, which is silent until something
	// happens. Servers end one after 5 minutes.
	pollSilenceMax = 6 * time.Minute
	// lineMaxBytes bounds one event: two values of 8 MiB, the most that a member
	// can be configured to take, in the longest form that JSON has for them.
	lineMaxBytes = 128 << 20
)

var (
	// errEnd is the ordinary end of a stream.
	errEnd = errors.New("the stream has ended")
	// errSilent ends a stream on which nothing comes any more.
	errSilent = errors.New("no sign of life")
	// errUnreadable ends a stream that would be the same at the next try.
	errUnreadable = errors.New("the stream cannot be read")
)

// stream is the answer to a watch while it is being read.
type stream struct {
	endpoint *endpoint
	// start holds the headers: the index is that at which the watch began.
	start *Response
	// alive is when the endpoint was last heard of.
	alive time.Time

	lines        *bufio.Scanner
	lineMaxBytes int
	body         io.Closer
	events       bool // an event stream, else JSON lines
	silence      time.Duration
	timer        *time.Timer // runs while the stream is read, and ends it
	inquiry      *inquiry    // works while an event is waited for
	cancel       context.CancelCauseFunc
	why          func(error) error // tells why the stream broke
}

// open asks one endpoint after the other for what comes next, once round.
func (w *watch) open(ctx context.Context) (*stream, error) {
	r := w.request()
	s := &search{c: w.c, r: r}
	for _, e := range w.c.endpoints.order() {
		opened, err := w.openAt(ctx, e, r)
		switch {
		case err == nil:
			w.c.endpoints.worked(e)
			return opened, nil
		case ctx.Err() != nil:
			if w.c.endpoints.silence(e) >= slow {
				w.c.endpoints.failed(e, err)
			}
			return nil, s.over(ctx)
		case errors.Is(err, errHistoryGone):
			return nil, err
		case !w.answered && !isTemporary(err):
			return nil, err
		}
		w.c.endpoints.failed(e, err)
		s.note(e, err)
	}
	return nil, s.unreachable()
}

// openAt asks one endpoint. The head of the answer has to come within the
// request timeout.
func (w *watch) openAt(ctx context.Context, e *endpoint, r *request) (*stream, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	patience := time.AfterFunc(w.c.cfg.RequestTimeout, func() { cancel(errSilent) })
	defer patience.Stop()
	resp, _, err := w.c.try(ctx, e, r)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		a, err := w.c.readAnswer(r, e, resp)
		cancel(nil)
		if err != nil {
			return nil, err
		}
		if a.code == deimos.CodeIndexCleared || a.code == deimos.CodeWatcherCleared {
			return nil, fmt.Errorf("%w: %w", errHistoryGone, a.err())
		}
		return nil, a.err()
	}
	kind, err := streamKind(r, e, resp)
	if err != nil {
		cancel(nil)
		return nil, errors.Join(err, resp.Body.Close())
	}
	s := w.c.newStream(ctx, cancel, e, resp, kind)
	s.inquiry = newInquiry(func() (time.Duration, error) { return w.inquire(ctx, e) }, cancel)
	return s, nil
}

// newStream returns the stream of an answer, without its inquiry. cancel ends
// the request, whose context is ctx.
func (c *Client) newStream(ctx context.Context, cancel context.CancelCauseFunc, e *endpoint, resp *http.Response, kind string) *stream {
	s := &stream{
		endpoint: e, start: responseOf(resp.Header), alive: time.Now(),
		body: resp.Body, events: kind == typeEvents, silence: pollSilenceMax, cancel: cancel,
		lineMaxBytes: c.lineMaxBytes,
		why:          func(err error) error { return endOf(ctx, err) },
	}
	if s.events {
		s.silence = silenceMax
	}
	s.timer = time.AfterFunc(s.silence, func() { cancel(fmt.Errorf("%w for %v", errSilent, s.silence)) })
	s.lines = bufio.NewScanner(resp.Body)
	s.lines.Buffer(nil, c.lineMaxBytes)
	s.lines.Split(splitLine)
	return s
}

// streamKind returns the type of the answer to a watch, or why it is none.
func streamKind(r *request, e *endpoint, resp *http.Response) (string, error) {
	given := resp.Header.Get("Content-Type")
	kind, _, err := mime.ParseMediaType(given)
	switch {
	case err != nil || kind != typeEvents && kind != typeJSON:
		return "", &StatusError{Op: r.op(), Endpoint: e.url, Status: resp.StatusCode, Message: fmt.Sprintf("the answer to a watch is %q", given)}
	case responseOf(resp.Header).Index == 0:
		return "", noIndex(r.op(), e.url)
	}
	return kind, nil
}

// splitLine splits at newlines. What is left at the end of the body without one
// is no line.
func splitLine(data []byte, atEOF bool) (advance int, line []byte, err error) {
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		return i + 1, bytes.TrimSuffix(data[:i], []byte("\r")), nil
	}
	if atEOF {
		return len(data), nil, nil
	}
	return 0, nil, nil
}

// close ends the stream.
func (s *stream) close() {
	s.timer.Stop()
	s.cancel(nil)
	s.inquiry.close()
	// The end was asked for; that it came is no news.
	_ = s.body.Close()
}

// next waits for an event and its index. The error is errEnd at an ordinary end.
func (s *stream) next() (*deimos.Event, uint64, error) {
	s.inquiry.begin()
	defer s.inquiry.end()
	var data []byte
	for {
		line, err := s.line()
		switch {
		case err != nil:
			return nil, 0, err
		case !s.events && len(line) > 0:
			return event(line)
		case !s.events:
		case len(line) == 0 && len(data) > 0:
			return event(data)
		default:
			// The id is in the event, and its name too; anything else is a comment.
			if text, ok := bytes.CutPrefix(line, []byte("data:")); ok {
				if len(data)+len(text) > s.lineMaxBytes {
					return nil, 0, fmt.Errorf("%w: an event is longer than %d bytes", errUnreadable, s.lineMaxBytes)
				}
				data = append(data, text...)
			}
		}
	}
}

// line waits for a line. It is valid until the next call.
func (s *stream) line() ([]byte, error) {
	s.timer.Reset(s.silence)
	more := s.lines.Scan()
	s.timer.Stop()
	if more {
		s.alive = time.Now()
		return s.lines.Bytes(), nil
	}
	switch err := s.lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return nil, fmt.Errorf("%w: a line is longer than %d bytes", errUnreadable, s.lineMaxBytes)
	case err != nil:
		return nil, s.why(err)
	}
	s.alive = time.Now()
	return nil, errEnd
}

// event reads an event.
func event(text []byte) (*deimos.Event, uint64, error) {
	e := new(deimos.Event)
	if err := json.Unmarshal(text, e); err != nil {
		return nil, 0, fmt.Errorf("%w: a line is no event: %w", errUnreadable, err)
	}
	if e.Node == nil || e.Node.ModifiedIndex == 0 {
		return nil, 0, fmt.Errorf("%w: an event has no index: %s", errUnreadable, strings.ToValidUTF8(string(text[:min(len(text), messageMaxBytes)]), ""))
	}
	return e, e.Node.ModifiedIndex, nil
}
