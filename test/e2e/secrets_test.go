package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// newSecret returns a peer secret that nobody has used.
func newSecret() string { return rand.Text() }

// writeSecret writes a secret into a file that only its owner may read.
func writeSecret(t testing.TB, secret string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(name, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestWrongUseOfSecurityExitsWith2(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "n1", "n2")
	n1, key, root := ca.file("n1.crt"), ca.file("n1.key"), ca.file("ca.crt")
	broken := filepath.Join(t.TempDir(), "broken.pem")
	if err := os.WriteFile(broken, []byte("not a certificate\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	far, near := "http://192.0.2.1:7001", "http://127.0.0.1:7001"
	alone := func(url string) []string {
		return []string{"--name", "n1", "--bootstrap-config", "n1=" + url}
	}
	for _, tt := range []struct {
		name string
		args []string
		want []string // in stderr
	}{
		{"http with a certificate", []string{"--cert-file", n1, "--key-file", key, "--listen-client-urls", "http://127.0.0.1:4001"}, []string{"--cert-file", "https", "listen-client-urls"}},
		{"http advertised and listened on with a certificate", []string{"--cert-file", n1, "--key-file", key, "--advertise-client-urls", "http://127.0.0.1:4001"}, []string{"--cert-file", "https", "advertise-client-urls"}},
		{"https without a certificate", []string{"--listen-client-urls", "https://127.0.0.1:4001"}, []string{"--cert-file", "--key-file"}},
		{"peers with https without a certificate", []string{"--listen-peer-urls", "https://127.0.0.1:7001"}, []string{"--peer-cert-file", "--peer-key-file"}},
		{"peers with http and a certificate", append(alone(near), "--peer-cert-file", n1, "--peer-key-file", key), []string{"--peer-cert-file", "https", "bootstrap-config"}},
		{"a certificate without key", []string{"--cert-file", n1}, []string{"--cert-file needs --key-file"}},
		{"a key without certificate", []string{"--peer-key-file", key}, []string{"--peer-key-file needs --peer-cert-file"}},
		{"an authority without certificate", []string{"--ca-file", root}, []string{"--ca-file needs --cert-file and --key-file"}},
		{"names without authority", []string{"--peer-cert-file", n1, "--peer-key-file", key, "--peer-allowed-names", "n1"}, []string{"--peer-allowed-names needs --peer-ca-file"}},
		{"self-signed and a certificate", []string{"--auto-tls", "--cert-file", n1, "--key-file", key}, []string{"--auto-tls", "--cert-file"}},
		{"a key of another certificate", []string{"--cert-file", n1, "--key-file", ca.file("n2.key")}, []string{"n2.key does not belong to", "n1.crt"}},
		{"a certificate that is none", []string{"--cert-file", broken, "--key-file", key}, []string{broken}},
		{"an authority that is none", []string{"--cert-file", n1, "--key-file", key, "--ca-file", broken}, []string{broken}},
		{"a certificate that is missing", []string{"--cert-file", broken + ".none", "--key-file", key}, []string{broken + ".none"}},
		{"a secret that is too short", []string{"--peer-secret-file", writeSecret(t, "fifteen bytes..\n")}, []string{"peer-secret-file", "15 bytes", "16"}},
		{"a secret that is missing", []string{"--peer-secret-file", broken + ".none"}, []string{"peer-secret-file", broken + ".none"}},
		{"a secret that is a directory", []string{"--peer-secret-file", t.TempDir()}, []string{"peer-secret-file"}},
		{"peers that prove nothing", alone(far), []string{far, "--peer-ca-file", "--peer-secret-file", "--insecure-peers"}},
		{"peers that listen everywhere", append(alone(near), "--listen-peer-urls", "http://0.0.0.0:7001"), []string{"http://0.0.0.0:7001", "--insecure-peers"}},
		{"peers that only encrypt", append(alone("https://192.0.2.1:7001"), "--peer-auto-tls"), []string{"--peer-auto-tls alone", "--peer-secret-file"}},
		{"peers that prove themselves one way", append(alone("https://192.0.2.1:7001"), "--peer-cert-file", n1, "--peer-key-file", key), []string{"without --peer-ca-file", "--peer-secret-file"}},
		{"a peer called in plain text", []string{"--name", "n1", "--bootstrap-config", "n1=https://192.0.2.1:7001,n2=http://192.0.2.2:7001",
			"--peer-cert-file", n1, "--peer-key-file", key, "--peer-ca-file", root}, []string{"http://192.0.2.2:7001 is not https"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := startProcess(t, tt.args...)
			if code := p.wait(t, exitMax); code != 2 {
				t.Errorf("deimos %v = exit code %d, want 2", tt.args, code)
			}
			for _, want := range tt.want {
				if text := p.stderr.String(); !strings.Contains(text, want) {
					t.Errorf("deimos %v: stderr = %q, want it to name %q", tt.args, text, want)
				}
			}
		})
	}
}

// canary is a text that must not turn up.
type canary struct {
	name string
	text []byte
}

// canaries are the forms in which a secret could turn up.
func canaries(name string, secret []byte) []canary {
	return []canary{
		{name, secret},
		{name + " in hex", []byte(hex.EncodeToString(secret))},
		{name + " in HEX", []byte(strings.ToUpper(hex.EncodeToString(secret)))},
		{name + " in base64", []byte(base64.StdEncoding.EncodeToString(secret))},
		{name + " as Go prints bytes", []byte(strings.Trim(fmt.Sprint(secret), "[]"))},
	}
}

// find fails the test for every canary in a text.
func find(t testing.TB, where string, text []byte, of []canary) {
	t.Helper()
	for _, c := range of {
		if bytes.Contains(text, c.text) {
			t.Errorf("%s holds the %s", where, c.name)
		}
	}
}

func TestSecretsStayWhereTheyAre(t *testing.T) {
	t.Parallel()
	secret := newSecret()
	file := writeSecret(t, secret+"\n")
	c := startSecureCluster(t, "--peer-secret-file", file, "--log-level", "debug", "--snapshot-count", "100")
	wanted := canaries("peer secret", []byte(secret))
	for _, name := range []string{"ca.key", "n1.key", "n2.key", "n3.key", "alice.key"} {
		text := readText(t, c.ca.file(name))
		block, _ := pem.Decode([]byte(text))
		if block == nil {
			t.Fatalf("%s holds no key", name)
		}
		// The middle of a PKCS #8 file is the number that is to be kept secret.
		wanted = append(wanted, canaries(name, block.Bytes[36:68])...)
		wanted = append(wanted, canary{name + " as text", []byte(strings.Split(text, "\n")[1])})
	}
	value := newSecret()
	if _, err := put(t.Context(), probe, c.nodes[0].client, "/canary", value); err != nil {
		t.Fatal(err)
	}
	load := startLoad(t, 4, c.others(nil)...)
	load.waitAcks(t, 300)

	// What goes wrong is told of, too: a wrong secret and a wrong key.
	restart(t, c.nodes[0])
	wrong := *c.nodes[2]
	wrong.args = append(slices.Clone(wrong.args), "--peer-secret-file", writeSecret(t, newSecret()))
	c.nodes[2].kill(t)
	wrong.start(t)
	untilWithin(t, 10*time.Second, func(ctx context.Context) error {
		refused, err := metric(ctx, c.nodes[0].client, `deimos_peer_messages_refused_total{reason="secret"}`)
		if err == nil && refused == 0 {
			err = fmt.Errorf("the wrong secret was not refused")
		}
		return err
	})
	wrong.kill(t)
	if p := startProcess(t, "--cert-file", c.ca.file("n1.key"), "--key-file", c.ca.file("n1.crt")); p.wait(t, exitMax) != 2 {
		t.Errorf("key and certificate exchanged: exit code %d, want 2", p.code)
	} else {
		find(t, "stderr", []byte(p.stderr.String()), wanted)
	}
	c.nodes[2].start(t)
	c.nodes[2].waitReady(t)
	load.waitAcks(t, load.acks()+300)
	load.stop(t)
	c.wantAgreement(t)

	secretAndValue := append(slices.Clone(wanted), canary{"value of a key", []byte(value)})
	for _, n := range c.nodes {
		status, metrics, err := get(t.Context(), n.client+"/metrics")
		if err != nil || status != http.StatusOK {
			t.Fatalf("GET /metrics = %d, %v", status, err)
		}
		find(t, "/metrics of "+n.name, []byte(metrics), secretAndValue)
		command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", n.run.cmd.Process.Pid))
		if err == nil {
			find(t, "the command line of "+n.name, command, wanted)
		}
		n.kill(t)
		find(t, "the log of "+n.name, []byte(n.run.stderr.String()), secretAndValue)
		if n.run.stderr.String() == "" || !strings.Contains(n.run.stderr.String(), "level=DEBUG") {
			t.Errorf("void: %s has logged nothing at debug level", n.name)
		}
		files := 0
		err = filepath.WalkDir(n.dir, func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			files++
			text, err := os.ReadFile(name)
			find(t, name, text, wanted)
			return err
		})
		if err != nil || files < 3 {
			t.Errorf("void: %d files in %s, %v", files, n.dir, err)
		}
	}
}

func TestFilesArePrivateWhateverTheUmask(t *testing.T) {
	t.Parallel()
	for _, umask := range []string{"000", "027"} {
		t.Run("umask "+umask, func(t *testing.T) {
			t.Parallel()
			shell := func(args ...string) *process {
				return startCommand(t, "", "sh", append([]string{"-c", "umask " + umask + `; exec "$0" "$@"`, program}, args...)...)
			}
			ca := authority{filepath.Join(t.TempDir(), "ca")}
			for _, args := range [][]string{{"create"}, {"issue", "n1"}} {
				if p := shell(append([]string{"ca", args[0], "--dir", ca.dir}, args[1:]...)...); p.wait(t, exitMax) != 0 {
					t.Fatalf("deimos ca %v = exit code %d\n%s", args, p.code, p.stderr.tail())
				}
			}
			n := newNode(t, "n1", "--auto-tls", "--peer-auto-tls", "--snapshot-count", "10")
			config := ca.config(t, "")
			config.InsecureSkipVerify = true
			secure(t, n, config)
			n.run = shell(n.args...)
			n.waitReady(t)
			load := startLoad(t, 2, n.client)
			load.waitAcks(t, 50)
			load.stop(t)
			count := 0
			for _, dir := range []string{ca.dir, n.dir} {
				err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
					if err != nil {
						return err
					}
					want := fs.FileMode(0o600)
					if d.IsDir() {
						want = 0o700
					}
					info, err := d.Info()
					if os.IsNotExist(err) {
						return nil // a temporary file
					}
					if count++; err == nil && info.Mode().Perm() != want {
						t.Errorf("mode of %s = %04o, want %04o", name, info.Mode().Perm(), want)
					}
					return err
				})
				if err != nil {
					t.Error(err)
				}
			}
			if count < 10 {
				t.Errorf("void: only %d files", count)
			}
		})
	}
}

