package load

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

const chunkedAnswer = "HTTP/1.1 200 OK\r\nX-Etcd-Index: 7\r\nTransfer-Encoding: chunked\r\n\r\n" +
	"5\r\nhello\r\nA;extension=1\r\n, 10 bytes\r\n0\r\nTrailer: 1\r\n\r\n"

func TestAnswersArriveInAnyPieces(t *testing.T) {
	for _, tt := range []struct {
		name, text, body string
		status           int
		closing          bool
	}{
		{"length", "HTTP/1.1 201 Created\r\nDate: today\r\nCONTENT-LENGTH:  5\r\nX-Content-Length: 9\r\n\r\nhello", "hello", 201, false},
		{"empty", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "", 200, false},
		{"chunks", chunkedAnswer, "hello, 10 bytes", 200, false},
		{"close", "HTTP/1.1 503 \r\nConnection: close\r\nContent-Length: 2\r\n\r\nno", "no", 503, true},
		{"old", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", "ok", 200, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for cut := range len(tt.text) {
				var body bytes.Buffer
				a := answer{start: make([]byte, 0, 64), body: func(piece []byte) { body.Write(piece) }}
				for range 2 { // it is used again
					a.reset()
					body.Reset()
					used, done, err := a.feed([]byte(tt.text[:cut]))
					if used != cut || done || err != nil {
						t.Fatalf("feed(%q) = %d, %t, %v, want all of it, not done", tt.text[:cut], used, done, err)
					}
					rest := tt.text[cut:] + "HTTP"
					used, done, err = a.feed([]byte(rest))
					if used != len(rest)-4 || !done || err != nil {
						t.Fatalf("feed(%q) = %d, %t, %v, want all but what follows, done", rest, used, done, err)
					}
					if body.String() != tt.body || string(a.start) != tt.body || a.status != tt.status || a.closing != tt.closing {
						t.Fatalf("cut at %d: status %d, body %q and %q, closing %t, want %d, %q, %t",
							cut, a.status, &body, a.start, a.closing, tt.status, tt.body, tt.closing)
					}
				}
			}
		})
	}
}

func TestMalformedAnswers(t *testing.T) {
	for _, tt := range []struct {
		text string
		want error
	}{
		{"hello, world\r\n\r\n", errHead},
		{"HTTP/1.1 20x OK\r\n\r\n", errHead},
		{"HTTP/2.0\r\n\r\n", errHead},
		{"HTTP/1.1 200 OK\r\n\r\n", errLength},
		{"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", errLength},
		{"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", errLength},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", errChunk},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n", errChunk},
		{"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", headMaxBytes), errLong},
	} {
		var a answer
		if _, _, err := a.feed([]byte(tt.text)); !errors.Is(err, tt.want) {
			t.Errorf("feed(%.60q) = %v, want %v", tt.text, err, tt.want)
		}
	}
}

// FuzzAnswer compares with net/http, and with itself in pieces.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte(chunkedAnswer), 50)
	f.Add([]byte(answered(200, aValue)), 20)
	f.Add([]byte("HTTP/1.1 200 OK\r\n\r\n"), 5)
	f.Fuzz(func(t *testing.T, text []byte, cut int) {
		var whole, pieces answer
		whole.start, pieces.start = make([]byte, 0, 100), make([]byte, 0, 100)
		used, done, err := whole.feed(text)
		if used > len(text) {
			t.Fatalf("feed used %d of %d bytes", used, len(text))
		}
		if cut < 0 || cut > len(text) {
			return
		}
		n, done2, err2 := pieces.feed(text[:cut])
		if !done2 && err2 == nil {
			var m int
			m, done2, err2 = pieces.feed(text[cut:])
			n += m
		}
		if done != done2 || (err == nil) != (err2 == nil) || whole.status != pieces.status {
			t.Fatalf("whole: %t, %v, %d; in pieces: %t, %v, %d", done, err, whole.status, done2, err2, pieces.status)
		}
		if done && (n != used || !bytes.Equal(whole.start, pieces.start)) {
			t.Fatalf("whole: %d bytes, %q; in pieces: %d bytes, %q", used, whole.start, n, pieces.start)
		}
	})
}

// TestAnswersOfNetHTTP reads what the server of both stores makes.
func TestAnswersOfNetHTTP(t *testing.T) {
	for _, size := range []int{0, 1, 100, 2000, 5000, 100_000} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, strings.Repeat("x", size))
		}))
		conn, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		var a answer
		got := 0
		a.body = func(piece []byte) { got += len(piece) }
		buf := make([]byte, 1000)
		for done := false; !done; {
			n, err := conn.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			if _, done, err = a.feed(buf[:n]); err != nil {
				t.Fatalf("feed() = %v", err)
			}
		}
		if got != size || a.status != 200 {
			t.Errorf("status %d with %d bytes, want 200 with %d", a.status, got, size)
		}
		conn.Close()
		s.Close()
	}
}

// TestRequestsAllocateNothing is why the generator is light.
func TestRequestsAllocateNothing(t *testing.T) {
	cfg := config(Mixed, "http://fake")
	cfg.Reads = 0.5
	r := newRun(cfg, []*endpoint{{host: "fake"}})
	c := r.callers[0].(*requester)
	c.greeted = true
	r.plan.begin(1)
	for _, text := range []string{answered(200, aValue), strings.Replace(chunkedAnswer, "hello, ", `"value":"`, 1)} {
		answer := []byte(text)
		cut := len(answer) / 2
		request := func() {
			if _, _, v := c.next(r.now()); v != send {
				t.Fatal("nothing to send")
			}
			c.receive(answer[:cut], r.now())
			c.receive(answer[cut:], r.now())
		}
		for range 100 {
			request()
		}
		if n := testing.AllocsPerRun(1000, request); n != 0 {
			t.Errorf("%v allocations a request, want none", n)
		}
	}
}
