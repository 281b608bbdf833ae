package httpapi

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/marsevilspirit/deimos"
)

const (
	textElection      = "During election"
	textNotFound      = "Not found"
	textChangeTimeout = "request timed out; the change may or may not have been applied"
)

// cutMembers takes the prefix of the members API off a decoded path. What is
// left is empty for the collection, else the path below it without the slash
// in front.
func cutMembers(urlPath string) (rest string, ok bool) {
	if rest, ok = strings.CutPrefix(urlPath, "/v2/members"); !ok {
		if rest, ok = strings.CutPrefix(urlPath, "/members"); !ok {
			return "", false
		}
	}
	if rest == "" {
		return "", true
	}
	return strings.CutPrefix(rest, "/")
}

// serveMembers answers a request to the members API. rest is what cutMembers
// has left of the path.
func (c *call) serveMembers(rest string) {
	if rest == "" {
		c.serveCollection()
		return
	}
	id, verb, below := strings.Cut(rest, "/")
	switch {
	case below && verb == "promote":
		if c.allowed(http.MethodPost) {
			c.changeMember(id, deimos.MemberChange{Op: deimos.MemberPromote})
		}
	case below && verb == "lead":
		if c.allowed(http.MethodPost) {
			c.changeMember(id, deimos.MemberChange{Op: deimos.MemberLead})
		}
	case below:
		c.message(http.StatusNotFound, textNotFound)
	default:
		c.serveMember(id)
	}
}

// serveCollection lists the members, or adds one.
func (c *call) serveCollection() {
	switch c.r.Method {
	case http.MethodGet:
		c.buffers.out = appendMembers(c.buffers.out[:0], c.h.backend.Members())
		c.json(http.StatusOK, c.buffers.out)
	case http.MethodPost:
		body, ref := c.parseMember(true)
		if ref != nil {
			c.refuseMember(ref)
			return
		}
		c.change("", deimos.MemberChange{Op: deimos.MemberAdd, PeerURLs: body.PeerURLs, Learner: body.IsLearner})
	default:
		c.notAllowed("GET,POST")
	}
}

// serveMember answers a request to what should be the id of a member, or is
// the word "leader".
func (c *call) serveMember(id string) {
	switch c.r.Method {
	case http.MethodGet:
		if id == "leader" {
			c.leader()
			return
		}
		c.message(http.StatusNotFound, textNotFound)
	case http.MethodPost:
		c.message(http.StatusNotFound, textNotFound)
	case http.MethodPut:
		body, ref := c.parseMember(false)
		if ref != nil {
			c.refuseMember(ref)
			return
		}
		c.changeMember(id, deimos.MemberChange{Op: deimos.MemberUpdate, PeerURLs: body.PeerURLs})
	case http.MethodDelete:
		c.changeMember(id, deimos.MemberChange{Op: deimos.MemberRemove})
	default:
		c.notAllowed("GET,PUT,DELETE")
	}
}

// leader shows the member that leads. A leader that is not in the local list,
// which may be a moment behind, is as good as none.
func (c *call) leader() {
	if id := c.h.backend.Leader(); id != 0 {
		if m, ok := c.h.member(id); ok {
			c.member(http.StatusOK, &m)
			return
		}
	}
	c.retryMember(http.StatusServiceUnavailable, "1", textElection)
}

// member finds a member in the local list.
func (h *Handler) member(id uint64) (deimos.Member, bool) {
	members := h.backend.Members()
	i := slices.IndexFunc(members, func(m deimos.Member) bool { return m.ID == id })
	if i < 0 {
		return deimos.Member{}, false
	}
	return members[i], true
}

// member answers with a member object.
func (c *call) member(status int, m *deimos.Member) {
	c.buffers.out = append(appendMember(c.buffers.out[:0], m), '\n')
	c.json(status, c.buffers.out)
}

// changeMember makes a change of the member that is given as text.
func (c *call) changeMember(given string, change deimos.MemberChange) {
	id, err := strconv.ParseUint(given, 16, 64)
	if err != nil || id == 0 {
		c.message(http.StatusNotFound, "No such member: "+given)
		return
	}
	change.ID = id
	c.change(given, change)
}

// change makes a change and answers it.
func (c *call) change(given string, change deimos.MemberChange) {
	ctx, cancel := context.WithDeadline(c.r.Context(), time.Now().Add(c.h.timeout))
	defer cancel()
	m, err := c.h.backend.ChangeMembers(ctx, change)
	if err != nil {
		c.failMember(err, given, change.Op)
		return
	}
	switch change.Op {
	case deimos.MemberAdd:
		c.member(http.StatusCreated, &m)
	case deimos.MemberPromote:
		c.member(http.StatusOK, &m)
	case deimos.MemberLead:
		m, ok := c.h.member(change.ID)
		if !ok { // removed in the meantime
			c.message(http.StatusNotFound, "No such member: "+given)
			return
		}
		c.member(http.StatusOK, &m)
	default:
		c.begin(http.StatusNoContent)
	}
}

// failMember answers with an error of ChangeMembers. given is the id as the
// client wrote it.
func (c *call) failMember(err error, given string, op deimos.MemberOp) {
	var refused *deimos.MemberError
	if errors.As(err, &refused) {
		c.failReason(refused, given, op)
		return
	}
	var e *deimos.Error
	switch {
	case errors.As(err, &e):
		c.failCode(e)
	case errors.Is(err, ErrStopping):
		c.message(http.StatusInternalServerError, deimos.CauseStopping)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		c.message(http.StatusInternalServerError, textChangeTimeout)
	default:
		c.logFailure(err)
		c.message(http.StatusInternalServerError, causeInternal)
	}
}

