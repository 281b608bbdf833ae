package daemon

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/transport"
)

const (
	// lookUpTimeout bounds the wait for a cluster that is to be joined; lookUpPause
	// is the time between two rounds of asking all its members.
	lookUpTimeout = 15 * time.Second
	lookUpPause   = 500 * time.Millisecond
	// answerTimeout is how long one round waits for answers.
	answerTimeout = 2 * time.Second
)

// askFunc asks at one peer URL for the members; see [transport.Client.Members].
type askFunc func(ctx context.Context, peerURL string) (transport.MembersInfo, error)

// introduction is what somebody answered, and where.
type introduction struct {
	transport.MembersInfo
	url string
}

// askFirst asks at all these URLs at the same time and returns what is answered
// first: one behind which nobody answers must not keep the others from being asked.
// Without an answer within answerTimeout, or before ctx ends, it says what went
// wrong at each.
func askFirst(ctx context.Context, ask askFunc, urls []string) (introduction, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	var (
		asked sync.WaitGroup
		mu    sync.Mutex
		first introduction
		errs  = make([]error, len(urls))
	)
	for i, u := range urls {
		asked.Go(func() {
			info, err := ask(ctx, u)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				errs[i] = fmt.Errorf("%s: %w", u, err)
			case first.url == "":
				first = introduction{info, u}
				cancel()
			}
		})
	}
	asked.Wait()
	if first.url == "" {
		return first, errors.Join(errs...)
	}
	return first, nil
}

// askOnce asks all other configured members at the same time, and returns the
// newest of their answers.
func askOnce(ctx context.Context, ask askFunc, cfg *Config) (transport.MembersInfo, error) {
	var asked sync.WaitGroup
	answers := make([]introduction, len(cfg.Bootstrap))
	errs := make([]error, len(cfg.Bootstrap))
	for i, m := range cfg.Bootstrap {
		if m.Name != cfg.Name {
			asked.Go(func() { answers[i], errs[i] = askFirst(ctx, ask, m.PeerURLs) })
		}
	}
	asked.Wait()
	var best introduction
	for _, a := range answers {
		switch {
		case a.url == "":
		case best.url == "":
			best = a
		case a.ClusterID != best.ClusterID:
			return best.MembersInfo, &disagreementError{[2]string{best.url, a.url}, [2]uint64{best.ClusterID, a.ClusterID}}
		case a.RaftIndex > best.RaftIndex:
			best = a
		}
	}
	if best.url == "" {
		return best.MembersInfo, errors.Join(errs...)
	}
	return best.MembersInfo, nil
}

// askMembers asks the other configured members until one answers.
func askMembers(ctx context.Context, cfg *Config, s *security) (transport.MembersInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, lookUpTimeout)
	defer cancel()
	client := transport.NewClient(transport.ClientConfig{Secret: s.secret, TLS: s.peer.dial()})
	defer client.Close()
	for round := 0; ; round++ {
		info, err := askOnce(ctx, client.Members, cfg)
		if err == nil || ctx.Err() != nil {
			if err != nil {
				err = fmt.Errorf("no member of the cluster to be joined could be asked: %w", err)
			}
			return info, err
		}
		var foreign *disagreementError
		if errors.As(err, &foreign) {
			return info, err
		}
		if round == 0 {
			cfg.Log.Warn("no member of the cluster to be joined could be asked; trying on", "error", err)
		}
		select {
		case <-time.After(lookUpPause):
		case <-ctx.Done():
		}
	}
}

// disagreementError says that the configured members are of two clusters.
type disagreementError struct {
	urls     [2]string
	clusters [2]uint64
}

func (e *disagreementError) Error() string {
	return fmt.Sprintf("%s belongs to cluster %s and %s to cluster %s: bootstrap-config has to list members of one cluster",
		e.urls[0], deimos.FormatID(e.clusters[0]), e.urls[1], deimos.FormatID(e.clusters[1]))
}

// introducers returns the peer URLs of the configured members.
func (c *Config) introducers() []string {
	var urls []string
	for _, m := range c.Bootstrap {
		urls = append(urls, m.PeerURLs...)
	}
	return urls
}
