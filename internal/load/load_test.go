package load

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestEachWorkSendsWhatItSays(t *testing.T) {
	for _, tt := range []struct {
		work Work
		want []string // request lines without the number of the key
	}{
		{Put, []string{"PUT /keys/bench/k"}},
		{Get, []string{"GET /keys/bench/k?quorum=true"}},
		{GetLocal, []string{"GET /keys/bench/k?quorum=false"}},
		{List, []string{"GET /keys/bench/d?quorum=true"}},
		{Mixed, []string{"GET /keys/bench/k?quorum=true", "PUT /keys/bench/k"}},
		{OpenLoop, []string{"PUT /keys/bench/k"}},
	} {
		t.Run(string(tt.work), func(t *testing.T) {
			drivers(t, func(t *testing.T, change func(*Config)) {
				const requests = 400
				var mu sync.Mutex
				var got []string
				s := &fakeServer{answer: func(_ int, r *http.Request, form url.Values) string {
					line := r.Method + " " + strings.TrimRight(r.URL.Path, "0123456789")
					if r.URL.RawQuery != "" {
						line += "?" + r.URL.RawQuery
					}
					if value := form.Get("value"); r.Method == http.MethodPut && len(value) != 128 {
						line += " with " + value
					}
					mu.Lock()
					defer mu.Unlock()
					got = append(got, line)
					return answered(200, aValue)
				}}
				cfg := config(tt.work, s.listen(t))
				cfg.Duration, cfg.Requests, cfg.Rate = 0, requests, cfg.Rate*5
				change(&cfg)
				r := mustRun(t, cfg)
				wantFailures(t, r)
				mu.Lock() // the server has no request any more, which the race detector cannot know
				defer mu.Unlock()
				if r.Operations != requests || len(got) != requests || r.Latency.Count != requests {
					t.Errorf("%d operations, %d latencies, and the server had %d requests, want %d", r.Operations, r.Latency.Count, len(got), requests)
				}
				slices.Sort(got)
				if diff := cmp.Diff(tt.want, slices.Compact(got)); diff != "" {
					t.Errorf("requests, want -, got +:\n%s", diff)
				}
			})
		})
	}
}

func TestKeysAreWrittenBeforeTheyAreRead(t *testing.T) {
	var writes, reads atomic.Int64
	s := &fakeServer{answer: func(_ int, r *http.Request, _ url.Values) string {
		if r.Method == http.MethodPut {
			writes.Add(1)
			return answered(201, "{}")
		}
		if writes.Load() != 100 {
			return answered(404, `{"errorCode":100}`)
		}
		reads.Add(1)
		return answered(200, aValue)
	}}
	cfg := config(Get, s.listen(t))
	cfg.Duration, cfg.Requests, cfg.Filled = 0, 50, false
	r := mustRun(t, cfg)
	wantFailures(t, r)
	if r.FilledKeys != 100 || r.Operations != 50 || writes.Load() != 100 || reads.Load() != 50 {
		t.Errorf("%d keys filled, %d operations, the server had %d writes and %d reads; want 100, 50, 100, 50",
			r.FilledKeys, r.Operations, writes.Load(), reads.Load())
	}
}

func TestFailuresAreCountedByKind(t *testing.T) {
	for _, tt := range []struct {
		name, answer string
		want         string // of 20 requests, every second of which gets the answer
	}{
		{"status", answered(503, "no leader"), "10 status 503 0"},
		{"error of the keys API", answered(500, `{"errorCode":300,"message":"Raft Internal Error","cause":"","index":7}`), "10 status 500 300"},
		{"created is as good as ok", answered(201, aValue), ""},
		{"no value", answered(200, `{"action":"get","node":{"key":"/bench","dir":true}}`), "10 no-value 0 0"},
		{"closed before the answer", "", "10 closed 0 0"},
		{"half an answer", strings.TrimSuffix(answered(200, aValue), "}}\n"), "10 closed 0 0"},
		{"another protocol", "SSH-2.0-OpenSSH_9.2p1 Debian\r\n\r\n", "10 malformed 0 0"},
		{"without a length", "HTTP/1.1 200 OK\r\n\r\n" + aValue, "10 malformed 0 0"},
		{"more than was asked for", answered(200, aValue) + "x", "10 malformed 0 0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			drivers(t, func(t *testing.T, change func(*Config)) {
				half := tt.name == "half an answer"
				s := &fakeServer{}
				s.answer = func(number int, r *http.Request, form url.Values) string {
					if number%2 == 0 {
						return well(number, r, form)
					}
					r.Close = half
					return tt.answer
				}
				cfg := config(Get, s.listen(t))
				cfg.Connections, cfg.Duration, cfg.Requests = 1, 0, 20
				change(&cfg)
				r := mustRun(t, cfg)
				if tt.want == "" {
					wantFailures(t, r)
				} else {
					wantFailures(t, r, tt.want)
					if r.Operations != 10 || r.FailuresTotal != 10 || r.Latency.Count != 10 {
						t.Errorf("%d operations, %d failures, %d latencies, want 10 each", r.Operations, r.FailuresTotal, r.Latency.Count)
					}
				}
			})
		})
	}
}

