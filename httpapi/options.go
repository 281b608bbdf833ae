package httpapi

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/marsevilspirit/deimos"
)

// choice is a boolean that may be left out.
type choice uint8

const (
	unset choice = iota
	yes
	no
)

// options is what the parameters of a request say, once they are validated.
// value and prevValue are views into the buffers of the call.
type options struct {
	value        []byte
	prevValue    []byte
	hasPrevValue bool
	prevIndex    uint64
	hasTTL       bool
	ttlSeconds   int64
	exist        choice
	quorum       choice
	dir          bool
	recursive    bool
	refresh      bool
	noValue      bool
	wait         bool
	stream       bool
	// events asks for an event stream instead of JSON lines.
	events    bool
	waitIndex uint64
}

// options makes the checks 7 to 16 of the contract, section 3.3, in that
// order.
func (c *call) options() (options, *refusal) {
	var o options
	if c.form.hasMisspelt {
		return o, refuse(deimos.CodeInvalidField, "unknown parameter "+strconv.Quote(string(c.form.misspelt)))
	}
	if ref := o.indexes(&c.form); ref != nil {
		return o, ref
	}
	if ref := o.flags(&c.form); ref != nil {
		return o, ref
	}
	if o.wait && c.r.Method != http.MethodGet {
		return o, refuse(deimos.CodeInvalidField, `"wait" can only be used with GET requests`)
	}
	if ref := o.lives(&c.form); ref != nil {
		return o, ref
	}
	if ref := o.conditions(&c.form); ref != nil {
		return o, ref
	}
	if ref := o.contents(&c.form, c.h.valueMaxBytes); ref != nil {
		return o, ref
	}
	return o, o.eventStream(c.r)
}

// indexes is check 8.
func (o *options) indexes(f *form) *refusal {
	var ok bool
	if f.given[pPrevIndex] {
		if o.prevIndex, ok = parseUint(f.value[pPrevIndex]); !ok {
			return refuse(deimos.CodeIndexNaN, `invalid value for "prevIndex"`)
		}
	}
	if f.given[pWaitIndex] {
		if o.waitIndex, ok = parseUint(f.value[pWaitIndex]); !ok {
			return refuse(deimos.CodeIndexNaN, `invalid value for "waitIndex"`)
		}
	}
	return nil
}

// flags is check 9.
func (o *options) flags(f *form) *refusal {
	for _, flag := range [...]struct {
		param param
		name  string
		to    *bool
	}{
		{pRecursive, deimos.ParamRecursive, &o.recursive},
		{pSorted, deimos.ParamSorted, nil},
		{pWait, deimos.ParamWait, &o.wait},
		{pDir, deimos.ParamDir, &o.dir},
		{pQuorum, deimos.ParamQuorum, nil},
		{pStream, deimos.ParamStream, &o.stream},
	} {
		b, ok := parseChoice(f, flag.param)
		if !ok {
			return refuse(deimos.CodeInvalidField, "invalid value for "+strconv.Quote(flag.name))
		}
		if flag.to != nil {
			*flag.to = b == yes
		} else if flag.param == pQuorum {
			o.quorum = b
		}
	}
	return nil
}

// lives is checks 11 and 12.
func (o *options) lives(f *form) *refusal {
	o.hasPrevValue, o.prevValue = f.given[pPrevValue], f.value[pPrevValue]
	if o.hasPrevValue && len(o.prevValue) == 0 {
		return refuse(deimos.CodePrevValueRequired, `"prevValue" cannot be empty`)
	}
	b, ok := parseChoice(f, pNoValueOnSuccess)
	if !ok {
		return refuse(deimos.CodeInvalidField, `invalid value for "noValueOnSuccess"`)
	}
	o.noValue = b == yes
	if len(f.value[pTTL]) == 0 {
		return nil
	}
	ttl, ok := parseUint(f.value[pTTL])
	if !ok || ttl > deimos.TTLMaxSeconds {
		return refuse(deimos.CodeTTLNaN, `invalid value for "ttl"`)
	}
	o.hasTTL, o.ttlSeconds = true, int64(ttl)
	return nil
}

