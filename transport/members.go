package transport

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/marsevilspirit/deimos"
)

const (
	// membersPath is where the list of members is.
	membersPath = "/members"
	// membersMaxBytes bounds the list of members.
	membersMaxBytes = 4 << 20
)

// MembersInfo is what a member says about its cluster.
type MembersInfo struct {
	// ClusterID is the cluster of the member that was asked, MemberID the
	// member itself.
	ClusterID, MemberID uint64
	// Members are all members as the asked one knows them.
	Members []deimos.Member
}

// ClientConfig says how a [Client] asks.
type ClientConfig struct {
	// Secret is the peer secret of the cluster. nil: none.
	Secret *Secret
	// TLS is as that of [Config].
	TLS func() *tls.Config
	// DialTimeout bounds one attempt to connect. 0: 2 s.
	DialTimeout time.Duration
}

// Client asks members about their cluster without being one: before this
// process has joined, and in a proxy. All methods may be called from any
// goroutine. It owns no goroutine between calls.
type Client struct {
	opener    opener
	transport *http.Transport
}

// NewClient returns a client. [Client.Close] ends its connections.
func NewClient(cfg ClientConfig) *Client {
	if cfg.DialTimeout <= 0 {
		cfg.DialTimeout = dialTimeoutDefault
	}
	return &Client{
		opener:    opener{secret: cfg.Secret},
		transport: newClients(cfg.DialTimeout, cfg.TLS).calls,
	}
}

// Close ends the connections that no call uses.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// Members asks the member at a peer URL for the members of its cluster. It
// fails for a URL that is not a peer URL, when there is no sound answer of at
// most 4 MiB before ctx ends, and, if there is a secret, when the answer does
// not prove that it comes from a member that knows it.
func (c *Client) Members(ctx context.Context, peerURL string) (MembersInfo, error) {
	if err := checkURL(peerURL); err != nil {
		return MembersInfo{}, fmt.Errorf("transport: list members: %w", err)
	}
	info, _, err := c.opener.members(ctx, c.transport, peerURL, 0)
	return info, err
}

// members asks a member (0: whoever is there) for the members.
func (o *opener) members(ctx context.Context, rt http.RoundTripper, url string, to uint64) (MembersInfo, answer, error) {
	fail := func(a answer, err error) (MembersInfo, answer, error) {
		return MembersInfo{}, a, fmt.Errorf("transport: list members at %s: %w", url, err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url+membersPath, nil)
	if err != nil {
		return fail(answer{}, err)
	}
	resp, a, err := o.do(rt, r, to, nil)
	if err != nil {
		return fail(a, err)
	}
	defer resp.Body.Close()
	if a.refused != "" {
		return fail(a, &refusedError{a.member, url, a.refused})
	}
	if resp.StatusCode != http.StatusOK {
		return fail(a, fmt.Errorf("the answer has status %d", resp.StatusCode))
	}
	data, err := readAnswer(resp, a, membersMaxBytes)
	if err != nil {
		return fail(a, err)
	}
	list, err := parseMembers(data)
	if err != nil {
		return fail(a, err)
	}
	return MembersInfo{ClusterID: a.cluster, MemberID: a.member, Members: list}, a, nil
}

// parseMembers reads the list in the form of the client port.
func parseMembers(data []byte) ([]deimos.Member, error) {
	var body struct {
		Members []struct {
			ID         string   `json:"id"`
			Name       string   `json:"name"`
			PeerURLs   []string `json:"peerURLs"`
			ClientURLs []string `json:"clientURLs"`
			IsLearner  bool     `json:"isLearner"`
		} `json:"members"`
	}
	if err := json.Unmarshal(data, &body); err != nil {
		return nil, fmt.Errorf("list of members: %w", err)
	}
	if len(body.Members) == 0 {
		return nil, errors.New("list of members: it is empty")
	}
	list := make([]deimos.Member, 0, len(body.Members))
	for _, m := range body.Members {
		id, err := strconv.ParseUint(m.ID, 16, 64)
		if err != nil || id == 0 {
			return nil, fmt.Errorf("list of members: %.40q is no member id", m.ID)
		}
		list = append(list, deimos.Member{
			ID: id, Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs, IsLearner: m.IsLearner,
		})
	}
	return list, nil
}

// serveMembers answers with what Config.Members writes, whole, so that its
// proof can cover it.
func (t *HTTP) serveMembers(c *conn, r *http.Request, o opening) *refusedOpen {
	select {
	case t.listing <- struct{}{}:
		defer func() { <-t.listing }()
	default:
		return refuse(refusedBusy, http.StatusServiceUnavailable, o.sender, "too many requests for the list of members")
	}
	b := buffered{header: make(http.Header), status: http.StatusOK}
	r.Body = http.NoBody
	t.cfg.Members.ServeHTTP(&b, r)
	if b.body.Len() > membersMaxBytes {
		t.log.Error("list of members is too large", "bytes", b.body.Len(), "limit", membersMaxBytes)
		http.Error(c, "list too large", http.StatusInternalServerError)
		return nil
	}
	c.turnOff() // who is no member need not stay
	c.Header().Set("Content-Type", b.header.Get("Content-Type"))
	c.Header().Set(headerDigest, digest(b.body.Bytes()))
	c.WriteHeader(b.status)
	_, _ = io.Copy(c, &b.body) // the reader sees that it is cut short
	return nil
}

// buffered keeps an answer.
type buffered struct {
	header http.Header
	status int
	body   bytes.Buffer
}

// Header implements http.ResponseWriter.
func (b *buffered) Header() http.Header { return b.header }

// WriteHeader implements http.ResponseWriter.
func (b *buffered) WriteHeader(status int) { b.status = status }

// Write implements http.ResponseWriter.
func (b *buffered) Write(p []byte) (int, error) { return b.body.Write(p) }
