package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/marsevilspirit/deimos"
)

// body is what a test writes and a stream reads. It ends with the request.
type body struct {
	*io.PipeReader
	w *io.PipeWriter
}

// streaming answers a watch that began at index and is served by serve, which
// runs on a goroutine of its own.
func streaming(r *http.Request, kind string, index uint64, serve func(w *io.PipeWriter)) *http.Response {
	pr, pw := io.Pipe()
	context.AfterFunc(r.Context(), func() { pw.CloseWithError(r.Context().Err()) })
	go serve(pw)
	resp := reply(200, "", "Content-Type", kind, "X-Deimos-Index", fmt.Sprint(index), "X-Deimos-Cluster-Id", "c1")
	resp.Body = body{pr, pw}
	return resp
}

// set is the JSON of an event.
func set(index uint64) string {
	return fmt.Sprintf(`{"action":"set","node":{"key":"/a/k","value":"v%d","modifiedIndex":%d,"createdIndex":%d}}`, index, index, index)
}

// sse is an event as an event stream has it.
func sse(index uint64) string {
	return fmt.Sprintf("id: %d\nevent: set\ndata: %s\n\n", index, set(index))
}

const beat = ": heartbeat\n\n"

// take reads n items of a watch and returns them as text: the index, and R in
// front of one that is a Reset.
func take(t *testing.T, watch iter.Seq2[WatchEvent, error], n int) []string {
	t.Helper()
	var got []string
	for e, err := range watch {
		if err != nil {
			t.Errorf("watch ended after %v: %v", got, err)
			break
		}
		text := fmt.Sprint(e.Index)
		if e.Reset {
			text = "R" + text
		}
		if got = append(got, text); len(got) == n {
			break
		}
	}
	return got
}

// script answers the watches of a client one after the other, and its reads
// with the state at index.
type script struct {
	watches []func(r *http.Request) (*http.Response, error)
	index   uint64
	reads   []time.Time
	asked   []string // the queries of the watches
	hosts   []string // whom they went to
}

func (s *script) answer(r *http.Request) (*http.Response, error) {
	if r.URL.Query().Get("wait") == "" {
		s.reads = append(s.reads, time.Now())
		return reply(200, `{"action":"get","node":{"key":"/a","dir":true,"nodes":[{"key":"/a/k","value":"v"}],"modifiedIndex":2,"createdIndex":2}}`,
			"X-Deimos-Index", fmt.Sprint(s.index), "X-Deimos-Cluster-Id", "c1"), nil
	}
	s.asked, s.hosts = append(s.asked, r.URL.RawQuery), append(s.hosts, r.URL.Host)
	next := s.watches[min(len(s.asked), len(s.watches))-1]
	return next(r)
}

// cleared answers a watch whose index is too old.
func cleared(*http.Request) (*http.Response, error) {
	return reply(400, `{"errorCode":401,"message":"The event in requested index is outdated and cleared","cause":"the requested history has been cleared [21/20]","index":30}`), nil
}

func refused(*http.Request) (*http.Response, error) { return nil, errRefused }

// events answers a watch with an event stream that is then ended by end, or
// stays open if that is nil.
func events(index uint64, end error, parts ...string) func(*http.Request) (*http.Response, error) {
	return func(r *http.Request) (*http.Response, error) {
		return streaming(r, typeEvents, index, func(w *io.PipeWriter) {
			for _, p := range append([]string{beat}, parts...) {
				io.WriteString(w, p)
			}
			if end != nil {
				w.CloseWithError(end)
			}
		}), nil
	}
}

// polls answers with a long poll that ends after the given parts.
func polls(index uint64, after time.Duration, parts ...string) func(*http.Request) (*http.Response, error) {
	return func(r *http.Request) (*http.Response, error) {
		return streaming(r, typeJSON, index, func(w *io.PipeWriter) {
			<-time.After(after)
			for _, p := range parts {
				io.WriteString(w, p)
			}
			w.Close()
		}), nil
	}
}

