package client

import (
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// order returns the URLs in the order in which requests would try them.
func order(s *endpoints) []string {
	var urls []string
	for _, e := range s.order() {
		urls = append(urls, e.url)
	}
	return urls
}

// find returns the endpoint with a URL.
func find(t *testing.T, s *endpoints, url string) *endpoint {
	t.Helper()
	for _, e := range s.order() {
		if e.url == url {
			return e
		}
	}
	t.Fatalf("no endpoint %s", url)
	return nil
}

func TestFailingEndpointIsTriedLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newEndpoints([]string{"a", "b", "c"}, slog.New(slog.DiscardHandler))
		broken := errors.New("broken")
		first := order(s)
		s.failed(find(t, s, first[0]), broken)
		if got, want := order(s), []string{first[1], first[2], first[0]}; !slices.Equal(got, want) {
			t.Errorf("order with %s failed = %v, want %v", first[0], got, want)
		}
		<-time.After(penaltyMin)
		if got, want := order(s), []string{first[1], first[2], first[0]}; !slices.Equal(got, want) {
			t.Errorf("order after the pause = %v, want %v: requests stay where they went", got, want)
		}
		s.failed(find(t, s, first[1]), broken)
		s.failed(find(t, s, first[2]), broken)
		<-time.After(penaltyMin)
		s.worked(find(t, s, first[1]))
		if got, want := order(s), []string{first[1], first[0], first[2]}; !slices.Equal(got, want) {
			t.Errorf("order with %s working = %v, want %v: the longest pause ago first", first[1], got, want)
		}
		s.worked(find(t, s, first[0]))
		s.worked(find(t, s, first[2]))
		if got := order(s)[0]; got != first[1] {
			t.Errorf("first after successes of others = %s, want %s", got, first[1])
		}
	})
}

func TestPenaltyDoublesUpToTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newEndpoints([]string{"a"}, slog.New(slog.DiscardHandler))
		e := s.order()[0]
		for i, want := range []time.Duration{100, 200, 400, 800, 1600, 3200, 6400, 10000, 10000} {
			want *= time.Millisecond
			s.failed(e, errors.New("broken"))
			pause := time.Until(e.retryAt)
			if pause > want || pause < want*3/4 {
				t.Errorf("pause %d = %v, want %v less up to a quarter", i+1, pause, want)
			}
			s.failed(e, errors.New("broken too")) // on its way at that moment
			if time.Until(e.retryAt) != pause {
				t.Errorf("a second failure changed pause %d", i+1)
			}
			<-time.After(pause)
		}
		s.worked(e)
		s.failed(e, errors.New("broken"))
		if pause := time.Until(e.retryAt); pause > penaltyMin {
			t.Errorf("pause after a success = %v, want at most %v", pause, penaltyMin)
		}
	})
}

func TestBackoffDoesNotOverflow(t *testing.T) {
	for n := range 200 {
		if d := backoff(n, penaltyMin, penaltyMax); d <= 0 || d > penaltyMax {
			t.Fatalf("backoff(%d) = %v", n, d)
		}
	}
}

const twoMembers = `{"members":[
	{"id":"1","name":"n1","peerURLs":["http://p:1"],"clientURLs":["http://m:1","ftp://m:1"]},
	{"id":"a","name":"n2","peerURLs":["http://p:2"],"clientURLs":["http://m:2/"],"isLearner":true},
	{"id":"b","name":"","peerURLs":["http://p:3"],"clientURLs":[]}]}`

func TestSyncTakesTheClientURLsOfMembers(t *testing.T) {
	dead := make(map[string]bool)
	w := &wire{answer: func(r *http.Request) (*http.Response, error) {
		switch {
		case dead[r.URL.Host]:
			return nil, errRefused
		case r.URL.Path == membersPath:
			return reply(200, twoMembers), nil
		default:
			return reply(200, answerSet), nil
		}
	}}
	synctest.Test(t, func(t *testing.T) {
		c := newWired(t, Config{Endpoints: []string{"http://seed:1"}}, w)
		if err := c.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		got := c.Endpoints()
		slices.Sort(got)
		if want := []string{"http://m:1", "http://m:2"}; !slices.Equal(got, want) {
			t.Errorf("endpoints after Sync = %v, want %v", got, want)
		}
		if got := order(c.endpoints)[2]; got != "http://seed:1" {
			t.Errorf("last to try = %s, want the one of the configuration", got)
		}
		dead["m:1"], dead["m:2"] = true, true
		if _, err := c.Set(t.Context(), "/a", "1"); err != nil {
			t.Errorf("Set with only the configured endpoint alive: %v", err)
		}
		dead["m:1"] = false
		<-time.After(penaltyMax)
		if _, err := c.Set(t.Context(), "/a", "1"); err != nil {
			t.Fatal(err)
		}
		if got := order(c.endpoints)[0]; got != "http://m:1" {
			t.Errorf("first to try once a member is back = %s, want it", got)
		}
	})
}

func TestSyncWithoutAUsableURLChangesNothing(t *testing.T) {
	for _, body := range []string{`{"members":[]}`, `{"members":[{"id":"1","clientURLs":["unix:///a"]}]}`, `{"members":[{"id":"xyz"}]}`, "<html>"} {
		c := newWired(t, Config{}, &wire{answer: func(*http.Request) (*http.Response, error) { return reply(200, body), nil }})
		if err := c.Sync(t.Context()); err == nil {
			t.Errorf("Sync with %s succeeded", body)
		}
		if got := c.Endpoints(); !slices.Equal(got, []string{DefaultEndpoint}) {
			t.Errorf("endpoints = %v, want those of the configuration", got)
		}
	}
}

func TestSyncRunsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{answer: func(*http.Request) (*http.Response, error) { return reply(200, twoMembers), nil }}
		c := newWired(t, Config{SyncInterval: time.Minute}, w)
		<-time.After(2*time.Minute + time.Second)
		synctest.Wait()
		if got := len(w.requests()); got != 3 {
			t.Errorf("%d requests in two minutes, want 3", got)
		}
		c.Close()
		<-time.After(time.Hour)
		if got := len(w.requests()); got != 3 {
			t.Errorf("%d requests after Close, want 3", got)
		}
	})
}
