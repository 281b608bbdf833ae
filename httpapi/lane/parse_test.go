package lane

import (
	"bufio"
	"bytes"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// simple is a head that is answered here, without its last line.
const simple = "GET /keys/a HTTP/1.1\r\nHost: h\r\n"

func TestWhatNetHTTPHasToJudge(t *testing.T) {
	for _, tt := range []struct{ name, send string }{
		{"another method", "PATCH /keys/a HTTP/1.1\r\nHost: h\r\n\r\n"},
		{"a method in lower case", "get /keys/a HTTP/1.1\r\nHost: h\r\n\r\n"},
		{"another version", "GET /keys/a HTTP/1.0\r\nHost: h\r\n\r\n"},
		{"two spaces", "GET  /keys/a HTTP/1.1\r\nHost: h\r\n\r\n"},
		{"absolute form", "GET http://h/keys/a HTTP/1.1\r\nHost: h\r\n\r\n"},
		{"a space in the target", "GET /keys/a b HTTP/1.1\r\nHost: h\r\n\r\n"},
		{"no host", "GET /keys/a HTTP/1.1\r\n\r\n"},
		{"an empty host", "GET /keys/a HTTP/1.1\r\nHost:\r\n\r\n"},
		{"two hosts", simple + "Host: h\r\n\r\n"},
		{"a host that is none", "GET /keys/a HTTP/1.1\r\nHost: h/x\r\n\r\n"},
		{"no end", simple},
		{"an end without CR", "GET /keys/a HTTP/1.1\nHost: h\n\n"},
		{"a line without CR", "GET /keys/a HTTP/1.1\r\nHost: h\nAccept: a\r\n\r\n"},
		{"a CR in a line", simple + "Accept: a\rb\r\n\r\n"},
		{"a line without a colon", simple + "Accept\r\n\r\n"},
		{"a header without a name", simple + ": a\r\n\r\n"},
		{"a space before the colon", simple + "Accept : a\r\n\r\n"},
		{"a folded line", simple + "X: a\r\n b\r\n\r\n"},
		{"a NUL", simple + "X: a\x00\r\n\r\n"},
		{"a control character", simple + "X: a\x7f\r\n\r\n"},
		{"two lengths", "PUT /keys/a HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n"},
		{"a signed length", "PUT /keys/a HTTP/1.1\r\nHost: h\r\nContent-Length: +1\r\n\r\n"},
		{"an empty length", "PUT /keys/a HTTP/1.1\r\nHost: h\r\nContent-Length:\r\n\r\n"},
		{"a length in hex", "PUT /keys/a HTTP/1.1\r\nHost: h\r\nContent-Length: 0x1\r\n\r\n"},
		{"a large body", "PUT /keys/a HTTP/1.1\r\nHost: h\r\nContent-Length: 262145\r\n\r\n"},
		{"a huge body", "PUT /keys/a HTTP/1.1\r\nHost: h\r\nContent-Length: 18446744073709551617\r\n\r\n"},
		{"the body of a GET", simple + "Content-Length: 1\r\n\r\n"},
		{"chunked", "PUT /keys/a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"},
		{"chunked, in capitals", "PUT /keys/a HTTP/1.1\r\nHost: h\r\nTRANSFER-ENCODING: chunked\r\n\r\n"},
		{"a length, and chunked", "PUT /keys/a HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"},
		{"expect", simple + "Expect: 100-continue\r\n\r\n"},
		{"upgrade", simple + "Upgrade: h2c\r\n\r\n"},
		{"another connection option", simple + "Connection: close, te\r\n\r\n"},
		{"a trailer", simple + "Trailer: X\r\n\r\n"},
		{"te", simple + "TE: trailers\r\n\r\n"},
		{"a web page", simple + "Origin: http://h\r\n\r\n"},
		{"a browser", simple + "Sec-Fetch-Site: cross-site\r\n\r\n"},
		{"a resumed event stream", simple + "Last-Event-ID: 7\r\n\r\n"},
		{"two types", simple + "Content-Type: a\r\nContent-Type: b\r\n\r\n"},
		{"an empty type", simple + "Content-Type: \r\n\r\n"},
		{"two lists of types", simple + "Accept: a\r\nAccept: b\r\n\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var h head
			if n := h.parse([]byte(tt.send)); n != 0 {
				t.Errorf("parse(%q) = %d, want 0", tt.send, n)
			}
		})
	}
}

