package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// How many calls in a row fail at an endpoint that hangs before they go elsewhere.
func TestCallsWithShortDeadlinesLeaveAnEndpointThatHangs(t *testing.T) {
	for _, tt := range []struct {
		name            string
		deadline, pause time.Duration // of each call, and before it
		want            int
	}{
		{"one is enough", slow, 0, 1},
		{"two", 150 * time.Millisecond, 0, 2},
		{"many", 10 * time.Millisecond, 0, 20},
		{"idle times do not count", 50 * time.Millisecond, time.Hour, 4},
	} {
		for _, write := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, write %v", tt.name, write), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c := newWired(t, two, &wire{answer: firstHangs(isSet)})
					failed := 0
					for call(t, c, write, tt.deadline) != nil && failed < 100 {
						failed++
						<-time.After(tt.pause)
					}
					if failed != tt.want {
						t.Errorf("%d calls of %v failed, want %d", failed, tt.deadline, tt.want)
					}
				})
			})
		}
	}
}

// call makes a call with a deadline.
func call(t *testing.T, c *Client, write bool, deadline time.Duration) error {
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	if write {
		_, err := c.Set(ctx, "/a", "1")
		return err
	}
	_, err := c.Get(ctx, "/a")
	return err
}

// What an endpoint owes is counted from its last answer on, and calls that wait
// at the same time count once.
func TestFewMissedDeadlinesCondemnNoEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hangs := true
		w := &wire{answer: func(r *http.Request) (*http.Response, error) {
			if hangs {
				return hang(r)
			}
			return reply(200, answerSet), nil
		}}
		c := newWired(t, two, w)
		for range 10 {
			hangs = true
			done := make(chan error)
			for range 50 {
				go func() { done <- call(t, c, false, 100*time.Millisecond) }()
			}
			for range 50 {
				if err := <-done; err == nil {
					t.Error("a call of an endpoint that hangs succeeded")
				}
			}
			if err := call(t, c, false, 90*time.Millisecond); err == nil {
				t.Error("a call of an endpoint that hangs succeeded")
			}
			hangs = false
			if err := call(t, c, false, 100*time.Millisecond); err != nil {
				t.Errorf("Get = %v, want nil", err)
			}
		}
		first, _, _ := strings.Cut(w.seen[0], "/keys")
		for _, s := range w.seen {
			if !strings.HasPrefix(s, first) {
				t.Fatalf("asked %q, want nobody but %q", s, first)
			}
		}
	})
}

func TestSilenceIsCountedAcrossCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newEndpoints([]string{"a"}, slog.New(slog.DiscardHandler))
		e := s.order()[0]
		for i, step := range []struct {
			do    func(*endpoint)
			after time.Duration
			want  time.Duration
		}{
			{s.asked, 50, 50},
			{s.asked, 50, 100},
			{func(e *endpoint) { s.settled(e, false) }, 30, 130},
			{func(e *endpoint) { s.settled(e, false) }, 1000, 130},
			{s.asked, 20, 150},
			{s.asked, 20, 170},
			{func(e *endpoint) { s.settled(e, true) }, 10, 10}, // the other one still waits
			{func(e *endpoint) { s.settled(e, true) }, 1000, 0},
			{s.asked, 5, 5},
		} {
			step.do(e)
			<-time.After(step.after * time.Millisecond)
			if got := s.silence(e); got != step.want*time.Millisecond {
				t.Errorf("step %d: silence() = %v, want %v", i, got, step.want*time.Millisecond)
			}
		}
	})
}

// Local reads are answered by a member that cannot write.
func TestAnswersToOthersDoNotHideAnEndpointFromALongCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var hanging string
		c := newWired(t, two, &wire{answer: func(r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodPut && r.URL.Host == hanging {
				return hang(r)
			}
			return reply(200, answerSet), nil
		}})
		hanging = strings.TrimPrefix(order(c.endpoints)[0], "http://")
		go func() {
			for range 10 {
				<-time.After(30 * time.Millisecond)
				if err := call(t, c, false, time.Second); err != nil {
					t.Errorf("Get = %v, want nil", err)
				}
			}
		}()
		if err := call(t, c, true, 250*time.Millisecond); !errors.Is(err, ErrUnknownOutcome) {
			t.Errorf("first Set = %v, want ErrUnknownOutcome", err)
		}
		if err := call(t, c, true, 250*time.Millisecond); err != nil {
			t.Errorf("second Set = %v, want nil", err)
		}
		synctest.Wait()
		<-time.After(time.Second)
	})
}

// A watch whose context ends before it is answered counts like a call.
func TestWatchesWithShortContextsLeaveAnEndpointThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newWired(t, two, &wire{answer: firstHangs(events(4, nil, sse(5)))})
		failed := 0
		for ; failed < 10; failed++ {
			ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
			var err error
			for _, err = range c.Watch(ctx, "/a") {
				break
			}
			cancel()
			if err == nil {
				break
			}
		}
		if failed != 2 {
			t.Errorf("%d watches failed, want 2", failed)
		}
	})
}
