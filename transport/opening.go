package transport

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/marsevilspirit/deimos"
)

// The headers of an opening and of its answer. The first six have the names
// that rafthttp gives them. X-Deimos-Time is in an answer the time of who
// answers.
const (
	headerSender   = "X-Server-From"
	headerCluster  = "X-Etcd-Cluster-ID"
	headerReceiver = "X-Raft-To"
	headerPeerURLs = "X-PeerURLs"
	headerVersion  = "X-Server-Version"
	headerMinimum  = "X-Min-Cluster-Version"

	headerIncarnation = "X-Deimos-Incarnation" // of who speaks
	headerExpects     = "X-Deimos-Expects"     // of the receiver, as the sender knows it
	headerRun         = "X-Deimos-Run"         // of the process that gets the request
	headerTime        = "X-Deimos-Time"        // unix milliseconds
	headerNonce       = "X-Deimos-Nonce"
	headerDigest      = "X-Deimos-Digest" // of the covered bytes of the body
	headerProof       = "X-Deimos-Proof"

	headerMember  = "X-Deimos-Member"  // who answers
	headerRefused = "X-Deimos-Refused" // why, in one word
	headerKnows   = "X-Deimos-Knows"   // the sender's incarnation, as the answering member knows it

	headerTwin = "X-Deimos-Twin" // the process that speaks for the sender

	headerIncarnations = "X-Deimos-Incarnations" // of the members in a list
	headerRaftIndex    = "X-Raft-Index"          // of a list, in decimal
)

// runsMax bounds the processes whose run is remembered. Forgetting one costs
// a round trip.
const runsMax = 1024

// requestProof is the proof that belongs into the request. It covers the
// headers as they are, so that nothing must be decoded to check it.
func (s *Secret) requestProof(r *http.Request) string {
	h := r.Header.Get
	return prove(s.request, r.Method, r.URL.RequestURI(), h(headerCluster), h(headerSender), h(headerReceiver),
		h(headerIncarnation), h(headerExpects), h(headerRun), h(headerTime), h(headerNonce), h(headerDigest),
		h(headerPeerURLs))
}

// answerProof is the proof that belongs into the answer to a request with the
// given proof, and thereby with a fresh nonce.
func (s *Secret) answerProof(requestProof string, status int, answer http.Header) string {
	h := answer.Get
	fields := []string{
		requestProof, strconv.Itoa(status), h(headerCluster), h(headerMember),
		h(headerIncarnation), h(headerRun), h(headerRefused), h(headerKnows), h(headerDigest),
		h(headerTime), h(headerIncarnations), h(headerRaftIndex),
	}
	if twin := h(headerTwin); twin != "" { // only who names a run gets it
		fields = append(fields, twin)
	}
	return prove(s.answer, fields...)
}

// opening is what a request says about both ends.
type opening struct {
	cluster, sender, receiver uint64 // 0: not said
	incarnation, expects      deimos.Incarnation
	digest                    string
	// peerURLs are where the sender can be asked who he is, if that is safe.
	peerURLs []string
}

// parseOpening reads the opening of a request that is authentic.
func parseOpening(h http.Header) (opening, error) {
	var errs [5]error
	o := opening{digest: h.Get(headerDigest)}
	o.cluster, errs[0] = parseOptionalID(h, headerCluster)
	o.sender, errs[1] = parseOptionalID(h, headerSender)
	o.receiver, errs[2] = parseOptionalID(h, headerReceiver)
	o.incarnation, errs[3] = parseIncarnation(h, headerIncarnation)
	o.expects, errs[4] = parseIncarnation(h, headerExpects)
	return o, errors.Join(errs[:]...)
}

// parseOptionalID reads a member or cluster id. Not there is 0.
func parseOptionalID(h http.Header, key string) (uint64, error) {
	s := h.Get(key)
	if s == "" {
		return 0, nil
	}
	id, err := strconv.ParseUint(s, 16, 64)
	if err != nil {
		return 0, fmt.Errorf("the header %s is not a number in hex: %.40q", key, s)
	}
	return id, nil
}

// parseIncarnation reads an incarnation. Not there is zero.
func parseIncarnation(h http.Header, key string) (i deimos.Incarnation, err error) {
	s := h.Get(key)
	if s == "" {
		return i, nil
	}
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(i) {
		return i, fmt.Errorf("the header %s does not have %d hex digits: %.40q", key, 2*len(i), s)
	}
	return deimos.Incarnation(b), nil
}

// parseTime reads a time in unix milliseconds. Not there is 0.
func parseTime(h http.Header) (int64, error) {
	s := h.Get(headerTime)
	if s == "" {
		return 0, nil
	}
	timeMS, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("the header %s is not a number: %.40q", headerTime, s)
	}
	return timeMS, nil
}

// opener opens requests in the name of a member, or of somebody who is none.
// Its methods may be called from any goroutine.
type opener struct {
	secret        *Secret
	cluster, self uint64 // 0: not said
	peerURLs      string // separated by commas; "": not said
	run           string // of this process; "": not said
	incarnation   deimos.Incarnation
	incarnationOf func(uint64) deimos.Incarnation

	mu   sync.Mutex
	runs map[string]string // by host and port
}

// answer is what a response says about who sent it, once its proof is good.
type answer struct {
	cluster, member    uint64 // 0: not said
	incarnation, knows deimos.Incarnation
	run                string  // of the process that answers; "": not said
	refused            refusal // "": not refused
	digest             string
	// twinKnown is for how long another process has spoken for the sender, and
	// twinPlace where it is.
	twinKnown time.Duration
	twinPlace string
	// clockMS is the time of who answers, sentMS that of the request, both in
	// unix milliseconds. 0: not said.
	clockMS, sentMS int64
}

