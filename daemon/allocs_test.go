//go:build !race

package daemon_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/marsevilspirit/deimos/internal/clustertest"
)

// TestAllocationsOfARequest guards what a request costs from socket to socket:
// client port, raft, log and store of an only member. Its bounds leave room for
// what the member does beside it, and no more: whoever needs one raised says in
// docs/benchmarks.md what for. A linearizable read of an only member asks nobody;
// package raftnode guards what asking costs. The race detector makes pools forget, so it is not built with it.
func TestAllocationsOfARequest(t *testing.T) {
	c := clustertest.New(t, 1)
	conn, err := net.Dial("tcp", strings.TrimPrefix(c.Member(0).URL(), "http://"))
	if err != nil {
		t.Fatalf("Dial() = %v, want nil", err)
	}
	defer conn.Close()
	// What else a client asks on its connection must not take the keys off the
	// short way.
	if _, err := io.WriteString(conn, "GET /version HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil {
		t.Fatalf("sending = %v, want nil", err)
	}
	if n, err := conn.Read(make([]byte, 4096)); err != nil || n == 0 {
		t.Fatalf("answer = %d bytes, %v, want one", n, err)
	}
	body := "value=" + strings.Repeat("x", 128)
	for _, tt := range []struct {
		name, request string
		max           float64
	}{
		{"PUT", fmt.Sprintf("PUT /keys/bench/k HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s", len(body), body), 31},
		{"linearizable GET", "GET /keys/bench/k HTTP/1.1\r\nHost: h\r\n\r\n", 2},
		{"local GET", "GET /v2/keys/bench/k HTTP/1.1\r\nHost: h\r\n\r\n", 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			request, answer := []byte(tt.request), make([]byte, 4096)
			ask := func() {
				if _, err := conn.Write(request); err != nil {
					t.Fatalf("sending = %v, want nil", err)
				}
				n, err := io.ReadAtLeast(conn, answer, 100)
				if err != nil || !bytes.HasPrefix(answer[:n], []byte("HTTP/1.1 20")) || answer[n-1] != '\n' {
					t.Fatalf("answer = %q, %v, want a success in one piece", answer[:n], err)
				}
			}
			ask()
			got := testing.AllocsPerRun(2000, ask)
			t.Logf("%.0f allocations", got)
			if got > tt.max {
				t.Errorf("%s allocates %.0f times, want at most %.0f", tt.name, got, tt.max)
			}
		})
	}
}
