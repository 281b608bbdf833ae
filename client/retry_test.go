package client

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/marsevilspirit/deimos"
)

const answerSet = `{"action":"set","node":{"key":"/a","value":"1","modifiedIndex":5,"createdIndex":5}}`

// two is a configuration with two endpoints.
var two = Config{Endpoints: []string{"http://a:1", "http://b:1"}}

// raft is the body of an error with code 300.
func raft(cause string) string {
	return `{"errorCode":300,"message":"Raft Internal Error","cause":"` + cause + `","index":0}`
}

const bodyElection = `{"errorCode":301,"message":"During Leader Election","cause":"the cluster has no leader","index":0}`

// What a call does after the first endpoint it asked has answered, or not.
func TestWhatIsSentAgain(t *testing.T) {
	reset := wireError("connection reset by peer")
	var status *StatusError
	for _, tt := range []struct {
		name  string
		first func() (*http.Response, error)
		// What becomes of a write and of a read: "again" (the second endpoint gets
		// it), "unknown" (an UnknownOutcomeError) or "final" (the answer counts).
		write, read string
	}{
		{"refused connection", func() (*http.Response, error) { return nil, errRefused }, "again", "again"},
		{"lost answer", func() (*http.Response, error) { return nil, reset }, "unknown", "again"},
		{"election", func() (*http.Response, error) { return reply(500, bodyElection, "Retry-After", "1"), nil }, "again", "again"},
		{"overload", func() (*http.Response, error) {
			return reply(503, raft(deimos.CauseOverloaded), "Retry-After", "1"), nil
		}, "again", "again"},
		{"disk reserve", func() (*http.Response, error) {
			return reply(507, raft(deimos.CauseDiskReserve), "Retry-After", "5"), nil
		}, "again", "again"},
		{"timeout", func() (*http.Response, error) { return reply(500, raft(deimos.CauseWriteTimeout)), nil }, "unknown", "again"},
		{"stopping", func() (*http.Response, error) { return reply(500, raft(deimos.CauseStopping)), nil }, "unknown", "again"},
		{"removed", func() (*http.Response, error) { return reply(500, raft(deimos.CauseRemoved)), nil }, "unknown", "again"},
		{"proxy without a member", func() (*http.Response, error) {
			return reply(503, `{"message":"no reachable member"}`, "Retry-After", "1"), nil
		}, "again", "again"},
		{"leadership that did not move", func() (*http.Response, error) {
			return reply(503, `{"message":"member 1 did not take over"}`), nil
		}, "final", "again"},
		{"proxy that lost the member", func() (*http.Response, error) { return reply(502, `{"message":"lost"}`), nil }, "unknown", "again"},
		{"readonly proxy", func() (*http.Response, error) {
			return reply(501, `{"message":"this proxy is read-only"}`), nil
		}, "final", "final"},
		{"page of a load balancer", func() (*http.Response, error) {
			return reply(503, "<html>no server</html>", "Retry-After", "1"), nil
		}, "unknown", "again"},
		{"gateway timeout", func() (*http.Response, error) { return reply(504, ""), nil }, "unknown", "again"},
		{"failed comparison", func() (*http.Response, error) {
			return reply(412, `{"errorCode":101,"message":"Compare failed","index":7}`), nil
		}, "final", "final"},
		{"unknown path", func() (*http.Response, error) { return reply(404, "404 page not found\n"), nil }, "final", "final"},
		{"redirect", func() (*http.Response, error) { return reply(307, "", "Location", "http://c:1/"), nil }, "final", "final"},
	} {
		for method, want := range map[string]string{"PUT": tt.write, "GET": tt.read} {
			t.Run(tt.name+"/"+method, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					asked := 0
					c := newWired(t, two, &wire{answer: func(*http.Request) (*http.Response, error) {
						if asked++; asked == 1 {
							return tt.first()
						}
						return reply(200, answerSet), nil
					}})
					var err error
					if method == "PUT" {
						_, err = c.Set(t.Context(), "/a", "1")
					} else {
						_, err = c.Get(t.Context(), "/a")
					}
					got := "final"
					switch {
					case errors.Is(err, ErrUnknownOutcome):
						got = "unknown"
					case err == nil:
						got = "again"
					case !errors.As(err, &status) && !errors.Is(err, deimos.ErrCompareFailed):
						t.Errorf("error %v", err)
					}
					wantAsked := 1
					if want == "again" {
						wantAsked = 2
					}
					if got != want || asked != wantAsked {
						t.Errorf("the call is %s after %d requests (%v), want %s after %d", got, asked, err, want, wantAsked)
					}
				})
			})
		}
	}
}

