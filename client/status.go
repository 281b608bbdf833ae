package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// Health reports whether the member at endpoint reaches a quorum, so that it
// serves writes and linearizable reads. In this and the other calls about one
// endpoint, that is a URL as in [Config.Endpoints], of whichever member the
// caller means; it need not be one that the client uses. The request is sent
// once. No answer is a [NoEndpointError].
func (c *Client) Health(ctx context.Context, endpoint string) (healthy bool, err error) {
	a, err := c.ask(ctx, endpoint, "/health")
	if err != nil {
		return false, err
	}
	var body struct{ Health string }
	if json.Unmarshal(a.body, &body) != nil || body.Health == "" {
		if err := a.err(); err != nil {
			return false, err
		}
		return false, fmt.Errorf("client: %s at %s: not an answer of Deimos: it has no health", a.op, a.endpoint)
	}
	return a.ok() && body.Health == "true", nil
}

// Version is what a server says of its build.
type Version struct {
	// Deimos is empty for servers that are not Deimos.
	Deimos string `json:"deimos"`
	// EtcdServer and EtcdCluster are the versions of etcd that the server is, or
	// is compatible with.
	EtcdServer  string `json:"etcdserver"`
	EtcdCluster string `json:"etcdcluster"`
}

// Version returns the version of the member at endpoint.
func (c *Client) Version(ctx context.Context, endpoint string) (Version, error) {
	var v Version
	err := c.askInto(ctx, endpoint, "/version", &v)
	return v, err
}

// SelfStats is what a member tells of itself, counted since its process started.
type SelfStats struct {
	Name string `json:"name"`
	// ID is the id of the member in hex.
	ID string `json:"id"`
	// State is StateLeader or StateFollower.
	State      string     `json:"state"`
	StartTime  time.Time  `json:"startTime"`
	LeaderInfo LeaderInfo `json:"leaderInfo"`
	// The counters are of append messages, the rates in messages and bytes a
	// second.
	RecvAppendRequests uint64  `json:"recvAppendRequestCnt"`
	RecvPkgRate        float64 `json:"recvPkgRate,omitempty"`
	RecvBandwidthRate  float64 `json:"recvBandwidthRate,omitempty"`
	SendAppendRequests uint64  `json:"sendAppendRequestCnt"`
	SendPkgRate        float64 `json:"sendPkgRate,omitempty"`
	SendBandwidthRate  float64 `json:"sendBandwidthRate,omitempty"`
}

// LeaderInfo tells since when a member has been following a leader.
type LeaderInfo struct {
	// Leader is the id of the leader in hex, empty without one.
	Leader string `json:"leader"`
	// Uptime is a duration as text.
	Uptime    string    `json:"uptime"`
	StartTime time.Time `json:"startTime"`
}

// SelfStats returns the statistics of the member at endpoint.
func (c *Client) SelfStats(ctx context.Context, endpoint string) (SelfStats, error) {
	var s SelfStats
	err := c.askInto(ctx, endpoint, "/v2/stats/self", &s)
	return s, err
}

// LeaderStats is what a leader tells of the members that follow it.
type LeaderStats struct {
	// Leader is the id of the leader in hex.
	Leader string `json:"leader"`
	// Followers are found by their ids in hex.
	Followers map[string]FollowerStats `json:"followers"`
}

// FollowerStats is how one member takes what the leader sends it.
type FollowerStats struct {
	// Latency is the time between a message and its answer, in milliseconds.
	Latency struct {
		CurrentMS           float64 `json:"current"`
		AverageMS           float64 `json:"average"`
		StandardDeviationMS float64 `json:"standardDeviation"`
		MinimumMS           float64 `json:"minimum"`
		MaximumMS           float64 `json:"maximum"`
	} `json:"latency"`
	// Counts are messages since the leader began to lead.
	Counts struct {
		Fail    uint64 `json:"fail"`
		Success uint64 `json:"success"`
	} `json:"counts"`
}

// LeaderStats returns the statistics of the leader. A member that does not lead
// answers a [StatusError] with status 403.
func (c *Client) LeaderStats(ctx context.Context, endpoint string) (LeaderStats, error) {
	var s LeaderStats
	err := c.askInto(ctx, endpoint, "/v2/stats/leader", &s)
	return s, err
}

// StoreStats counts the operations on keys since a process started: reads that
// the member answered, writes that it applied, whoever took them in.
type StoreStats struct {
	GetsSuccess             uint64 `json:"getsSuccess"`
	GetsFail                uint64 `json:"getsFail"`
	SetsSuccess             uint64 `json:"setsSuccess"`
	SetsFail                uint64 `json:"setsFail"`
	DeleteSuccess           uint64 `json:"deleteSuccess"`
	DeleteFail              uint64 `json:"deleteFail"`
	UpdateSuccess           uint64 `json:"updateSuccess"`
	UpdateFail              uint64 `json:"updateFail"`
	CreateSuccess           uint64 `json:"createSuccess"`
	CreateFail              uint64 `json:"createFail"`
	CompareAndSwapSuccess   uint64 `json:"compareAndSwapSuccess"`
	CompareAndSwapFail      uint64 `json:"compareAndSwapFail"`
	CompareAndDeleteSuccess uint64 `json:"compareAndDeleteSuccess"`
	CompareAndDeleteFail    uint64 `json:"compareAndDeleteFail"`
	// Expires counts the nodes that have expired.
	Expires uint64 `json:"expireCount"`
	// Watchers counts the watches that are open on the member now.
	Watchers uint64 `json:"watchers"`
}

// StoreStats returns the operations that the member at endpoint has counted.
func (c *Client) StoreStats(ctx context.Context, endpoint string) (StoreStats, error) {
	var s StoreStats
	err := c.askInto(ctx, endpoint, "/v2/stats/store", &s)
	return s, err
}

// askInto asks one endpoint and reads the answer, which has to be a success.
func (c *Client) askInto(ctx context.Context, endpoint, path string, into any) error {
	a, err := c.ask(ctx, endpoint, path)
	if err != nil {
		return err
	}
	if err := a.err(); err != nil {
		return err
	}
	return a.decode(into)
}

// ask sends a GET to one endpoint, once.
func (c *Client) ask(ctx context.Context, given, path string) (*answer, error) {
	u, err := parseEndpoint(given)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	ctx, end, err := c.beginCall(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	r := &request{method: http.MethodGet, path: path}
	a, _, err := c.attempt(ctx, &endpoint{url: u}, r, 0)
	if err != nil {
		s := &search{r: r, failures: []EndpointFailure{{u, err}}}
		if ctx.Err() != nil {
			return nil, s.over(ctx)
		}
		return nil, s.unreachable()
	}
	return a, nil
}
