package httpapi

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/store"
)

const closing = "Host: h\r\nConnection: close\r\n"

func chunked(s string) string { return fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(s), s) }

var statusLine = regexp.MustCompile(`HTTP/1\.[01] \d\d\d `)

func TestRawRequestsHaveOneReading(t *testing.T) {
	const urlencoded = "Content-Type: application/x-www-form-urlencoded\r\n"
	const smuggled = "PUT /keys/smuggled HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
	for _, tt := range []struct {
		name string
		send string
		want string // how the one answer begins
		has  string // what it contains
	}{
		{"plain", "GET /keys HTTP/1.1\r\n" + closing + "\r\n", "HTTP/1.1 200 ", `"key":"/"`},
		{"absolute form", "GET http://elsewhere/keys?recursive=true HTTP/1.1\r\n" + closing + "\r\n", "HTTP/1.1 200 ", `"key":"/"`},
		{"absolute form with a foreign origin", "PUT http://elsewhere/keys/a HTTP/1.1\r\n" + closing + "Origin: http://h\r\n\r\n", "HTTP/1.1 403 ", "origin not allowed"},
		{"length and chunked", "PUT /keys/a HTTP/1.1\r\nHost: h\r\n" + urlencoded + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + chunked("value="+smuggled), "HTTP/1.1 ", ""},
		{"two lengths", "PUT /keys/a HTTP/1.1\r\n" + closing + "Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + smuggled, "HTTP/1.1 400 ", ""},
		{"unknown coding", "PUT /keys/a HTTP/1.1\r\n" + closing + "Transfer-Encoding: gzip, chunked\r\n\r\n" + smuggled, "HTTP/1.1 501 ", ""},
		{"malformed chunk", "PUT /keys/a HTTP/1.1\r\n" + closing + urlencoded + "Transfer-Encoding: chunked\r\n\r\nzz\r\n" + smuggled, "HTTP/1.1 400 ", `"errorCode":210`},
		{"chunked empty body of no type", "PUT /keys/a HTTP/1.1\r\n" + closing + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "HTTP/1.1 201 ", `"value":""`},
		{"chunked body", "PUT /keys/a HTTP/1.1\r\n" + closing + urlencoded + "Transfer-Encoding: chunked\r\n\r\n" + chunked("value=x%20y"), "HTTP/1.1 201 ", `"value":"x y"`},
		{"chunked body of no type", "PUT /keys/a HTTP/1.1\r\n" + closing + "Transfer-Encoding: chunked\r\n\r\n" + chunked("value=x"), "HTTP/1.1 415 ", `unsupported content type \"\"`},
		{"h2c upgrade", "GET /keys HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n", "HTTP/1.1 200 ", `"key":"/"`},
		{"websocket upgrade", "GET /keys HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n", "HTTP/1.1 200 ", `"key":"/"`},
		{"body of a get", "GET /keys HTTP/1.1\r\n" + closing + fmt.Sprintf("Content-Length: %d\r\n\r\n", len(smuggled)) + smuggled, "HTTP/1.1 200 ", `"key":"/"`},
		{"server-wide options", "OPTIONS * HTTP/1.1\r\n" + closing + "\r\n", "HTTP/1.1 200 ", "Content-Length: 0"},
		{"connect", "CONNECT h:80 HTTP/1.1\r\n" + closing + "\r\n", "HTTP/1.1 404 ", ""},
		{"malformed escape", "GET /keys/%zz HTTP/1.1\r\n" + closing + "\r\n", "HTTP/1.1 400 ", "text/plain"},
		{"no redirect", "GET /keys//a/../b/ HTTP/1.1\r\n" + closing + "\r\n", "HTTP/1.1 404 ", `"cause":"/b"`},
		{"old protocol", "PUT /keys/a HTTP/1.0\r\n" + urlencoded + "Content-Length: 7\r\n\r\nvalue=1", "HTTP/1.0 201 ", `"value":"1"`},
		{"old protocol, chunked", "PUT /keys/a HTTP/1.0\r\nConnection: keep-alive\r\n" + urlencoded + "Transfer-Encoding: chunked\r\n\r\n" + chunked("value=1"), "HTTP/1.0 411 ", "needs a Content-Length"},
		{"old protocol, a request for a chunk", "PUT /keys/a HTTP/1.0\r\nConnection: keep-alive\r\n" + urlencoded + "Transfer-Encoding: chunked\r\n\r\n" + smuggled, "HTTP/1.0 411 ", ""},
		{"old protocol, length and chunked", "POST /keys/a HTTP/1.0\r\nConnection: keep-alive\r\n" + urlencoded + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n57\r\n\n" + smuggled, "HTTP/1.0 ", ""},
		{"old protocol, kept", "GET /keys HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + smuggled, "HTTP/1.0 200 ", "Connection: close"},
		{"old protocol, nothing to keep", "DELETE /keys/a HTTP/1.0\r\n\r\n", "HTTP/1.0 404 ", "Key not found"},
		{"compressed metrics", "GET /metrics HTTP/1.1\r\n" + closing + "Accept-Encoding: gzip\r\n\r\n", "HTTP/1.1 200 ", "Content-Encoding: gzip"},
		{"members", "POST /members HTTP/1.1\r\n" + closing + "Content-Length: 2\r\n\r\n{}", "HTTP/1.1 415 ", `"message"`},
		{"version", "GET /version HTTP/1.1\r\n" + closing + "\r\n", "HTTP/1.1 200 ", `"etcdserver"`},
		{"no such path", "GET /nowhere HTTP/1.1\r\n" + closing + "\r\n", "HTTP/1.1 404 ", "404 page not found"},
		{"target over the limit", "GET /keys/" + strings.Repeat("a", targetMaxBytes) + " HTTP/1.1\r\n" + closing + "\r\n", "HTTP/1.1 414 ", "text/plain"},
		{"target at the limit", "GET /keys/a?" + strings.Repeat("x", targetMaxBytes-len("/keys/a?")) + " HTTP/1.1\r\n" + closing + "\r\n", "HTTP/1.1 404 ", "Key not found"},
		{"longest key, escaped", "PUT /keys/" + strings.Repeat("%61", 4095) + " HTTP/1.1\r\n" + closing + "\r\n", "HTTP/1.1 201 ", ""},
		{"head over the limit", "GET /keys HTTP/1.1\r\n" + closing + "X: " + strings.Repeat("x", HeadMaxBytes) + "\r\n\r\n", "HTTP/1.1 431 ", "text/plain"},
		{"head near the limit", "GET /keys HTTP/1.1\r\n" + closing + "X: " + strings.Repeat("x", HeadMaxBytes-4096) + "\r\n\r\n", "HTTP/1.1 200 ", ""},
		{"announced body over the limit", "PUT /keys/a HTTP/1.1\r\nHost: h\r\n" + urlencoded + "Content-Length: 3211265\r\n\r\nvalue=", "HTTP/1.1 413 ", "body is larger than 3211264 bytes"},
		{"chunked body over the limit", "PUT /keys/a HTTP/1.1\r\nHost: h\r\n" + urlencoded + "Transfer-Encoding: chunked\r\n\r\n310001\r\n" + strings.Repeat("x", 3211265), "HTTP/1.1 413 ", "body is larger than 3211264 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newFake()
			addr := realServer(t, newHandler(t, b, nil))
			got := raw(t, addr, tt.send)
			if !strings.HasPrefix(got, tt.want) || !strings.Contains(got, tt.has) {
				t.Errorf("answer = %.400q, want %s… with %s", got, tt.want, tt.has)
			}
			if n := len(statusLine.FindAllString(got, -1)); n != 1 {
				t.Errorf("%d answers, want one: %.600q", n, got)
			}
			if _, err := b.store.View().Get("/smuggled"); err == nil {
				t.Errorf("a request came out of a body")
			}
		})
	}
}

func TestSlowBodyIsCutWith408(t *testing.T) {
	for _, tt := range []struct {
		name, head string
		has        string
	}{
		{"urlencoded", "PUT /keys/a HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\nvalue=", "too slowly"},
		{"chunked", "PUT /keys/a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", "too slowly"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, _ *fakeBackend, s *testServer) {
				conn := s.dial()
				start := time.Now()
				sent := make(chan error, 1)
				go func() {
					_, err := io.WriteString(conn, tt.head)
					sent <- err
				}()
				answer, err := io.ReadAll(conn)
				if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 408 ") || !strings.Contains(string(answer), tt.has) {
					t.Errorf("answer = %q, %v, want 408", answer, err)
				}
				if !strings.Contains(string(answer), "Connection: close") {
					t.Errorf("answer = %q, want Connection: close", answer)
				}
				if took := time.Since(start); took < 10*time.Second || took > 11*time.Second {
					t.Errorf("connection closed after %v, want 10s", took)
				}
				if err := <-sent; err != nil {
					t.Errorf("sending = %v, want nil", err)
				}
			})
		})
	}
}

