package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/marsevilspirit/deimos/internal/timerslack"
)

// The systems that are compared.
const (
	deimos  = "Deimos"
	etcd    = "etcd 3.4"
	nothing = "net/http"
	sockets = "bare sockets"
	disk    = "the disk alone"
)

// startMax bounds the start of a server, with what it has to load.
const startMax = 5 * time.Minute

// options of a cluster.
type options struct {
	members int // 0: 1
	flags   []string
	scheme  string // "": http
	tls     *http.Transport
}

// cluster is one or more running servers.
type cluster struct {
	bench   *bench
	system  string
	members []*server
	dir     string
}

// server is one process.
type server struct {
	name string
	url  string
	args []string
	log  string
	http *http.Client
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
}

// start starts a cluster in a fresh directory and waits until it answers.
func (b *bench) start(ctx context.Context, system string, o options) (*cluster, error) {
	b.runs++
	c := &cluster{bench: b, system: system, dir: filepath.Join(b.dir, strconv.Itoa(b.runs))}
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return nil, err
	}
	if err := c.startMembers(ctx, o); err != nil {
		return nil, errors.Join(fmt.Errorf("starting %s: %w", system, err), c.stop())
	}
	return c, nil
}

func (c *cluster) startMembers(ctx context.Context, o options) error {
	if o.scheme == "" {
		o.scheme = "http"
	}
	var names, clients, peers, list []string
	for i := range max(o.members, 1) {
		client, err := freeAddress()
		if err != nil {
			return err
		}
		peer, err := freeAddress()
		if err != nil {
			return err
		}
		names, clients, peers = append(names, fmt.Sprintf("m%d", i+1)), append(clients, o.scheme+"://"+client), append(peers, "http://"+peer)
		list = append(list, names[i]+"="+peers[i])
	}
	for i, name := range names {
		s := &server{name: name, url: clients[i], log: filepath.Join(c.dir, name+".log"), http: &http.Client{Timeout: 5 * time.Second}}
		if o.tls != nil {
			s.http.Transport = o.tls
		}
		s.args = append(c.command(name, clients[i], peers[i], strings.Join(list, ",")), o.flags...)
		c.members = append(c.members, s)
		if err := s.start(); err != nil {
			return err
		}
	}
	for _, s := range c.members {
		if err := s.await(ctx, c.system); err != nil {
			return err
		}
	}
	return nil
}

// command is what starts a member.
func (c *cluster) command(name, client, peer, list string) []string {
	data := filepath.Join(c.dir, name)
	switch c.system {
	case deimos:
		return []string{c.bench.deimos, "--name", name, "--data-dir", data, "--log-level", "warn",
			"--listen-client-urls", client, "--advertise-client-urls", client,
			"--listen-peer-urls", peer, "--advertise-peer-urls", peer, "--bootstrap-config", list}
	case etcd:
		return []string{c.bench.etcd, "--name", name, "--data-dir", data, "--log-level", "error", "--enable-v2=true",
			"--listen-client-urls", client, "--advertise-client-urls", client,
			"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", list}
	case sockets:
		return []string{c.bench.self, "bare", strings.TrimPrefix(client, "http://")}
	default:
		return []string{c.bench.self, "empty", strings.TrimPrefix(client, "http://")}
	}
}

// prefix is where a system keeps its keys.
func prefix(system string) string {
	if system == etcd {
		return "/v2/keys"
	}
	return "/keys"
}

// start starts the process. All get the environment of this program.
func (s *server) start() error {
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	s.cmd = exec.Command(s.args[0], s.args[1:]...)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.Env = append(os.Environ(), "ETCD_UNSUPPORTED_ARCH=arm64")
	// A group of its own: Ctrl-C on the terminal is for this program.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := timerslack.WithDefault(s.cmd.Start); err != nil {
		return err
	}
	s.done = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) {
		defer close(done)
		_ = cmd.Wait() // it is killed in the end
	}(s.cmd, s.done)
	return nil
}

// pid is that of the running process.
func (s *server) pid() int { return s.cmd.Process.Pid }

// kill ends the process as a crash does.
func (s *server) kill() error {
	if s.cmd == nil || s.cmd.Process == nil {
		return nil
	}
	if err := s.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-s.done
	return nil
}

// stop ends all members and removes their data.
func (c *cluster) stop() error {
	var errs []error
	for _, s := range c.members {
		errs = append(errs, s.kill())
	}
	return errors.Join(append(errs, os.RemoveAll(c.dir))...)
}

// await waits until a linearizable read is answered.
func (s *server) await(ctx context.Context, system string) error {
	ctx, cancel := context.WithTimeout(ctx, startMax)
	defer cancel()
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-s.done:
			return fmt.Errorf("%s has ended: %s", s.name, tail(s.log))
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %w", s.name, ctx.Err())
		}
		if status, _, err := s.get(ctx, prefix(system)+"/?quorum=true"); err == nil && status == http.StatusOK {
			return nil
		}
	}
}

func (s *server) get(ctx context.Context, path string) (status int, body []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+path, nil)
	if err != nil {
		return 0, nil, err
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}

// leader returns the member that leads, and one that does not.
func (c *cluster) leader(ctx context.Context) (leader, follower *server, err error) {
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		for _, s := range c.members {
			var stats struct{ State string }
			_, body, err := s.get(ctx, "/v2/stats/self")
			if err == nil {
				err = json.Unmarshal(body, &stats)
			}
			switch {
			case err != nil:
				return nil, nil, fmt.Errorf("who leads: %w", err)
			case stats.State == "StateLeader":
				leader = s
			default:
				follower = s
			}
		}
		if leader != nil {
			return leader, follower, nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
}

var nextPort = 12000 + os.Getpid()*37%10000

// freeAddress returns an address on which nobody listens, below the range from
// which the system takes ports for outgoing connections: a server that is
// started again needs its own.
func freeAddress() (string, error) {
	for range 15000 {
		if nextPort++; nextPort > 30000 {
			nextPort = 12000
		}
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(nextPort))
		l, err := net.Listen("tcp", address)
		if err != nil {
			continue
		}
		return address, l.Close()
	}
	return "", errors.New("no port is free")
}

// tail returns the end of a log.
func tail(file string) string {
	const most = 500
	text, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-most):])
}

// serveNothing answers every request with one line, after it has read the body.
// Reads take the line for a value.
func serveNothing(address string) error {
	line := []byte(`{"action":"get","node":{"key":"/none","value":""}}` + "\n")
	return http.ListenAndServe(address, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		_, _ = w.Write(line) // net/http notices
	}))
}

// findEtcd finds etcd, and installs it when it may.
func findEtcd(ctx context.Context, log io.Writer) (string, error) {
	if bin, err := exec.LookPath("etcd"); err == nil {
		return bin, nil
	}
	apt, err := exec.LookPath("apt-get")
	if err != nil || os.Geteuid() != 0 {
		return "", errors.New("etcd is not installed, and this is not root on a Debian; name one of version 3.4 with -etcd")
	}
	fmt.Fprintln(log, "benchpeers: installs the package etcd-server")
	cmd := exec.CommandContext(ctx, apt, "install", "-y", "--no-install-recommends", "etcd-server")
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("apt-get install etcd-server: %w\n%s", err, out)
	}
	return exec.LookPath("etcd")
}