func TestUnknownOutcomeTellsTheCause(t *testing.T) {
	c := newWired(t, Config{}, &wire{answer: func(*http.Request) (*http.Response, error) {
		return reply(500, raft(deimos.CauseWriteTimeout)), nil
	}})
	_, err := c.Delete(t.Context(), "/a")
	var e *UnknownOutcomeError
	if !errors.As(err, &e) || !errors.Is(err, deimos.ErrRaftInternal) || e.Endpoint != DefaultEndpoint {
		t.Fatalf("error %v, want an UnknownOutcomeError at %s that wraps code 300", err, DefaultEndpoint)
	}
	want := "client: DELETE /keys/a at http://127.0.0.1:4001: the write may or may not have been applied: " +
		"300: Raft Internal Error (request timed out; the write may or may not have been applied) [0]"
	if err.Error() != want {
		t.Errorf("text\n%s, want\n%s", err, want)
	}
}

func TestSuccessThatCannotBeReadIsUnknown(t *testing.T) {
	for _, body := range []string{"", "{}", "<html>"} {
		c := newWired(t, Config{}, &wire{answer: func(*http.Request) (*http.Response, error) { return reply(200, body), nil }})
		if _, err := c.Set(t.Context(), "/a", "1"); !errors.Is(err, ErrUnknownOutcome) {
			t.Errorf("Set with answer %q: %v, want ErrUnknownOutcome", body, err)
		}
		if _, err := c.Get(t.Context(), "/a"); err == nil || errors.Is(err, ErrUnknownOutcome) {
			t.Errorf("Get with answer %q: %v, want another error", body, err)
		}
	}
}

func TestFullDisksAreTriedOnceEach(t *testing.T) {
	var asked atomic.Int32
	c := newWired(t, two, &wire{answer: func(*http.Request) (*http.Response, error) {
		asked.Add(1)
		return reply(507, raft(deimos.CauseDiskReserve), "Retry-After", "5"), nil
	}})
	_, err := c.Set(t.Context(), "/a", "1")
	var e *deimos.Error
	if !errors.As(err, &e) || e.Cause != deimos.CauseDiskReserve || asked.Load() != 2 {
		t.Errorf("error %v after %d requests, want the disk reserve after 2", err, asked.Load())
	}
}

func TestElectionIsWaitedForUntilTheTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		c := newWired(t, two, &wire{answer: func(*http.Request) (*http.Response, error) {
			if time.Since(start) < 5*time.Second {
				return reply(500, bodyElection), nil
			}
			return reply(200, answerSet), nil
		}})
		if _, err := c.Set(t.Context(), "/a", "1"); err != nil {
			t.Errorf("Set during an election of 5 s: %v", err)
		}
		start = time.Now().Add(time.Hour)
		began := time.Now()
		_, err := c.Set(t.Context(), "/a", "1")
		if !errors.Is(err, deimos.ErrLeaderElection) || !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrUnknownOutcome) {
			t.Errorf("Set without a leader: %v, want ErrLeaderElection and DeadlineExceeded", err)
		}
		if took := time.Since(began); took != DefaultRequestTimeout {
			t.Errorf("gave up after %v, want %v", took, DefaultRequestTimeout)
		}
	})
}

func TestNobodyThereIsFoundWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		w := &wire{answer: func(*http.Request) (*http.Response, error) { return nil, errRefused }}
		_, err := newWired(t, two, w).Set(t.Context(), "/a", "1")
		var e *NoEndpointError
		if !errors.As(err, &e) || !errors.Is(err, ErrNoEndpoint) || !errors.Is(err, errRefused) || len(e.Failures) != 2 {
			t.Fatalf("error %v, want a NoEndpointError with 2 failures", err)
		}
		if !strings.HasPrefix(err.Error(), "client: PUT /keys/a: no endpoint answers: http://") {
			t.Errorf("text %q", err)
		}
		if took := time.Since(start); took > time.Second || len(w.seen) != 2*roundsUnreachable {
			t.Errorf("gave up after %v and %d tries, want less than 1 s and %d", took, len(w.seen), 2*roundsUnreachable)
		}
	})
}