func TestSteadyBodyGetsMoreTime(t *testing.T) {
	inBubble(t, func(t *testing.T, b *fakeBackend, s *testServer) {
		conn := s.dial()
		const parts, size = 20, 32 << 10
		sent := make(chan error, 1)
		go func() {
			_, err := fmt.Fprintf(conn, "PUT /keys/a HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\nvalue=", parts*size+6)
			for range parts {
				if err == nil {
					<-time.After(2 * time.Second) // the bubble's clock: 2 s for every 32 KiB
					_, err = io.WriteString(conn, strings.Repeat("x", size))
				}
			}
			sent <- err
		}()
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || resp.StatusCode != 201 {
			t.Errorf("steady upload = %v, %v, want 201", resp, err)
		}
		if err := <-sent; err != nil {
			t.Errorf("sending = %v, want nil", err)
		}
		if got := len(b.last.Load().Value); got != parts*size {
			t.Errorf("value = %d bytes, want %d", got, parts*size)
		}
		if err := conn.Close(); err != nil {
			t.Errorf("Close() = %v, want nil", err)
		}
	})
}

// TestSlowWriteKeepsItsConnection proposes for longer than a body may take:
// the deadline of the body must not cancel it.
func TestSlowWriteKeepsItsConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFake()
		b.write = func(ctx context.Context, _ *deimos.Request) (*store.Event, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		s := serve(t, newHandler(t, b, func(c *Config) { c.Timeout = time.Minute }))
		start := time.Now()
		resp, err := s.client.Post("http://h/keys/a", typeURLEncoded, strings.NewReader("value=1"))
		if err != nil || resp.StatusCode != 500 {
			t.Fatalf("POST = %v, %v, want 500", resp, err)
		}
		if got := body(t, resp); !strings.Contains(got, deimos.CauseWriteTimeout) {
			t.Errorf("POST = %s, want %s", got, deimos.CauseWriteTimeout)
		}
		if took := time.Since(start); took != time.Minute {
			t.Errorf("POST took %v, want the timeout of 1m", took)
		}
		s.stop()
	})
}

