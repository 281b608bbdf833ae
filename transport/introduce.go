package transport

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/types"

	"github.com/marsevilspirit/deimos"
)

const (
	// introducePause is the least time between two rounds of asking who an
	// unknown sender is.
	introducePause = time.Second
	// introduceTimeout bounds the question at one URL.
	introduceTimeout = 5 * time.Second
	// introduceMax bounds the questions that are asked at one time.
	introduceMax = 8
	// namedURLsMax bounds the URLs at which an unknown sender is asked himself.
	namedURLsMax = 8
	// complaintPause is the least time between two log lines about senders that
	// nobody vouches for.
	complaintPause = time.Minute
)

// introductions are the unknown senders about whom others are to be asked. A
// member that was away while the cluster grew can only learn of the new members
// from them, and must know that they are some.
type introductions struct {
	wake      chan struct{} // holds a token while there may be some
	complaint pacer

	mu sync.Mutex
	// wanted has at most strangersMax senders, with the URLs at which they may
	// be asked themselves.
	wanted map[uint64][]string
}

func newIntroductions() *introductions {
	return &introductions{wake: make(chan struct{}, 1), wanted: make(map[uint64][]string)}
}

// want asks about a sender in the background, if there is room: he tries again.
// The URLs are those that he is known to have named; nil for none.
func (i *introductions) want(id uint64, urls []string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	old, ok := i.wanted[id]
	if !ok && len(i.wanted) >= strangersMax {
		return
	}
	if urls == nil {
		urls = old
	}
	i.wanted[id] = urls
	select {
	case i.wake <- struct{}{}:
	default:
	}
}

func (i *introductions) take() map[uint64][]string {
	i.mu.Lock()
	defer i.mu.Unlock()
	wanted := i.wanted
	i.wanted = make(map[uint64][]string)
	return wanted
}

// introduce asks about unknown senders until the transport stops.
func (t *HTTP) introduce() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.introductions.wake:
				t.askAround(ctx, t.introductions.take())
			}
			select {
			case <-ctx.Done():
			case <-time.After(introducePause):
			}
		}
	}()
	<-t.stop
	cancel()
	<-done
}

// round is one round of questions.
type round struct {
	t *HTTP
	// found ends the round when nobody is wanted any more.
	found context.CancelFunc

	mu     sync.Mutex
	wanted map[uint64]bool
}

// askAround asks the peers, the introducers, and the wanted senders of which it
// is known where they are, until all are known or everybody was asked. Who has
// a sender in his list vouches for him, and tells where to reach him.
func (t *HTTP) askAround(ctx context.Context, wanted map[uint64][]string) {
	roundCtx, found := context.WithCancel(ctx)
	defer found()
	r := &round{t: t, found: found, wanted: make(map[uint64]bool)}
	for id := range wanted {
		r.wanted[id] = true
	}
	var wg sync.WaitGroup
	places := make(chan struct{}, introduceMax)
	ask := func(urls []string, question func(context.Context, string) error) {
		wg.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			r.ask(roundCtx, urls, question)
		})
	}
	for id, urls := range t.known.Load().peers {
		ask(urls, func(ctx context.Context, url string) error { return r.askPeer(ctx, id, url) })
	}
	for _, url := range t.cfg.Introducers {
		ask([]string{url}, r.askIntroducer)
	}
	for id, urls := range wanted {
		ask(urls, func(ctx context.Context, url string) error { return r.askSender(ctx, id, url) })
	}
	wg.Wait()
	if len(r.wanted) == 0 || ctx.Err() != nil || !t.introductions.complaint.pass(time.Now(), complaintPause) {
		return
	}
	t.log.Warn("nobody vouches for the sender of refused requests; if it is a member, list a present member in bootstrap-config",
		"sender", deimos.FormatID(slices.Min(slices.Collect(maps.Keys(r.wanted)))), "unknown senders", len(r.wanted))
}

// ask asks at one URL after the other until there is an answer.
func (r *round) ask(ctx context.Context, urls []string, question func(context.Context, string) error) {
	for _, url := range urls {
		if ctx.Err() != nil {
			return
		}
		askCtx, cancel := context.WithTimeout(ctx, introduceTimeout)
		err := question(askCtx, url)
		cancel()
		if err == nil {
			return
		}
		r.t.log.Debug("the members were not asked for", "url", url, "error", err)
	}
}

