package transport

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"go.etcd.io/etcd/server/v3/etcdserver/api/rafthttp"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/internal/zaplog"
)

func (t *HTTP) checkPeer(verb string, m deimos.Member) error {
	if m.ID == 0 {
		return fmt.Errorf("transport: %s peer %q: member id 0", verb, m.Name)
	}
	if t.cfg.IsRemoved(m.ID) {
		return fmt.Errorf("transport: %s peer %x: the member was removed", verb, m.ID)
	}
	if err := checkURLs(m.PeerURLs); err != nil {
		return fmt.Errorf("transport: %s peer %x: %w", verb, m.ID, err)
	}
	return nil
}

// checkURLs is stricter than rafthttp, which takes some URLs that it later ends
// the process for.
func checkURLs(urls []string) error {
	if len(urls) == 0 {
		return errors.New("no peer URL")
	}
	for _, s := range urls {
		if err := checkURL(s); err != nil {
			return err
		}
	}
	return nil
}

func checkURL(s string) error {
	u, err := url.Parse(s)
	if err != nil {
		return fmt.Errorf("peer URL: %w", err) // it names the URL
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("peer URL %q: the scheme is not http or https", s)
	}
	host, port, err := net.SplitHostPort(u.Host)
	if err != nil {
		return fmt.Errorf("peer URL %q: %w", s, err)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || host == "" {
		return fmt.Errorf("peer URL %q: no host or no port between 1 and 65535", s)
	}
	if s != u.Scheme+"://"+u.Host {
		return fmt.Errorf("peer URL %q: there must be nothing but scheme, host and port", s)
	}
	if _, err := http.NewRequest(http.MethodGet, s+rafthttp.RaftPrefix, nil); err != nil {
		return fmt.Errorf("peer URL %q: %w", s, err)
	}
	return nil
}

// removeUnfinished removes what receiving a snapshot left behind when the
// process ended in the middle of it.
func removeUnfinished(dir string) error {
	names, err := filepath.Glob(filepath.Join(globEscape(dir), "tmp[0-9]*"))
	if err != nil {
		return fmt.Errorf("transport: list %s: %w", dir, err)
	}
	for _, name := range names {
		if strings.Trim(filepath.Base(name)[len("tmp"):], "0123456789") != "" {
			continue
		}
		if err := os.Remove(name); err != nil {
			return fmt.Errorf("transport: remove unfinished snapshot: %w", err)
		}
	}
	return nil
}

func globEscape(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(s)
}

// guard runs f and returns what rafthttp says instead of ending the process.
func guard(f func()) (err error) {
	defer func() {
		switch v := recover().(type) {
		case nil:
		case zaplog.Fatal:
			err = v
		default:
			panic(v)
		}
	}()
	f()
	return nil
}
