package transport

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"

	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/server/v3/etcdserver/api/rafthttp"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// Names of rafthttp's headers.
const (
	headerSender   = "X-Server-From"
	headerCluster  = "X-Etcd-Cluster-ID"
	headerPeerURLs = "X-PeerURLs"
	headerVersion  = "X-Server-Version"
	headerMinimum  = "X-Min-Cluster-Version"
)

// errOpening is the kind of the errors for requests that are turned away
// before a message is read from them.
var errOpening = errors.New("transport: request refused")

// serve makes the checks that rafthttp leaves out, bounds the request, and
// hands it to rafthttp's handler. A handler that panics costs its connection,
// no more.
func (t *HTTP) serve(w http.ResponseWriter, r *http.Request) {
	var admit func(http.ResponseWriter, *http.Request) bool
	sender, _ := parseID(r.Header.Get(headerSender))
	switch dir := path.Dir(r.URL.Path); {
	case r.URL.Path == rafthttp.RaftPrefix:
		admit = t.admitMessage
	case r.URL.Path == rafthttp.RaftSnapshotPrefix:
		admit = t.admitSnapshot
	case path.Dir(dir) == rafthttp.RaftStreamPrefix && path.Clean(r.URL.Path) == r.URL.Path:
		admit = t.admitStream
		sender, _ = parseID(path.Base(r.URL.Path))
	default:
		http.NotFound(w, r)
		return
	}
	c := t.conns.begin(w, sender)
	if c == nil {
		http.Error(w, "stopped", http.StatusServiceUnavailable)
		return
	}
	defer t.conns.end(c)
	defer t.recovered(sender)
	r.Body = timedBody{c, r.Body}
	defer t.snapshotReceived(r)
	if !isVersion(r.Header.Get(headerVersion)) || !isVersion(r.Header.Get(headerMinimum)) {
		t.turnAway(c, sender, http.StatusBadRequest, "invalid version")
		return
	}
	if admit(c, r) {
		t.raw.ServeHTTP(c, r)
	}
}

// recovered turns a panic of a handler into the end of its connection.
func (t *HTTP) recovered(sender uint64) {
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
		t.requestRefused(sender, refusedPanic, err)
	}
	panic(http.ErrAbortHandler)
}

// turnAway answers a request that is not let through to rafthttp.
func (t *HTTP) turnAway(w http.ResponseWriter, sender uint64, code int, why string) bool {
	t.requestRefused(sender, refusedOpening, fmt.Errorf("%w: %s", errOpening, why))
	http.Error(w, why, code)
	return false
}

// admitStream lets a peer read what this member sends to it. rafthttp refuses
// other clusters, removed members and strangers. A stranger does not become
// known by listening.
func (t *HTTP) admitStream(_ http.ResponseWriter, r *http.Request) bool {
	r.Header.Del(headerPeerURLs)
	return true
}

// admitMessage lets a member post a message of at most 16 MiB.
func (t *HTTP) admitMessage(w http.ResponseWriter, r *http.Request) bool {
	if !t.admitSender(w, r) {
		return false
	}
	if r.ContentLength > messageMaxBytes {
		sender, _ := parseID(r.Header.Get(headerSender))
		return t.turnAway(w, sender, http.StatusRequestEntityTooLarge, "message too large")
	}
	r.Body = http.MaxBytesReader(w, r.Body, messageMaxBytes)
	return true
}

// admitSender refuses posts of removed members, and lets a member that is not
// known yet in, within bounds: a member that was away while the cluster grew
// can only learn of the new members from them.
func (t *HTTP) admitSender(w http.ResponseWriter, r *http.Request) bool {
	urls := strings.Split(r.Header.Get(headerPeerURLs), ",")
	r.Header.Del(headerPeerURLs) // from here on only we tell rafthttp of strangers
	if r.Method != http.MethodPost || r.Header.Get(headerCluster) != types.ID(t.cfg.ClusterID).String() {
		return true // rafthttp refuses it before it reads the body
	}
	sender, ok := parseID(r.Header.Get(headerSender))
	switch {
	case !ok || sender == t.cfg.MemberID:
		return t.turnAway(w, sender, http.StatusBadRequest, "invalid sender")
	case t.cfg.IsRemoved(sender):
		t.requestRefused(sender, refusedRemoved, errSenderRemoved{sender})
		errSenderRemoved{sender}.WriteTo(w)
		return false
	case t.known.Load().has(sender):
		return true
	}
	if err := checkURLs(urls); err != nil {
		return t.turnAway(w, sender, http.StatusNotFound, "unknown sender without usable peer URLs")
	}
	if !t.addStranger(sender, urls) {
		return t.turnAway(w, sender, http.StatusNotFound, "too many unknown senders")
	}
	return true
}

// addStranger lets this member answer a member that it does not know yet.
func (t *HTTP) addStranger(id uint64, urls []string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := t.known.Load()
	if k.has(id) {
		return true
	}
	if t.stopped || len(k.strangers) >= strangersMax {
		return false
	}
	if err := guard(func() { t.rt.AddRemote(types.ID(id), urls) }); err != nil {
		return false
	}
	t.known.Store(k.withStranger(id))
	t.log.Info("message from a member that the log has not told of yet", "sender", types.ID(id).String(), "peer URLs", urls)
	return true
}

// admitSnapshot lets a member post a snapshot, of which it reads the message in
// front first, because rafthttp names a file by it.
func (t *HTTP) admitSnapshot(w http.ResponseWriter, r *http.Request) bool {
	if !t.admitSender(w, r) {
		return false
	}
	if r.Method != http.MethodPost || r.Header.Get(headerCluster) != types.ID(t.cfg.ClusterID).String() {
		return true
	}
	sender, _ := parseID(r.Header.Get(headerSender))
	m, head, err := readSnapshotMessage(r.Body)
	if err != nil {
		return t.turnAway(w, sender, http.StatusBadRequest, err.Error())
	}
	if m.To != t.cfg.MemberID || m.From == raft.None || t.cfg.IsRemoved(m.From) {
		return t.turnAway(w, sender, http.StatusBadRequest, fmt.Sprintf("snapshot from %x for %x", m.From, m.To))
	}
	select {
	case t.receiving <- struct{}{}:
	default:
		return t.turnAway(w, sender, http.StatusServiceUnavailable, "too many snapshots at one time")
	}
	r.Body = &receivedBody{Reader: io.MultiReader(bytes.NewReader(head), r.Body), Closer: r.Body}
	return true
}

// receivedBody is the body of a request that holds a token of receiving.
type receivedBody struct {
	io.Reader
	io.Closer
}

// snapshotReceived gives the token back, if the request holds one.
func (t *HTTP) snapshotReceived(r *http.Request) {
	if _, ok := r.Body.(*receivedBody); ok {
		<-t.receiving
	}
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
