package keystest

import (
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos/internal/syncbuf"
)

// TestSuiteAgainstEtcd tests the tests: the suite is played against an
// independent implementation of the protocol, Debian's etcd 3.4 with its v2
// API switched on. Every difference is listed in etcdDifferences with the
// reason why the contract departs from it.
func TestSuiteAgainstEtcd(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts another program")
	}
	bin := etcdBinary(t)
	Run(t, etcdDoor{Door: URL(startEtcd(t, bin)), bin: bin}, Options{
		Prefix:           "/v2/keys",
		LineMax:          3 * time.Second,
		KnownDifferences: etcdDifferences,
	})
}

// etcdDoor gives fresh stores, but knows none of the flags of deimos.
type etcdDoor struct {
	Door
	bin string
}

func (d etcdDoor) Fresh(t testing.TB, flags ...string) Door {
	if len(flags) > 0 {
		t.Skipf("etcd has no %s", flags[0])
	}
	return URL(startEtcd(t, d.bin))
}

// etcdBinary finds etcd, installs it when it may, and skips the test if there
// is none.
func etcdBinary(t *testing.T) string {
	t.Helper()
	if bin, err := exec.LookPath("etcd"); err == nil {
		return bin
	}
	apt, err := exec.LookPath("apt-get")
	if err != nil || os.Geteuid() != 0 {
		t.Skip("etcd is not installed, and this is not root on a Debian")
	}
	cmd := exec.CommandContext(t.Context(), apt, "install", "-y", "--no-install-recommends", "etcd-server")
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("apt-get install etcd-server: %v\n%s", err, out)
	}
	bin, err := exec.LookPath("etcd")
	if err != nil {
		t.Skip("the package etcd-server has no etcd")
	}
	return bin
}

// startEtcd starts a single etcd of its own and returns its base URL.
func startEtcd(t testing.TB, bin string) string {
	t.Helper()
	client, peer := "http://"+freePort(t), "http://"+freePort(t)
	var log syncbuf.Buffer
	cmd := exec.Command(bin, "--name", "oracle", "--data-dir", t.TempDir(), "--enable-v2=true",
		"--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
		"--initial-cluster", "oracle="+peer)
	cmd.Env = append(os.Environ(), "ETCD_UNSUPPORTED_ARCH=arm64")
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		if err := cmd.Wait(); err != nil && !errors.As(err, new(*exec.ExitError)) {
			t.Logf("waiting for etcd: %v", err)
		}
	}()
	t.Cleanup(func() {
		if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("stopping etcd: %v", err)
		}
		<-exited
	})
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	late := time.After(20 * time.Second)
	for {
		select {
		case <-ticker.C:
			res, err := http.Get(client + "/v2/keys?quorum=true")
			if err != nil {
				continue
			}
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return client
			}
		case <-exited:
			t.Fatalf("etcd has ended:\n%s", log.String())
		case <-late:
			t.Fatalf("etcd does not answer:\n%s", log.String())
		}
	}
}

// freePort is an address on which nobody listened a moment ago.
func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
