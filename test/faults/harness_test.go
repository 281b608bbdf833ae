package faults

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestTheNetworkTellsMembersApart: a cut is for the bytes of one member to one
// other, whoever opened the connection.
func TestTheNetworkTellsMembersApart(t *testing.T) {
	t.Parallel()
	var targets []string
	for range 2 {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Header.Get("X-Server-From")) }))
		t.Cleanup(s.Close)
		targets = append(targets, strings.TrimPrefix(s.URL, "http://"))
	}
	n := newNetwork(t, targets)
	n.know("aa", 0)
	n.know("bb", 1)
	send := func(from string, to int, most time.Duration) error {
		conn, err := net.Dial("tcp", n.address(to))
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(most)); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: x\r\nX-Server-From: %s\r\nConnection: close\r\n\r\n", from); err != nil {
			return err
		}
		answer, err := io.ReadAll(conn)
		if err == nil && !strings.HasSuffix(string(answer), from) {
			err = fmt.Errorf("answer %q", answer)
		}
		return err
	}
	const silence = 100 * time.Millisecond
	for _, tt := range []struct {
		name     string
		from, to int  // the way that is cut
		passes   bool // a request of member 0 to member 1
	}{
		{"nothing is cut", 1, 1, true},
		{"its request is cut", 0, 1, false},
		{"the answer is cut", 1, 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n.cut(tt.from, tt.to, true)
			if err := send("aa", 1, silence); (err == nil) != tt.passes && tt.passes {
				err = send("aa", 1, exitMax) // it may have been slow
				if err != nil {
					t.Errorf("a request of member 0 to 1: %v, want an answer", err)
				}
			} else if (err == nil) != tt.passes {
				t.Errorf("a request of member 0 to 1: %v, want an answer: %v", err, tt.passes)
			}
			if err := send("cc", 1, exitMax); err != nil {
				t.Errorf("a request of an outsider: %v, want an answer", err)
			}
			for _, l := range n.links {
				l.proxy.Heal()
			}
		})
	}
	if carried, _ := n.flow(1, 0); carried == 0 {
		t.Error("flow(1, 0) = 0, want the bytes of the answers")
	}
}

// TestUnexpectedEndsAreViolations: a process ends as it was expected to, or the
// run fails.
func TestUnexpectedEndsAreViolations(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		script   string
		expected ending
		want     bool // a violation
	}{
		{"an end that nobody asked for", "exit 0", goesOn, true},
		{"exit code 0 after SIGTERM", "exit 0", isStopped, false},
		{"exit code 1 after SIGTERM", "exit 1", isStopped, true},
		{"SIGTERM before the program has begun", "kill -TERM $$", isStopped, false},
		{"a program that says something and dies of SIGTERM", "echo it begins; kill -TERM $$", isStopped, true},
		{"SIGTERM that nobody sent", "kill -TERM $$", goesOn, true},
		{"a removed member", "exit 1", isRemoved, false},
		{"a removed member that panics", "exit 2", isRemoved, true},
		{"a wiped member", "exit 73", isRefused, false},
		{"a wiped member that is damaged", "exit 65", isRefused, true},
		{"a death by signal 9", "kill -9 $$", isKilled, false},
		{"another death", "kill -6 $$", isKilled, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			said := make(chan string, 2)
			m := &member{
				name: "n1", wrap: []string{"sh", "-c", tt.script}, logPath: filepath.Join(t.TempDir(), "log"),
				violate: func(_, format string, args ...any) { said <- fmt.Sprintf(format, args...) },
			}
			if err := m.start(tt.expected); err != nil {
				t.Fatal(err)
			}
			p, _ := m.process()
			<-p.exited
			m.judgeEnd(p) // once more, and this time it has returned
			select {
			case text := <-said:
				if !tt.want {
					t.Errorf("violation %q, want none", text)
				}
			default:
				if tt.want {
					t.Error("no violation")
				}
			}
		})
	}
}

func TestBadLinesOfLogsAreFound(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte("level=INFO msg=good\npanic: no\nfatal error: all goroutines are asleep\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if bad, err := badLines(path); err != nil || len(bad) != 2 {
		t.Errorf("badLines() = %q, %v, want two lines", bad, err)
	}
}

func TestWaitingEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if letPass(ctx, time.Hour) {
		t.Error("letPass() = true, want false when the context has ended")
	}
	if err := within(ctx, time.Hour, func(context.Context) error { return errNotYet }); err == nil {
		t.Error("within() = nil, want the last error")
	}
}
