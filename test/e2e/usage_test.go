package e2e

import (
	"debug/elf"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

func TestWrongUseExitsWith2(t *testing.T) {
	t.Parallel()
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte("no-such-name: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		args []string
		want string // in stderr
	}{
		{"an unknown flag", []string{"--no-such-flag"}, "no-such-flag"},
		{"a surplus argument", []string{"surplus"}, "surplus"},
		{"a timeout without unit", []string{"--timeout", "5"}, "timeout"},
		{"an election timeout that is too short", []string{"-election-timeout", "15"}, "15ms is below 5 × heartbeat-interval (500ms)"},
		{"a flag of another program", []string{"--heartbeat-timeout", "1s"}, "heartbeat-interval"},
		{"https without a certificate", []string{"-listen-client-urls", "https://127.0.0.1:4001"}, "cert-file"},
		{"a URL without scheme", []string{"--listen-client-urls", "127.0.0.1:4001"}, "listen-client-urls"},
		{"a URL with a path", []string{"--advertise-client-urls", "http://127.0.0.1:4001/x"}, "advertise-client-urls"},
		{"a name that is not in the cluster", []string{"--name", "n1", "--bootstrap-config", "n2=http://127.0.0.1:7001"}, `no member with name="n1" in bootstrap-config`},
		{"an alias that differs", []string{"--timeout", "1s", "--request-timeout", "2s"}, "request-timeout"},
		{"peers that prove nothing", []string{"--name", "n1", "--bootstrap-config", "n1=http://192.0.2.1:7001", "--listen-peer-urls", "http://127.0.0.1:7001"}, "insecure-peers"},
		{"a snapshot count of 0", []string{"--snapshot-count", "0"}, "snapshot-count"},
		{"a value limit that is too small", []string{"--max-value-bytes", "1023"}, "max-value-bytes"},
		{"a log level that is none", []string{"--log-level", "loud"}, "log-level"},
		{"a config file that is missing", []string{"--config-file", filepath.Join(t.TempDir(), "none.yaml")}, "none.yaml"},
		{"an unknown name in the config file", []string{"--config-file", bad}, "no-such-name"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := startProcess(t, tt.args...)
			if code := p.wait(t, exitMax); code != 2 {
				t.Errorf("deimos %v = exit code %d, want 2", tt.args, code)
			}
			if text := p.stderr.String(); !strings.Contains(text, tt.want) {
				t.Errorf("deimos %v: stderr = %q, want it to name %q", tt.args, text, tt.want)
			}
		})
	}
}

func TestWrongVariableExitsWith2(t *testing.T) {
	t.Parallel()
	p := startWith(t, "DEIMOS_TIMEOUT=soon")
	if code := p.wait(t, exitMax); code != 2 {
		t.Errorf("DEIMOS_TIMEOUT=soon deimos = exit code %d, want 2", code)
	}
	if text := p.stderr.String(); !strings.Contains(text, "DEIMOS_TIMEOUT") || !strings.Contains(text, "soon") {
		t.Errorf("stderr = %q, want it to name the variable and the value", text)
	}
}

func TestVersionAndHelpExitWith0(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ flag, want string }{
		{"--version", "deimos version "},
		{"-version", "deimos version "},
		{"--help", "listen-client-urls"},
		{"-h", "listen-client-urls"},
	} {
		t.Run(tt.flag, func(t *testing.T) {
			t.Parallel()
			p := startProcess(t, tt.flag)
			if code := p.wait(t, exitMax); code != 0 {
				t.Errorf("deimos %s = exit code %d, want 0", tt.flag, code)
			}
			if text := p.stdout.String(); !strings.Contains(text, tt.want) {
				t.Errorf("deimos %s: stdout = %q, want %q in it", tt.flag, text, tt.want)
			}
		})
	}
}

// The program runs in an empty container, on a system with another libc or none,
// and its timers may be late, which it can have without cgo only.
func TestProgramNeedsNoLibraries(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("only programs for Linux do without the system's library")
	}
	file, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	if libraries, err := file.ImportedLibraries(); err != nil || len(libraries) > 0 {
		t.Errorf("libraries of the program = %q, %v, want none", libraries, err)
	}
	n := startNode(t)
	if text := n.run.stderr.String(); !strings.Contains(text, "deimos starts") || strings.Contains(text, "timers stay") {
		t.Errorf("a member began with %q, want that its timers may be late", text)
	}
}

func TestPortInUseExitsWith1(t *testing.T) {
	t.Parallel()
	for _, port := range []string{"client", "peer"} {
		t.Run(port, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, "n1")
			address := strings.TrimPrefix(n.client, "http://")
			if port == "peer" {
				address = strings.TrimPrefix(n.peer, "http://")
			}
			l, err := net.Listen("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			n.start(t)
			if code := n.run.wait(t, exitMax); code != 1 {
				t.Errorf("exit code with the %s port in use = %d, want 1\n%s", port, code, n.run.stderr.tail())
			}
			if text := n.run.stderr.String(); !strings.Contains(text, address) {
				t.Errorf("stderr = %q, want it to name %s", text, address)
			}
		})
	}
}
