package transport

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/types"

	"github.com/marsevilspirit/deimos"
)

const (
	// introducePause is the least time between two rounds of asking peers who
	// an unknown sender is.
	introducePause = time.Second
	// introduceTimeout bounds the question to one peer.
	introduceTimeout = 5 * time.Second
)

// introductions are the unknown senders about whom peers are to be asked. A
// member that was away while the cluster grew can only learn of the new members
// from them, and must know that they are some.
type introductions struct {
	wake chan struct{} // holds a token while there may be some

	mu     sync.Mutex
	wanted map[uint64]bool // at most strangersMax
}

func newIntroductions() *introductions {
	return &introductions{wake: make(chan struct{}, 1), wanted: make(map[uint64]bool)}
}

// want asks about a sender in the background, if there is room: he tries again.
func (i *introductions) want(id uint64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.wanted) >= strangersMax {
		return
	}
	i.wanted[id] = true
	select {
	case i.wake <- struct{}{}:
	default:
	}
}

func (i *introductions) take() map[uint64]bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	wanted := i.wanted
	i.wanted = make(map[uint64]bool)
	return wanted
}

// introduce asks peers about unknown senders until the transport stops.
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

// askAround asks one peer after the other until all wanted senders are known. A
// peer that says so vouches for a sender, and tells where to reach him.
func (t *HTTP) askAround(ctx context.Context, wanted map[uint64]bool) {
	for id, urls := range t.known.Load().peers {
		for _, url := range urls {
			members, err := t.membersOf(ctx, id, url)
			if err != nil {
				t.log.Debug("peer not asked for the members", "peer", deimos.FormatID(id), "error", err)
				continue
			}
			for _, m := range members {
				if wanted[m.ID] && t.addStranger(m, id) {
					delete(wanted, m.ID)
				}
			}
			break
		}
		if len(wanted) == 0 || ctx.Err() != nil {
			return
		}
	}
}

// membersOf asks a known peer for the members that it knows.
func (t *HTTP) membersOf(ctx context.Context, id uint64, url string) ([]deimos.Member, error) {
	ctx, cancel := context.WithTimeout(ctx, introduceTimeout)
	defer cancel()
	info, a, err := t.opener.members(ctx, t.clients.calls, url, id)
	if a.member != 0 {
		if err := t.judge(id, url, a); err != nil {
			return nil, err
		}
	}
	return info.Members, err
}

// addStranger lets a member in that the log has not told of yet, and lets this
// member answer it.
func (t *HTTP) addStranger(m deimos.Member, voucher uint64) bool {
	if checkURLs(m.PeerURLs) != nil || t.cfg.IsRemoved(m.ID) || m.ID == t.cfg.MemberID {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	k := t.known.Load()
	if k.has(m.ID) {
		return true
	}
	if t.stopped || len(k.strangers) >= strangersMax {
		return false
	}
	if err := guard(func() { t.rt.AddRemote(types.ID(m.ID), m.PeerURLs) }); err != nil {
		return false
	}
	t.known.Store(k.withStranger(m.ID))
	t.log.Info("another member vouches for a member that the log has not told of yet",
		"member", deimos.FormatID(m.ID), "urls", fmt.Sprint(m.PeerURLs), "voucher", deimos.FormatID(voucher))
	return true
}
