package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/marsevilspirit/deimos"
)

// listMaxBytes bounds the member list that a member may tell.
const listMaxBytes = 1 << 20

// keepMembers looks for members, asks those that failed whether they are back,
// and refreshes the list, until ctx ends.
func (p *Proxy) keepMembers(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	searches := 0 // in a row that found no member
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.members.wake:
		case <-timer.C:
		}
		now := time.Now()
		p.retry(ctx, p.members.due(now))
		if p.members.lookDue(now) {
			again := p.refresh
			if err := p.look(ctx); err == nil {
				searches = 0
			} else if ctx.Err() == nil {
				level := slog.LevelWarn
				if searches > 0 {
					level = slog.LevelDebug
				}
				p.log.Log(ctx, level, "no member found", "error", err)
				again = min(p.limits.pauseMin<<min(searches, 16), p.limits.lostMax, p.refresh)
				searches++
			}
			p.members.looked(time.Now(), again)
		}
		timer.Reset(time.Until(p.members.next()))
	}
}

// retry asks members that failed, all at once.
func (p *Proxy) retry(ctx context.Context, due []*endpoint) {
	var asked sync.WaitGroup
	for _, e := range due {
		asked.Go(func() {
			if _, _, err := p.ask(ctx, e); err != nil {
				p.log.Debug("member still does not answer", "url", e.url(), "error", err)
			}
		})
	}
	asked.Wait()
}

// look refreshes the member list from a member, or through the bootstrap peers
// if none of those that are known answers.
func (p *Proxy) look(ctx context.Context) error {
	if p.adopt(ctx) {
		return nil
	}
	bounded, cancel := context.WithTimeout(ctx, p.limits.bootstrap)
	defer cancel()
	urls, err := p.bootstrap(bounded)
	if err != nil {
		return fmt.Errorf("asking the bootstrap peers: %w", err)
	}
	if len(urls) == 0 {
		return errors.New("the bootstrap peers know no client URL")
	}
	p.members.learn(urls)
	if !p.adopt(ctx) {
		return fmt.Errorf("none of the members that the bootstrap peers know answers: %q", urls)
	}
	return nil
}

// adopt takes over the list of the first member that tells one.
func (p *Proxy) adopt(ctx context.Context) bool {
	for _, e := range p.members.candidates("") {
		if ctx.Err() != nil {
			return false
		}
		clusterID, list, err := p.ask(ctx, e)
		if err != nil {
			continue // ask has noted it
		}
		if err = p.members.replace(clusterID, list); err == nil {
			return true
		}
		p.log.Warn("member list not used", "url", e.url(), "error", err)
		if errors.Is(err, errOtherCluster) {
			p.members.remove(e)
		}
	}
	return false
}

// ask returns the member list as e tells it, and notes whether it answers.
func (p *Proxy) ask(ctx context.Context, e *endpoint) (clusterID string, list []deimos.Member, err error) {
	ctx, cancel := context.WithTimeout(ctx, p.limits.probe)
	defer cancel()
	clusterID, list, err = p.fetch(ctx, e)
	switch {
	case err == nil:
		p.members.up(e)
	case !errors.Is(err, context.Canceled):
		p.metrics.failures.Inc()
		p.members.down(e, err)
	}
	return clusterID, list, err
}

func (p *Proxy) fetch(ctx context.Context, e *endpoint) (clusterID string, list []deimos.Member, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, e.url()+"/v2/members", nil)
	if err != nil {
		return "", nil, fmt.Errorf("asking %s for the members: %w", e.url(), err)
	}
	r.Header.Set(headerProxy, p.run)
	resp, err := p.transport.RoundTrip(r)
	if err != nil {
		return "", nil, fmt.Errorf("asking %s for the members: %w", e.url(), noteRefusal(err))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", nil, fmt.Errorf("asking %s for the members: status %d", e.url(), resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, listMaxBytes+1))
	if err != nil {
		return "", nil, fmt.Errorf("reading the members of %s: %w", e.url(), err)
	}
	if list, err = decodeMembers(body); err != nil {
		return "", nil, fmt.Errorf("reading the members of %s: %w", e.url(), err)
	}
	return resp.Header.Get(deimos.HeaderClusterID), list, nil
}

// decodeMembers reads the answer to GET /v2/members. It takes the ids and the
// client URLs, unchecked; a member that has not published any has none.
func decodeMembers(body []byte) ([]deimos.Member, error) {
	if len(body) > listMaxBytes {
		return nil, fmt.Errorf("the member list is larger than %d bytes", listMaxBytes)
	}
	var answer struct {
		Members []struct {
			ID         string   `json:"id"`
			ClientURLs []string `json:"clientURLs"`
		} `json:"members"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, err
	}
	list := make([]deimos.Member, 0, len(answer.Members))
	for _, m := range answer.Members {
		id, err := strconv.ParseUint(m.ID, 16, 64)
		if err != nil {
			return nil, fmt.Errorf("member id %q: %w", m.ID, err)
		}
		list = append(list, deimos.Member{ID: id, ClientURLs: m.ClientURLs})
	}
	return list, nil
}
