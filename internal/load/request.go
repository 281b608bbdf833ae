package load

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"strconv"
	"strings"
)

// request is a rendered HTTP request with blanks for numbers, which are filled
// in where they stand. Each connection has its own.
type request struct {
	text   []byte
	perDir int
	dir    blank // number of the directory
	key    blank // number of the key
	event  blank // number of the event, in the value
}

// blank is a place for a number of a fixed width; the zero value is none.
type blank struct{ at, width int }

// eventDigits is the width of the number of an event.
const eventDigits = 12

// fill writes n with zeros in front.
func (b blank) fill(text []byte, n int) {
	for i := b.at + b.width - 1; i >= b.at; i-- {
		text[i] = byte('0' + n%10)
		n /= 10
	}
}

// render returns the request for a key. The result counts until the next call.
func (r *request) render(key int) []byte {
	if r.perDir > 0 {
		r.dir.fill(r.text, key/r.perDir)
	}
	r.key.fill(r.text, key)
	return r.text
}

// renderer makes the requests of one endpoint.
type renderer struct {
	text strings.Builder
	r    request
}

// path writes the request line up to the query, leaving blanks for the key.
func (w *renderer) path(method string, cfg *Config) {
	w.text.WriteString(method + " " + escaped(cfg.Target.Prefix) + escaped(cfg.Keys.Prefix))
	if cfg.Work == WatchFanout {
		w.text.WriteString("/watched")
		return
	}
	if w.r.perDir = cfg.Keys.PerDir; w.r.perDir > 0 {
		w.text.WriteString("/d")
		w.r.dir = w.blank((cfg.Keys.Count - 1) / cfg.Keys.PerDir)
	}
	if cfg.Work == List && method == "GET" {
		return
	}
	w.text.WriteString("/k")
	w.r.key = w.blank(cfg.Keys.Count - 1)
}

// blank leaves room for numbers up to last.
func (w *renderer) blank(last int) blank {
	b := blank{w.text.Len(), len(strconv.Itoa(last))}
	w.text.WriteString(strings.Repeat("0", b.width))
	return b
}

func (w *renderer) done() request {
	w.r.text = []byte(w.text.String())
	return w.r
}

// newPut renders a write.
func newPut(cfg *Config, host string) request {
	var w renderer
	w.path("PUT", cfg)
	fmt.Fprintf(&w.text, " HTTP/1.1\r\nHost: %s\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\nvalue=",
		host, len("value=")+cfg.Keys.ValueBytes)
	letters := cfg.Keys.ValueBytes
	if cfg.Work == WatchFanout {
		w.r.event = blank{w.text.Len(), eventDigits}
		w.text.WriteString(strings.Repeat("0", eventDigits))
		letters -= eventDigits
	}
	w.text.Write(value(letters, cfg.Seed))
	return w.done()
}

// newGet renders a read with a query.
func newGet(cfg *Config, host, query string) request {
	var w renderer
	w.path("GET", cfg)
	fmt.Fprintf(&w.text, "?%s HTTP/1.1\r\nHost: %s\r\n\r\n", query, host)
	return w.done()
}

// newHello renders the request by which a connection shows that it is there. A
// server may take one that is silent for an attack. What is answered is of no
// interest.
func newHello(host string) []byte {
	return []byte("GET /version HTTP/1.1\r\nHost: " + host + "\r\n\r\n")
}

// value returns letters that do not compress well and need no escaping.
func value(n int, seed uint64) []byte {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
	random := rand.New(rand.NewPCG(seed, 0))
	text := make([]byte, n)
	for i := range text {
		text[i] = letters[random.IntN(len(letters))]
	}
	return text
}

// escaped returns a path as it stands in a request line.
func escaped(path string) string { return (&url.URL{Path: path}).EscapedPath() }
