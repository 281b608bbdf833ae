package transport

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/marsevilspirit/deimos"
)

// This file is about a second process of a member: how it is refused, and how it
// learns that it is one.

// TwinError is delivered by [HTTP.Err] when a peer says that another process
// speaks for this member, which was there before and is alive: both run with the
// same data directory or with copies of it. The member must stop, because two
// processes that vote for one member can lose what was acknowledged.
type TwinError struct {
	// Member is this member, By the peer that said so.
	Member, By uint64
	// Place is where the other process is, in the words of that peer: mostly its
	// peer URLs. "": not known.
	Place string
}

// Error implements the error interface.
func (e *TwinError) Error() string {
	return fmt.Sprintf("transport: member %x runs already in another process (at %q, as member %x says)", e.Member, e.Place, e.By)
}

// admitRun lets one process of a member in, until the returned function is
// called. A second one is refused while the first is alive. A member that names
// no run, as old versions do, is let in as it is.
func (t *HTTP) admitRun(c *conn, r *http.Request, o opening) (leave func(), refused *refusedOpen) {
	run, ok := runOf(r)
	switch {
	case !ok:
		return nil, refuse(refusedOpening, http.StatusBadRequest, o.sender, "the sender %x names an invalid run", o.sender)
	case o.sender == 0 || run == "":
		return func() {}, nil
	}
	place := fmt.Sprintf("%s, seen from %s", r.Header.Get(headerPeerURLs), r.RemoteAddr)
	holder, decided := t.holder(r.Context(), o.sender, run, place)
	switch {
	case !decided:
		return nil, refuse(refusedUnsettled, http.StatusServiceUnavailable, o.sender,
			"it is not known yet whether another process of the sender %x has ended, before this one at %.200q may speak", o.sender, place)
	case holder == nil || holder.run != run:
		return nil, t.refuseTwin(o, holder, place)
	}
	holder.opened()
	leave = holder.enter()
	context.AfterFunc(r.Context(), leave) // rafthttp looks at a connection that is gone when it writes next
	t.conns.name(c, run)
	if holder.over.Load() { // another one has won just before it was named
		leave()
		return nil, t.refuseTwin(o, t.runs.of(o.sender), place)
	}
	return leave, nil
}

// refuseTwin refuses the second process of a member.
func (t *HTTP) refuseTwin(o opening, first *tenure, place string) *refusedOpen {
	if first == nil { // the member was forgotten just now
		return refuse(refusedUnsettled, http.StatusServiceUnavailable, o.sender, "the process of the sender %x is not known", o.sender)
	}
	return refuse(refusedTwin, http.StatusConflict, o.sender,
		"the sender %x runs already in another process (at %q): this one at %.200q runs with a copy of its data directory, stop one of them",
		o.sender, first.place, place)
}

// judgeRun refuses what a second process of a member answers, as admitRun
// refuses what it asks.
func (t *HTTP) judgeRun(ctx context.Context, to uint64, at, run string) error {
	if run == "" {
		return nil
	}
	holder, decided := t.holder(ctx, to, run, at)
	switch {
	case !decided:
		return fmt.Errorf("transport: it is not known yet whether another process of member %x has ended, before the one at %s may speak", to, at)
	case holder == nil || holder.run != run:
		return fmt.Errorf("transport: another process than the one at %s speaks for member %x", at, to)
	}
	holder.hear()
	return nil
}

// endTwin ends this process when it is the second one of the member. The first
// one tells the operator, once a minute at most.
func (t *HTTP) endTwin(a *answer, at string) {
	now := time.Now()
	if t.verdicts.isSecond(a.twinKnown, now) {
		t.end(&TwinError{Member: t.cfg.MemberID, By: a.member, Place: a.twinPlace})
		return
	}
	if t.twinWarning.pass(now, complaintPause) {
		t.log.Warn("a peer takes another process for this member, which runs with a copy of the data directory: stop it",
			"peer", deimos.FormatID(a.member), "url", at, "other process", a.twinPlace)
	}
}

// formatTwin writes for how long a process has spoken for a member, in
// milliseconds, and where it is.
func formatTwin(first *tenure) string {
	return strconv.FormatInt(time.Since(first.since).Milliseconds(), 10) + " " + first.place
}

// parseTwin reads what formatTwin writes. Not there is 0 and "".
func parseTwin(h http.Header) (known time.Duration, place string, err error) {
	s := h.Get(headerTwin)
	if s == "" {
		return 0, "", nil
	}
	text, place, _ := strings.Cut(s, " ")
	knownMS, err := strconv.ParseUint(text, 10, 40)
	if err != nil || len(place) > placeMaxBytes {
		return 0, "", fmt.Errorf("the header %s does not tell of a process: %.60q", headerTwin, s)
	}
	return time.Duration(knownMS) * time.Millisecond, strings.ToValidUTF8(place, ""), nil
}