// refusal is the error of an answer that refuses the request.
func (a *answer) refusal(at string) *refusedError {
	return &refusedError{by: a.member, at: at, reason: a.refused, clockMS: a.clockMS, sentMS: a.sentMS}
}

// errUnproven tells that an answer may come from anybody.
var errUnproven = errors.New("transport: the answer does not prove that it comes from who knows the peer secret")

// do opens the request to a member (0: whoever is there), sends it, and checks
// the proof of the answer. The covered bytes of the body are given beside it.
// A receiver that runs since we last heard of it is asked a second time, with
// a proof for its new run; the body must have a GetBody for that. An error means
// that there is no answer to rely on; the response is closed then.
func (o *opener) do(rt http.RoundTripper, r *http.Request, to uint64, covered []byte) (*http.Response, answer, error) {
	o.open(r, to)
	if o.secret == nil {
		resp, err := rt.RoundTrip(r)
		if err != nil {
			return nil, answer{}, err
		}
		return checked(resp, r)
	}
	sum := digest(covered)
	for again := false; ; again = true {
		run := o.sign(r, sum)
		resp, err := rt.RoundTrip(r)
		if err != nil {
			return nil, answer{}, err
		}
		if now := resp.Header.Get(headerRun); resp.StatusCode == http.StatusUnauthorized && now != run && isNonce(now) && !again {
			_ = resp.Body.Close() // it is of no use
			o.setRun(r.URL.Host, now)
			if r, err = anew(r); err != nil {
				return nil, answer{}, err
			}
			continue
		}
		want := o.secret.answerProof(r.Header.Get(headerProof), resp.StatusCode, resp.Header)
		if !proven(resp.Header.Get(headerProof), want) {
			_ = resp.Body.Close() // it is of no use
			return nil, answer{}, fmt.Errorf("%w: %s with status %d", errUnproven, r.URL.Host, resp.StatusCode)
		}
		return checked(resp, r)
	}
}

// checked reads the answer of a response.
func checked(resp *http.Response, r *http.Request) (*http.Response, answer, error) {
	a, err := parseAnswer(resp.Header)
	if err == nil {
		a.sentMS, err = parseTime(r.Header) // as we wrote it
	}
	if err != nil {
		_ = resp.Body.Close() // it is of no use
		return nil, answer{}, fmt.Errorf("transport: answer of %s with status %d: %w", r.URL.Host, resp.StatusCode, err)
	}
	return resp, a, nil
}

func parseAnswer(h http.Header) (answer, error) {
	var errs [6]error
	a := answer{digest: h.Get(headerDigest)}
	if run := h.Get(headerRun); isNonce(run) {
		a.run = run
	}
	a.cluster, errs[0] = parseOptionalID(h, headerCluster)
	a.member, errs[1] = parseOptionalID(h, headerMember)
	a.incarnation, errs[2] = parseIncarnation(h, headerIncarnation)
	a.knows, errs[3] = parseIncarnation(h, headerKnows)
	a.clockMS, errs[4] = parseTime(h)
	a.twinKnown, a.twinPlace, errs[5] = parseTwin(h)
	if err := errors.Join(errs[:]...); err != nil {
		return a, err
	}
	if a.cluster == 0 || a.member == 0 || a.incarnation.IsZero() {
		return a, errors.New("it does not say which member of which cluster answers")
	}
	a.refused = refusal(strings.ToValidUTF8(h.Get(headerRefused), ""))
	if len(a.refused) > 40 {
		return a, errors.New("its reason is too long")
	}
	return a, nil
}

// open writes who speaks to whom.
func (o *opener) open(r *http.Request, to uint64) {
	setRun(r, o.run)
	r.Header.Del(headerPeerURLs) // what rafthttp says
	if o.peerURLs != "" {
		r.Header.Set(headerPeerURLs, o.peerURLs)
	}
	set := func(key string, id uint64) {
		r.Header.Del(key)
		if id != 0 {
			r.Header.Set(key, deimos.FormatID(id))
		}
	}
	set(headerCluster, o.cluster)
	set(headerSender, o.self)
	set(headerReceiver, to)
	if !o.incarnation.IsZero() {
		r.Header.Set(headerIncarnation, o.incarnation.String())
	}
	if o.incarnationOf != nil && to != 0 {
		if i := o.incarnationOf(to); !i.IsZero() {
			r.Header.Set(headerExpects, i.String())
		}
	}
}

// sign proves what open wrote and returns the run that the proof is good for.
func (o *opener) sign(r *http.Request, sum string) string {
	o.mu.Lock()
	run := o.runs[r.URL.Host]
	o.mu.Unlock()
	r.Header.Set(headerRun, run)
	r.Header.Set(headerTime, strconv.FormatInt(time.Now().UnixMilli(), 10))
	r.Header.Set(headerNonce, newNonce())
	r.Header.Set(headerDigest, sum)
	r.Header.Set(headerProof, o.secret.requestProof(r))
	return run
}

func (o *opener) setRun(host, run string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.runs == nil || len(o.runs) >= runsMax {
		o.runs = make(map[string]string)
	}
	o.runs[host] = run
}

// anew returns the request to be sent once more.
func anew(r *http.Request) (*http.Request, error) {
	again := r.Clone(r.Context())
	if r.Body == nil || r.Body == http.NoBody {
		return again, nil
	}
	if r.GetBody == nil {
		return nil, fmt.Errorf("transport: %s has started anew, and the body cannot be sent twice", r.URL.Host)
	}
	body, err := r.GetBody()
	if err != nil {
		return nil, fmt.Errorf("transport: %s has started anew: %w", r.URL.Host, err)
	}
	again.Body = body
	return again, nil
}
