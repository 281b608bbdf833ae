package transport

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"strconv"

	"go.etcd.io/etcd/server/v3/etcdserver/api/rafthttp"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos"
)

const (
	// refusingMax bounds the refusals that are being written at one time. A
	// request above it loses its connection without an answer.
	refusingMax = 256
	// membersServeMax bounds the member lists that are being written at one
	// time, for which no membership is needed.
	membersServeMax = 16
)

// errOpening is the kind of the errors for requests that are turned away
// before a message is read from them.
var errOpening = errors.New("transport: request refused")

// handler serves a request whose opening is acceptable. It returns how the
// request is to be refused, nil when it has been answered.
type handler func(c *conn, r *http.Request, o opening) *refusedOpen

// route is what is behind a path.
type route struct {
	method string
	serve  handler
	raft   bool // rafthttp's own, which must name versions
	anyone bool // also for those that are no members
}

// route finds what is behind a path.
func (t *HTTP) route(p string) (route, bool) {
	switch {
	case p == rafthttp.RaftPrefix:
		return route{method: http.MethodPost, serve: t.serveMessage, raft: true}, true
	case p == rafthttp.RaftSnapshotPrefix:
		return route{method: http.MethodPost, serve: t.serveSnapshot, raft: true}, true
	case path.Dir(path.Dir(p)) == rafthttp.RaftStreamPrefix && path.Clean(p) == p:
		return route{method: http.MethodGet, serve: t.serveStream, raft: true}, true
	case p == callPath && t.cfg.Answer != nil:
		return route{method: http.MethodPost, serve: t.serveCall}, true
	case p == membersPath && t.cfg.Members != nil:
		return route{method: http.MethodGet, serve: t.serveMembers, anyone: true}, true
	}
	return route{}, false
}

// serve makes the checks that rafthttp leaves out, bounds the request, and
// hands it to what is behind its path. A handler that panics costs its
// connection, no more.
func (t *HTTP) serve(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	claimed, _ := parseID(r.Header.Get(headerSender))
	c := t.conns.begin(w, claimed, cancel)
	if c == nil {
		(&conn{ResponseWriter: w, control: http.NewResponseController(w)}).turnOff()
		http.Error(w, "stopped", http.StatusServiceUnavailable)
		return
	}
	defer t.conns.end(c)
	defer t.recovered(r)
	r = r.WithContext(ctx)
	r.Body = timedBody{c, r.Body}
	to, ok := t.route(r.URL.Path)
	if !ok {
		c.turnOff()
		http.NotFound(c, r)
		return
	}
	if refused := t.serveRoute(c, r, to); refused != nil {
		t.turnAway(c, r, refused)
	}
}

// serveRoute checks the opening and serves the request.
func (t *HTTP) serveRoute(c *conn, r *http.Request, to route) *refusedOpen {
	refused := t.door.check(r)
	c.opened = t.signer(r, refused == nil || refused.reason == refusedClock)
	if refused != nil {
		return refused
	}
	o, err := parseOpening(r.Header)
	if err != nil {
		return refuse(refusedOpening, http.StatusBadRequest, 0, "%w", err)
	}
	o.peerURLs = t.namedURLs(r)
	if refused := t.admit(o, to.anyone); refused != nil {
		return refused
	}
	leave, refused := t.admitRun(c, r, o)
	if refused != nil {
		return refused
	}
	defer leave()
	if to.raft && (!isVersion(r.Header.Get(headerVersion)) || !isVersion(r.Header.Get(headerMinimum))) {
		return refuse(refusedOpening, http.StatusBadRequest, o.sender, "invalid version")
	}
	if r.Method != to.method {
		c.Header().Set("Allow", to.method)
		return refuse(refusedOpening, http.StatusMethodNotAllowed, o.sender, "method %.20q for %s", r.Method, to.method)
	}
	return to.serve(c, r, o)
}

// signer returns what writes into an answer who gives it, and proves it to who
// has proven himself.
func (t *HTTP) signer(r *http.Request, authentic bool) func(int, http.Header) {
	proof := r.Header.Get(headerProof)
	return func(status int, h http.Header) {
		h.Set(headerCluster, deimos.FormatID(t.cfg.ClusterID))
		h.Set(headerMember, deimos.FormatID(t.cfg.MemberID))
		h.Set(headerIncarnation, t.cfg.Incarnation.String())
		h.Set(headerRun, t.door.run)
		if t.cfg.Secret != nil && authentic {
			h.Set(headerProof, t.cfg.Secret.answerProof(proof, status, h))
		}
	}
}

