package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/marsevilspirit/deimos"
)

// membersPath is the members API, where etcd has it too.
const membersPath = "/v2/members"

// Members returns the member list, sorted by id, as the endpoint that answers
// knows it. Learners and members that have not started are in it.
func (c *Client) Members(ctx context.Context) ([]deimos.Member, error) {
	var list struct{ Members []member }
	if err := c.callMembers(ctx, http.MethodGet, "", nil, &list); err != nil {
		return nil, err
	}
	members := make([]deimos.Member, len(list.Members))
	for i, m := range list.Members {
		members[i] = m.Member
	}
	return members, nil
}

// Leader returns the member that leads. While there is none, it asks again until
// the request timeout is over; the error is [deimos.ErrLeaderElection] then.
func (c *Client) Leader(ctx context.Context) (deimos.Member, error) {
	var m member
	err := c.callMembers(ctx, http.MethodGet, "/leader", nil, &m)
	return m.Member, err
}

// AddMember adds a member that is to be started at peerURLs, and returns it with
// its id. It joins as a learner, which receives the log and does not vote. With
// learner it stays one until [Client.PromoteMember], else the leader promotes
// it when it has caught up.
//
// Refusals of this and the other changes are a [*StatusError] whose message says
// why: 409 for a peer URL that is taken or a change that would cost the quorum,
// 404 for an id that never was, 410 for one that was removed. When nobody knows
// whether a change was made, they fail with an [UnknownOutcomeError]; then look
// at [Client.Members] before trying again.
func (c *Client) AddMember(ctx context.Context, peerURLs []string, learner bool) (deimos.Member, error) {
	var m member
	err := c.callMembers(ctx, http.MethodPost, "", &memberBody{PeerURLs: peerURLs, IsLearner: learner}, &m)
	return m.Member, err
}

// UpdateMember replaces the peer URLs of a member.
func (c *Client) UpdateMember(ctx context.Context, id uint64, peerURLs []string) error {
	return c.callMembers(ctx, http.MethodPut, "/"+deimos.FormatID(id), &memberBody{PeerURLs: peerURLs}, nil)
}

// RemoveMember removes a member for ever: its id is never given again.
func (c *Client) RemoveMember(ctx context.Context, id uint64) error {
	return c.callMembers(ctx, http.MethodDelete, "/"+deimos.FormatID(id), nil, nil)
}

// PromoteMember makes a voter of a learner. One that has not caught up is
// refused with status 412.
func (c *Client) PromoteMember(ctx context.Context, id uint64) (deimos.Member, error) {
	var m member
	err := c.callMembers(ctx, http.MethodPost, "/"+deimos.FormatID(id)+"/promote", nil, &m)
	return m.Member, err
}

// MoveLeader hands leadership over to a voter and returns it. One that does not
// take over is status 503. etcd's v2 API does not have it.
func (c *Client) MoveLeader(ctx context.Context, id uint64) (deimos.Member, error) {
	var m member
	err := c.callMembers(ctx, http.MethodPost, "/"+deimos.FormatID(id)+"/lead", nil, &m)
	return m.Member, err
}

// Sync makes the client URLs of the member list the endpoints of the client.
// URLs that cannot be used are left out. The endpoints of the configuration
// remain in reserve for when no member can be reached. An error leaves
// everything as it was.
//
// Members advertise http://localhost:4001 unless they are told their address
// with --advertise-client-urls: from another machine that leads nowhere, or to a
// stranger.
func (c *Client) Sync(ctx context.Context) error {
	members, err := c.Members(ctx)
	if err != nil {
		return err
	}
	var urls []string
	for _, m := range members {
		for _, given := range m.ClientURLs {
			u, err := parseEndpoint(given)
			if err != nil {
				c.log.Warn("client URL of a member not used", "member", deimos.FormatID(m.ID), "error", err)
				continue
			}
			if !slices.Contains(urls, u) && len(urls) < EndpointsMax {
				urls = append(urls, u)
			}
		}
	}
	if len(urls) == 0 {
		return errors.New("client: sync: the member list has no client URL that can be used")
	}
	c.endpoints.replace(urls, c.cfg.Endpoints)
	return nil
}

// keepSynced runs Sync until the client is closed.
func (c *Client) keepSynced() {
	for {
		err := c.Sync(context.Background())
		if errors.Is(err, ErrClosed) {
			return
		}
		if err != nil {
			c.log.Warn("endpoints not synchronised", "error", err)
		}
		select {
		case <-c.stop:
			return
		case <-time.After(c.cfg.SyncInterval):
		}
	}
}

// callMembers sends a request to the members API. The body, unless it is nil,
// goes as JSON, and the answer into the value that into points to.
func (c *Client) callMembers(ctx context.Context, method, below string, body *memberBody, into any) error {
	r := &request{method: method, path: membersPath + below}
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("client: %s: %w", r.op(), err)
		}
		r.body, r.contentType = string(text), typeJSON
	}
	a, err := c.do(ctx, r)
	if err != nil {
		return err
	}
	if err := a.err(); err != nil || into == nil {
		return err
	}
	if err := a.decode(into); err != nil {
		if r.isRead() {
			return err
		}
		return &UnknownOutcomeError{Op: a.op, Endpoint: a.endpoint, Err: err}
	}
	return nil
}

// memberBody is what is said of a member that is added or updated.
type memberBody struct {
	PeerURLs  []string `json:"peerURLs"`
	IsLearner bool     `json:"isLearner,omitempty"`
}

// member is a member as the API shows it.
type member struct{ deimos.Member }

// UnmarshalJSON implements [json.Unmarshaler].
func (m *member) UnmarshalJSON(text []byte) error {
	var v struct {
		ID         string   `json:"id"`
		Name       string   `json:"name"`
		PeerURLs   []string `json:"peerURLs"`
		ClientURLs []string `json:"clientURLs"`
		IsLearner  bool     `json:"isLearner"`
	}
	if err := json.Unmarshal(text, &v); err != nil {
		return err
	}
	id, err := strconv.ParseUint(v.ID, 16, 64)
	if err != nil {
		return fmt.Errorf("%q is not the id of a member", v.ID)
	}
	m.Member = deimos.Member{ID: id, Name: v.Name, PeerURLs: v.PeerURLs, ClientURLs: v.ClientURLs, IsLearner: v.IsLearner}
	return nil
}