func TestTimeoutIsAFailureAndALatency(t *testing.T) {
	drivers(t, func(t *testing.T, change func(*Config)) {
		hang := make(chan struct{})
		s := &fakeServer{answer: func(number int, r *http.Request, form url.Values) string {
			if number == 3 {
				<-hang
			}
			return well(number, r, form)
		}}
		url := s.listen(t)
		t.Cleanup(func() { close(hang) }) // before the server stops
		cfg := config(Put, url)
		cfg.Connections, cfg.Duration, cfg.Requests, cfg.Timeout = 1, 0, 10, time.Second
		change(&cfg)
		r := mustRun(t, cfg)
		wantFailures(t, r, "1 timeout 0 0")
		if r.Operations != 9 || r.Reconnects != 1 || r.Latency.Count != 10 || r.Latency.Max < 1 {
			t.Errorf("%d operations, %d reconnects, %d latencies up to %v s, want 9, 1, 10 and at least 1 s",
				r.Operations, r.Reconnects, r.Latency.Count, r.Latency.Max)
		}
	})
}

func TestConnectionThatTheServerClosesIsMadeAgain(t *testing.T) {
	drivers(t, func(t *testing.T, change func(*Config)) {
		s := &fakeServer{answer: func(_ int, r *http.Request, _ url.Values) string {
			r.Close = true
			return strings.Replace(answered(200, aValue), "\r\n", "\r\nconnection:  Close\r\n", 1)
		}}
		cfg := config(Put, s.listen(t))
		cfg.Connections, cfg.Duration, cfg.Requests = 1, 0, 10
		change(&cfg)
		r := mustRun(t, cfg)
		wantFailures(t, r)
		if r.Operations != 10 || r.Reconnects < 9 {
			t.Errorf("%d operations and %d reconnects, want 10 and at least 9", r.Operations, r.Reconnects)
		}
	})
}

// TestStalledServerIsChargedForWhatItDelayed lets a server stall once, for 500
// ms, while a request is due every 10 ms. A generator that waits before it
// sends would see one slow request.
func TestStalledServerIsChargedForWhatItDelayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stalled := false
		s := &fakeServer{answer: func(number int, r *http.Request, form url.Values) string {
			if number == 100 {
				stalled = true
				<-time.After(500 * time.Millisecond)
			}
			return well(number, r, form)
		}}
		defer s.stop()
		cfg := config(OpenLoop, "http://fake")
		cfg.Rate, cfg.Connections, cfg.Duration, cfg.Goroutines = 100, 1, 2*time.Second, true
		r, err := runOn(t.Context(), cfg, s.piped())
		if err != nil {
			t.Fatalf("runOn() = %v", err)
		}
		wantFailures(t, r)
		if !stalled || r.Operations != 200 || r.Latency.Count != 200 {
			t.Fatalf("%d operations and %d latencies, want 200 each", r.Operations, r.Latency.Count)
		}
		if !near(r.Latency.Max, 500*time.Millisecond) {
			t.Errorf("the longest latency is %v s, want 0.5 s", r.Latency.Max)
		}
		// 500, 490, … 10 ms: fifty requests, half of them above 250 ms.
		if !near(r.Latency.P90, 300*time.Millisecond) || r.Latency.P50 > 0.001 {
			t.Errorf("p90 is %v s and p50 %v s, want 0.3 s and next to nothing", r.Latency.P90, r.Latency.P50)
		}
		if want := (0.500 + 0.010) / 2 * 50 / 200; r.Latency.Mean < want*0.99 || r.Latency.Mean > want*1.01 {
			t.Errorf("the mean is %v s, want %v s", r.Latency.Mean, want)
		}
		if r.DurationSeconds != 2 {
			t.Errorf("it was measured for %v s, want 2 s", r.DurationSeconds)
		}
	})
}

