package transport

import (
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

const (
	// failuresMax is how many openings from one address may fail in
	// failurePause before the address is not listened to for failurePause.
	failuresMax  = 10
	failurePause = time.Second
	// soundTime is how long an address is known as one from which a sound proof
	// has come.
	soundTime = 10 * time.Minute
	// addressesMax bounds the addresses whose failures are counted, and those
	// from which sound proofs have come. When there are more, the oldest is
	// forgotten.
	addressesMax = 1024
)

// addresses remembers what came from where. Failures and sound proofs are apart,
// so that who knows no secret cannot make it forget who does. The zero value is
// ready; its methods may be called from any goroutine.
type addresses struct {
	mu       sync.Mutex
	failures map[string]*failures
	sound    map[string]time.Time // when the last sound proof came
}

// failed counts a failure of an address.
func (a *addresses) failed(address string, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f := a.failures[address]
	switch {
	case f == nil:
		if len(a.failures) >= addressesMax {
			delete(a.failures, oldest(a.failures, func(f *failures) time.Time { return f.since }))
		}
		if a.failures == nil {
			a.failures = make(map[string]*failures)
		}
		f = &failures{since: now}
		a.failures[address] = f
	case f.over(now):
		*f = failures{since: now}
	}
	if f.n++; f.n == failuresMax {
		f.until = now.Add(failurePause)
	}
}

// paused reports whether an address is not listened to.
func (a *addresses) paused(address string, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	f := a.failures[address]
	return f != nil && now.Before(f.until)
}

// succeeded notes that a sound proof came from an address.
func (a *addresses) succeeded(address string, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.sound[address]; !ok && len(a.sound) >= addressesMax {
		delete(a.sound, oldest(a.sound, func(at time.Time) time.Time { return at }))
	}
	if a.sound == nil {
		a.sound = make(map[string]time.Time)
	}
	a.sound[address] = now
}

// isSound reports whether a sound proof came from an address not long ago.
func (a *addresses) isSound(address string, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	at, ok := a.sound[address]
	return ok && now.Sub(at) <= soundTime
}

// oldest returns the address that is the oldest by the time of its entry.
func oldest[E any](entries map[string]E, timeOf func(E) time.Time) (address string) {
	var first time.Time
	for a, e := range entries {
		if at := timeOf(e); address == "" || at.Before(first) {
			address, first = a, at
		}
	}
	return address
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

// addressOf returns where a request comes from, without the port. One machine
// has a whole /64 of IPv6, which therefore counts as one address.
func addressOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return host
	}
	ip = ip.Unmap().WithZone("")
	if ip.Is4() {
		return ip.String()
	}
	return netip.PrefixFrom(ip, 64).Masked().String()
}
