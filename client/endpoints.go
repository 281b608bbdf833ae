package client

import (
	"cmp"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// An endpoint that failed is tried last until a pause is over, which doubles
// with each failure in a row.
const (
	penaltyMin = 100 * time.Millisecond
	penaltyMax = 10 * time.Second
)

// endpoint is one place to send requests to. Its fields but the URL belong to
// the mutex of its set.
type endpoint struct {
	url      string // scheme://host:port
	failures int    // in a row
	retryAt  time.Time
	// spare marks an endpoint of the configuration that is not in the member
	// list: it is tried when everybody else has failed.
	spare bool

	// What the endpoint owes: how many requests wait for the head of an answer,
	// since when any of them has without one coming, and for how long others had
	// before, since the last answer.
	waiting int
	since   time.Time
	waited  time.Duration

	// whole is when the endpoint had its cluster for certain; zero: unknown.
	whole time.Time
}

// endpoints is the set of endpoints and what is known of their health.
type endpoints struct {
	log *slog.Logger

	mu   sync.Mutex
	list []*endpoint
	// current is where requests go as long as it answers.
	current *endpoint
}

func newEndpoints(urls []string, log *slog.Logger) *endpoints {
	s := &endpoints{log: log}
	for _, u := range urls {
		s.list = append(s.list, &endpoint{url: u})
	}
	// Clients with the same configuration spread over its endpoints.
	rand.Shuffle(len(s.list), func(i, j int) { s.list[i], s.list[j] = s.list[j], s.list[i] })
	s.current = s.list[0]
	return s
}

// order returns the endpoints as a request should try them: the current one,
// the other healthy ones, those that failed and whose pause is over, then those
// whose pause lasts, the shortest first. Spare ones come after all others.
func (s *endpoints) order() []*endpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sorted(time.Now())
}

// sorted is order for who holds the mutex.
func (s *endpoints) sorted(now time.Time) []*endpoint {
	start := max(slices.Index(s.list, s.current), 0)
	all := slices.Concat(s.list[start:], s.list[:start])
	slices.SortStableFunc(all, func(a, b *endpoint) int {
		return cmp.Or(
			compareBool(a.spare, b.spare),
			compareBool(now.Before(a.retryAt), now.Before(b.retryAt)),
			compareBool(a.failures > 0, b.failures > 0),
			a.retryAt.Compare(b.retryAt),
		)
	})
	return all
}

// compareBool puts false first.
func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	default:
		return 1
	}
}

// worked notes that e answered. Requests stay where they are unless the current
// endpoint has failed.
func (s *endpoints) worked(e *endpoint) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.failures > 0 {
		s.log.Info("endpoint answers again", "endpoint", e.url)
	}
	e.failures, e.retryAt = 0, time.Time{}
	if s.current.failures > 0 || s.current.spare {
		s.current = e
	}
}

// failed puts e behind the others for a while, and requests go to the next one
// from now on. Failures within a pause are those of requests that were on their
// way, or had no better choice.
func (s *endpoints) failed(e *endpoint, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if now.Before(e.retryAt) {
		return
	}
	if e.failures == 0 {
		s.log.Warn("endpoint fails", "endpoint", e.url, "error", err)
	}
	e.retryAt = now.Add(backoff(e.failures, penaltyMin, penaltyMax))
	e.failures++
	if e == s.current {
		// If that fails too, it says so itself.
		s.current = s.sorted(now)[0]
	}
}

// asked notes that e owes an answer from now on.
func (s *endpoints) asked(e *endpoint) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.waiting == 0 {
		e.since = time.Now()
	}
	e.waiting++
}

// settled undoes asked: e has answered, or nobody waits for it any more.
func (s *endpoints) settled(e *endpoint, answered bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if answered {
		e.since, e.waited = time.Now(), 0
	}
	if e.waiting--; e.waiting == 0 {
		e.waited += time.Since(e.since)
	}
}

// silence returns for how long requests have waited for e in vain since its last
// answer. Those that wait at the same time count once, and the time in which
// none did counts for nothing: so one short call after an idle hour does not
// condemn an endpoint, and several in a row do.
func (s *endpoints) silence(e *endpoint) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.waiting == 0 {
		return e.waited
	}
	return e.waited + time.Since(e.since)
}

// hadCluster notes that e had its cluster at a moment.
func (s *endpoints) hadCluster(e *endpoint, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at.After(e.whole) {
		e.whole = at
	}
}

// inquiryDue returns in what time e has to be asked whether it has its cluster,
// if an answer is believed for that long. Where there is nobody else to go to, it
// need not be asked.
func (s *endpoints) inquiryDue(e *endpoint, believed time.Duration) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.ContainsFunc(s.list, func(other *endpoint) bool { return other != e }) {
		return believed
	}
	return believed - time.Since(e.whole)
}

// backoff returns low doubled n times, at most high, less a random part of up to
// a quarter, so that clients that failed together do not return together.
func backoff(n int, low, high time.Duration) time.Duration {
	d := high
	if n < 30 && low<<n < high {
		d = low << n
	}
	return d - rand.N(d/4+1)
}

// replace makes urls the endpoints and keeps what is known of those that were
// there before. Configured ones that are not among them become spare.
func (s *endpoints) replace(urls, configured []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := make(map[string]*endpoint, len(s.list))
	for _, e := range s.list {
		known[e.url] = e
	}
	var list []*endpoint
	add := func(u string, spare bool) {
		if slices.ContainsFunc(list, func(e *endpoint) bool { return e.url == u }) {
			return
		}
		e := known[u]
		if e == nil {
			e = &endpoint{url: u}
		}
		e.spare = spare
		list = append(list, e)
	}
	for _, u := range urls {
		add(u, false)
	}
	n := len(list)
	rand.Shuffle(n, func(i, j int) { list[i], list[j] = list[j], list[i] })
	for _, u := range configured {
		add(u, true)
	}
	s.list = list
	if s.current.spare || !slices.Contains(list, s.current) {
		s.current = list[0]
	}
}

// urls returns the endpoints without the spare ones.
func (s *endpoints) urls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var urls []string
	for _, e := range s.list {
		if !e.spare {
			urls = append(urls, e.url)
		}
	}
	return urls
}