// admit makes the checks of an authentic opening. It is the only place that
// decides which members may speak to this one; admitRun decides which process of
// the member may.
func (t *HTTP) admit(o opening, anyone bool) *refusedOpen {
	const status = http.StatusPreconditionFailed
	anonymous := anyone && o.sender == 0
	switch known := t.incarnationOf(o.sender); {
	case o.cluster != t.cfg.ClusterID && !(anonymous && o.cluster == 0):
		return refuse(refusedCluster, status, 0, "member %x of cluster %x, this is cluster %x", o.sender, o.cluster, t.cfg.ClusterID)
	case o.receiver != t.cfg.MemberID && !(anonymous && o.receiver == 0):
		return refuse(refusedRecipient, status, o.sender, "it is for member %x, this is member %x", o.receiver, t.cfg.MemberID)
	case anonymous:
		return nil
	case o.sender == 0 || o.sender == t.cfg.MemberID:
		return refuse(refusedSender, http.StatusBadRequest, 0, "the sender is %x", o.sender)
	case t.cfg.IsRemoved(o.sender):
		return refuse(refusedRemoved, http.StatusGone, o.sender, "the sender %x was removed", o.sender)
	case o.incarnation.IsZero():
		return refuse(refusedOpening, http.StatusBadRequest, o.sender, "the sender %x does not say which data directory it runs with", o.sender)
	case !known.IsZero() && known != o.incarnation:
		return refuse(refusedIncarnation, http.StatusConflict, o.sender,
			"the sender %x runs with the data directory %s, but is known with %s", o.sender, o.incarnation, known)
	case !t.known.Load().has(o.sender):
		t.introductions.want(o.sender, o.peerURLs)
		return refuse(refusedSender, http.StatusServiceUnavailable, 0, "no member that is known has told of the sender %x yet", o.sender)
	case !o.expects.IsZero() && o.expects != t.cfg.Incarnation:
		t.end(&WipedError{Member: t.cfg.MemberID, Mine: t.cfg.Incarnation, Theirs: o.expects, By: o.sender})
		return refuse(refusedExpected, http.StatusConflict, o.sender,
			"it is meant for the data directory %s, this is %s", o.expects, t.cfg.Incarnation)
	case !t.meet(o.sender, o.incarnation): // another request has just been the first
		return refuse(refusedIncarnation, http.StatusConflict, o.sender,
			"the sender %x runs with the data directory %s, but was first met with another one", o.sender, o.incarnation)
	}
	t.heard(o.sender)
	return nil
}

// turnAway answers a request that is refused, reads nothing more of it, and
// ends its connection.
func (t *HTTP) turnAway(c *conn, r *http.Request, e *refusedOpen) {
	switch e.reason {
	case refusedRun, refusedNotReady: // the first word of every sound sender, and to one
		t.metrics.refusedFor(e.reason)
	default:
		t.refused(&raftpb.Message{From: e.sender}, e.reason, fmt.Errorf("%w: %s %s from %s: %w",
			errOpening, r.Method, r.URL.Path, r.RemoteAddr, e.err))
	}
	if t.refusing.Add(1) > refusingMax {
		t.refusing.Add(-1)
		panic(http.ErrAbortHandler)
	}
	defer t.refusing.Add(-1)
	c.turnOff()
	c.Header().Set(headerRefused, string(e.reason))
	switch e.reason {
	case refusedIncarnation:
		c.Header().Set(headerKnows, t.incarnationOf(e.sender).String())
	case refusedTwin:
		if first := t.runs.of(e.sender); first != nil {
			c.Header().Set(headerTwin, formatTwin(first))
		}
	case refusedClock:
		c.Header().Set(headerTime, strconv.FormatInt(t.door.now().UnixMilli(), 10))
	}
	http.Error(c, string(e.reason), e.status)
}

// recovered turns a panic of a handler into the end of its connection.
func (t *HTTP) recovered(r *http.Request) {
	v := recover()
	if v == nil {
		return
	}
	err, isErr := v.(error)
	if !isErr {
		err = fmt.Errorf("transport: handler: %v", v)
	}
	told := errors.Is(err, errRefused) || errors.Is(err, ErrStopped) || errors.Is(err, http.ErrAbortHandler)
	if !told {
		t.refused(&raftpb.Message{}, refusedPanic, fmt.Errorf("transport: %.60q from %s: %w", r.URL.Path, r.RemoteAddr, err))
	}
	panic(http.ErrAbortHandler)
}

// serveStream lets a peer read what this member sends to it. A member that the
// log has not told of yet does not get a stream.
func (t *HTTP) serveStream(c *conn, r *http.Request, o opening) *refusedOpen {
	if id, ok := parseID(path.Base(r.URL.Path)); !ok || id != o.sender {
		return refuse(refusedSender, http.StatusNotFound, o.sender, "the sender %x asks for the stream of another member", o.sender)
	}
	if _, ok := t.known.Load().peers[o.sender]; !ok {
		return refuse(refusedSender, http.StatusServiceUnavailable, o.sender, "the log has not told of the sender %x yet", o.sender)
	}
	r.Header.Del(headerPeerURLs) // rafthttp hears of members from us only
	t.raw.ServeHTTP(c, r)
	return nil
}