// TestRequestsThatAreNeverSentAreCharged lets a server hang for good.
func TestRequestsThatAreNeverSentAreCharged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		s := &fakeServer{answer: func(number int, r *http.Request, form url.Values) string {
			if number >= 50 {
				<-hang
			}
			return well(number, r, form)
		}}
		defer s.stop()
		defer close(hang)
		cfg := config(OpenLoop, "http://fake")
		cfg.Rate, cfg.Connections, cfg.Duration, cfg.Timeout, cfg.Goroutines = 100, 2, time.Second, 3*time.Second, true
		began := time.Now()
		r, err := runOn(t.Context(), cfg, s.piped())
		if err != nil {
			t.Fatalf("runOn() = %v", err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("the run took %v, want no more than duration and timeout", took)
		}
		if r.Operations != 50 || r.FailuresTotal != 50 || r.Latency.Count != 100 {
			t.Errorf("%d operations, %d failures, %d latencies, want 50, 50, 100", r.Operations, r.FailuresTotal, r.Latency.Count)
		}
		kinds := map[string]int64{}
		for _, f := range r.Failures {
			kinds[f.Kind] = f.Count
		}
		if kinds[KindTimeout] < 2 || kinds[KindTimeout]+kinds[KindUnsent] != 50 {
			t.Errorf("failures are %v, want some timeouts, the rest unsent, 50 in all", kinds)
		}
		if r.Latency.P99 < 3 {
			t.Errorf("p99 is %v s, want no less than the timeout", r.Latency.P99)
		}
	})
}

func TestWarmupIsNotMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var late atomic.Bool
		s := &fakeServer{answer: func(number int, r *http.Request, form url.Values) string {
			if !late.Load() {
				<-time.After(50 * time.Millisecond)
			} else {
				<-time.After(10 * time.Millisecond)
			}
			return well(number, r, form)
		}}
		defer s.stop()
		cfg := config(Put, "http://fake")
		cfg.Connections, cfg.Warmup, cfg.Duration, cfg.Goroutines = 1, time.Second, time.Second, true
		go func() {
			<-time.After(900 * time.Millisecond)
			late.Store(true)
		}()
		r, err := runOn(t.Context(), cfg, s.piped())
		if err != nil {
			t.Fatalf("runOn() = %v", err)
		}
		if r.Operations < 97 || r.Operations > 100 || !near(r.Latency.Max, 10*time.Millisecond) {
			t.Errorf("%d operations, the longest %v s, want about 99 of 10 ms", r.Operations, r.Latency.Max)
		}
	})
}

func TestCancelledRunReturnsWhatItHas(t *testing.T) {
	drivers(t, func(t *testing.T, change func(*Config)) {
		ctx, cancel := context.WithCancel(t.Context())
		s := &fakeServer{answer: func(number int, r *http.Request, form url.Values) string {
			if number == 500 {
				cancel()
			}
			return well(number, r, form)
		}}
		cfg := config(Put, s.listen(t))
		cfg.Duration = time.Hour
		change(&cfg)
		r, err := Run(ctx, cfg)
		if err != nil || !r.Interrupted || r.Operations < 490 || r.DurationSeconds > 60 {
			t.Errorf("Run() = %+v, %v, want an interrupted result with the first requests", r, err)
		}
	})
}

func TestRunWithoutAnEndGivesUpOnASilentServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		s := &fakeServer{answer: func(int, *http.Request, url.Values) string { <-hang; return "" }}
		defer s.stop()
		defer close(hang)
		cfg := config(Fill, "http://fake")
		cfg.Timeout, cfg.Goroutines = 20*time.Second, true
		began := time.Now()
		r, err := runOn(t.Context(), cfg, s.piped())
		if err != nil || r.Operations != 0 {
			t.Fatalf("runOn() = %+v, %v, want nothing", r, err)
		}
		if took := time.Since(began); took < stallMax || took > stallMax+time.Second {
			t.Errorf("it gave up after %v, want %v", took, stallMax)
		}
	})
}

func TestProgressIsReportedEachSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeServer{answer: func(number int, r *http.Request, form url.Values) string {
			<-time.After(10 * time.Millisecond)
			return well(number, r, form)
		}}
		defer s.stop()
		cfg := config(Put, "http://fake")
		cfg.Connections, cfg.Warmup, cfg.Duration, cfg.Goroutines = 1, 1500*time.Millisecond, 3*time.Second, true
		var reports []Progress
		cfg.Progress = func(p Progress) { reports = append(reports, p) }
		if _, err := runOn(t.Context(), cfg, s.piped()); err != nil {
			t.Fatalf("runOn() = %v", err)
		}
		if len(reports) != 4 {
			t.Fatalf("%d reports, want 4: %+v", len(reports), reports)
		}
		first, last := reports[0], reports[3]
		if first.Elapsed > 0 || first.Operations != 0 {
			t.Errorf("the first report is %+v, want one of the warm-up", first)
		}
		if last.Operations < 200 || last.OperationsPerSecond < 90 || last.OperationsPerSecond > 110 || !near(last.P99.Seconds(), 10*time.Millisecond) {
			t.Errorf("the last report is %+v, want 100 a second of 10 ms", last)
		}
	})
}

func TestServerThatIsNotThereIsSaidAtOnce(t *testing.T) {
	l := listener(t)
	gone := "http://" + l.Addr().String()
	l.Close()
	s := &fakeServer{answer: well}
	cfg := config(Put, s.listen(t))
	cfg.Target.Endpoints = append(cfg.Target.Endpoints, gone)
	if _, err := Run(t.Context(), cfg); !errors.Is(err, ErrNoConnection) || !strings.Contains(err.Error(), gone) {
		t.Errorf("Run() = %v, want one that names %s", err, gone)
	}
}

func TestConnectionsTakeEndpointsInTurn(t *testing.T) {
	var counts [2]atomic.Int64
	cfg := config(Put, "")
	cfg.Target.Endpoints = nil
	for i := range counts {
		s := &fakeServer{answer: func(number int, r *http.Request, form url.Values) string {
			counts[i].Add(1)
			return well(number, r, form)
		}}
		cfg.Target.Endpoints = append(cfg.Target.Endpoints, s.listen(t))
	}
	cfg.Duration, cfg.Requests, cfg.Rate, cfg.Work = 0, 100, 1000, OpenLoop
	mustRun(t, cfg)
	if a, b := counts[0].Load(), counts[1].Load(); a+b != 100 || a < 40 || b < 40 {
		t.Errorf("the endpoints had %d and %d requests, want 50 each", a, b)
	}
}

func TestTLS(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil || r.ProtoMajor != 1 {
			w.WriteHeader(http.StatusBadRequest)
		}
		io.WriteString(w, aValue)
	}))
	defer s.Close()
	cfg := config(Mixed, s.URL)
	cfg.Duration, cfg.Requests = 0, 100
	cfg.Target.TLS = s.Client().Transport.(*http.Transport).TLSClientConfig
	r := mustRun(t, cfg)
	wantFailures(t, r)
	if r.Operations != 100 {
		t.Errorf("%d operations, want 100", r.Operations)
	}
	cfg.Target.TLS = nil
	if _, err := Run(t.Context(), cfg); !errors.Is(err, ErrNoConnection) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("Run() without the authority = %v, want one about the certificate", err)
	}
}

func TestLargeAndChunkedAnswers(t *testing.T) {
	value := strings.Repeat("v", 300_000)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, `{"action":"get","node":{"key":"/bench/k0","value":"`+value)
		w.(http.Flusher).Flush()
		io.WriteString(w, `"}}`)
	}))
	defer s.Close()
	drivers(t, func(t *testing.T, change func(*Config)) {
		cfg := config(Mixed, s.URL)
		cfg.Duration, cfg.Requests, cfg.Keys.ValueBytes, cfg.Reads = 0, 40, len(value), 0.5
		change(&cfg)
		r := mustRun(t, cfg)
		wantFailures(t, r)
		if r.Operations != 40 || r.ReceivedBytes < 40*300_000 {
			t.Errorf("%d operations with %d bytes, want 40 with 300000 each", r.Operations, r.ReceivedBytes)
		}
		if r.ReadLatency == nil || r.WriteLatency == nil || r.ReadLatency.Count+r.WriteLatency.Count != 40 {
			t.Errorf("latencies of reads are %+v and of writes %+v, want 40 in both", r.ReadLatency, r.WriteLatency)
		}
		if want := r.WriteLatency.Count * 300_000; r.SentBytes < want || r.SentBytes > want+40*400 {
			t.Errorf("%d bytes were sent, want a little more than %d", r.SentBytes, want)
		}
	})
}
