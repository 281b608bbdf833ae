package proxy

import (
	"cmp"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/marsevilspirit/deimos"
)

// endpointsMax bounds the client URLs that are kept; a list may name more.
const endpointsMax = 256

// endpoint is one client URL of a member.
type endpoint struct {
	scheme, host string
	// member is the id of the member, or the URL itself while only that is known.
	member string

	// failures counts the pauses that the endpoint has been given without an
	// answer in between; retryAt ends the current one. Both are guarded by the
	// mutex of members.
	failures int
	retryAt  time.Time
}

func (e *endpoint) url() string { return e.scheme + "://" + e.host }

// parseEndpoint checks a client URL.
func parseEndpoint(s string) (*endpoint, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, err
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("URL %q: the scheme is neither http nor https", s)
	}
	if u.Hostname() == "" || u.Port() == "" {
		return nil, fmt.Errorf("URL %q: not of the form scheme://host:port", s)
	}
	if u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("URL %q: more than scheme, host and port", s)
	}
	e := &endpoint{scheme: u.Scheme, host: strings.ToLower(u.Host)}
	e.member = e.url()
	return e, nil
}

// members is what the proxy knows of the cluster: client URLs, and which of
// them answer. Its methods may be called from any goroutine.
type members struct {
	limits *limits
	log    *slog.Logger
	self   map[string]bool // host:port of the proxy
	seed   maphash.Seed
	// wake tells the keeper of the list that there is something to do earlier
	// than it knew. It holds one signal.
	wake chan struct{}

	mu        sync.Mutex
	endpoints []*endpoint // sorted by member, then URL
	turn      int
	clusterID string // "" until a member has told
	lookAt    time.Time
	lookedAt  time.Time
	// unused are the URLs that were found and cannot be used, with the reasons.
	unused map[string]string
	// silent tells that a member of the list has told no client URL yet.
	silent bool
}

func newMembers(self []string, l *limits, log *slog.Logger) (*members, error) {
	m := &members{limits: l, log: log, self: make(map[string]bool), unused: make(map[string]string), seed: maphash.MakeSeed(), wake: make(chan struct{}, 1)}
	for _, s := range self {
		e, err := parseEndpoint(s)
		if err != nil {
			return nil, fmt.Errorf("proxy: config: Self: %w", err)
		}
		m.self[e.host] = true
	}
	return m, nil
}

// candidates returns the endpoints in the order in which a request should try
// them: a healthy one of each member, the others that are healthy, and those
// that failed, the one whose pause ends first in front. Which member comes
// first depends on from alone as long as the same members are healthy; other
// values of it lead to other members. With an empty one each takes its turn.
func (m *members) candidates(from string) []*endpoint {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make([]*endpoint, 0, len(m.endpoints))
	var other, failed []*endpoint
	for _, e := range m.endpoints {
		switch {
		case e.failures > 0:
			failed = append(failed, e)
		case len(all) > 0 && all[len(all)-1].member == e.member:
			other = append(other, e)
		default:
			all = append(all, e)
		}
	}
	switch {
	case len(all) < 2:
	case from != "":
		// A member that fails moves only those who had it first.
		slices.SortFunc(all, func(a, b *endpoint) int { return cmp.Compare(m.weight(from, a), m.weight(from, b)) })
	default:
		m.turn = (m.turn + 1) % len(all)
		all = slices.Concat(all[m.turn:], all[:m.turn])
	}
	slices.SortStableFunc(failed, func(a, b *endpoint) int { return a.retryAt.Compare(b.retryAt) })
	return append(append(all, other...), failed...)
}

// weight is how little a client is drawn to a member. The mutex is held.
func (m *members) weight(from string, e *endpoint) uint64 {
	return maphash.Comparable(m.seed, [2]string{from, e.member})
}

// up notes that e answered.
func (m *members) up(e *endpoint) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e.failures > 0 {
		m.log.Info("member answers again", "url", e.url())
	}
	e.failures = 0
}

// isAside reports whether e failed and has not answered since.
func (m *members) isAside(e *endpoint) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return e.failures > 0
}

// down puts e aside for a pause that doubles with each one in a row. Failures
// within a pause are those of requests that were on their way.
func (m *members) down(e *endpoint, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if e.failures > 0 && now.Before(e.retryAt) {
		return
	}
	if e.failures == 0 {
		m.log.Warn("member does not answer", "url", e.url(), "error", err)
	}
	pause := m.limits.pauseMin
	for range e.failures {
		if pause *= 2; pause >= m.limits.pauseMax {
			pause = m.limits.pauseMax
			break
		}
	}
	e.failures++
	e.retryAt = now.Add(pause)
	m.signal()
}

// lost asks for a look at the member list, because a request found nobody.
func (m *members) lost() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if at := m.lookedAt.Add(m.limits.urgent); at.Before(m.lookAt) {
		m.lookAt = at
		m.signal()
	}
}

