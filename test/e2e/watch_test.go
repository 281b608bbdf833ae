package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos"
)

func exchange(t testing.TB, r *http.Request) (int, string) {
	t.Helper()
	res, err := probe.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

// stream is an open watch.
type stream struct {
	start  uint64 // the store index at which it began
	body   *bufio.Reader
	cancel context.CancelFunc
}

// watcher is the client of watches: they have no time limit.
var watcher = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// openWatch opens a watch and returns once its head is there. after is the
// last index the client has seen, 0 for none.
func openWatch(t testing.TB, base, target string, after uint64) *stream {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	if after > 0 {
		target += "&waitIndex=" + strconv.FormatUint(after+1, 10)
	}
	s, err := dialWatch(ctx, base+target)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	s.cancel = cancel
	return s
}

func dialWatch(ctx context.Context, target string) (*stream, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, err
	}
	res, err := watcher.Do(r)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		res.Body.Close()
		return nil, fmt.Errorf("GET %s = %d", target, res.StatusCode)
	}
	start, err := strconv.ParseUint(res.Header.Get("X-Deimos-Index"), 10, 64)
	if err != nil {
		res.Body.Close()
		return nil, fmt.Errorf("GET %s: index header: %w", target, err)
	}
	return &stream{start: start, body: bufio.NewReader(res.Body)}, nil
}

// wantOrdinaryEnd waits for the end of the body.
func (s *stream) wantOrdinaryEnd(t testing.TB) {
	t.Helper()
	timer := time.AfterFunc(exitMax, s.cancel)
	defer timer.Stop()
	if text, err := s.body.ReadString('\n'); !errors.Is(err, io.EOF) || text != "" {
		t.Errorf("the end of the watch = %q, %v, want an ordinary end", text, err)
	}
}

func TestWatchResumesAcrossALeaderKill(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	old := c.leader(t)
	survivors := c.others(old)

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen := make(chan acked, 1<<20)
	failed := make(chan error, 1)
	first, err := dialWatch(ctx, old.client+"/keys/load?wait=true&recursive=true&stream=true")
	if err != nil {
		t.Fatal(err)
	}
	go func() { failed <- follow(ctx, first, survivors, seen) }()

	load := startLoad(t, 4, survivors...)
	load.waitAcks(t, 500)
	old.kill(t)
	load.waitAcks(t, load.acks()+500)
	load.stop(t)
	load.wantNotVoid(t)

	want := map[uint64]acked{}
	load.mu.Lock()
	for _, e := range load.events {
		want[e.index] = e
	}
	load.mu.Unlock()
	last := first.start
	late := time.After(readyMax)
	for len(want) > 0 {
		select {
		case e := <-seen:
			if e.index <= last {
				t.Fatalf("event %d came after event %d, want rising indexes", e.index, last)
			}
			last = e.index
			if w, ok := want[e.index]; ok && w != e {
				t.Errorf("event %d = %v, want %v as acknowledged", e.index, e, w)
			}
			delete(want, e.index)
		case err := <-failed:
			t.Fatalf("the watch ended: %v", err)
		case <-late:
			t.Fatalf("%d acknowledged writes were not told to the watch, which is at index %d", len(want), last)
		}
	}
	if last <= first.start {
		t.Error("void: the watch has seen nothing")
	}
}

// follow reads a watch and, when it ends, resumes it on the next member at the
// index after the last one it has seen, until ctx ends.
func follow(ctx context.Context, s *stream, urls []string, seen chan<- acked) error {
	last := s.start
	for turn := 0; ctx.Err() == nil; turn++ {
		for s != nil {
			text, err := s.body.ReadString('\n')
			if err != nil {
				break // half a line is no event
			}
			var e deimos.Event
			if err := json.Unmarshal([]byte(text), &e); err != nil {
				return fmt.Errorf("event %q: %w", text, err)
			}
			last = e.Node.ModifiedIndex
			seen <- acked{last, e.Node.Key, *e.Node.Value}
		}
		err := until(ctx, func() error {
			var err error
			s, err = dialWatch(ctx, fmt.Sprintf("%s/keys/load?wait=true&recursive=true&stream=true&waitIndex=%d", urls[turn%len(urls)], last+1))
			return err
		})
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

func TestWatchersThatVanishAreReleased(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	const rounds, watchers = 4, 250
	base := readGauges(t, n)
	for round := range rounds {
		var conns []net.Conn
		for range watchers {
			conns = append(conns, rawWatch(t, n.client))
		}
		if got := readGauges(t, n); got.watchers < base.watchers+watchers {
			t.Fatalf("void: deimos_store_watchers = %v with %d watches open", got.watchers, watchers)
		}
		for _, c := range conns {
			if round%2 == 1 {
				// With no time to linger the end is a reset.
				if err := c.(*net.TCPConn).SetLinger(0); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
		}
		gone := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		err := until(ctx, func() error {
			got, err := metric(ctx, n.client, "deimos_store_watchers")
			if err == nil && got != base.watchers {
				err = fmt.Errorf("deimos_store_watchers = %v, want %v", got, base.watchers)
			}
			return err
		})
		cancel()
		if took := time.Since(gone); err != nil || took > time.Second {
			t.Errorf("the watchers were released after %v (%v), want at most 1 s", took, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	err := until(ctx, func() error {
		if got := readGauges(t, n); got.goroutines > base.goroutines+5 || got.files > base.files+5 {
			return fmt.Errorf("goroutines = %v and open files = %v, want at most 5 more than %v and %v", got.goroutines, got.files, base.goroutines, base.files)
		}
		return nil
	})
	if err != nil {
		t.Errorf("after %d watches that vanished: %v", rounds*watchers, err)
	}
}

// rawWatch opens a watch on a connection of its own and reads its head.
func rawWatch(t testing.TB, base string) net.Conn {
	t.Helper()
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if _, err := fmt.Fprintf(c, "GET /keys/none?wait=true&stream=true HTTP/1.1\r\nHost: %s\r\n\r\n", u.Host); err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	head, err := bufio.NewReader(c).ReadString('\n')
	if err != nil || !strings.Contains(head, " 200 ") {
		t.Fatalf("the head of a watch = %q, %v", head, err)
	}
	return c
}

type gauges struct{ watchers, goroutines, files float64 }

func readGauges(t testing.TB, n *node) gauges {
	t.Helper()
	var g gauges
	for name, v := range map[string]*float64{"deimos_store_watchers": &g.watchers, "go_goroutines": &g.goroutines, "process_open_fds": &g.files} {
		var err error
		if *v, err = metric(t.Context(), n.client, name); err != nil {
			t.Fatal(err)
		}
	}
	return g
}
