package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos/internal/proctest"
)

// setup says what a run runs.
type setup struct {
	Seed     uint64        `json:"seed"`
	Size     int           `json:"size"`
	Duration time.Duration `json:"durationNS"`
	// Flags are given to every member.
	Flags []string `json:"flags"`
	// Secret makes the members prove themselves to each other.
	Secret bool `json:"secret"`
	// wrap is a command that runs the program in its place.
	wrap []string
}

// violation is a promise that was broken, or a reason why the run is void.
type violation struct {
	Judge string  `json:"judge"`
	Text  string  `json:"text"`
	AtSec float64 `json:"atSeconds"`
}

// violationsMax bounds what one run reports.
const violationsMax = 40

// cluster is the members of a run, the network between them, and the verdicts
// of the judges.
type cluster struct {
	setup
	dir     string
	began   time.Time
	members []*member // the last one is a spare, which joins and leaves again
	net     *network

	mu         sync.Mutex
	violations []violation
	broken     int
	faults     map[string]*tally
	claimed    map[*member]bool
	recoveries []time.Duration
}

// tally counts a kind of fault.
type tally struct {
	// Injected and Observed count the faults, and those that were seen to have
	// happened.
	Injected int `json:"injected"`
	Observed int `json:"observed"`
}

// newCluster prepares the members of a run and starts all but the spare.
func newCluster(t testing.TB, s setup) *cluster {
	t.Helper()
	c := &cluster{
		setup: s, began: time.Now(), faults: map[string]*tally{}, claimed: map[*member]bool{},
		dir: evidenceDir(t, fmt.Sprintf("seed%d-size%d", s.Seed, s.Size)),
	}
	if s.Secret {
		path := filepath.Join(c.dir, "peer.secret")
		if err := os.WriteFile(path, []byte("a secret of the members in a test\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		c.Flags = append(slices.Clone(s.Flags), "--peer-secret-file="+path)
	}
	var targets []string
	for range s.Size + 1 {
		targets = append(targets, proctest.FreeAddress(t))
	}
	c.net = newNetwork(t, targets)
	for i, target := range targets {
		name := fmt.Sprintf("n%d", i+1)
		c.members = append(c.members, &member{
			slot: i, name: name, violate: c.violate, wrap: s.wrap,
			client: "http://" + proctest.FreeAddress(t), peer: "http://" + c.net.address(i), listen: "http://" + target,
			dir: filepath.Join(c.dir, name), logPath: filepath.Join(c.dir, name+".log"),
		})
	}
	first := c.members[:s.Size]
	t.Cleanup(func() {
		c.end()
		if t.Failed() {
			t.Logf("what the members left is in %s", c.dir)
		}
	})
	for _, m := range first {
		m.setFlags(append([]string{"--bootstrap-config", bootstrap(first)}, c.Flags...))
		if err := m.start(goesOn); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range first {
		if err := m.waitReady(t.Context(), readyMax); err != nil {
			t.Fatal(err)
		}
		m.in.Store(true)
	}
	if err := c.learnIDs(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

// bootstrap is the value of the flag that names the first members.
func bootstrap(members []*member) string {
	var list []string
	for _, m := range members {
		list = append(list, m.name+"="+m.peer)
	}
	return strings.Join(list, ",")
}

// end kills what still runs.
func (c *cluster) end() {
	for _, m := range c.members {
		m.kill()
	}
}

// learnIDs waits until all members have published themselves, and tells the
// network their ids. Until then the others do not know their incarnations, and a
// member that is wiped is not recognised.
func (c *cluster) learnIDs(ctx context.Context) error {
	err := within(ctx, readyMax, func(ctx context.Context) error {
		list, err := c.list(ctx, c.members[0])
		if err != nil {
			return err
		}
		for _, m := range c.members[:c.Size] {
			id := list.named(m.name)
			if id == "" {
				return fmt.Errorf("faults: %s has not published itself", m.name)
			}
			m.setID(id)
			c.net.know(id, m.slot)
		}
		return nil
	})
	c.net.sortAgain()
	return err
}

// verdict fails the test for every violation, and for words in logs that must
// not be there. What the members left is kept then, and removed otherwise.
func (c *cluster) verdict(t testing.TB) (good bool) {
	t.Helper()
	c.end()
	c.judgeLogFiles()
	if c.broken == 0 && !t.Failed() {
		if err := os.RemoveAll(c.dir); err != nil {
			t.Error(err)
		}
		return true
	}
	for _, x := range c.violations {
		t.Errorf("%s (at %.3f s): %s", x.Judge, x.AtSec, x.Text)
	}
	if c.broken > len(c.violations) {
		t.Errorf("… and %d more", c.broken-len(c.violations))
	}
	t.Fail() // also when the log lines of the test alone say why
	return false
}

// since is the time since the run began, on the clock that all records use.
func (c *cluster) since() time.Duration { return time.Since(c.began) }

// violate records a broken promise.
func (c *cluster) violate(judge, format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.broken++
	if len(c.violations) < violationsMax {
		c.violations = append(c.violations, violation{judge, fmt.Sprintf(format, args...), c.since().Seconds()})
	}
}

// note counts a fault, and whether it was seen to have happened.
func (c *cluster) note(kind string, observed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.faults[kind]
	if f == nil {
		f = &tally{}
		c.faults[kind] = f
	}
	f.Injected++
	if observed {
		f.Observed++
	}
}

// claim takes members for whoever starts and ends their processes; false if
// somebody else has one of them.
func (c *cluster) claim(members ...*member) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range members {
		if c.claimed[m] {
			return false
		}
	}
	for _, m := range members {
		c.claimed[m] = true
	}
	return true
}

// claimInside is claim for one member, which must take part at that moment.
func (c *cluster) claimInside(m *member) bool {
	if !c.claim(m) {
		return false
	}
	if !m.in.Load() {
		c.release(m)
		return false
	}
	return true
}

func (c *cluster) release(members ...*member) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range members {
		delete(c.claimed, m)
	}
}

// inside are the members that take part.
func (c *cluster) inside() []*member {
	var found []*member
	for _, m := range c.members {
		if m.in.Load() {
			found = append(found, m)
		}
	}
	return found
}

// memberList is the answer to a request for the members.
type memberList struct {
	Members []struct {
		ID         string   `json:"id"`
		Name       string   `json:"name"`
		PeerURLs   []string `json:"peerURLs"`
		ClientURLs []string `json:"clientURLs"`
		IsLearner  bool     `json:"isLearner"`
	} `json:"members"`
	text string
}

// named is the id of the member that has published itself under a name.
func (l memberList) named(name string) string {
	for _, m := range l.Members {
		if m.Name == name && len(m.ClientURLs) > 0 {
			return m.ID
		}
	}
	return ""
}

// list asks a member for the list.
func (c *cluster) list(ctx context.Context, m *member) (l memberList, err error) {
	status, body, _, err := get(ctx, m.client+"/v2/members")
	if err != nil {
		return l, err
	}
	if err := json.Unmarshal([]byte(body), &l); err != nil || status != http.StatusOK {
		return l, fmt.Errorf("faults: members of %s: status %d: %.200s", m.name, status, body)
	}
	l.text = body
	return l, nil
}

// lives are the parts of an answer that differ from member to member and from
// moment to moment.
var lives = regexp.MustCompile(`"expiration":"[^"]*",|"ttl":[0-9]+,`)

// tree reads what a member has applied, and its index.
func (c *cluster) tree(ctx context.Context, m *member) (index uint64, tree string, err error) {
	status, body, head, err := get(ctx, m.client+"/v2/keys/?recursive=true&sorted=true&quorum=false")
	if err != nil {
		return 0, "", err
	}
	if status != http.StatusOK {
		return 0, "", fmt.Errorf("faults: tree of %s: status %d", m.name, status)
	}
	index, err = strconv.ParseUint(head.Get("X-Deimos-Index"), 10, 64)
	return index, lives.ReplaceAllString(body, ""), err
}

// agreeMax is how long healed members may take to hold the same.
const agreeMax = 15 * time.Second

// agree waits until all members have the same index and the same member list,
// and compares their trees there.
func (c *cluster) agree(ctx context.Context) (index uint64, tree string) {
	members := c.inside()
	trees, lists := make([]string, len(members)), make([]string, len(members))
	err := within(ctx, agreeMax, func(ctx context.Context) error {
		for i, m := range members {
			at, text, err := c.tree(ctx, m)
			if err != nil {
				return err
			}
			l, err := c.list(ctx, m)
			if err != nil {
				return err
			}
			if i == 0 {
				index = at
			}
			trees[i], lists[i] = text, l.text
			if at != index || lists[i] != lists[0] {
				return fmt.Errorf("faults: %s is at index %d with members %s, %s at %d with %s", m.name, at, l.text, members[0].name, index, lists[0])
			}
		}
		return nil
	})
	if err != nil {
		c.violate("agreement", "the members do not agree after %v: %v", agreeMax, err)
		return 0, ""
	}
	for i, m := range members {
		if trees[i] != trees[0] {
			c.violate("agreement", "%s and %s hold different trees at index %d:\n%.2000s\n%.2000s", members[0].name, m.name, index, trees[0], trees[i])
		}
	}
	return index, trees[0]
}

// judgeLogFiles looks for words that no log may hold.
func (c *cluster) judgeLogFiles() {
	for _, m := range c.members {
		bad, err := badLines(m.logPath)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			c.violate("log file", "%v", err)
		}
		for _, line := range bad {
			c.violate("log file", "%s wrote %q", m.name, line)
		}
	}
}