// failCode answers with an error as the keys API knows them.
func (c *call) failCode(e *deimos.Error) {
	status, retryAfter := statusOf(e)
	switch {
	case e.Code == deimos.CodeLeaderElection:
		c.retryMember(http.StatusServiceUnavailable, retryAfter, textElection)
	case e.Cause == deimos.CauseWriteTimeout, e.Cause == deimos.CauseReadTimeout:
		c.message(status, textChangeTimeout)
	case e.Cause != "":
		c.retryMember(status, retryAfter, e.Cause)
	default:
		c.message(status, e.Code.String())
	}
}

// failReason is the table of what the member list forbids.
func (c *call) failReason(e *deimos.MemberError, given string, op deimos.MemberOp) {
	id := deimos.FormatID(e.ID)
	switch e.Reason {
	case deimos.MemberUnknown:
		c.message(http.StatusNotFound, "No such member: "+given)
	case deimos.MemberRemoved:
		c.message(http.StatusGone, "Member permanently removed: "+id)
	case deimos.MemberExists:
		c.message(http.StatusConflict, "membership: ID exists")
	case deimos.MemberURLTaken:
		c.message(http.StatusConflict, "membership: peerURL exists")
	case deimos.MemberIsVoter:
		c.message(http.StatusConflict, "member "+id+" is already a voter")
	case deimos.MemberIsLearner:
		c.message(http.StatusConflict, "member "+id+" is a learner")
	case deimos.MemberLastVoter:
		c.message(http.StatusConflict, string(deimos.MemberLastVoter))
	case deimos.MemberNotCaughtUp:
		c.message(http.StatusPreconditionFailed, "learner "+id+" is not caught up")
	case deimos.MemberCostsQuorum:
		c.message(http.StatusConflict, quorumText(op, id))
	case deimos.MemberNotTaken:
		c.message(http.StatusServiceUnavailable, "member "+id+" did not take over")
	case deimos.MemberOther:
		c.message(http.StatusConflict, e.Error())
	default:
		c.logFailure(e)
		c.message(http.StatusInternalServerError, e.Error())
	}
}

// quorumText says what a change would cost.
func quorumText(op deimos.MemberOp, id string) string {
	const cost = " would leave too few reachable voting members"
	switch op {
	case deimos.MemberAdd:
		return "adding a member" + cost
	case deimos.MemberPromote:
		return "promoting " + id + cost
	case deimos.MemberRemove:
		return "removing " + id + cost
	default:
		return "changing " + id + cost
	}
}

// retryMember answers with an error that may be over after some seconds; an
// empty retryAfter says nothing of it.
func (c *call) retryMember(status int, retryAfter, message string) {
	if retryAfter != "" {
		c.w.Header()["Retry-After"] = []string{retryAfter}
	}
	c.message(status, message)
}

// refuseMember answers a request whose body is of no use.
func (c *call) refuseMember(ref *refusal) {
	status := ref.status
	if status == 0 {
		status = http.StatusBadRequest
	}
	c.message(status, ref.err.Cause)
}

// MembersHandler returns the handler that shows the member list on the peer
// port, for those who join, for proxies, and for members that ask who a
// stranger is. It has the GET of the members API and nothing else: no CORS, no
// change. The caller mounts it where it belongs. It is safe for use by any
// number of goroutines.
func MembersHandler(list MemberList) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		id := []string{deimos.FormatID(list.Status().ClusterID)}
		header[deimos.HeaderClusterID], header[deimos.HeaderEtcdClusterID] = id, id
		status, body := http.StatusOK, []byte(nil)
		if r.Method == http.MethodGet {
			header["Content-Type"] = contentJSON
			body = appendMembers(nil, list.Members())
		} else {
			header["Content-Type"] = contentText
			header["X-Content-Type-Options"] = sniffNone
			header["Allow"] = []string{http.MethodGet}
			status, body = http.StatusMethodNotAllowed, []byte(textNotAllowed)
		}
		header["Content-Length"] = []string{strconv.Itoa(len(body))}
		w.WriteHeader(status)
		if r.Method != http.MethodHead {
			// A client that is gone is no event for anybody.
			_, _ = w.Write(body)
		}
	})
}

// appendMembers appends the member list as one line of JSON, by id.
func appendMembers(dst []byte, members []deimos.Member) []byte {
	sorted := slices.SortedFunc(slices.Values(members), func(a, b deimos.Member) int {
		return cmp.Compare(a.ID, b.ID)
	})
	dst = append(dst, `{"members":[`...)
	for i := range sorted {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendMember(dst, &sorted[i])
	}
	return append(dst, ']', '}', '\n')
}

// appendMember appends a member object.
func appendMember(dst []byte, m *deimos.Member) []byte {
	dst = append(dst, `{"id":"`...)
	dst = strconv.AppendUint(dst, m.ID, 16)
	dst = append(dst, `","name":`...)
	dst = appendString(dst, m.Name)
	dst = append(dst, `,"peerURLs":`...)
	dst = appendStrings(dst, m.PeerURLs)
	dst = append(dst, `,"clientURLs":`...)
	dst = appendStrings(dst, m.ClientURLs)
	if m.IsLearner {
		dst = append(dst, `,"isLearner":true`...)
	}
	return append(dst, '}')
}

// appendStrings appends an array, also when there is nothing in it.
func appendStrings(dst []byte, list []string) []byte {
	dst = append(dst, '[')
	for i, s := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendString(dst, s)
	}
	return append(dst, ']')
}