// What a watch delivers, and what it asks for on the way.
func TestWatchKeepsItsPlace(t *testing.T) {
	reset := errors.New("connection reset by peer")
	for _, tt := range []struct {
		name    string
		opts    []WatchOption
		watches []func(*http.Request) (*http.Response, error)
		want    []string
		asked   []string // without wait=true in front
	}{
		{
			"a stream from now on", nil,
			[]func(*http.Request) (*http.Response, error){events(4, nil, sse(5), beat, sse(7))},
			[]string{"5", "7"}, []string{""},
		},
		{
			"a stream from an index", []WatchOption{WithWaitIndex(3), WithRecursive()},
			[]func(*http.Request) (*http.Response, error){events(9, nil, sse(3), sse(9))},
			[]string{"3", "9"}, []string{"recursive=true&wait=true&waitIndex=3"},
		},
		{
			"a broken connection", nil,
			[]func(*http.Request) (*http.Response, error){events(4, reset, sse(5)), refused, events(8, nil, sse(6))},
			[]string{"5", "6"}, []string{"", "&waitIndex=6", "&waitIndex=6"},
		},
		{
			"an event that breaks off", nil,
			[]func(*http.Request) (*http.Response, error){
				events(4, reset, sse(5)[:30]), events(4, reset, strings.TrimSuffix(sse(5), "\n")), events(4, io.EOF, strings.TrimSuffix(sse(5), "\n")), events(5, nil, sse(5)),
			},
			[]string{"5"}, []string{"", "&waitIndex=5", "&waitIndex=5", "&waitIndex=5"},
		},
		{
			"a member that stops before anything came", nil,
			[]func(*http.Request) (*http.Response, error){events(4, io.EOF), events(6, nil, sse(5))},
			[]string{"5"}, []string{"", "&waitIndex=5"},
		},
		{
			"events that were delivered already", []WatchOption{WithWaitIndex(5)},
			[]func(*http.Request) (*http.Response, error){events(9, io.EOF, sse(4), sse(5)), events(9, nil, sse(5), sse(6))},
			[]string{"5", "6"}, []string{"&waitIndex=5", "&waitIndex=6"},
		},
		{
			"history that is gone", []WatchOption{WithWaitIndex(3)},
			[]func(*http.Request) (*http.Response, error){cleared, events(30, nil, sse(31))},
			[]string{"R30", "31"}, []string{"&waitIndex=3", "&waitIndex=31"},
		},
		{
			"the state first", []WatchOption{WithState(), WithRecursive()},
			[]func(*http.Request) (*http.Response, error){events(30, nil, sse(31))},
			[]string{"R30", "31"}, []string{"recursive=true&wait=true&waitIndex=31"},
		},
		{
			"long polls", nil,
			[]func(*http.Request) (*http.Response, error){polls(4, 0, set(5)+"\n"), polls(5, time.Second, set(6)+"\n"), polls(6, 0, set(7)+"\n")},
			[]string{"5", "6", "7"}, []string{"", "&waitIndex=6", "&waitIndex=7"},
		},
		{
			"a long poll that ends without an event", nil,
			[]func(*http.Request) (*http.Response, error){polls(4, 5*time.Minute), polls(9, 0, set(9)+"\n")},
			[]string{"9"}, []string{"", "&waitIndex=5"},
		},
		{
			"a long poll after which the cluster has moved on", []WatchOption{WithWaitIndex(5)},
			[]func(*http.Request) (*http.Response, error){polls(4000, 5*time.Minute), polls(4001, 0, set(4001)+"\n")},
			[]string{"4001"}, []string{"&waitIndex=5", "&waitIndex=4001"},
		},
		{
			"a long poll that ends too early to tell", []WatchOption{WithWaitIndex(5)},
			[]func(*http.Request) (*http.Response, error){polls(4000, 9*time.Second), polls(4001, 0, set(5)+"\n")},
			[]string{"5"}, []string{"&waitIndex=5", "&waitIndex=5"},
		},
		{
			"a server in trouble", nil,
			[]func(*http.Request) (*http.Response, error){
				events(4, io.EOF, sse(5)),
				func(*http.Request) (*http.Response, error) { return reply(500, raft(deimos.CauseStopping)), nil },
				func(*http.Request) (*http.Response, error) { return reply(404, "nothing here"), nil },
				events(6, nil, sse(6)),
			},
			[]string{"5", "6"}, []string{"", "&waitIndex=6", "&waitIndex=6", "&waitIndex=6"},
		},
		{
			"another cluster", nil,
			[]func(*http.Request) (*http.Response, error){
				events(4, io.EOF, sse(5)),
				func(r *http.Request) (*http.Response, error) {
					resp, err := events(1, nil)(r)
					resp.Header.Set("X-Deimos-Cluster-Id", "c2")
					return resp, err
				},
				events(30, nil, sse(31)),
			},
			[]string{"5", "R30", "31"}, []string{"", "&waitIndex=6", "&waitIndex=31"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{watches: tt.watches, index: 30}
				c := newWired(t, two, &wire{answer: s.answer})
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				if got := take(t, c.Watch(ctx, "/a", tt.opts...), len(tt.want)); !slices.Equal(got, tt.want) {
					t.Errorf("events %v, want %v", got, tt.want)
				}
				var asked []string
				for _, query := range s.asked {
					asked = append(asked, strings.TrimPrefix(query, "wait=true"))
				}
				if !slices.Equal(asked, tt.asked) {
					t.Errorf("asked %q, want %q", asked, tt.asked)
				}
			})
		})
	}
}

func TestSilentStreamIsLeftAfterFortySeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		s := &script{watches: []func(*http.Request) (*http.Response, error){events(4, nil, sse(5)), events(5, nil, sse(6))}}
		c := newWired(t, two, &wire{answer: s.answer})
		if got := take(t, c.Watch(t.Context(), "/a"), 2); !slices.Equal(got, []string{"5", "6"}) {
			t.Errorf("events %v, want 5 and 6", got)
		}
		if took := time.Since(start); took != silenceMax {
			t.Errorf("the second event came after %v, want %v", took, silenceMax)
		}
		if s.hosts[0] == s.hosts[1] {
			t.Errorf("asked %v, want another endpoint after the silence", s.hosts)
		}
	})
}

func TestStreamWithSignsOfLifeIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{watches: []func(*http.Request) (*http.Response, error){func(r *http.Request) (*http.Response, error) {
			return streaming(r, typeEvents, 4, func(w *io.PipeWriter) {
				for range 100 {
					<-time.After(15 * time.Second)
					io.WriteString(w, beat)
				}
				io.WriteString(w, sse(5))
			}), nil
		}}}
		c := newWired(t, two, &wire{answer: s.answer})
		if got := take(t, c.Watch(t.Context(), "/a"), 1); !slices.Equal(got, []string{"5"}) || len(s.asked) != 1 {
			t.Errorf("events %v after %d requests, want 5 after 1", got, len(s.asked))
		}
	})
}

// The time that the loop takes for itself is no silence.
func TestSlowLoopKeepsItsStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{watches: []func(*http.Request) (*http.Response, error){events(4, nil, sse(5), sse(6))}}
		c := newWired(t, Config{}, &wire{answer: s.answer})
		n := 0
		for _, err := range c.Watch(t.Context(), "/a") {
			if err != nil {
				t.Fatal(err)
			}
			<-time.After(time.Hour)
			if n++; n == 2 {
				break
			}
		}
		if len(s.asked) != 1 {
			t.Errorf("%d requests, want 1", len(s.asked))
		}
	})
}

func TestStateIsReadOnceASecondAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{watches: []func(*http.Request) (*http.Response, error){cleared}, index: 30}
		c := newWired(t, Config{}, &wire{answer: s.answer})
		if got := take(t, c.Watch(t.Context(), "/a", WithState()), 5); !slices.Equal(got, []string{"R30", "R30", "R30", "R30", "R30"}) {
			t.Errorf("events %v, want five Resets", got)
		}
		for i := 1; i < len(s.reads); i++ {
			if d := s.reads[i].Sub(s.reads[i-1]); d < resetPause {
				t.Errorf("read %d came %v after the one before, want %v at least", i, d, resetPause)
			}
		}
	})
}

func TestResetOfAMissingKeyHasNoNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newWired(t, Config{}, &wire{answer: func(r *http.Request) (*http.Response, error) {
			if r.URL.Query().Get("wait") == "" {
				return reply(404, `{"errorCode":100,"message":"Key not found","cause":"/a","index":12}`), nil
			}
			return events(12, nil, sse(13))(r)
		}})
		for e, err := range c.Watch(t.Context(), "/a", WithState()) {
			if err != nil {
				t.Fatal(err)
			}
			if !e.Reset {
				if e.Index != 13 {
					t.Errorf("index %d, want 13", e.Index)
				}
				break
			}
			if e.Node != nil || e.Index != 12 || e.Action != deimos.ActionGet {
				t.Errorf("Reset %+v, want no node at index 12", e)
			}
		}
	})
}

