package lane

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// open begins a stream and returns what reads it, and what makes it go on.
func (c *client) open(r *loopRig, path string) (body *bufio.Reader, resume func()) {
	c.t.Helper()
	c.say(request(path))
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		c.t.Fatalf("head of a stream = %v, want one before any event", err)
	}
	return bufio.NewReader(resp.Body), <-r.handler.paused
}

func TestStreamsInALoop(t *testing.T) {
	r := newLoopRig(t, nil)
	c, other := r.dial(), r.dial()
	for _, path := range []string{"stream", "slow/stream", "slow/deadline/stream"} {
		body, resume := c.open(r, path)
		for _, e := range []string{"one\n", "two\n"} {
			resume() // without need, as far as it is ahead of the event
			r.handler.events <- e
			resume()
			if got, err := body.ReadString('\n'); got != e || err != nil {
				t.Errorf("event of %s = %q, %v, want %q", path, got, err, e)
			}
			other.get("quick", "[]")
		}
		c.say(request("quick")) // it waits for the end of the stream
		r.handler.events <- ""
		resume()
		if rest, err := io.ReadAll(body); len(rest) > 0 || err != nil {
			t.Errorf("rest of %s = %q, %v, want its end", path, rest, err)
		}
		if err := <-r.handler.ended; err != nil {
			t.Errorf("context at the end of %s = %v, want nil", path, err)
		}
		c.want("[]", "GET", "")
	}
}

func TestTheEndOfAStreamInALoop(t *testing.T) {
	wantCancelled := func(t *testing.T, r *loopRig) {
		t.Helper()
		select {
		case err := <-r.handler.ended:
			if err != context.Canceled {
				t.Errorf("context at the end of the stream = %v, want %v", err, context.Canceled)
			}
		case <-time.After(20 * time.Second): // it fails, and does not hang
			t.Error("the stream goes on without its client")
		}
	}
	for name, leave := range map[string]func(*net.TCPConn) error{
		"closed":         (*net.TCPConn).Close,
		"closed halfway": (*net.TCPConn).CloseWrite,
		"reset": func(nc *net.TCPConn) error {
			return errors.Join(nc.SetLinger(0), nc.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newLoopRig(t, nil)
			c := r.dial()
			c.open(r, "stream")
			if err := leave(c.tcp()); err != nil {
				t.Fatal(err)
			}
			wantCancelled(t, r)
			r.dial().get("quick", "[]")
		})
	}
	t.Run("it is told to go on too late", func(t *testing.T) {
		r := newLoopRig(t, nil)
		c := r.dial()
		_, resume := c.open(r, "stream")
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		wantCancelled(t, r)
		others := make([]*client, runtime.GOMAXPROCS(0)) // one for each loop
		for i := range others {
			others[i] = r.dial()
		}
		resume() // later than a call may, as if the message had been on its way
		for _, other := range others {
			other.get("quick", "[]")
		}
	})
	t.Run("the server is closed", func(t *testing.T) {
		r := newLoopRig(t, nil)
		r.dial().open(r, "stream")
		if err := r.server.Close(); err != nil {
			t.Errorf("Close() = %v, want nil", err)
		}
		wantCancelled(t, r)
	})
}

// What a slow reader has not taken waits for it in full, in the order of the
// events, and nobody else waits.
func TestStreamOfASlowReaderInALoop(t *testing.T) {
	for _, path := range []string{"stream", "slow/stream"} {
		t.Run(path, func(t *testing.T) {
			r := newLoopRig(t, nil)
			slow, other := r.dial(), r.dial()
			large := strings.Repeat("x", 16<<20) + "\n"
			r.handler.events <- large
			body, resume := slow.open(r, path)
			if _, err := body.Peek(1); err != nil { // it is being sent
				t.Fatal(err)
			}
			other.get("quick", "[]")
			r.handler.events <- "small\n"
			resume()
			other.get("quick", "[]")
			for _, want := range []string{large, "small\n"} {
				if got, err := body.ReadString('\n'); got != want || err != nil {
					t.Fatalf("event = %d bytes, %v, want all %d", len(got), err, len(want))
				}
			}
			r.handler.events <- ""
			resume()
			if rest, err := io.ReadAll(body); len(rest) > 0 || err != nil {
				t.Errorf("rest = %q, %v, want the end", rest, err)
			}
			slow.get("quick", "[]")
		})
	}
}

// A reader that takes nothing is given up, and what it has of the stream does not
// look whole.
func TestStreamOfAReaderThatTakesNothingIsCut(t *testing.T) {
	r := newLoopRig(t, nil)
	c := r.dial()
	body, resume := c.open(r, "deadline/stream")
	r.handler.events <- strings.Repeat("x", 16<<20)
	resume()
	if err := <-r.handler.ended; err != context.Canceled {
		t.Errorf("context at the end of the stream = %v, want %v", err, context.Canceled)
	}
	if n, err := io.Copy(io.Discard, body); err == nil {
		t.Errorf("the cut stream ended well after %d bytes, want an error", n)
	}
}

// What waits for an event for hours holds no buffer meanwhile.
func TestStreamThatWaitsHoldsNoBuffer(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // one loop
	for _, path := range []string{"stream", "slow/stream"} {
		t.Run(path, func(t *testing.T) {
			r := newLoopRig(t, nil)
			_, tell := r.dial().open(r, "stream")
			looks := make(chan []*conn, 1)
			r.handler.seen = func(call *stepCall) {
				var held []*conn
				if call.steps[0] == "look" {
					for _, c := range r.server.loops[0].conns {
						if c != nil && c.streaming && (c.away || c.in != nil || c.answer.out != nil) {
							held = append(held, c)
						}
					}
					looks <- held
				}
			}
			tell() // the loop of seen
			r.dial().open(r, path)
			other := r.dial()
			// Until it has come back from a goroutine, with a bound for which it fails.
			for late := time.Now().Add(10 * time.Second); time.Now().Before(late); {
				other.get("look", "[]")
				if len(<-looks) == 0 {
					return
				}
			}
			t.Error("a stream without an event holds a buffer")
		})
	}
}

// However many streams have an event, a request that goes on comes before them,
// and one that arrives after a few of them.
func TestRequestsComeBetweenStreams(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // one loop
	r := newLoopRig(t, nil)
	var resumes []func()
	for range 2*streamsMax + streamsMax/2 {
		_, resume := r.dial().open(r, "stream")
		resumes = append(resumes, resume)
	}
	paused, arriving, begun := r.dial(), r.dial(), r.dial()
	paused.say(request("paused"))
	resumes = append(resumes, <-r.handler.paused)
	begun.say(request("begun"))
	release := <-r.handler.paused // meanwhile the loop stands still
	steps := make(chan string, 1000)
	r.handler.seen = func(c *stepCall) { steps <- strings.TrimPrefix(c.r.URL.Path, "/keys/") }
	arriving.say(request("quick"))
	for _, resume := range resumes {
		resume()
	}
	release()
	begun.want("[]", "GET", "")
	paused.want("[paused]", "GET", "")
	arriving.want("[]", "GET", "")
	var order []string
	for range len(resumes) + 1 {
		order = append(order, <-steps)
	}
	if first, second := slices.Index(order, "paused"), slices.Index(order, "quick"); first != 0 || second != 1+streamsMax {
		t.Errorf("the request that goes on is step %d, and the one that arrives %d of %d, want 0 and %d", first, second, len(order), 1+streamsMax)
	}
}
