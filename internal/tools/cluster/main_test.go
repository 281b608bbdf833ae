package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// childEnv makes the test binary play a member: "wait" ends at SIGTERM,
// "second dies" does so only if it is not node2, "deaf" does not end at all.
const childEnv = "CLUSTER_TEST_CHILD"

func TestMain(m *testing.M) {
	if role := os.Getenv(childEnv); role != "" {
		os.Exit(child(role, os.Args[1:]))
	}
	os.Exit(m.Run())
}

func child(role string, args []string) int {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	if role == "second dies" && slices.Contains(args, "node2") {
		fmt.Fprint(os.Stderr, "deimos: no luck")
		return 74
	}
	fmt.Println("args", strings.Join(args, " "))
	<-signals
	if role == "deaf" {
		fmt.Println("deaf")
		select {}
	}
	return 0
}

// watchWriter passes each line of the cluster to a channel.
type watchWriter struct{ lines chan string }

func (w watchWriter) Write(p []byte) (int, error) {
	w.lines <- strings.TrimSuffix(string(p), "\n")
	return len(p), nil
}

// session is a running cluster of children.
type session struct {
	t       *testing.T
	signals chan os.Signal
	lines   chan string
	result  chan error
	seen    []string
}

func begin(t *testing.T, role string) *session {
	t.Helper()
	t.Setenv(childEnv, role)
	s := &session{t: t, signals: make(chan os.Signal), lines: make(chan string, 1000), result: make(chan error, 1)}
	c := config{bin: os.Args[0], data: filepath.Join(t.TempDir(), "data"), extra: []string{"--log-level", "warn"}, out: watchWriter{s.lines}}
	go func() { s.result <- run(c, s.signals) }()
	return s
}

// waitFor reads lines until each of the wanted texts was in one.
func (s *session) waitFor(wants ...string) {
	s.t.Helper()
	for len(wants) > 0 {
		select {
		case line := <-s.lines:
			s.seen = append(s.seen, line)
			wants = slices.DeleteFunc(wants, func(want string) bool { return strings.Contains(line, want) })
		case <-s.t.Context().Done():
			s.t.Fatalf("the cluster wrote %q, want %q too", s.seen, wants)
		}
	}
}

func TestMembersRunUntilTheSignal(t *testing.T) {
	s := begin(t, "wait")
	s.waitFor("node1   | args --name node1 ", "node2   | args --name node2 ", "node3   | args --name node3 ")
	all := strings.Join(s.seen, "\n")
	for _, want := range []string{
		"--bootstrap-config node1=http://127.0.0.1:7001,node2=http://127.0.0.1:7002,node3=http://127.0.0.1:7003",
		"--listen-client-urls http://127.0.0.1:4003",
		"--log-level warn",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("the members were started with %q, want %q in it", all, want)
		}
	}
	s.signals <- syscall.SIGINT
	if err := <-s.result; err != nil {
		t.Errorf("run() = %v, want nil", err)
	}
}

func TestMemberThatDiesIsReportedAndTheOthersGoOn(t *testing.T) {
	s := begin(t, "second dies")
	s.waitFor("node2   | deimos: no luck", "cluster | node2 has ended: exit status 74, 2 left", "node1   | args", "node3   | args")
	s.signals <- syscall.SIGTERM
	if err := <-s.result; err != nil {
		t.Errorf("run() = %v, want nil: the death was reported, and the end was asked for", err)
	}
}

func TestSecondSignalKills(t *testing.T) {
	s := begin(t, "deaf")
	s.waitFor("node1   | args", "node2   | args", "node3   | args")
	s.signals <- syscall.SIGINT
	s.waitFor("node1   | deaf", "node2   | deaf", "node3   | deaf")
	s.signals <- syscall.SIGINT
	s.waitFor("node1 has ended: signal: killed", "node2 has ended: signal: killed", "node3 has ended: signal: killed")
	if err := <-s.result; err == nil {
		t.Error("run() = nil, want an error")
	}
}

func TestMissingProgramIsAnError(t *testing.T) {
	c := config{bin: filepath.Join(t.TempDir(), "gone"), data: t.TempDir(), out: io.Discard}
	if err := run(c, nil); err == nil {
		t.Error("run() = nil, want an error")
	}
}

func TestPrefixWriterKeepsLinesWhole(t *testing.T) {
	long := strings.Repeat("x", lineMaxBytes)
	for _, tt := range []struct {
		name   string
		writes []string
		want   string
	}{
		{"one line", []string{"a\n"}, "n| a\n"},
		{"a line in pieces", []string{"a", "b\nc", "d\n"}, "n| ab\nn| cd\n"},
		{"no end", []string{"a\nb"}, "n| a\nn| b\n"},
		{"too long", []string{long, "y\n"}, "n| " + long + "\nn| y\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			w := &prefixWriter{prefix: "n| ", w: &out}
			for _, text := range tt.writes {
				if n, err := w.Write([]byte(text)); n != len(text) || err != nil {
					t.Errorf("Write() = %d, %v, want %d, nil", n, err, len(text))
				}
			}
			w.flush()
			if got := out.String(); got != tt.want {
				t.Errorf("writes lead to %.60q, want %.60q", got, tt.want)
			}
		})
	}
}
