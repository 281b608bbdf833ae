package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// members answers watches with streams that bring nothing but signs of life, and
// what it was told to bring. It plays all endpoints of a client.
type members struct {
	// told answers the question whether an endpoint has its cluster. It is called
	// on the goroutine that asks.
	told func(*http.Request) (*http.Response, error)
	// serve brings the events of the n-th watch. Nil: none.
	serve func(n int, w *io.PipeWriter)

	mu      sync.Mutex
	watches []string // host and waitIndex
	asked   []question
}

type question struct {
	host, uri string
	at        time.Time
}

func (m *members) answer(r *http.Request) (*http.Response, error) {
	m.mu.Lock()
	if r.Method == http.MethodHead {
		m.asked = append(m.asked, question{r.URL.Host, r.URL.RequestURI(), time.Now()})
		m.mu.Unlock()
		return m.told(r)
	}
	m.watches = append(m.watches, r.URL.Host+" "+r.URL.Query().Get("waitIndex"))
	n := len(m.watches)
	m.mu.Unlock()
	return streaming(r, typeEvents, 4, func(w *io.PipeWriter) {
		if m.serve != nil {
			go m.serve(n, w)
		}
		for {
			if _, err := io.WriteString(w, beat); err != nil {
				return
			}
			if sleep(r.Context(), 15*time.Second) != nil {
				return
			}
		}
	}), nil
}

// bounded returns a context that lasts longer than any watch here should.
func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Hour)
	t.Cleanup(cancel)
	return ctx
}

// counts tells how many watches and questions there were.
func (m *members) counts() (watches, asked int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.watches), len(m.asked)
}

// write brings events.
func write(w *io.PipeWriter, parts ...string) {
	for _, p := range parts {
		if _, err := io.WriteString(w, p); err != nil {
			return
		}
	}
}

// whole is the answer of a member that has its cluster, electing that of one
// that has not; there is no body, as there is none to a HEAD.
func whole(*http.Request) (*http.Response, error) { return reply(200, ""), nil }

func electing(*http.Request) (*http.Response, error) { return reply(500, "", "Retry-After", "1"), nil }

func TestWatchLeavesAnEndpointThatIsCutOff(t *testing.T) {
	for _, tt := range []struct {
		name   string
		told   func(*http.Request) (*http.Response, error)
		within time.Duration
	}{
		{"no leader", electing, quietMax},
		{"a read that times out", func(*http.Request) (*http.Response, error) {
			<-time.After(5 * time.Second)
			return reply(500, ""), nil
		}, quietMax + 5*time.Second},
		{"no answer", hang, quietMax + DefaultRequestTimeout},
		{"no connection", refused, quietMax},
		{"a proxy without a member", func(*http.Request) (*http.Response, error) { return reply(502, ""), nil }, quietMax},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				m := &members{told: tt.told, serve: func(n int, w *io.PipeWriter) {
					if n == 1 {
						write(w, sse(5))
					} else {
						write(w, sse(5), sse(6)) // the first one is not asked for
					}
				}}
				c := newWired(t, two, &wire{answer: m.answer})
				if got := take(t, c.Watch(bounded(t), "/a"), 2); !slices.Equal(got, []string{"5", "6"}) {
					t.Errorf("events %v, want 5 and 6", got)
				}
				if took := time.Since(start); took < quietMax*3/4 || took > tt.within {
					t.Errorf("left after %v, want %v to %v", took, quietMax*3/4, tt.within)
				}
				if len(m.asked) == 0 {
					t.Fatal("nobody was asked")
				}
				other := map[string]string{"a:1": "b:1", "b:1": "a:1"}[m.asked[0].host]
				if want := []string{m.asked[0].host + " ", other + " 6"}; !slices.Equal(m.watches, want) {
					t.Errorf("watches %q, want %q", m.watches, want)
				}
				if len(m.asked) != 1 || m.asked[0].uri != "/keys/a?quorum=true" {
					t.Errorf("asked %v, want one linearizable read of the key", m.asked)
				}
				if first := order(c.endpoints)[0]; first != "http://"+other {
					t.Errorf("first to try = %s, want %s", first, other)
				}
			})
		})
	}
}