// askPeer asks a known peer.
func (r *round) askPeer(ctx context.Context, id uint64, url string) error {
	info, a, err := r.t.opener.members(ctx, r.t.clients.calls, url, id)
	if a.member != 0 {
		if err := r.t.judge(ctx, id, url, a); err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	r.hear(info, info.Members)
	return nil
}

// askIntroducer asks whoever is at a URL of the operator's configuration.
func (r *round) askIntroducer(ctx context.Context, url string) error {
	info, err := r.stranger(ctx, url, 0)
	if err != nil {
		return err
	}
	r.hear(info, info.Members)
	return nil
}

// askSender asks an unknown sender at a URL that he has named. He can vouch for
// himself only, and does so by knowing this member: who is a member of the
// cluster has it in his list.
func (r *round) askSender(ctx context.Context, id uint64, url string) error {
	info, err := r.stranger(ctx, url, id)
	if err != nil {
		return err
	}
	self := slices.IndexFunc(info.Members, func(m deimos.Member) bool { return m.ID == r.t.cfg.MemberID })
	sender := slices.IndexFunc(info.Members, func(m deimos.Member) bool { return m.ID == id })
	if self < 0 || sender < 0 {
		return fmt.Errorf("transport: list members at %s: one of %x and %x is not in it", url, id, r.t.cfg.MemberID)
	}
	r.hear(info, info.Members[sender:sender+1])
	return nil
}

// stranger asks somebody who is not known (to is 0 where anybody may be there)
// for the members of this cluster. Nothing else is concluded from the answer.
func (r *round) stranger(ctx context.Context, url string, to uint64) (MembersInfo, error) {
	info, _, err := r.t.asker.members(ctx, r.t.clients.calls, url, to)
	switch {
	case err != nil:
		return info, err
	case info.ClusterID != r.t.cfg.ClusterID:
		return info, fmt.Errorf("transport: list members at %s: it is cluster %x, not %x", url, info.ClusterID, r.t.cfg.ClusterID)
	case to != 0 && info.MemberID != to:
		return info, fmt.Errorf("transport: list members at %s: member %x answers instead of member %x", url, info.MemberID, to)
	}
	return info, nil
}

// hear lets in those of a list that are wanted.
func (r *round) hear(info MembersInfo, members []deimos.Member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range members {
		if !r.wanted[m.ID] {
			continue
		}
		if err := r.t.addStranger(m, info.Incarnations[m.ID], info.MemberID); err != nil {
			r.t.log.Debug("a member that another one vouches for is not let in", "member", deimos.FormatID(m.ID), "error", err)
			continue
		}
		delete(r.wanted, m.ID)
	}
	if len(r.wanted) == 0 {
		r.found()
	}
}

// addStranger lets a member in that the log has not told of yet, and lets this
// member answer it. When there are too many, the one that has been silent for
// longest is forgotten: it is asked about again when it speaks.
func (t *HTTP) addStranger(m deimos.Member, i deimos.Incarnation, voucher uint64) error {
	if m.ID == t.cfg.MemberID {
		return errors.New("transport: add stranger: it is this member")
	}
	if err := t.checkPeer("add", m); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	k := t.known.Load()
	switch {
	case t.stopped:
		return fmt.Errorf("transport: add stranger %x: %w", m.ID, ErrStopped)
	case k.has(m.ID):
		return nil
	}
	if err := guard(func() { t.rt.AddPeer(types.ID(m.ID), m.PeerURLs) }); err != nil {
		return fmt.Errorf("transport: add stranger %x: %w", m.ID, err)
	}
	if len(k.strangers) >= strangersMax {
		id := t.silent(k)
		k = k.without(id)
		t.known.Store(k)
		t.dropPeer(id)
		t.metrics.forget(id)
		t.reasons.forget(id)
		t.runs.forget(id)
	}
	t.known.Store(k.withStranger(m.ID, newStranger(m.PeerURLs, time.Now()), i))
	t.log.Info("another member vouches for a member that the log has not told of yet",
		"member", deimos.FormatID(m.ID), "urls", fmt.Sprint(m.PeerURLs), "voucher", deimos.FormatID(voucher))
	return nil
}

// namedURLs returns the peer URLs at which an unknown sender may be asked who he
// is: nil unless it is certain that a holder of the secret or of a certificate
// has named them, because everybody else could make this member ask anybody
// anything. What a certificate vouches for must be asked over TLS again.
func (t *HTTP) namedURLs(r *http.Request) []string {
	certified := r.TLS != nil && len(r.TLS.VerifiedChains) > 0
	if t.cfg.Secret == nil && !certified {
		return nil
	}
	urls := parseURLs(r.Header.Get(headerPeerURLs))
	if t.cfg.Secret == nil {
		urls = slices.DeleteFunc(urls, func(url string) bool { return !strings.HasPrefix(url, "https://") })
	}
	return urls
}

// parseURLs reads peer URLs that are separated by commas. What is
// after the first 8, and what is no peer URL, is left out.
func parseURLs(list string) []string {
	var urls []string
	for i, url := range strings.SplitN(list, ",", namedURLsMax+1) {
		if i < namedURLsMax && checkURL(url) == nil {
			urls = append(urls, url)
		}
	}
	return urls
}

// pacer lets something pass once in a while. The zero value is ready.
type pacer struct {
	mu   sync.Mutex
	last time.Time
}

// pass reports whether it is time again.
func (p *pacer) pass(now time.Time, pause time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.last.IsZero() && now.Sub(p.last) < pause {
		return false
	}
	p.last = now
	return true
}
