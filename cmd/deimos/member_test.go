package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// logLines passes on what is written to stderr, line by line.
type logLines struct {
	lines chan string
	rest  []byte
}

func (l *logLines) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		line, rest, ok := bytes.Cut(l.rest, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		l.lines <- string(line)
		l.rest = rest
	}
}

// runMember runs the program until the test ends it with stop, which returns
// the exit code. It returns when the member serves, with its client address.
func runMember(t *testing.T, args ...string) (addr string, stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	stderr := &logLines{lines: make(chan string, 10000)}
	code := make(chan int, 1)
	go func() { code <- run(ctx, append(args, "--log-format", "json"), nil, io.Discard, stderr) }()
	stop = func() int {
		cancel()
		return <-code
	}
	var seen []string
	for {
		select {
		case line := <-stderr.lines:
			seen = append(seen, line)
			var record struct {
				Message string   `json:"msg"`
				Client  []string `json:"client"`
			}
			if json.Unmarshal([]byte(line), &record) == nil && len(record.Client) > 0 {
				return record.Client[0], stop
			}
		case <-code:
			t.Fatalf("the member ended with stderr\n%s", strings.Join(seen, "\n"))
		}
	}
}

func localArgs(dir string) []string {
	return []string{
		"--data-dir", dir,
		"--listen-client-urls", "http://127.0.0.1:0",
		"--listen-peer-urls", "http://127.0.0.1:0",
		"--heartbeat-interval", "10",
		"--election-timeout", "100",
	}
}

func TestMemberServesUntilItIsStopped(t *testing.T) {
	addr, stop := runMember(t, localArgs(filepath.Join(t.TempDir(), "n1.deimos"))...)
	resp, err := http.Get("http://" + addr + "/version")
	if err != nil {
		t.Fatalf("GET /version: %v", err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		t.Fatalf("GET /version: %v", err)
	}
	if want := fmt.Sprintf(`"deimos":%q`, versionString()); !strings.Contains(string(body), want) {
		t.Errorf("GET /version = %s, want %s in it", body, want)
	}
	http.DefaultClient.CloseIdleConnections()
	if code := stop(); code != exitOK {
		t.Errorf("run() = %d after it was asked to stop, want %d", code, exitOK)
	}
}

func TestMemberThatCannotStartSaysWhy(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "n1.deimos")
	_, stop := runMember(t, localArgs(dir)...)
	defer stop()
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()

	for _, tt := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"data directory in use", localArgs(dir), exitDataDir, dir},
		{"port in use", append(localArgs(filepath.Join(t.TempDir(), "n2.deimos")), "--listen-client-urls", "http://"+busy.Addr().String()),
			exitFailure, busy.Addr().String()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var stderr bytes.Buffer
			code := run(t.Context(), tt.args, nil, io.Discard, &stderr)
			if code != tt.code {
				t.Errorf("run(%q) = %d, want %d", tt.args, code, tt.code)
			}
			lines := strings.Split(strings.TrimSuffix(stderr.String(), "\n"), "\n")
			last := lines[len(lines)-1]
			if !strings.HasPrefix(last, "deimos: ") || !strings.Contains(last, tt.want) {
				t.Errorf("run(%q) ends with %q on stderr, want a sentence about %s", tt.args, last, tt.want)
			}
		})
	}
}