func (m *members) signal() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// due returns the endpoints whose pause is over.
func (m *members) due(now time.Time) []*endpoint {
	m.mu.Lock()
	defer m.mu.Unlock()
	var due []*endpoint
	for _, e := range m.endpoints {
		if e.failures > 0 && !now.Before(e.retryAt) {
			due = append(due, e)
		}
	}
	return due
}

// lookDue reports whether it is time to look at the member list.
func (m *members) lookDue(now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !now.Before(m.lookAt)
}

// looked notes that the member list was looked at, and when to do it again:
// earlier while a member has yet to start.
func (m *members) looked(now time.Time, again time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.silent {
		again = min(again, m.limits.start)
	}
	m.lookedAt, m.lookAt = now, now.Add(again)
}

// next returns when the keeper has to do something again.
func (m *members) next() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := m.lookAt
	for _, e := range m.endpoints {
		if e.failures > 0 && e.retryAt.Before(at) {
			at = e.retryAt
		}
	}
	return at
}

// count returns how many members are known, and how many of them answer.
func (m *members) count() (known, healthy int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	ids := make(map[string]bool)
	for _, e := range m.endpoints {
		ids[e.member] = ids[e.member] || e.failures == 0
	}
	for _, ok := range ids {
		if ok {
			healthy++
		}
	}
	return len(ids), healthy
}

// errOtherCluster says that a member list is that of a stranger.
var errOtherCluster = errors.New("the member belongs to another cluster")

// replace takes over the list that a member of the cluster told. A list without
// any usable client URL is not taken.
func (m *members) replace(clusterID string, list []deimos.Member) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if clusterID != "" && m.clusterID != "" && clusterID != m.clusterID {
		return fmt.Errorf("%w: %s, want %s", errOtherCluster, clusterID, m.clusterID)
	}
	var found []*endpoint
	silent, before := false, m.unused
	m.unused = make(map[string]string)
	for _, member := range list {
		silent = silent || len(member.ClientURLs) == 0
		for _, u := range member.ClientURLs {
			if e := m.usable(u, before); e != nil {
				e.member = deimos.FormatID(member.ID)
				found = append(found, e)
			}
		}
	}
	if len(found) == 0 {
		return errors.New("the member list has no client URL that can be used")
	}
	if clusterID != "" {
		m.clusterID = clusterID
	}
	m.silent = silent
	m.set(found)
	return nil
}

// learn adds client URLs that the bootstrap peers told. Whatever cluster they
// belong to is the one to serve from now on.
func (m *members) learn(urls []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	found := slices.Clone(m.endpoints)
	for _, u := range urls {
		if e := m.usable(u, m.unused); e != nil {
			found = append(found, e)
		}
	}
	m.clusterID = ""
	m.set(found)
}

// remove forgets an endpoint.
func (m *members) remove(gone *endpoint) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.endpoints = slices.DeleteFunc(slices.Clone(m.endpoints), func(e *endpoint) bool { return e == gone })
}

// usable returns the endpoint of a client URL, or nil, which is told unless it
// was told before. The mutex is held.
func (m *members) usable(u string, told map[string]string) *endpoint {
	e, err := parseEndpoint(u)
	if err == nil && m.self[e.host] {
		err = errors.New("the URL is that of the proxy itself")
	}
	if err == nil {
		return e
	}
	reason := err.Error()
	if told[u] != reason && len(m.unused) < endpointsMax {
		m.log.Warn("client URL not used", "url", u, "error", err)
	}
	if len(m.unused) < endpointsMax {
		m.unused[u] = reason
	}
	return nil
}

// set publishes endpoints, one for each URL, and keeps what is known of those
// that were there before. The mutex is held.
func (m *members) set(found []*endpoint) {
	known := make(map[string]*endpoint, len(m.endpoints))
	for _, e := range m.endpoints {
		known[e.url()] = e
	}
	taken := make(map[string]bool, len(found))
	var list []*endpoint
	for _, e := range found {
		if taken[e.url()] || len(list) == endpointsMax {
			continue
		}
		taken[e.url()] = true
		if old := known[e.url()]; old != nil && old.member == e.member {
			e = old
		} else if old != nil {
			e.failures, e.retryAt = old.failures, old.retryAt
		}
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b *endpoint) int {
		return cmp.Or(cmp.Compare(a.member, b.member), cmp.Compare(a.url(), b.url()))
	})
	if urls := sortedURLs(list); !slices.Equal(urls, sortedURLs(m.endpoints)) {
		m.log.Info("members found", "urls", urls)
	}
	m.endpoints = list
}

func sortedURLs(list []*endpoint) []string {
	urls := make([]string, len(list))
	for i, e := range list {
		urls[i] = e.url()
	}
	slices.Sort(urls)
	return urls
}
