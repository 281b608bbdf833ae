package proxy

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/internal/hangup"
)

const headerLastEventID = "Last-Event-Id"

var heartbeat = []byte(": heartbeat\n\n")

// irrelevant are the headers that do not change what a member answers to a
// watch. All others, also those that nobody has thought of, keep watches apart:
// above all Accept, Last-Event-ID, Origin, anything about credentials, and the
// list of proxies, without which two proxies could wait for each other.
var irrelevant = map[string]bool{
	"Accept-Encoding": true, "Accept-Language": true, "Cache-Control": true, "Content-Type": true, "Dnt": true,
	"Forwarded": true, "Pragma": true, "Priority": true, "Referer": true, "Sec-Ch-Ua": true,
	"Sec-Ch-Ua-Mobile": true, "Sec-Ch-Ua-Platform": true, "Sec-Fetch-Dest": true, "Sec-Fetch-Mode": true,
	"Sec-Fetch-Site": true, "Sec-Fetch-User": true, "Traceparent": true, "Tracestate": true,
	"Upgrade-Insecure-Requests": true, "User-Agent": true, "Via": true, "X-Forwarded-For": true,
	"X-Forwarded-Host": true, "X-Forwarded-Proto": true, "X-Real-Ip": true, headerRequestID: true,
}

// watchSpec is what a watch asks for, as far as a proxy has to know.
type watchSpec struct {
	// key is equal for watches that a member answers alike.
	key string
	// waitIndex is 0 for a watch from now on.
	waitIndex uint64
	// stream tells a JSON stream from a long poll.
	stream bool
	// lastEventID counts for event streams only, and then instead of waitIndex.
	lastEventID string
}

// watchOf reports whether a member will take the request for a watch. What is
// not certain goes the way of other requests, where nothing is shared.
func watchOf(r *http.Request, out *outgoing) (watchSpec, bool) {
	if r.Method != http.MethodGet || !isKeys(r.URL.Path) {
		return watchSpec{}, false
	}
	query, err := url.ParseQuery(out.query)
	if err != nil {
		return watchSpec{}, false
	}
	if wait, err := strconv.ParseBool(query.Get(deimos.ParamWait)); err != nil || !wait {
		return watchSpec{}, false
	}
	s := watchSpec{lastEventID: r.Header.Get(headerLastEventID)}
	if query.Has(deimos.ParamStream) {
		if s.stream, err = strconv.ParseBool(query.Get(deimos.ParamStream)); err != nil {
			return watchSpec{}, false
		}
	}
	if query.Has(deimos.ParamWaitIndex) {
		if s.waitIndex, err = strconv.ParseUint(query.Get(deimos.ParamWaitIndex), 10, 64); err != nil {
			return watchSpec{}, false
		}
	}
	s.key = watchKey(r.URL.Path, query, out.header)
	return s, true
}

func isKeys(path string) bool {
	rest, ok := strings.CutPrefix(strings.TrimPrefix(path, "/v2"), "/keys")
	return ok && (rest == "" || rest[0] == '/')
}

// watchKey joins what a member's answer depends on. No part contains the
// separator.
func watchKey(path string, query url.Values, header http.Header) string {
	var names []string
	for name := range header {
		if !irrelevant[name] {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var b strings.Builder
	b.WriteString(url.PathEscape(path))
	b.WriteByte('\n')
	b.WriteString(query.Encode())
	for _, name := range names {
		for _, value := range header[name] {
			b.WriteByte('\n')
			b.WriteString(name)
			b.WriteByte(':')
			b.WriteString(value)
		}
	}
	return b.String()
}

// start returns the first index that the watch asks for; 0: from now on.
func (s *watchSpec) start(events bool) uint64 {
	if !events || s.lastEventID == "" {
		return s.waitIndex
	}
	id, err := strconv.ParseUint(s.lastEventID, 10, 64)
	if err != nil {
		return s.waitIndex // a member refuses such a request
	}
	return id + 1
}

// fromNow reports that the watch names no index.
func (s *watchSpec) fromNow() bool { return s.waitIndex == 0 && s.lastEventID == "" }

// watch answers a watch, from an upstream watch that it may share.
func (c *call) watch(ctx context.Context, spec watchSpec, out *outgoing) {
	c.p.metrics.watches.Inc()
	defer c.p.metrics.watches.Dec()
	ctx, stop := hangup.Context(ctx)
	defer stop()
	v, ok := c.settle(ctx, spec, out)
	if !ok {
		return
	}
	defer v.leave()
	head := v.flight.head
	if head.err != nil {
		c.fail(head.err)
		return
	}
	c.setHeader(head.header)
	if v.index > 0 {
		index := []string{strconv.FormatUint(v.index, 10)}
		c.w.Header()[deimos.HeaderIndex], c.w.Header()[deimos.HeaderEtcdIndex] = index, index
	}
	c.begin(head.status)
	if head.complete {
		c.write(head.body)
		return
	}
	if v.beat && !c.write(heartbeat) || !c.flush() {
		return
	}
	for {
		frames, ended := v.take()
		for _, f := range frames {
			if !c.write(f) {
				return
			}
		}
		if ended {
			if v.hasBroken() && c.flush() {
				panic(http.ErrAbortHandler)
			}
			return
		}
		if len(frames) > 0 && !c.flush() {
			return
		}
		select {
		case <-v.wake:
		case <-ctx.Done():
			return
		}
	}
}

// settle finds an upstream watch for a client and waits until its answer has
// begun. It returns false when the client is gone or was answered.
func (c *call) settle(ctx context.Context, spec watchSpec, out *outgoing) (*viewer, bool) {
	for alone := false; ; alone = true {
		v := c.p.watches.join(spec, out, alone)
		if v == nil {
			c.fail(errStopping)
			return nil, false
		}
		select {
		case <-v.flight.ready:
		case <-ctx.Done():
			v.leave()
			c.fail(ctx.Err())
			return nil, false
		}
		if !v.isTurnedAway() {
			return v, true
		}
		v.leave()
	}
}
