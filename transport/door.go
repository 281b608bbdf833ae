package transport

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

const (
	// proofWindow is how far the clocks of two members may be apart, and how
	// long a proof is remembered.
	proofWindow = 5 * time.Minute
	// failuresMax is how many openings from one address may fail in
	// failurePause before the address is not listened to for failurePause.
	failuresMax  = 10
	failurePause = time.Second
	// addressesMax bounds the addresses whose failures are counted. All that
	// are too many are counted as one.
	addressesMax = 1024
	// noncesMax bounds the proofs remembered of one sender. When there are
	// more, all that are older than the ones remembered are refused.
	noncesMax = 1 << 14
	// sendersMax bounds the senders whose proofs are remembered.
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
	secret *Secret // nil: everybody is let in
	run    string  // of this process
	now    func() time.Time

	mu       sync.Mutex
	failures map[string]*failures // by address
	spent    map[string]*nonces   // by sender
}

func newDoor(secret *Secret) *door {
	return &door{
		secret: secret, run: newNonce(), now: time.Now,
		failures: make(map[string]*failures), spent: make(map[string]*nonces),
	}
}

// check returns nil when the headers of the request prove that the sender knows
// the secret, and that nobody has sent them before. It decodes nothing before
// it has checked the proof.
func (d *door) check(r *http.Request) *refusedOpen {
	if d.secret == nil {
		return nil
	}
	now := d.now()
	address := addressOf(r)
	if d.paused(address, now) {
		return refuse(refusedPaused, http.StatusTooManyRequests, 0, "too many requests of this address failed")
	}
	proof := r.Header.Get(headerProof)
	switch {
	case proof == "":
		d.failed(address, now)
		return refuse(refusedSecret, http.StatusUnauthorized, 0, "no proof that the sender knows the peer secret")
	case r.Header.Get(headerRun) != d.run:
		// The sender has not heard of this run yet. This says nothing about
		// the secret, and is not counted as a guess.
		return refuse(refusedRun, http.StatusUnauthorized, 0, "the proof is meant for another run of this member")
	case !proven(proof, d.secret.requestProof(r)):
		d.failed(address, now)
		return refuse(refusedSecret, http.StatusUnauthorized, 0, "the proof was made with another peer secret, or for another request")
	}
	if err := d.fresh(r, now); err != nil {
		d.failed(address, now)
		return refuse(refusedSecret, http.StatusUnauthorized, 0, "%w", err)
	}
	return nil
}

// fresh refuses a sound proof that is too old or was used before.
func (d *door) fresh(r *http.Request, now time.Time) error {
	h := r.Header
	timeMS, err := strconv.ParseInt(h.Get(headerTime), 10, 64)
	if err != nil || !isNonce(h.Get(headerNonce)) {
		return errors.New("the proof has no time or no nonce")
	}
	sent := time.UnixMilli(timeMS)
	if sent.Before(now.Add(-proofWindow)) || sent.After(now.Add(proofWindow)) {
		return fmt.Errorf("the clock of the sender says %s, the clock of this member says %s: they must not be more than %s apart",
			sent.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339), proofWindow)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	sender := h.Get(headerSender)
	n := d.spent[sender]
	if n == nil {
		if len(d.spent) >= sendersMax {
			return errors.New("too many different senders")
		}
		n = &nonces{used: make(map[string]bool)}
		d.spent[sender] = n
	}
	if !n.spend(h.Get(headerNonce), timeMS, now.Add(-proofWindow).UnixMilli()) {
		return errors.New("the proof was used before")
	}
	return nil
}

// failed counts a failure of an address.
func (d *door) failed(address string, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.failures[address]
	if f == nil {
		if len(d.failures) >= addressesMax {
			for a, f := range d.failures {
				if f.over(now) {
					delete(d.failures, a)
				}
			}
		}
		if len(d.failures) >= addressesMax {
			address = "" // the one for all others
		}
		if f = d.failures[address]; f == nil {
			f = &failures{since: now}
			d.failures[address] = f
		}
	}
	if f.over(now) {
		*f = failures{since: now}
	}
	if f.n++; f.n == failuresMax {
		f.until = now.Add(failurePause)
	}
}

// paused reports whether an address is not listened to.
func (d *door) paused(address string, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.failures[address]
	if f == nil && len(d.failures) >= addressesMax {
		f = d.failures[""]
	}
	return f != nil && now.Before(f.until)
}

// failures are those of one address within failurePause.
type failures struct {
	n            int
	since, until time.Time
}

// over reports whether they do not count any more.
func (f *failures) over(now time.Time) bool {
	return now.Sub(f.since) >= failurePause && !now.Before(f.until)
}

// nonces are those that one sender has used, oldest first.
type nonces struct {
	used  map[string]bool
	queue []nonce
	// floorMS refuses everything that may have been forgotten.
	floorMS int64
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
	n.used[text] = true
	n.queue = append(n.queue, nonce{text, timeMS})
	return true
}

// addressOf returns where a request comes from, without the port.
func addressOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}