func TestOpenDirectoriesAndKeysAreToldOf(t *testing.T) {
	t.Parallel()
	n := newNode(t, "n1")
	if err := os.Mkdir(n.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(n.dir, 0o777); err != nil {
		t.Fatal(err)
	}
	n.start(t)
	if code := n.run.wait(t, exitMax); code != 73 || !strings.Contains(n.run.stderr.String(), n.dir) {
		t.Errorf("a data directory that everybody may write = exit code %d, want 73 and its name:\n%s", code, n.run.stderr.tail())
	}
	if err := os.Chmod(n.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	n.start(t)
	n.waitReady(t)
	if linesOf(n.run.stderr.String(), "level=WARN", n.dir) == 0 {
		t.Errorf("no warning about a data directory that everybody may read:\n%s", n.run.stderr.tail())
	}

	ca := newAuthority(t, "n1")
	if err := os.Chmod(ca.file("n1.key"), 0o644); err != nil {
		t.Fatal(err)
	}
	safe := newNode(t, "n1", ca.flags("n1")...)
	secure(t, safe, ca.config(t, "alice"))
	safe.start(t)
	safe.waitReady(t)
	for _, port := range []string{"client", "peer"} {
		if linesOf(safe.run.stderr.String(), "level=WARN", "port="+port, ca.file("n1.key")) != 1 {
			t.Errorf("no warning about a key of the %s port that everybody may read:\n%s", port, safe.run.stderr.tail())
		}
	}
}
