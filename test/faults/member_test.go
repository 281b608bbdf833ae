package faults

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// ending is how a process is expected to end.
type ending int

const (
	goesOn     ending = iota // not at all
	isKilled                 // by signal 9
	isStopped                // with 0, after SIGTERM; or by it, before it had begun
	isRemoved                // with 1, because it was removed
	isRefused                // with 73, because its directory is a new one
	mayFailNow               // with 1 or 73, because it could not join yet
)

var endings = map[ending]string{
	goesOn: "no end", isKilled: "signal 9", isStopped: "exit code 0", isRemoved: "exit code 1",
	isRefused: "exit code 73", mayFailNow: "no end, or exit code 1 or 73 while it joins",
}

// member is a place in the cluster, with addresses of its own, that one process
// after the other takes. Its methods may be called from any goroutine, but
// those that start and end processes only by who has claimed the member.
type member struct {
	slot                 int
	name                 string
	client, peer, listen string // URLs
	logPath              string
	violate              func(judge, format string, args ...any)
	wrap                 []string // a command that runs the program in its place

	in     atomic.Bool // clients and watchers may use it
	starts atomic.Int64
	began  atomic.Int64 // when the process was started, in Unix nanoseconds

	mu    sync.Mutex
	id    string // in hex, empty until it is known
	dir   string
	flags []string // beside those that all have
	proc  *process
}

// start starts a process, which is expected to go on.
func (m *member) start(expected ending) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	args := append([]string{
		"--name", m.name, "--data-dir", m.dir,
		"--listen-client-urls", m.client, "--advertise-client-urls", m.client,
		"--listen-peer-urls", m.listen, "--advertise-peer-urls", m.peer,
	}, m.flags...)
	command := append(append(slices.Clone(m.wrap), program), args...)
	p, err := startProcess(m.logPath, command[0], command[1:]...)
	if err != nil {
		return err
	}
	p.expected.Store(int32(expected))
	m.proc = p
	m.starts.Add(1)
	m.began.Store(time.Now().UnixNano())
	go m.judgeEnd(p)
	return nil
}

// judgeEnd waits for the end of a process and compares it with what was
// expected at that moment.
func (m *member) judgeEnd(p *process) {
	<-p.exited
	expected, ok := ending(p.expected.Load()), false
	switch expected {
	case isKilled:
		ok = p.killed()
	case isStopped:
		ok = p.code() == 0 || p.cameTooEarly()
	case isRemoved:
		ok = p.code() == 1
	case mayFailNow: // who it asked may not have heard that the old member was removed
		ok = p.code() == 1 || p.code() == 73
	case isRefused:
		ok = p.code() == 73
	}
	if !ok {
		m.violate("exit", "%s ended with %v, want %s; see %s", m.name, p.cmd.ProcessState, endings[expected], m.logPath)
	}
}

// process returns the process and whether it runs.
func (m *member) process() (*process, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.proc, m.proc.running()
}

func (m *member) running() bool {
	_, ok := m.process()
	return ok
}

// expect says how the process will end.
func (m *member) expect(e ending) {
	if p, _ := m.process(); p != nil {
		p.expected.Store(int32(e))
	}
}

// kill sends signal 9 and waits for the end. It reports whether a process was
// there to be killed.
func (m *member) kill() bool {
	p, ok := m.process()
	if !ok {
		return false
	}
	m.expect(isKilled)
	p.signal(syscall.SIGKILL)
	<-p.exited
	return p.killed()
}

// terminate sends SIGTERM and waits for the end.
func (m *member) terminate() bool {
	p, ok := m.process()
	if !ok {
		return false
	}
	m.expect(isStopped)
	p.signal(syscall.SIGTERM)
	if !p.wait(exitMax) {
		m.violate("exit", "%s still runs %v after SIGTERM; see %s", m.name, exitMax, m.logPath)
		p.signal(syscall.SIGQUIT)
		p.wait(time.Second)
		return false
	}
	return true
}

// replaceDir gives the member a new, empty directory.
func (m *member) replaceDir() {
	m.mu.Lock()
	defer m.mu.Unlock()
	parent, base := filepath.Split(m.dir)
	name, _, _ := strings.Cut(base, "-")
	m.dir = filepath.Join(parent, fmt.Sprintf("%s-%d", name, m.starts.Load()+1))
}

func (m *member) memberID() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.id
}

func (m *member) setID(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.id = id
}

func (m *member) setFlags(flags []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.flags = flags
}

func (m *member) dataDir() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.dir
}

// waitReady waits until /readyz says ok.
func (m *member) waitReady(ctx context.Context, most time.Duration) error {
	return within(ctx, most, func(ctx context.Context) error {
		if !m.running() {
			return fmt.Errorf("faults: %s does not run", m.name)
		}
		status, body, _, err := get(ctx, m.client+"/readyz")
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("faults: %s is not ready: %d %s", m.name, status, body)
		}
		return err
	})
}

// leads asks the member whether it leads.
func (m *member) leads(ctx context.Context) bool {
	v, err := m.metric(ctx, "deimos_server_is_leader")
	return err == nil && v == "1"
}

// metric reads one metric without labels.
func (m *member) metric(ctx context.Context, name string) (string, error) {
	_, body, _, err := get(ctx, m.client+"/metrics")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(body) {
		if v, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(v), nil
		}
	}
	return "", fmt.Errorf("faults: %s has no metric %s", m.name, name)
}

// leaderOf asks the members which of them leads, nil if none says so.
func leaderOf(ctx context.Context, members []*member) *member {
	for _, m := range members {
		p, ok := m.process()
		if !ok || p.standsStill() {
			continue
		}
		ask, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		leads := m.leads(ask)
		cancel()
		if leads {
			return m
		}
	}
	return nil
}

// waitLeader waits until a member leads.
func waitLeader(ctx context.Context, members []*member) (leader *member, err error) {
	err = within(ctx, readyMax, func(ctx context.Context) error {
		if leader = leaderOf(ctx, members); leader == nil {
			return errors.New("faults: no member says that it leads")
		}
		return nil
	})
	return leader, err
}

// probe is the client of everything that is not recorded.
var probe = &http.Client{Timeout: 3 * time.Second}

func get(ctx context.Context, url string) (status int, body string, head http.Header, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", nil, err
	}
	resp, err := probe.Do(r)
	if err != nil {
		return 0, "", nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), resp.Header, err
}
