package transport

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/marsevilspirit/deimos"
)

const (
	// membersPath is where the list of members is.
	membersPath = "/members"
	// membersMaxBytes bounds the list of members.
	membersMaxBytes = 4 << 20
	// incarnationsMax bounds the incarnations beside a list of members.
	incarnationsMax = 1024
)

// MembersInfo is what a member says about its cluster.
type MembersInfo struct {
	// ClusterID is the cluster of the member that was asked, MemberID the
	// member itself.
	ClusterID, MemberID uint64
	// Members are all members as the asked one knows them.
	Members []deimos.Member
	// RaftIndex is the raft index that the asked member had applied: the list
	// is that of this raft index or of a later one. 0: not said.
	RaftIndex uint64
	// Incarnations are those of the members that have started, by id, as far as
	// the asked member tells them. nil: not said.
	Incarnations map[uint64]deimos.Incarnation
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
		return fail(a, a.refusal(url))
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
	info := MembersInfo{ClusterID: a.cluster, MemberID: a.member, Members: list}
	if info.Incarnations, err = parseIncarnations(resp.Header.Get(headerIncarnations)); err != nil {
		return fail(a, err)
	}
	if s := resp.Header.Get(headerRaftIndex); s != "" {
		if info.RaftIndex, err = strconv.ParseUint(s, 10, 64); err != nil {
			return fail(a, fmt.Errorf("the header %s is not a number: %.40q", headerRaftIndex, s))
		}
	}
	return info, a, nil
}

// formatIncarnations writes incarnations in the order of the ids, at most 1024:
// "id=incarnation,id=incarnation".
func formatIncarnations(known map[uint64]deimos.Incarnation) string {
	var b strings.Builder
	n := 0
	for _, id := range slices.Sorted(maps.Keys(known)) {
		if known[id].IsZero() || n == incarnationsMax {
			continue
		}
		if n++; n > 1 {
			b.WriteByte(',')
		}
		b.WriteString(deimos.FormatID(id) + "=" + known[id].String())
	}
	return b.String()
}

// parseIncarnations reads what formatIncarnations writes; nil when there is
// nothing.
func parseIncarnations(s string) (map[uint64]deimos.Incarnation, error) {
	if s == "" {
		return nil, nil
	}
	list := strings.SplitN(s, ",", incarnationsMax+1)
	if len(list) > incarnationsMax {
		return nil, fmt.Errorf("the header %s has more than %d elements", headerIncarnations, incarnationsMax)
	}
	known := make(map[uint64]deimos.Incarnation, len(list))
	for _, element := range list {
		text, number, _ := strings.Cut(element, "=")
		id, ok := parseID(text)
		b, err := hex.DecodeString(number)
		if !ok || err != nil || len(b) != len(deimos.Incarnation{}) || deimos.Incarnation(b).IsZero() {
			return nil, fmt.Errorf("the header %s has the element %.60q", headerIncarnations, element)
		}
		known[id] = deimos.Incarnation(b)
	}
	return known, nil
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
	if t.cfg.RaftIndex != nil { // before the list, which is not older then
		c.Header().Set(headerRaftIndex, strconv.FormatUint(t.cfg.RaftIndex(), 10))
	}
	t.cfg.Members.ServeHTTP(&b, r)
	if b.body.Len() > membersMaxBytes {
		t.log.Error("list of members is too large", "bytes", b.body.Len(), "limit", membersMaxBytes)
		http.Error(c, "list too large", http.StatusInternalServerError)
		return nil
	}
	c.turnOff() // who is no member need not stay
	c.Header().Set("Content-Type", b.header.Get("Content-Type"))
	c.Header().Set(headerDigest, digest(b.body.Bytes()))
	if t.cfg.Incarnations != nil {
		if known := formatIncarnations(t.cfg.Incarnations()); known != "" {
			c.Header().Set(headerIncarnations, known)
		}
	}
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