// conditions is checks 13 to 15.
func (o *options) conditions(f *form) *refusal {
	exist, ok := parseChoice(f, pPrevExist)
	if !ok {
		return refuse(deimos.CodeInvalidField, "invalid value for prevExist")
	}
	exists, ok := parseChoice(f, pPrevExists)
	if !ok {
		return refuse(deimos.CodeInvalidField, "invalid value for prevExists")
	}
	if exist != unset && exists != unset && exist != exists {
		return refuse(deimos.CodeInvalidField, `"prevExist" and "prevExists" differ`)
	}
	o.exist = max(exist, exists) // unset is the smallest
	refresh, ok := parseChoice(f, pRefresh)
	if !ok {
		return refuse(deimos.CodeInvalidField, "invalid value for refresh")
	}
	if o.refresh = refresh == yes; o.refresh {
		switch {
		case len(f.value[pValue]) > 0:
			return refuse(deimos.CodeRefreshValue, "A value was provided on a refresh")
		case !o.hasTTL:
			return refuse(deimos.CodeRefreshTTL, "No TTL value set")
		case o.exist == no:
			return refuse(deimos.CodeInvalidField, `"refresh=true" contradicts "prevExist=false"`)
		}
	}
	if o.exist != no {
		return nil
	}
	switch {
	case o.hasPrevValue && o.prevIndex > 0:
		return refuse(deimos.CodeInvalidField, `"prevExist=false" contradicts "prevValue" and "prevIndex"`)
	case o.hasPrevValue:
		return refuse(deimos.CodeInvalidField, `"prevExist=false" contradicts "prevValue"`)
	case o.prevIndex > 0:
		return refuse(deimos.CodeInvalidField, `"prevExist=false" contradicts "prevIndex"`)
	}
	return nil
}

// contents is the part of check 16 that concerns values.
func (o *options) contents(f *form, valueMaxBytes int) *refusal {
	o.value = f.value[pValue]
	if !utf8.Valid(o.value) {
		return refuse(deimos.CodeInvalidField, `"value" is not valid UTF-8`)
	}
	if !utf8.Valid(o.prevValue) {
		return refuse(deimos.CodeInvalidField, `"prevValue" is not valid UTF-8`)
	}
	if len(o.value) > valueMaxBytes {
		return &refusal{
			status: http.StatusRequestEntityTooLarge,
			err: deimos.Error{
				Code:  deimos.CodeInvalidForm,
				Cause: "value is larger than " + strconv.Itoa(valueMaxBytes) + " bytes",
			},
		}
	}
	return nil
}

// eventStream is the rest of check 16: Last-Event-ID is read for event streams
// only and wins over waitIndex.
func (o *options) eventStream(r *http.Request) *refusal {
	o.events = o.wait && namesEventStream(r.Header["Accept"])
	if !o.events {
		return nil
	}
	last := r.Header.Get("Last-Event-ID")
	if last == "" {
		return nil
	}
	index, ok := parseUint([]byte(last))
	if !ok || index == math.MaxUint64 {
		return refuse(deimos.CodeIndexNaN, `invalid value for "Last-Event-ID"`)
	}
	o.waitIndex = index + 1
	return nil
}

// namesEventStream reports whether one of the media ranges is
// text/event-stream itself; a wildcard is not.
func namesEventStream(accept []string) bool {
	for _, line := range accept {
		for media := range strings.SplitSeq(line, ",") {
			media, _, _ = strings.Cut(media, ";")
			if strings.EqualFold(strings.TrimSpace(media), "text/event-stream") {
				return true
			}
		}
	}
	return false
}

// parseChoice reads a boolean parameter that may be left out.
func parseChoice(f *form, p param) (choice, bool) {
	if !f.given[p] {
		return unset, true
	}
	switch string(f.value[p]) {
	case "1", "t", "T", "TRUE", "true", "True":
		return yes, true
	case "0", "f", "F", "FALSE", "false", "False":
		return no, true
	}
	return unset, false
}

// parseUint reads decimal digits and nothing else, up to 2^64-1.
func parseUint(b []byte) (uint64, bool) {
	var n uint64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		d := uint64(c - '0')
		if n > (math.MaxUint64-d)/10 {
			return 0, false
		}
		n = n*10 + d
	}
	return n, len(b) > 0
}
