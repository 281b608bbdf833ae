package transport

import (
	"fmt"
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"
)

const (
	// proofWindow is how far the clocks of two members may be apart, and how
	// long a proof is remembered.
	proofWindow = 5 * time.Minute
	// noncesMax bounds the proofs remembered of one sender. When there are
	// more, all that are older than the ones remembered are refused.
	noncesMax = 1 << 14
	// sendersMax bounds the senders whose proofs are remembered. When there are
	// more, the one whose newest proof is the oldest is forgotten, and proofs of
	// before that are refused of all senders that are not remembered.
	sendersMax = 256
)

// refusedOpen is a request that is turned away, and how. It is no error: nil is
// a request that is let in.
type refusedOpen struct {
	reason refusal
	status int
	sender uint64 // as far as it is known for sure, otherwise 0
	err    error
}

// refuse makes a refusedOpen.
func refuse(reason refusal, status int, sender uint64, format string, args ...any) *refusedOpen {
	return &refusedOpen{reason, status, sender, fmt.Errorf(format, args...)}
}

// door lets in who proves that he knows the secret. Its methods may be called
// from any goroutine.
type door struct {
	secret   *Secret // nil: everybody is let in
	run      string  // of this process
	now      func() time.Time
	isMember func(id uint64) bool

	addresses addresses

	mu    sync.Mutex
	spent map[string]*nonces // by sender
	// floorMS is that of senders that are not in spent: what they have used up
	// to then may have been forgotten.
	floorMS int64
}

// newDoor returns a door. isMember tells who is let in also from an address
// that is paused.
func newDoor(secret *Secret, isMember func(id uint64) bool) *door {
	return &door{secret: secret, run: newNonce(), now: time.Now, isMember: isMember, spent: make(map[string]*nonces)}
}

// check returns nil when the headers of the request prove that the sender knows
// the secret, and that nobody has sent them before. It decodes nothing before
// it has checked the proof, but the sender's id where failures of others must
// not keep a member out.
func (d *door) check(r *http.Request) *refusedOpen {
	if d.secret == nil {
		return nil
	}
	now := d.now()
	address := addressOf(r)
	isPaused := d.addresses.paused(address, now)
	tooMany := func() *refusedOpen {
		return refuse(refusedPaused, http.StatusTooManyRequests, 0, "too many requests of this address failed")
	}
	if isPaused && !(d.addresses.isSound(address, now) && d.isSender(r)) {
		return tooMany()
	}
	refused := d.prove(r, now)
	switch {
	case refused == nil:
		d.addresses.succeeded(address, now)
	case refused.reason == refusedSecret && isPaused:
		return tooMany()
	case refused.reason == refusedSecret:
		d.addresses.failed(address, now)
	}
	return refused
}

// isSender reports whether a request claims to come from a member.
func (d *door) isSender(r *http.Request) bool {
	id, ok := parseID(r.Header.Get(headerSender))
	return ok && d.isMember(id)
}

// prove checks the proof itself.
func (d *door) prove(r *http.Request, now time.Time) *refusedOpen {
	proof := r.Header.Get(headerProof)
	switch {
	case proof == "":
		return refuse(refusedSecret, http.StatusUnauthorized, 0, "no proof that the sender knows the peer secret")
	case r.Header.Get(headerRun) != d.run:
		// The sender has not heard of this run yet. This says nothing about
		// the secret, and is not counted as a guess.
		return refuse(refusedRun, http.StatusUnauthorized, 0, "the proof is meant for another run of this member")
	case !proven(proof, d.secret.requestProof(r)):
		return refuse(refusedSecret, http.StatusUnauthorized, 0, "the proof was made with another peer secret, or for another request")
	}
	return d.fresh(r.Header, now)
}

// fresh refuses a sound proof that was made at another time or was used before.
// Who sends the first knows the secret, or what he says is of no use.
func (d *door) fresh(h http.Header, now time.Time) *refusedOpen {
	timeMS, err := strconv.ParseInt(h.Get(headerTime), 10, 64)
	if err != nil || !isNonce(h.Get(headerNonce)) {
		return refuse(refusedSecret, http.StatusUnauthorized, 0, "the proof has no time or no nonce")
	}
	sent := time.UnixMilli(timeMS)
	if sent.Before(now.Add(-proofWindow)) || sent.After(now.Add(proofWindow)) {
		sender, _ := parseID(h.Get(headerSender))
		return refuse(refusedClock, http.StatusPreconditionFailed, sender, "%s",
			clocksApart("the clock of the sender", timeMS, "the clock of this member", now.UnixMilli()))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.noncesOf(h.Get(headerSender))
	if !n.spend(h.Get(headerNonce), timeMS, now.Add(-proofWindow).UnixMilli()) {
		return refuse(refusedSecret, http.StatusUnauthorized, 0, "the proof was used before, or it cannot be told any more")
	}
	return nil
}

// noncesOf returns what a sender has used. The caller holds mu.
func (d *door) noncesOf(sender string) *nonces {
	n := d.spent[sender]
	if n != nil {
		return n
	}
	if len(d.spent) >= sendersMax {
		var idle string
		newestMS := int64(math.MaxInt64)
		for s, n := range d.spent {
			if n.newestMS < newestMS {
				idle, newestMS = s, n.newestMS
			}
		}
		delete(d.spent, idle)
		d.floorMS = max(d.floorMS, newestMS)
	}
	n = &nonces{used: make(map[string]bool), floorMS: d.floorMS, newestMS: d.floorMS}
	d.spent[sender] = n
	return n
}

// nonces are those that one sender has used, oldest first.
type nonces struct {
	used  map[string]bool
	queue []nonce
	// floorMS refuses everything that may have been forgotten.
	floorMS int64
	// newestMS is the newest time that was accepted, or floorMS.
	newestMS int64
}

type nonce struct {
	text   string
	timeMS int64
}

// spend returns true the first time that it is called for a nonce. Nonces of
// before oldestMS are refused by the caller and are forgotten.
func (n *nonces) spend(text string, timeMS, oldestMS int64) bool {
	if timeMS <= n.floorMS || n.used[text] {
		return false
	}
	for len(n.queue) > 0 && (n.queue[0].timeMS < oldestMS || len(n.queue) >= noncesMax) {
		first := n.queue[0]
		n.queue = n.queue[1:]
		delete(n.used, first.text)
		n.floorMS = max(n.floorMS, first.timeMS) // also when our clock is set back
	}
	n.newestMS = max(n.newestMS, timeMS)
	n.used[text] = true
	n.queue = append(n.queue, nonce{text, timeMS})
	return true
}
