package lane

import (
	"bytes"
	"net/http"
	"net/url"
	"strings"
)

// bodyMaxBytes is the largest body of an everyday request.
const bodyMaxBytes = 256 << 10

var endOfHead = []byte("\r\n\r\n")

// head is what the parser understands of a request. The slices are views into
// the bytes that were parsed.
type head struct {
	method        string
	target        []byte
	host          []byte
	accept        []byte
	contentType   []byte
	contentLength int64
	hasLength     bool
	closes        bool // the client wants the connection closed afterwards
}

// parse reads a request's head at the front of b and returns its length. It
// returns 0 for anything that is not to be answered here: net/http decides then
// whether it is wrong.
func (h *head) parse(b []byte) int {
	end := bytes.Index(b, endOfHead)
	if end < 0 {
		return 0
	}
	*h = head{}
	rest := b[:end+2] // each line ends in CRLF
	line, rest := cutLine(rest)
	if !h.parseRequestLine(line) {
		return 0
	}
	for len(rest) > 0 {
		line, rest = cutLine(rest)
		if !h.parseHeader(line) {
			return 0
		}
	}
	if len(h.host) == 0 {
		return 0
	}
	if h.contentLength > 0 && (h.method == http.MethodGet || h.method == http.MethodHead) {
		return 0
	}
	return end + len(endOfHead)
}

// cutLine returns the first line without its CRLF, and what follows. A line
// with a bare CR or LF in it is found out by the classes of bytes.
func cutLine(b []byte) (line, rest []byte) {
	i := bytes.IndexByte(b, '\n')
	if i < 1 || b[i-1] != '\r' {
		return b[:i+1], b[i+1:]
	}
	return b[:i-1], b[i+1:]
}

var methods = [...]string{http.MethodGet, http.MethodPut, http.MethodPost, http.MethodDelete, http.MethodHead}

func (h *head) parseRequestLine(line []byte) bool {
	method, rest, _ := bytes.Cut(line, []byte(" "))
	target, version, _ := bytes.Cut(rest, []byte(" "))
	if string(version) != "HTTP/1.1" || len(target) == 0 || target[0] != '/' {
		return false
	}
	for _, m := range methods {
		if string(method) == m {
			h.method, h.target = m, target
			return true
		}
	}
	return false
}

// parseHeader takes in one header line. It returns false for a line that is
// malformed, or whose meaning is not known here and may matter.
func (h *head) parseHeader(line []byte) bool {
	colon := bytes.IndexByte(line, ':')
	if colon <= 0 {
		return false
	}
	name, value := line[:colon], bytes.Trim(line[colon+1:], " \t")
	for _, c := range name {
		if classes[c]&classToken == 0 {
			return false
		}
	}
	for _, c := range value {
		if classes[c]&classValue == 0 {
			return false
		}
	}
	switch name[0] | 0x20 {
	case 'h':
		if is(name, "host") {
			return h.setHost(value)
		}
	case 'a':
		if is(name, "accept") {
			return setOnce(&h.accept, value)
		}
	case 'c':
		switch {
		case is(name, "content-type"):
			return setOnce(&h.contentType, value)
		case is(name, "content-length"):
			return h.setLength(value)
		case is(name, "connection"):
			return h.setConnection(value)
		}
	}
	return !matters(name)
}

// matters tells the headers that change what a request means, or that the
// handler may look at, and that are not understood here.
func matters(name []byte) bool {
	switch len(name) {
	case 2:
		return is(name, "te")
	case 6:
		return is(name, "expect") || is(name, "origin")
	case 7:
		return is(name, "upgrade") || is(name, "trailer")
	case 13:
		return is(name, "last-event-id")
	case 14:
		return is(name, "sec-fetch-site")
	case 17:
		return is(name, "transfer-encoding")
	}
	return false
}

// is compares b with a lower-case word, letters in any case.
func is(b []byte, word string) bool {
	if len(b) != len(word) {
		return false
	}
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if c != word[i] {
			return false
		}
	}
	return true
}

// setOnce stores a value that may be given once and not be empty.
func setOnce(field *[]byte, value []byte) bool {
	if *field != nil || len(value) == 0 {
		return false
	}
	*field = value
	return true
}

func (h *head) setConnection(value []byte) bool {
	if is(value, "close") {
		h.closes = true
		return true
	}
	return is(value, "keep-alive") && !h.closes
}

func (h *head) setHost(value []byte) bool {
	for _, c := range value {
		if classes[c]&classHost == 0 {
			return false
		}
	}
	return setOnce(&h.host, value)
}

func (h *head) setLength(value []byte) bool {
	if h.hasLength || len(value) == 0 || len(value) > 7 {
		return false
	}
	for _, c := range value {
		if c < '0' || c > '9' {
			return false
		}
		h.contentLength = 10*h.contentLength + int64(c-'0')
	}
	h.hasLength = true
	return h.contentLength <= bodyMaxBytes
}

// parseTarget fills in u. The text that has nothing to decode is taken as it
// stands; the rest is net/url's to judge.
func parseTarget(u *url.URL, target string) bool {
	for i := range len(target) {
		if classes[target[i]]&classTarget == 0 {
			parsed, err := url.ParseRequestURI(target)
			if err != nil {
				return false
			}
			*u = *parsed
			return true
		}
	}
	path, query, asked := strings.Cut(target, "?")
	*u = url.URL{Path: path, RawQuery: query, ForceQuery: asked && query == ""}
	return true
}

// Classes of bytes.
const (
	classToken  = 1 << iota // in the name of a header
	classValue              // in the value of a header
	classHost               // in the Host header
	classTarget             // in a target, standing for itself
)

var classes = func() (table [256]uint8) {
	mark := func(class uint8, set string) {
		for _, c := range []byte(set) {
			table[c] |= class
		}
	}
	const alphanumeric = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	mark(classToken, alphanumeric+"!#$%&'*+-.^_`|~")
	mark(classHost, alphanumeric+".:-_[]")
	mark(classTarget, alphanumeric+"-._~/?:@$&+,;=")
	for c := range table {
		if c >= 0x20 && c != 0x7f || c == '\t' {
			table[c] |= classValue
		}
	}
	return table
}()