func TestWatchThatNobodyAnswersEnds(t *testing.T) {
	for _, tt := range []struct {
		name   string
		opts   []WatchOption
		answer func(*http.Request) (*http.Response, error)
		want   error
		within time.Duration
	}{
		{"nobody there", nil, refused, ErrNoEndpoint, 2 * time.Second},
		{"nobody there for the state", []WatchOption{WithState()}, refused, ErrNoEndpoint, 2 * time.Second},
		{"endpoints hang", nil, hang, ErrNoEndpoint, 3 * DefaultRequestTimeout},
		{"no leader for the state", []WatchOption{WithState()}, func(*http.Request) (*http.Response, error) {
			return reply(500, bodyElection), nil
		}, deimos.ErrLeaderElection, DefaultRequestTimeout},
		{"bad key", nil, func(*http.Request) (*http.Response, error) {
			return reply(400, `{"errorCode":209,"message":"Invalid field","cause":"key contains a control character","index":0}`), nil
		}, &deimos.Error{Code: deimos.CodeInvalidField}, 0},
		{"bad option", []WatchOption{WithWaitIndex(0)}, refused, ErrInvalidArgument, 0},
		{"options that exclude each other", []WatchOption{WithWaitIndex(1), WithState()}, refused, ErrInvalidArgument, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				c := newWired(t, two, &wire{answer: tt.answer})
				var errs []error
				for _, err := range c.Watch(t.Context(), "/a", tt.opts...) {
					errs = append(errs, err)
				}
				if len(errs) != 1 || !errors.Is(errs[0], tt.want) || time.Since(start) > tt.within {
					t.Errorf("errors %v after %v, want one, %v, within %v", errs, time.Since(start), tt.want, tt.within)
				}
			})
		})
	}
}

func TestStrangersEndAWatch(t *testing.T) {
	for _, tt := range []struct {
		name, kind string
		opts       []WatchOption
		want       string
	}{
		{"a page", "text/html", nil, `the answer to a watch is "text/html"`},
		{"no index", typeJSON, nil, "it has no header X-Deimos-Index or X-Etcd-Index"},
		{"no index of the state", typeJSON, []WatchOption{WithState()}, "it has no header X-Deimos-Index or X-Etcd-Index"},
	} {
		c := newWired(t, Config{}, &wire{answer: func(*http.Request) (*http.Response, error) {
			return reply(200, answerSet, "Content-Type", tt.kind), nil
		}})
		n := 0
		for _, err := range c.Watch(t.Context(), "/a", tt.opts...) {
			var e *StatusError
			if n++; !errors.As(err, &e) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: error %v, want a StatusError that says %s", tt.name, err, tt.want)
				break
			}
		}
		if n != 1 {
			t.Errorf("%s: %d items, want 1", tt.name, n)
		}
	}
}

func TestWatchThatWasAnsweredTriesForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		s := &script{watches: []func(*http.Request) (*http.Response, error){events(4, io.EOF, sse(5)), func(r *http.Request) (*http.Response, error) {
			if time.Since(start) < 24*time.Hour {
				return nil, errRefused
			}
			return events(5, nil, sse(6))(r)
		}}}
		c := newWired(t, Config{}, &wire{answer: s.answer})
		if got := take(t, c.Watch(t.Context(), "/a"), 2); !slices.Equal(got, []string{"5", "6"}) {
			t.Errorf("events %v, want 5 and 6", got)
		}
		if took := time.Since(start); took > 24*time.Hour+resumeMax {
			t.Errorf("went on after %v, want %v at most after the server is back", took, resumeMax)
		}
		if max := int(24*time.Hour/resumeMax) * 2; len(s.asked) > max {
			t.Errorf("%d requests in a day without an answer, want at most %d", len(s.asked), max)
		}
	})
}

func TestWatchEndsWithItsContextAndWithClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{watches: []func(*http.Request) (*http.Response, error){events(4, nil)}}
		c := newWired(t, Config{}, &wire{answer: s.answer})
		ended := make(chan error)
		watch := func(ctx context.Context) {
			for _, err := range c.Watch(ctx, "/a") {
				ended <- err
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		go watch(ctx)
		synctest.Wait()
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("watch whose context ended: %v, want Canceled", err)
		}
		go watch(t.Context())
		synctest.Wait()
		c.Close()
		if err := <-ended; !errors.Is(err, ErrClosed) {
			t.Errorf("watch of a client that was closed: %v, want ErrClosed", err)
		}
	})
}

func TestClientCanBeClosedInALoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{watches: []func(*http.Request) (*http.Response, error){events(4, nil, sse(5))}}
		c := newWired(t, Config{}, &wire{answer: s.answer})
		var last error
		for _, last = range c.Watch(t.Context(), "/a") {
			c.Close()
		}
		if !errors.Is(last, ErrClosed) {
			t.Errorf("last item %v, want ErrClosed", last)
		}
	})
}