// A watch that has brought nothing yet goes on behind where it began.
func TestWatchThatWasCutOffFromTheStartMissesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &members{told: electing, serve: func(n int, w *io.PipeWriter) {
			if n == 2 {
				write(w, sse(5))
			}
		}}
		c := newWired(t, two, &wire{answer: m.answer})
		if got := take(t, c.Watch(bounded(t), "/a"), 1); !slices.Equal(got, []string{"5"}) {
			t.Errorf("events %v, want 5", got)
		}
		if len(m.watches) != 2 || !strings.HasSuffix(m.watches[1], " 5") {
			t.Errorf("watches %q, want the second from index 5", m.watches)
		}
	})
}

func TestQuietWatchStaysWhereTheClusterIs(t *testing.T) {
	for _, status := range []int{200, 404, 400, 403} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &members{
					told:  func(*http.Request) (*http.Response, error) { return reply(status, ""), nil },
					serve: func(_ int, w *io.PipeWriter) { <-time.After(time.Hour); write(w, sse(5)) },
				}
				c := newWired(t, two, &wire{answer: m.answer})
				if got := take(t, c.Watch(bounded(t), "/a"), 1); !slices.Equal(got, []string{"5"}) || len(m.watches) != 1 {
					t.Errorf("events %v of watches %q, want 5 of one", got, m.watches)
				}
				if n := len(m.asked); n < 120 || n > 160 {
					t.Errorf("asked %d times in an hour, want every 22.5 to 30 s", n)
				}
			})
		})
	}
}

func TestNobodyIsAskedWhileEventsFlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &members{told: electing, serve: func(_ int, w *io.PipeWriter) {
			for i := range uint64(100) {
				<-time.After(20 * time.Second)
				write(w, sse(5+i))
			}
		}}
		c := newWired(t, two, &wire{answer: m.answer})
		take(t, c.Watch(bounded(t), "/a"), 100)
		if len(m.asked) > 0 || len(m.watches) != 1 {
			t.Errorf("asked %v, watches %q, want nothing and one", m.asked, m.watches)
		}
	})
}

// While its body is at work a loop asks nothing.
func TestNobodyIsAskedForASlowLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &members{told: electing, serve: func(_ int, w *io.PipeWriter) { write(w, sse(5)) }}
		c := newWired(t, two, &wire{answer: m.answer})
		for _, err := range c.Watch(bounded(t), "/a") {
			if err != nil {
				t.Errorf("watch = %v, want an event", err)
			}
			<-time.After(time.Hour)
			break
		}
		if _, asked := m.counts(); asked > 0 {
			t.Errorf("asked %v, want nothing", m.asked)
		}
	})
}

func TestOnlyEndpointIsNotAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &members{told: electing, serve: func(_ int, w *io.PipeWriter) { <-time.After(time.Hour); write(w, sse(5)) }}
		c := newWired(t, Config{}, &wire{answer: m.answer})
		take(t, c.Watch(bounded(t), "/a"), 1)
		if len(m.asked) > 0 || len(m.watches) != 1 {
			t.Errorf("asked %v, watches %q, want nothing and one", m.asked, m.watches)
		}
	})
}

func TestWatchGoesRoundWhileEverybodyIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		m := &members{told: electing}
		m.serve = func(_ int, w *io.PipeWriter) {
			if time.Since(start) >= time.Hour {
				write(w, sse(5))
			}
		}
		c := newWired(t, two, &wire{answer: m.answer})
		if got := take(t, c.Watch(bounded(t), "/a"), 1); !slices.Equal(got, []string{"5"}) {
			t.Errorf("events %v, want 5", got)
		}
		if watches, asked := m.counts(); watches > 162 || asked > 161 {
			t.Errorf("%d watches and %d questions in an hour, want one every 22.5 to 30 s", watches, asked)
		}
	})
}

// All watches of a client ask together, and clients that began together do not.
func TestQuestionsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &members{told: whole}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		var loops sync.WaitGroup
		c := newWired(t, two, &wire{answer: m.answer})
		for range 300 {
			loops.Go(func() { watchInVain(t, ctx, c) })
		}
		loops.Wait()
		if n := len(m.asked); n < 15 || n > 27 {
			t.Errorf("300 watches asked %d times in 10 minutes, want once in 22.5 to 30 s", n)
		}
	})
}

func TestClientsAskAtDifferentTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &members{told: whole}
		ctx, cancel := context.WithTimeout(t.Context(), quietMax)
		defer cancel()
		var loops sync.WaitGroup
		for range 200 {
			c := newWired(t, two, &wire{answer: m.answer})
			loops.Go(func() { watchInVain(t, ctx, c) })
		}
		loops.Wait()
		if n := len(m.asked); n < 190 { // the last ones may ask as their context ends
			t.Errorf("%d of 200 clients asked", n)
		}
		perSecond := make(map[time.Time]int)
		for _, q := range m.asked {
			perSecond[q.at.Truncate(time.Second)]++
		}
		for at, n := range perSecond {
			if n > 60 { // 27 are to be expected
				t.Errorf("%d of 200 clients asked in the second of %v", n, at)
			}
		}
	})
}

// watchInVain watches until ctx ends, and is told of nothing before.
func watchInVain(t *testing.T, ctx context.Context, c *Client) {
	for e, err := range c.Watch(ctx, "/a") {
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("watch = %d, %v, want %v", e.Index, err, context.DeadlineExceeded)
		}
	}
}

func TestWatchEndsWhileItAsks(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(c *Client, cancel context.CancelFunc)
		want error
	}{
		{"context", func(_ *Client, cancel context.CancelFunc) { cancel() }, context.Canceled},
		{"close", func(c *Client, _ context.CancelFunc) { c.Close() }, ErrClosed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				asking := make(chan struct{})
				ended := false
				m := &members{told: func(r *http.Request) (*http.Response, error) {
					close(asking)
					<-r.Context().Done()
					<-time.After(time.Second)
					ended = true
					return nil, r.Context().Err()
				}}
				c := newWired(t, two, &wire{answer: m.answer})
				ctx, cancel := context.WithCancel(bounded(t))
				defer cancel()
				go func() {
					<-asking
					tt.end(c, cancel)
				}()
				var last error
				for _, last = range c.Watch(ctx, "/a") {
				}
				if !errors.Is(last, tt.want) || !ended {
					t.Errorf("the watch ended with %v, the question is over: %v, want %v and true", last, ended, tt.want)
				}
				if len(m.watches) != 1 {
					t.Errorf("watches %q, want one", m.watches)
				}
			})
		})
	}
}

// A question keeps no event waiting, and one that was asked before an event came
// does not end the stream at which the loop then waits no more.
func TestEventsComeThroughWhileAWatchAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asking := make(chan time.Time, 1)
		m := &members{
			told: func(*http.Request) (*http.Response, error) {
				asking <- time.Now()
				<-time.After(8 * time.Second)
				return reply(500, ""), nil
			},
			serve: func(n int, w *io.PipeWriter) {
				if n == 1 {
					<-time.After(time.Until((<-asking).Add(time.Second)))
					write(w, sse(5))
					<-time.After(20 * time.Second)
					write(w, sse(6))
				}
			},
		}
		c := newWired(t, two, &wire{answer: m.answer})
		var at time.Time
		for e, err := range c.Watch(bounded(t), "/a") {
			if err != nil {
				t.Fatal(err)
			}
			if e.Index == 6 {
				break
			}
			at = time.Now()
			<-time.After(10 * time.Second) // the body is at work when the answer comes
		}
		if len(m.asked) == 0 {
			t.Fatal("nobody was asked")
		}
		if want := m.asked[0].at.Add(time.Second); !at.Equal(want) {
			t.Errorf("event came %v after the question, want %v", at.Sub(m.asked[0].at), time.Second)
		}
		if len(m.watches) != 1 {
			t.Errorf("watches %q, want one", m.watches)
		}
	})
}

// A long poll has no signs of life, and is left too.
func TestLongPollLeavesAnEndpointThatIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{watches: []func(*http.Request) (*http.Response, error){polls(4, 5*time.Minute), polls(5, 0, set(5)+"\n")}}
		c := newWired(t, two, &wire{answer: func(r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodHead {
				return electing(r)
			}
			return s.answer(r)
		}})
		start := time.Now()
		if got := take(t, c.Watch(bounded(t), "/a"), 1); !slices.Equal(got, []string{"5"}) {
			t.Errorf("events %v, want 5", got)
		}
		if took := time.Since(start); took > quietMax {
			t.Errorf("left after %v, want %v at most", took, quietMax)
		}
		<-time.After(5 * time.Minute) // the first poll ends
	})
}