func TestEverydayHeads(t *testing.T) {
	for _, tt := range []struct {
		name, send string
		want       head
	}{
		{"the shortest", simple + "\r\nGET ", head{method: "GET", target: []byte("/keys/a"), host: []byte("h")}},
		{"curl", "PUT /keys/a?x=1 HTTP/1.1\r\nHost: 127.0.0.1:4001\r\nUser-Agent: curl/8\r\nAccept: */*\r\nContent-Length: 7\r\n" +
			"Content-Type: application/x-www-form-urlencoded\r\n\r\nvalue=1",
			head{method: "PUT", target: []byte("/keys/a?x=1"), host: []byte("127.0.0.1:4001"), accept: []byte("*/*"),
				contentType: []byte("application/x-www-form-urlencoded"), contentLength: 7, hasLength: true}},
		{"letters of any case", "POST /keys/a HTTP/1.1\r\nhOST:h\r\ncontent-LENGTH:\t0 \r\nCONNECTION: Keep-Alive\r\n\r\n",
			head{method: "POST", target: []byte("/keys/a"), host: []byte("h"), hasLength: true}},
		{"the last request", simple + "Connection: close\r\n\r\n",
			head{method: "GET", target: []byte("/keys/a"), host: []byte("h"), closes: true}},
		{"other headers", simple + "Authorization: Bearer é\r\nX-Request-Id: 1\r\nX-Request-Id: 2\r\nX-Empty:\r\n\r\n",
			head{method: "GET", target: []byte("/keys/a"), host: []byte("h")}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var h head
			want := strings.Index(tt.send, "\r\n\r\n") + 4
			if n := h.parse([]byte(tt.send)); n != want {
				t.Fatalf("parse(%q) = %d, want %d", tt.send, n, want)
			}
			if h.String() != tt.want.String() {
				t.Errorf("parse(%q) = %v, want %v", tt.send, h, tt.want)
			}
		})
	}
}

// String makes heads comparable and readable.
func (h head) String() string {
	var b strings.Builder
	for _, part := range [][]byte{[]byte(h.method), h.target, h.host, h.accept, h.contentType} {
		b.WriteString(string(part) + "|")
	}
	b.WriteString(strings.Repeat("1", int(min(h.contentLength, 99))))
	if h.hasLength {
		b.WriteString("|length")
	}
	if h.closes {
		b.WriteString("|close")
	}
	return b.String()
}

// FuzzParse demands that what is answered here means the same to net/http.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		simple + "\r\n",
		simple + "Connection: close\r\nAccept: */*\r\n\r\n",
		"PUT /keys/%41?value=a%20b HTTP/1.1\r\nHost: [::1]:4001\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nabc",
		"DELETE //keys/../a?;& HTTP/1.1\r\nHost: h\r\nX: é\r\n\r\n",
		"GET /keys/a%zz HTTP/1.1\r\nHost: h\r\n\r\n",
		"POST /keys? HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
		"GET /keys/a#b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding : chunked\r\n\r\n",
		"GET /k HTTP/1.1\r\nHost: h\r\n\tfolded: 1\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var h head
		n := h.parse(b)
		if n == 0 {
			return
		}
		var u url.URL
		if !parseTarget(&u, string(h.target)) {
			return
		}
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			t.Fatalf("ReadRequest(%q) = %v, but it is answered", b, err)
		}
		if r.Method != h.method || r.RequestURI != string(h.target) || r.Host != string(h.host) || r.Proto != "HTTP/1.1" {
			t.Errorf("%q = %v, net/http reads %s %s of %s", b, h, r.Method, r.RequestURI, r.Host)
		}
		if r.URL.Path != u.Path || r.URL.RawQuery != u.RawQuery || r.URL.Host != u.Host || r.URL.String() != u.String() {
			t.Errorf("target of %q = %#v, net/http reads %#v", b, u, r.URL)
		}
		if r.ContentLength != h.contentLength || len(r.TransferEncoding) > 0 || r.Close != h.closes || len(r.Trailer) > 0 {
			t.Errorf("%q = %v, net/http reads length %d, codings %v, close %v, trailer %v", b, h, r.ContentLength, r.TransferEncoding, r.Close, r.Trailer)
		}
		for name, value := range map[string][]byte{"Accept": h.accept, "Content-Type": h.contentType} {
			if got := r.Header.Get(name); got != string(value) || len(r.Header[name]) > 1 {
				t.Errorf("%s of %q = %q, net/http reads %q", name, b, value, r.Header[name])
			}
		}
		for _, name := range []string{"Origin", "Sec-Fetch-Site", "Last-Event-Id", "Expect", "Upgrade"} {
			if _, given := r.Header[name]; given {
				t.Errorf("%q is answered although it has %s", b, name)
			}
		}
	})
}
