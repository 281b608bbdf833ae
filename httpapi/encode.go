package httpapi

import (
	"encoding/binary"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/store"
)

// clock turns deadlines into ttl and expiration. It reads the clocks when the
// first deadline is met, so answers without one read none, and all deadlines
// of an answer count from the same moment.
type clock struct {
	h *Handler
	// nowMS is the cluster time from which ttl counts: that of the event, or
	// the time of the read.
	nowMS int64
	// reads tells that nowMS is still to be read.
	reads bool
	// shiftMS is the wall clock less the cluster time, once known.
	shiftMS int64
	known   bool
}

// read returns nowMS and shiftMS.
func (k *clock) read() (nowMS, shiftMS int64) {
	if !k.known {
		k.known = true
		clusterMS := k.h.backend.ClusterTimeMS()
		k.shiftMS = k.h.now().Round(time.Millisecond).UnixMilli() - clusterMS
		if k.reads {
			k.nowMS = clusterMS
		}
	}
	return k.nowMS, k.shiftMS
}

// encoded returns an event as it goes to all its watchers. Nobody may change it.
func (h *Handler) encoded(e *store.Event) []byte {
	if line := e.Encoding(); line != nil {
		return line
	}
	size := 256 + len(e.Node().Value())
	if p := e.PrevNode(); p != nil {
		size += len(p.Value())
	}
	k := clock{h: h, nowMS: e.NowMS()}
	return h.encodings.keep(e, appendEvent(make([]byte, 0, size), e, &k, false))
}

// appendEvent appends an event as one line of JSON. noValue leaves the nodes
// out, except those of removals.
func appendEvent(dst []byte, e *store.Event, k *clock, noValue bool) []byte {
	action := e.Action()
	dst = append(dst, `{"action":"`...)
	dst = append(dst, action...)
	dst = append(dst, '"')
	if noValue && !action.Removes() {
		return append(dst, '}', '\n')
	}
	n := e.Node()
	dst = append(dst, `,"node":`...)
	if action.Removes() {
		dst = appendKey(dst, n)
	} else {
		dst = appendHead(dst, n, k)
	}
	dst = appendTail(dst, n)
	if p := e.PrevNode(); p != nil {
		dst = append(dst, `,"prevNode":`...)
		dst = appendTail(appendHead(dst, p, k), p)
	}
	return append(dst, '}', '\n')
}

// appendHead appends what stands before the children of a node.
func appendHead(dst []byte, n *store.Node, k *clock) []byte {
	if n.IsDir() {
		dst = appendKey(dst, n)
	} else {
		dst = append(dst, `{"key":`...)
		dst = appendNodeKey(dst, n)
		dst = append(dst, `,"value":`...)
		dst = appendString(dst, n.Value())
	}
	deadlineMS, ok := n.DeadlineMS()
	if !ok {
		return dst
	}
	nowMS, shiftMS := k.read()
	dst = append(dst, `,"expiration":"`...)
	dst = time.UnixMilli(deadlineMS+shiftMS).UTC().AppendFormat(dst, time.RFC3339Nano)
	dst = append(dst, '"')
	if leftMS := deadlineMS - nowMS; leftMS > 0 {
		dst = append(dst, `,"ttl":`...)
		dst = strconv.AppendInt(dst, (leftMS+999)/1000, 10)
	}
	return dst
}

// appendKey appends the key and the kind of a node: all that the node of a
// removal shows in front of its indexes.
func appendKey(dst []byte, n *store.Node) []byte {
	dst = append(dst, `{"key":`...)
	dst = appendNodeKey(dst, n)
	if n.IsDir() {
		dst = append(dst, `,"dir":true`...)
	}
	return dst
}

// appendTail appends what stands after the children of a node.
func appendTail(dst []byte, n *store.Node) []byte {
	if n.IsRoot() {
		return append(dst, '}')
	}
	dst = append(dst, `,"modifiedIndex":`...)
	dst = strconv.AppendUint(dst, n.ModifiedIndex(), 10)
	dst = append(dst, `,"createdIndex":`...)
	dst = strconv.AppendUint(dst, n.CreatedIndex(), 10)
	return append(dst, '}')
}