// hang answers when the request is given up.
func hang(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// firstHangs has the endpoint that is asked first hang, and the others answer.
func firstHangs(answer func(*http.Request) (*http.Response, error)) func(*http.Request) (*http.Response, error) {
	hanging := ""
	return func(r *http.Request) (*http.Response, error) {
		if hanging == "" {
			hanging = r.URL.Host
		}
		if r.URL.Host == hanging {
			return hang(r)
		}
		return answer(r)
	}
}

// isSet answers that a key was set.
func isSet(*http.Request) (*http.Response, error) { return reply(200, answerSet), nil }

func TestReadLeavesAnEndpointThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newWired(t, two, &wire{answer: firstHangs(isSet)})
		for i, want := range []time.Duration{readPatience, 0} { // the second read knows better
			start := time.Now()
			if _, err := c.Get(t.Context(), "/a"); err != nil || time.Since(start) != want {
				t.Errorf("Get %d: %v after %v, want success after %v", i, err, time.Since(start), want)
			}
		}
	})
}

// A write at an endpoint that hangs is lost; the next one goes elsewhere, also
// when the pause of the endpoint is over by then.
func TestWritesLeaveAnEndpointThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newWired(t, two, &wire{answer: firstHangs(isSet)})
		if _, err := c.Set(t.Context(), "/a", "1"); !errors.Is(err, ErrUnknownOutcome) {
			t.Errorf("first Set: %v, want ErrUnknownOutcome", err)
		}
		<-time.After(time.Hour)
		if _, err := c.Set(t.Context(), "/a", "2"); err != nil {
			t.Errorf("second Set: %v", err)
		}
	})
}

func TestOnlyEndpointHasAllTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newWired(t, Config{}, &wire{answer: func(r *http.Request) (*http.Response, error) {
			<-time.After(9 * time.Second)
			return reply(200, answerSet), nil
		}})
		if _, err := c.Get(t.Context(), "/a"); err != nil {
			t.Errorf("Get of an endpoint that takes 9 s: %v", err)
		}
	})
}

func TestCallsEndInTime(t *testing.T) {
	for _, tt := range []struct {
		name string
		ctx  func(context.Context) (context.Context, context.CancelFunc)
		took time.Duration
		want error
	}{
		{"request timeout", context.WithCancel, DefaultRequestTimeout, context.DeadlineExceeded},
		{"deadline of the caller", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 3*time.Second)
		}, 3 * time.Second, context.DeadlineExceeded},
		{"caller leaves", func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(time.Second, cancel)
			return ctx, cancel
		}, time.Second, context.Canceled},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newWired(t, Config{}, &wire{answer: hang})
				for _, write := range []bool{false, true} {
					ctx, cancel := tt.ctx(t.Context())
					start, err := time.Now(), error(nil)
					if write {
						_, err = c.Set(ctx, "/a", "1")
					} else {
						_, err = c.Get(ctx, "/a")
					}
					cancel()
					if !errors.Is(err, tt.want) || errors.Is(err, ErrUnknownOutcome) != write || time.Since(start) != tt.took {
						t.Errorf("write %v: %v after %v, want %v after %v", write, err, time.Since(start), tt.want, tt.took)
					}
				}
			})
		})
	}
}

func TestCloseEndsCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newWired(t, Config{}, &wire{answer: hang})
		done := make(chan error, 2)
		go func() { _, err := c.Get(t.Context(), "/a"); done <- err }()
		go func() { _, err := c.Leader(t.Context()); done <- err }()
		synctest.Wait()
		c.Close()
		for range 2 {
			if err := <-done; !errors.Is(err, ErrClosed) {
				t.Errorf("call that Close ended: %v, want ErrClosed", err)
			}
		}
		c.Close()
		if _, err := c.Get(t.Context(), "/a"); !errors.Is(err, ErrClosed) {
			t.Errorf("Get after Close: %v, want ErrClosed", err)
		}
		for _, err := range c.Watch(t.Context(), "/a") {
			if !errors.Is(err, ErrClosed) {
				t.Errorf("Watch after Close: %v, want ErrClosed", err)
			}
		}
	})
}