// serveMessage takes a message of at most 16 MiB.
func (t *HTTP) serveMessage(c *conn, r *http.Request, o opening) *refusedOpen {
	data, refused := t.readBody(r, o, messageMaxBytes)
	if refused != nil {
		return refused
	}
	var m raftpb.Message
	if err := m.Unmarshal(data); err != nil {
		return refuse(refusedOpening, http.StatusBadRequest, o.sender, "message of %x: %w", o.sender, err)
	}
	if err := speaksFor(o.sender, &m); err != nil {
		return refuse(refusedSender, http.StatusBadRequest, o.sender, "%w", err)
	}
	err := t.receive(m)
	var removed errSenderRemoved
	switch {
	case err == nil:
		c.WriteHeader(http.StatusNoContent)
	case errors.As(err, &removed) && removed.id == o.sender:
		c.Header().Set(headerRefused, string(refusedRemoved))
		c.turnOff()
		http.Error(c, string(refusedRemoved), http.StatusGone)
	default: // the inbox has told of it
		c.turnOff()
		http.Error(c, "message refused", http.StatusInternalServerError)
	}
	return nil
}

// readBody reads a whole body that the opening covers.
func (t *HTTP) readBody(r *http.Request, o opening, limit int64) ([]byte, *refusedOpen) {
	tooLarge := refuse(refusedTooLarge, http.StatusRequestEntityTooLarge, o.sender, "a body above the limit of %d bytes", limit)
	if r.ContentLength > limit {
		return nil, tooLarge
	}
	data, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	switch {
	case err != nil:
		return nil, refuse(refusedOpening, http.StatusBadRequest, o.sender, "body: %w", err)
	case int64(len(data)) > limit:
		return nil, tooLarge
	case t.cfg.Secret != nil && digest(data) != o.digest:
		return nil, refuse(refusedSecret, http.StatusUnauthorized, o.sender, "the body is not the one that the proof covers")
	}
	return data, nil
}

// speaksFor returns an error when a member sends a message in the name of
// another one. Proposals and requests to read are passed on by followers that
// were taken for the leader, and keep the name of the first sender.
func speaksFor(sender uint64, m *raftpb.Message) error {
	if m.From == sender || m.From != raft.None && (m.Type == raftpb.MsgProp || m.Type == raftpb.MsgReadIndex) {
		return nil
	}
	return fmt.Errorf("member %x sends a %s in the name of member %x", sender, m.Type, m.From)
}

// serveSnapshot takes a snapshot, of which it reads the message in front first,
// because rafthttp names a file by it.
func (t *HTTP) serveSnapshot(c *conn, r *http.Request, o opening) *refusedOpen {
	select {
	case t.receiving <- struct{}{}:
		defer func() { <-t.receiving }()
	default:
		return refuse(refusedBusy, http.StatusServiceUnavailable, o.sender, "too many snapshots at one time")
	}
	m, head, err := readSnapshotMessage(r.Body)
	switch {
	case err != nil:
		return refuse(refusedOpening, http.StatusBadRequest, o.sender, "%w", err)
	case t.cfg.Secret != nil && digest(head) != o.digest:
		return refuse(refusedSecret, http.StatusUnauthorized, o.sender, "the head of the snapshot is not the one that the proof covers")
	case m.To != t.cfg.MemberID:
		return refuse(refusedRecipient, http.StatusBadRequest, o.sender, "snapshot for member %x", m.To)
	case m.From != o.sender:
		return refuse(refusedSender, http.StatusBadRequest, o.sender, "snapshot in the name of member %x", m.From)
	}
	r.Body = receivedBody{io.MultiReader(bytes.NewReader(head), r.Body), r.Body}
	r.Header.Del(headerPeerURLs) // rafthttp hears of members from us only
	t.raw.ServeHTTP(c, r)
	return nil
}

// receivedBody is a body of which the head was read already.
type receivedBody struct {
	io.Reader
	io.Closer
}

// readSnapshotMessage reads the length and the message in front of a snapshot
// and returns the message and all bytes read. It takes no more memory than the
// bytes that arrive, and none for a length above the limit.
func readSnapshotMessage(r io.Reader) (raftpb.Message, []byte, error) {
	var m raftpb.Message
	var head bytes.Buffer
	if _, err := io.CopyN(&head, r, 8); err != nil {
		return m, nil, fmt.Errorf("length of the snapshot message: %w", err)
	}
	size := binary.BigEndian.Uint64(head.Bytes())
	if size > snapshotMessageMaxBytes {
		return m, nil, fmt.Errorf("snapshot message of %d bytes, at most %d are taken", size, snapshotMessageMaxBytes)
	}
	if _, err := io.CopyN(&head, r, int64(size)); err != nil {
		return m, nil, fmt.Errorf("snapshot message: %w", err)
	}
	if err := m.Unmarshal(head.Bytes()[8:]); err != nil {
		return m, nil, fmt.Errorf("snapshot message: %w", err)
	}
	if m.Type != raftpb.MsgSnap || m.Snapshot == nil || m.Snapshot.Metadata.Index == 0 {
		return m, nil, errors.New("not the message of a snapshot")
	}
	return m, head.Bytes(), nil
}
