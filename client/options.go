package client

import (
	"net/url"
	"strconv"
	"time"

	"github.com/marsevilspirit/deimos"
)

// The kinds of options. An option can be given only to calls for which it has a
// meaning; the functions that make options list the kinds they belong to.
type (
	// GetOption is an option of [Client.Get] and [Client.List].
	GetOption interface{ get(*params) }
	// SetOption is an option of [Client.Set], [Client.Update] and
	// [Client.CreateInOrder].
	SetOption interface{ set(*params) }
	// CreateOption is an option of [Client.Create] and [Client.Mkdir].
	CreateOption interface{ create(*params) }
	// SwapOption is an option of [Client.CompareAndSwap].
	SwapOption interface{ swap(*params) }
	// RefreshOption is an option of [Client.Refresh].
	RefreshOption interface{ refresh(*params) }
	// DeleteOption is an option of [Client.Delete].
	DeleteOption interface{ del(*params) }
	// WatchOption is an option of [Client.Watch].
	WatchOption interface{ watch(*params) }
	// Condition is what a key has to be like for a write to happen. It is also an
	// option, for writes with more than one condition: all have to hold.
	Condition interface {
		SwapOption
		RefreshOption
		condition(*params)
	}
)

// WithTTL gives a node a life of d, after which it is removed: never earlier,
// and at most a second later while the cluster has a leader. It counts whole
// seconds; d is rounded up to them. d must be above 0; a node that is written
// without the option, also one that had a life before, lives for ever.
func WithTTL(d time.Duration) interface {
	SetOption
	CreateOption
	SwapOption
} {
	return option(func(p *params) { p.setTTL(d) })
}

// WithNoValue leaves the nodes out of the response, which spares the way back
// of large values. Node and PrevNode of the [Response] are nil then.
func WithNoValue() interface {
	SetOption
	CreateOption
	SwapOption
	RefreshOption
} {
	return option(func(p *params) { p.query.Set(deimos.ParamNoValueOnSuccess, "true") })
}

// WithDir makes a directory, or in Update changes the TTL of one; the value has
// to be empty then. In Delete it allows the removal of an empty directory.
func WithDir() interface {
	SetOption
	DeleteOption
} {
	return option(func(p *params) { p.query.Set(deimos.ParamDir, "true") })
}

// WithRecursive means the whole tree below the key: to read, to remove with the
// directory, or to watch. Hidden nodes, those with an element that begins with
// an underscore, are neither read nor watched from above.
func WithRecursive() interface {
	GetOption
	DeleteOption
	WatchOption
} {
	return option(func(p *params) { p.recursive = true })
}

// WithLocalRead reads what the endpoint has applied, without asking the leader:
// cheaper, also possible without a quorum, and possibly old.
func WithLocalRead() GetOption {
	return option(func(p *params) { p.local = true })
}

// WithPrevValue demands that the value is exactly this one. It must not be
// empty: compare the index of a key without a value. Prefer [WithPrevIndex],
// which also notices that a value was changed and changed back.
func WithPrevValue(value string) Condition {
	return option(func(p *params) {
		p.prevValue = value
		if value == "" {
			p.fail("WithPrevValue: the value must not be empty; compare with WithPrevIndex")
		}
	})
}

// WithPrevIndex demands that the ModifiedIndex of the node is exactly this one.
// It must not be 0.
func WithPrevIndex(index uint64) Condition {
	return option(func(p *params) {
		p.prevIndex = index
		if index == 0 {
			p.fail("WithPrevIndex: the index must not be 0; use Create for a key that must not exist")
		}
	})
}

// WithWaitIndex starts a watch at this store index: first the matching events
// of the history from there on, then new ones. After a [Response] r, r.Index+1
// continues without a gap. It must not be 0.
func WithWaitIndex(index uint64) WatchOption {
	return option(func(p *params) {
		p.waitIndex = index
		if index == 0 {
			p.fail("WithWaitIndex: the index must not be 0; leave the option out to watch from now on")
		}
	})
}

// WithState starts a watch with the current state: the first event is a Reset
// that carries it, and the changes after it follow.
func WithState() WatchOption {
	return option(func(p *params) { p.state = true })
}

// option changes the parameters of a call. The interfaces tell which calls.
type option func(*params)

func (o option) get(p *params)       { o(p) }
func (o option) set(p *params)       { o(p) }
func (o option) create(p *params)    { o(p) }
func (o option) swap(p *params)      { o(p) }
func (o option) refresh(p *params)   { o(p) }
func (o option) del(p *params)       { o(p) }
func (o option) watch(p *params)     { o(p) }
func (o option) condition(p *params) { o(p) }

// params is what a call and its options ask for.
type params struct {
	query     url.Values
	form      url.Values
	recursive bool
	local     bool
	state     bool
	prevValue string
	prevIndex uint64
	waitIndex uint64
	err       error // the first thing that is wrong
}

func newParams() *params { return &params{query: make(url.Values), form: make(url.Values)} }

// fail notes what is wrong with an option.
func (p *params) fail(format string, args ...any) {
	if p.err == nil {
		p.err = invalidf("client: "+format, args...)
	}
}

func (p *params) setTTL(d time.Duration) {
	seconds := int64((d-1)/time.Second) + 1 // rounded up, and without overflow
	switch {
	case d <= 0:
		p.fail("the TTL is %v, must be above 0; leave it out for a key that stays", d)
	case seconds > deimos.TTLMaxSeconds:
		p.fail("the TTL is %v, must be at most %d s", d, deimos.TTLMaxSeconds)
	}
	p.form.Set(deimos.ParamTTL, strconv.FormatInt(seconds, 10))
}
