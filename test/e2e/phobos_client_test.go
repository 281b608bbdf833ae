package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos"
)

// Phobos renews each minute, with a TTL of two, and watches for the 3 s that
// its client allows. Its conversation with a cluster is held here as it is, but
// by a faster clock.
const (
	phobosRenewal = 500 * time.Millisecond
	phobosWatch   = 50 * time.Millisecond
	// phobosRetry is the pause after a read that failed, 2 s in Phobos.
	phobosRetry = 30 * time.Millisecond
)

// phobos is a set of programs that find each other through one cluster, and
// what they have to find.
type phobos struct {
	t   testing.TB
	ttl time.Duration

	ctx     context.Context // ends with the conversation
	cancel  context.CancelFunc
	running sync.WaitGroup
	// listening ends later, with the stream of those events that tell when
	// registrations have gone.
	listening sync.WaitGroup
	deaf      context.CancelFunc

	providers []*provider
	consumers []*consumer

	mu      sync.Mutex
	entries map[string]*registration // by key
	made    map[string]int           // directories that a program was told it has made
}

// registration is what is known of a key that a provider renews.
type registration struct {
	metadata string
	sentAt   map[uint64]time.Time // when renewals that were answered had been sent, by index
	renewed  time.Time            // when the last of them had been sent
	stopped  time.Time            // when the provider had stopped
	gone     time.Time            // when the cluster was heard to say after that that the key has expired
}