func TestABodyThatMeansNothingIsNotWaitedFor(t *testing.T) {
	for _, method := range []string{http.MethodGet, http.MethodOptions} {
		t.Run(method, func(t *testing.T) {
			inBubble(t, func(t *testing.T, _ *fakeBackend, s *testServer) {
				conn := s.dial()
				start := time.Now()
				sent := make(chan error, 1)
				go func() {
					_, err := io.WriteString(conn, method+" /keys HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n")
					sent <- err
				}()
				answered := bufio.NewReader(conn)
				resp, err := http.ReadResponse(answered, nil)
				if err != nil || resp.StatusCode != http.StatusOK || !resp.Close {
					t.Errorf("answer = %v, %v, want 200 and the connection closed", resp, err)
				}
				if took := time.Since(start); took != 0 {
					t.Errorf("answer after %v, want it at once", took)
				}
				_, err = io.ReadAll(answered)
				if took := time.Since(start); err != nil || took > 11*time.Second {
					t.Errorf("connection closed after %v (%v), want 10s", took, err)
				}
				if err := <-sent; err != nil {
					t.Errorf("sending = %v, want nil", err)
				}
			})
		})
	}
}

// A client that asks and does not take the answer must not hold it for ever.
func TestAnswerThatIsNotTakenIsGivenUp(t *testing.T) {
	for _, tt := range []struct{ name, header string }{{"lane", ""}, {"net/http", "Origin: http://h\r\n"}} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *fakeBackend, s *testServer) {
				b.set(t, "/a", strings.Repeat("x", 10000))
				conn := s.dial()
				if _, err := io.WriteString(conn, "GET /keys/a HTTP/1.1\r\nHost: h\r\n"+tt.header+"\r\n"); err != nil {
					t.Fatal(err)
				}
				<-time.After(15 * time.Second) // the bubble's clock
				synctest.Wait()
				if rest, err := io.ReadAll(conn); err != nil || len(rest) > 0 {
					t.Errorf("after 15 s the client gets %d bytes, %v, want the end: a pipe holds nothing", len(rest), err)
				}
			})
		})
	}
}