// appendNodeKey appends the key of n as a JSON string. Keys seldom need an
// escape, so the key is appended first and looked at afterwards.
func appendNodeKey(dst []byte, n *store.Node) []byte {
	dst = append(dst, '"')
	start := len(dst)
	dst = n.AppendKey(dst)
	for _, b := range dst[start:] {
		if !plain(b) {
			key := string(dst[start:])
			return appendString(dst[:start-1], key)
		}
	}
	return append(dst, '"')
}

// appendError appends an error as one line of JSON.
func appendError(dst []byte, e *deimos.Error) []byte {
	dst = append(dst, `{"errorCode":`...)
	dst = strconv.AppendInt(dst, int64(e.Code), 10)
	dst = append(dst, `,"message":`...)
	dst = appendString(dst, e.Code.String())
	if e.Cause != "" {
		dst = append(dst, `,"cause":`...)
		dst = appendString(dst, e.Cause)
	}
	dst = append(dst, `,"index":`...)
	dst = strconv.AppendUint(dst, e.Index, 10)
	return append(dst, '}', '\n')
}

// plain reports whether a byte stands for itself in a JSON string.
func plain(b byte) bool {
	return b >= 0x20 && b < utf8.RuneSelf && b != '"' && b != '\\' && b != '<' && b != '>' && b != '&'
}

// A number eight bytes wide with the same byte in each place is a multiple of ones.
const (
	ones  = 0x0101010101010101
	highs = 0x80 * ones
)

// plain8 reports whether eight bytes in a row are plain. It looks at all of them at
// once: a high bit is left where a byte is below 0x20, not ASCII, or zero after what
// makes it so for the bytes in question. (Warren, Hacker's Delight, 6-1.)
func plain8(w uint64) bool {
	low := (w - 0x20*ones) &^ w
	quoteOrAmpersand := w | 0x04*ones ^ '&'*ones
	angles := w | 0x02*ones ^ '>'*ones
	backslash := w ^ '\\'*ones
	found := w | low | (quoteOrAmpersand-ones)&^quoteOrAmpersand | (angles-ones)&^angles | (backslash-ones)&^backslash
	return found&highs == 0
}

// appendString appends s as a JSON string. Besides what JSON demands, it
// escapes what could end a script element or a line of JavaScript; bytes that
// are not UTF-8 become U+FFFD.
func appendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	start := 0
	text := []byte(s) // no copy: it is only read
	for i := 0; i < len(s); {
		if i+8 <= len(s) && plain8(binary.LittleEndian.Uint64(text[i:])) {
			i += 8
			continue
		}
		b := s[i]
		if plain(b) {
			i++
			continue
		}
		if b < utf8.RuneSelf {
			dst = append(dst, s[start:i]...)
			dst = appendEscape(dst, b)
			i++
			start = i
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			dst = append(dst, s[start:i]...)
			dst = append(dst, `\ufffd`...)
			start = i + size
		case r == '\u2028':
			dst = append(dst, s[start:i]...)
			dst = append(dst, `\u2028`...)
			start = i + size
		case r == '\u2029':
			dst = append(dst, s[start:i]...)
			dst = append(dst, `\u2029`...)
			start = i + size
		}
		i += size
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"')
}

// appendEscape appends the escape of an ASCII character that is not plain.
func appendEscape(dst []byte, b byte) []byte {
	const hex = "0123456789abcdef"
	switch b {
	case '"', '\\':
		return append(dst, '\\', b)
	case '\b':
		return append(dst, `\b`...)
	case '\f':
		return append(dst, `\f`...)
	case '\n':
		return append(dst, `\n`...)
	case '\r':
		return append(dst, `\r`...)
	case '\t':
		return append(dst, `\t`...)
	}
	return append(dst, '\\', 'u', '0', '0', hex[b>>4], hex[b&0xf])
}