// newPhobos returns a conversation without programs, and listens at a member.
// The caller ends it.
func newPhobos(t testing.TB, ttl time.Duration, listen *node) *phobos {
	t.Helper()
	p := &phobos{t: t, ttl: ttl, entries: map[string]*registration{}, made: map[string]int{}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	s := openWatch(t, listen.client, "/keys/phobos?wait=true&recursive=true&stream=true", 0)
	p.deaf = s.cancel
	p.listening.Go(func() { p.listen(s) })
	return p
}

// end ends all programs and their connections, and then the listening.
func (p *phobos) end() {
	p.cancel()
	p.running.Wait()
	for _, one := range p.providers {
		one.c.leave()
	}
	for _, one := range p.consumers {
		one.c.leave()
	}
	p.deaf()
	p.listening.Wait()
}

// listen notes which registrations expire. None may before its TTL, and none
// whose provider renews it.
func (p *phobos) listen(s *stream) {
	for {
		text, err := s.body.ReadString('\n')
		if err != nil {
			if errors.Is(err, io.EOF) {
				p.t.Error("the member that was listened to has ended its stream")
			}
			return
		}
		var e deimos.Event
		if err := json.Unmarshal([]byte(text), &e); err != nil {
			p.t.Errorf("event %q: %v", text, err)
			return
		}
		if e.Action == deimos.ActionExpire {
			p.expired(&e, time.Now())
		}
	}
}

func (p *phobos) expired(e *deimos.Event, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.entries[e.Node.Key]
	if r == nil || e.PrevNode == nil {
		p.t.Errorf("%s expired with %v before, want the end of a registration", e.Node.Key, e.PrevNode)
		return
	}
	if sent, ok := r.sentAt[e.PrevNode.ModifiedIndex]; ok && now.Before(sent.Add(p.ttl)) {
		p.t.Errorf("%s expired %v after its renewal was sent, want at least %v", e.Node.Key, now.Sub(sent), p.ttl)
	}
	if r.stopped.IsZero() {
		p.t.Errorf("%s expired although it is being renewed, the last time %v ago", e.Node.Key, now.Sub(r.renewed))
		return
	}
	r.gone = now
}

// provider is a program that offers services at an address.
type provider struct {
	p        *phobos
	c        *oldClient
	address  string
	services map[string]string // metadata by name
	stop     chan struct{}
	stopped  chan struct{}
}

// provide starts a program that offers services through a member, and returns
// once it has registered them.
func (p *phobos) provide(at *node, address string, services map[string]string) *provider {
	p.t.Helper()
	one := &provider{p: p, c: newOldClient(p.t, at.client, oldLimit), address: address, services: services, stop: make(chan struct{}), stopped: make(chan struct{})}
	p.providers = append(p.providers, one)
	one.makeDir("/phobos")
	for name, metadata := range services {
		one.makeDir("/phobos/" + name)
		p.expect(one.key(name), metadata)
		if err := one.renew(name); err != nil {
			p.t.Fatalf("registering %s = %v", one.key(name), err)
		}
	}
	p.running.Go(one.run)
	return one
}

func (one *provider) key(service string) string { return "/phobos/" + service + "/" + one.address }

// makeDir makes a directory, or is told that it is there.
func (one *provider) makeDir(key string) {
	_, err := one.c.set(one.p.ctx, key, "", oldSet{dir: true})
	switch {
	case err == nil:
		one.p.mu.Lock()
		defer one.p.mu.Unlock()
		one.p.made[key]++
	case !isOldError(err, 403, 102):
		one.p.t.Errorf("PUT %s dir=true = %v, want success or 403/102", key, err)
	}
}

// run renews all registrations each time the clock ticks.
func (one *provider) run() {
	defer close(one.stopped)
	ticker := time.NewTicker(phobosRenewal)
	defer ticker.Stop()
	for {
		select {
		case <-one.p.ctx.Done():
			return
		case <-one.stop:
			return
		case <-ticker.C:
		}
		for name := range one.services {
			err := one.renew(name)
			var e *oldError
			if errors.As(err, &e) {
				one.p.t.Errorf("renewal of %s = %v", one.key(name), err)
			}
		}
	}
}

func (one *provider) renew(service string) error {
	key, sent := one.key(service), time.Now()
	a, err := one.c.set(one.p.ctx, key, one.services[service], oldSet{ttl: one.p.ttl})
	if err == nil {
		one.p.renewed(key, a.Node.ModifiedIndex, sent)
	}
	return err
}

// end stops the program without a farewell: Phobos has none.
func (one *provider) end() {
	close(one.stop)
	<-one.stopped
	one.p.mu.Lock()
	defer one.p.mu.Unlock()
	for name := range one.services {
		one.p.entries[one.key(name)].stopped = time.Now()
	}
}

func (p *phobos) expect(key, metadata string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.entries[key] = &registration{metadata: metadata, sentAt: map[uint64]time.Time{}}
}

func (p *phobos) renewed(key string, index uint64, sent time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.entries[key]
	r.sentAt[index], r.renewed = sent, sent
}

// consumer is a program that wants to know who offers a service.
type consumer struct {
	p       *phobos
	c       *oldClient
	dir     string
	rereads atomic.Int64

	mu    sync.Mutex
	pairs map[string]string // metadata by key, as read last
}

// consume starts a program that asks a member for a service.
func (p *phobos) consume(at *node, service string) *consumer {
	p.t.Helper()
	one := &consumer{p: p, c: newOldClient(p.t, at.client, phobosWatch), dir: "/phobos/" + service}
	p.consumers = append(p.consumers, one)
	if err := one.read(); err != nil {
		p.t.Fatalf("the first read of %s = %v, which ends the program", one.dir, err)
	}
	p.running.Go(one.run)
	return one
}

// run watches for ever, and reads everything again after each event.
func (one *consumer) run() {
	var waitIndex uint64
	for one.p.ctx.Err() == nil && !one.c.broken.Load() {
		began := time.Now()
		for a := range one.c.watch(one.p.ctx, one.dir, true, waitIndex) {
			waitIndex = a.Node.ModifiedIndex + 1
			if one.read() != nil {
				pause(one.p.ctx, phobosRetry)
				continue
			}
			one.rereads.Add(1)
		}
		if time.Since(began) < politePause {
			pause(one.p.ctx, politePause) // nobody listens
		}
	}
}

// read reads the directory. An error of the API must not be: Phobos ends with
// a 404.
func (one *consumer) read() error {
	must, mustNot := one.p.known(one.dir)
	a, err := one.c.get(one.p.ctx, one.dir)
	var e *oldError
	if errors.As(err, &e) {
		one.p.t.Errorf("GET %s = %v", one.dir, err)
	}
	if err != nil {
		return err
	}
	if !a.Node.Dir {
		one.p.t.Errorf("GET %s is no directory", one.dir)
	}
	pairs := map[string]string{}
	for _, n := range a.Node.Nodes {
		pairs[n.Key] = n.Value
	}
	one.p.judge(one.dir, pairs, must, mustNot, time.Now())
	one.mu.Lock()
	defer one.mu.Unlock()
	one.pairs = pairs
	return nil
}

// known says what a read that begins now must find, and until when it must, and
// what it must not find.
func (p *phobos) known(dir string) (must map[string]time.Time, mustNot map[string]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	must, mustNot = map[string]time.Time{}, map[string]bool{}
	for key, r := range p.entries {
		if !strings.HasPrefix(key, dir+"/") {
			continue
		}
		switch {
		case !r.gone.IsZero():
			mustNot[key] = true
		case !r.renewed.IsZero():
			must[key] = r.renewed.Add(p.ttl)
		}
	}
	return must, mustNot
}

// judge fails the test for what a read found that ended at a moment.
func (p *phobos) judge(dir string, pairs map[string]string, must map[string]time.Time, mustNot map[string]bool, ended time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, until := range must {
		if _, ok := pairs[key]; !ok && ended.Before(until) {
			p.t.Errorf("GET %s has lost %s, whose TTL runs on for %v", dir, key, until.Sub(ended))
		}
	}
	for key, value := range pairs {
		r := p.entries[key]
		switch {
		case r == nil:
			p.t.Errorf("GET %s shows %s, which nobody has registered", dir, key)
		case mustNot[key]:
			p.t.Errorf("GET %s shows %s %v after it was said to have expired", dir, key, ended.Sub(r.gone))
		case value != r.metadata:
			p.t.Errorf("GET %s shows %s with %q, want %q", dir, key, value, r.metadata)
		}
	}
}

// waitGone waits until a provider that has ended is forgotten: by the cluster
// within the TTL and a second, and by all consumers when they have heard.
func (p *phobos) waitGone(one *provider) {
	p.t.Helper()
	untilWithin(p.t, readyMax, func(context.Context) error {
		p.mu.Lock()
		defer p.mu.Unlock()
		for name := range one.services {
			if p.entries[one.key(name)].gone.IsZero() {
				return fmt.Errorf("%s has not expired", one.key(name))
			}
		}
		return nil
	})
	p.mu.Lock()
	for name := range one.services {
		r := p.entries[one.key(name)]
		if took := r.gone.Sub(r.stopped); took > p.ttl+time.Second {
			p.t.Errorf("%s expired %v after its provider had ended, want at most the TTL of %v and 1 s", one.key(name), took, p.ttl)
		}
	}
	p.mu.Unlock()
	p.waitFound()
}

// waitFound waits until every consumer knows exactly the providers that have
// not ended.
func (p *phobos) waitFound() {
	p.t.Helper()
	untilWithin(p.t, readyMax, func(context.Context) error {
		for _, one := range p.consumers {
			if err := one.found(); err != nil {
				return err
			}
		}
		return nil
	})
}

func (one *consumer) found() error {
	must, _ := one.p.known(one.dir)
	one.mu.Lock()
	defer one.mu.Unlock()
	if len(one.pairs) != len(must) {
		return fmt.Errorf("a consumer at %s knows of %v, want %v", one.c.base, one.pairs, must)
	}
	for key := range must {
		if _, ok := one.pairs[key]; !ok {
			return fmt.Errorf("a consumer at %s knows of %v, want %v", one.c.base, one.pairs, must)
		}
	}
	return nil
}

// waitRenewed waits until every provider that has not ended has renewed what
// it offers by a request that was sent after a moment.
func (p *phobos) waitRenewed(since time.Time) {
	p.t.Helper()
	untilWithin(p.t, readyMax, func(context.Context) error {
		p.mu.Lock()
		defer p.mu.Unlock()
		for key, r := range p.entries {
			if r.stopped.IsZero() && r.renewed.Before(since) {
				return fmt.Errorf("%s was last renewed %v before", key, since.Sub(r.renewed))
			}
		}
		return nil
	})
}

// waitReopened waits until these consumers have each had so many watches that
// ended only with their limit, and have read again after an event.
func (p *phobos) waitReopened(count int64, consumers ...*consumer) {
	p.t.Helper()
	untilWithin(p.t, time.Minute, func(context.Context) error {
		for _, one := range consumers {
			if got := one.c.cut.Load(); got < count {
				return fmt.Errorf("a consumer at %s has opened %d watches in vain, want %d", one.c.base, got, count)
			}
			if got := one.rereads.Load(); got < count/20 {
				return fmt.Errorf("a consumer at %s has read after %d events, want %d", one.c.base, got, count/20)
			}
		}
		return nil
	})
}