func TestSlowHeadIsCut(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *fakeBackend, s *testServer) {
		conn := s.dial()
		start := time.Now()
		sent := make(chan error, 1)
		go func() {
			_, err := io.WriteString(conn, "GET /keys HTTP/1.1\r\nHo")
			sent <- err
		}()
		if _, err := io.ReadAll(conn); err != nil {
			t.Errorf("reading = %v, want the end", err)
		}
		if took := time.Since(start); took < HeadTimeout || took > HeadTimeout+time.Second {
			t.Errorf("connection closed after %v, want %v", took, HeadTimeout)
		}
		if err := <-sent; err != nil {
			t.Errorf("sending = %v, want nil", err)
		}
	})
}

func TestReaderThatTakesNothingIsCut(t *testing.T) {
	inBubble(t, func(t *testing.T, b *fakeBackend, s *testServer) {
		for i := range 40 {
			b.set(t, fmt.Sprintf("/a/%d", i), strings.Repeat("x", 16<<10))
		}
		conn := s.dial()
		if _, err := io.WriteString(conn, "GET /keys/a HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil {
			t.Fatalf("sending = %v, want nil", err)
		}
		if _, err := conn.Read(make([]byte, 10)); err != nil {
			t.Fatalf("reading = %v, want the head", err)
		}
		<-time.After(time.Minute) // the bubble's clock
		synctest.Wait()
		rest, err := io.ReadAll(conn)
		if len(rest) > 300<<10 || err != nil {
			t.Errorf("read %d bytes after a minute, %v, want a connection that was cut", len(rest), err)
		}
	})
}

func TestTwoRequestsShareAConnection(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *fakeBackend, s *testServer) {
		conn := s.dial()
		in := bufio.NewReader(conn)
		for i := range 3 {
			sent := make(chan error, 1)
			go func() {
				_, err := fmt.Fprintf(conn, "PUT /keys/a HTTP/1.1\r\nHost: h\r\nContent-Type: %s\r\nContent-Length: 7\r\n\r\nvalue=%d", typeURLEncoded, i)
				sent <- err
			}()
			resp, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatalf("answer %d = %v, want one", i, err)
			}
			if got := body(t, resp); !strings.Contains(got, fmt.Sprintf(`"value":"%d"`, i)) {
				t.Errorf("answer %d = %s, want value %d", i, got, i)
			}
			if err := <-sent; err != nil {
				t.Errorf("sending = %v, want nil", err)
			}
			<-time.After(time.Minute) // the bubble's clock: longer than a body deadline
		}
		if err := conn.Close(); err != nil {
			t.Errorf("Close() = %v, want nil", err)
		}
	})
}
