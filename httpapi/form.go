package httpapi

import (
	"bytes"
	"errors"
	"io"
	"mime/multipart"
	"strconv"

	"github.com/marsevilspirit/deimos"
)

// param numbers the parameters that the keys API knows.
type param uint8

const (
	pValue param = iota
	pDir
	pTTL
	pPrevExist
	pPrevExists
	pPrevValue
	pPrevIndex
	pRecursive
	pSorted
	pQuorum
	pWait
	pWaitIndex
	pStream
	pRefresh
	pNoValueOnSuccess
	paramCount
)

var (
	errSemicolon = errors.New("invalid semicolon separator in query")
	errPartName  = errors.New("multipart part without a name")
)

// form holds the first value of each known parameter as a view into the bytes
// it was parsed from. It is filled by parsing the body and then the query.
type form struct {
	given [paramCount]bool
	value [paramCount][]byte
	// misspelt is the bytewise smallest unknown name that starts with "prev".
	misspelt    []byte
	hasMisspelt bool
}

// parameter finds the number of a name.
func parameter(name []byte) (param, bool) {
	switch string(name) {
	case deimos.ParamValue:
		return pValue, true
	case deimos.ParamDir:
		return pDir, true
	case deimos.ParamTTL:
		return pTTL, true
	case deimos.ParamPrevExist:
		return pPrevExist, true
	case deimos.ParamPrevExists:
		return pPrevExists, true
	case deimos.ParamPrevValue:
		return pPrevValue, true
	case deimos.ParamPrevIndex:
		return pPrevIndex, true
	case deimos.ParamRecursive:
		return pRecursive, true
	case deimos.ParamSorted:
		return pSorted, true
	case deimos.ParamQuorum:
		return pQuorum, true
	case deimos.ParamWait:
		return pWait, true
	case deimos.ParamWaitIndex:
		return pWaitIndex, true
	case deimos.ParamStream:
		return pStream, true
	case deimos.ParamRefresh:
		return pRefresh, true
	case deimos.ParamNoValueOnSuccess:
		return pNoValueOnSuccess, true
	}
	return 0, false
}

// add records a parameter unless it is unknown or came before.
func (f *form) add(name, value []byte) {
	if p, ok := parameter(name); ok {
		if !f.given[p] {
			f.given[p], f.value[p] = true, value
		}
		return
	}
	if len(name) < 4 || !bytes.EqualFold(name[:4], []byte("prev")) {
		return
	}
	if !f.hasMisspelt || bytes.Compare(name, f.misspelt) < 0 {
		f.misspelt, f.hasMisspelt = name, true
	}
}

// parseURLEncoded adds the parameters of a query string or a urlencoded body.
// It decodes b in place and keeps views into it.
func (f *form) parseURLEncoded(b []byte) error {
	for len(b) > 0 {
		var pair []byte
		if i := bytes.IndexByte(b, '&'); i >= 0 {
			pair, b = b[:i], b[i+1:]
		} else {
			pair, b = b, nil
		}
		if bytes.IndexByte(pair, ';') >= 0 {
			return errSemicolon
		}
		if len(pair) == 0 {
			continue
		}
		name, value, _ := bytes.Cut(pair, []byte("="))
		name, err := unescape(name)
		if err != nil {
			return err
		}
		if value, err = unescape(value); err != nil {
			return err
		}
		f.add(name, value)
	}
	return nil
}

// escapeError is a percent sign that is not followed by two hex digits.
type escapeError string

func (e escapeError) Error() string { return "invalid URL escape " + strconv.Quote(string(e)) }

// unescape decodes %XX and + in place and returns the part of b that is left.
func unescape(b []byte) ([]byte, error) {
	n := bytes.IndexByte(b, '%')
	if n < 0 {
		n = len(b)
	}
	if plus := bytes.IndexByte(b[:n], '+'); plus >= 0 {
		n = plus
	}
	if n == len(b) {
		return b, nil
	}
	for i := n; i < len(b); i++ {
		switch b[i] {
		case '%':
			if i+2 >= len(b) || !isHex(b[i+1]) || !isHex(b[i+2]) {
				return nil, escapeError(b[i:min(i+3, len(b))])
			}
			b[n] = fromHex(b[i+1])<<4 | fromHex(b[i+2])
			i += 2
		case '+':
			b[n] = ' '
		default:
			b[n] = b[i]
		}
		n++
	}
	return b[:n], nil
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func fromHex(c byte) byte {
	switch {
	case c >= 'a':
		return c - 'a' + 10
	case c >= 'A':
		return c - 'A' + 10
	}
	return c - '0'
}

// parseMultipart adds the parts of a multipart/form-data body. The contents
// are moved to the front of b, which needs no second buffer: a part gives back
// no more bytes than were taken from b before.
func (f *form) parseMultipart(b []byte, boundary string) error {
	reader := multipart.NewReader(bytes.NewReader(b), boundary)
	used := 0
	for {
		part, err := reader.NextPart()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		name := part.FormName()
		if name == "" {
			return errPartName
		}
		start := used
		for err == nil {
			var n int
			n, err = part.Read(b[used:])
			used += n
		}
		if err != io.EOF {
			return err
		}
		f.add([]byte(name), b[start:used:used])
	}
}
