package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	// etcdctlMax is how long one command of etcdctl may take.
	etcdctlMax = 15 * time.Second
	// installMax is how long the installation of its package may take.
	installMax = 2 * time.Minute
)

// findEtcdctl returns the path of etcdctl, which it installs if it must, or
// says why there is none.
var findEtcdctl = sync.OnceValues(func() (string, error) {
	path, err := exec.LookPath("etcdctl")
	if err != nil {
		if path, err = installEtcdctl(); err != nil {
			return "", err
		}
	}
	cmd := exec.Command(path, "--version")
	cmd.Env = append(os.Environ(), "ETCDCTL_API=2")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "etcdctl version: 3.4.") || !strings.Contains(string(out), "API version: 2") {
		return "", fmt.Errorf("%s is no etcdctl 3.4 with the v2 API: %q (%v)", path, out, err)
	}
	return path, nil
})

// installEtcdctl installs the Debian package that holds etcdctl.
func installEtcdctl() (string, error) {
	if os.Geteuid() != 0 {
		return "", errors.New("etcdctl is not installed, and only root could install etcd-client")
	}
	apt, err := exec.LookPath("apt-get")
	if err != nil {
		return "", errors.New("etcdctl is not installed, and there is no apt-get to install etcd-client with")
	}
	ctx, cancel := context.WithTimeout(context.Background(), installMax)
	defer cancel()
	run := func(args ...string) error {
		cmd := exec.CommandContext(ctx, apt, append([]string{"-q", "-y"}, args...)...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("etcdctl is not installed, and apt-get %s has failed: %w\n%s", args[0], err, out)
		}
		return nil
	}
	install := []string{"install", "--no-install-recommends", "etcd-client"}
	if run(install...) != nil { // the list of packages may be missing or old
		if err := run("update"); err != nil {
			return "", err
		}
		if err := run(install...); err != nil {
			return "", err
		}
	}
	return exec.LookPath("etcdctl")
}

// etcdctl is the tool with the flags that lead to a cluster.
type etcdctl struct {
	path  string
	flags []string
}

// newEtcdctl skips the test where there is no etcdctl.
func newEtcdctl(t testing.TB, endpoints ...string) etcdctl {
	t.Helper()
	path, err := findEtcdctl()
	if err != nil {
		t.Skipf("layer ETCDCTL: %v", err)
	}
	return etcdctl{path: path, flags: []string{"--endpoints", strings.Join(endpoints, ",")}}
}

// with returns the tool with further flags.
func (e etcdctl) with(flags ...string) etcdctl {
	e.flags = append(slices.Clone(e.flags), flags...)
	return e
}

// start starts a command that goes on until the test ends, at the latest.
func (e etcdctl) start(t testing.TB, args ...string) *process {
	t.Helper()
	return startCommand(t, "ETCDCTL_API=2", e.path, append(slices.Clone(e.flags), args...)...)
}

// run runs a command to its end and returns its exit code and what it wrote.
func (e etcdctl) run(t testing.TB, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), etcdctlMax)
	defer cancel()
	cmd := exec.CommandContext(ctx, e.path, append(slices.Clone(e.flags), args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Env = &out, &errs, append(os.Environ(), "ETCDCTL_API=2")
	if err := cmd.Run(); cmd.ProcessState == nil || ctx.Err() != nil {
		t.Fatalf("etcdctl %q: %v after at most %v:\n%s%s", args, err, etcdctlMax, &out, &errs)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// want runs a command and compares its exit code and all that it wrote.
func (e etcdctl) want(t testing.TB, args []string, code int, stdout, stderr string) {
	t.Helper()
	gotCode, gotOut, gotErr := e.run(t, args...)
	if gotCode != code || gotOut != stdout || gotErr != stderr {
		t.Errorf("etcdctl %q = exit code %d, stdout %q, stderr %q,\nwant %d, %q, %q", args, gotCode, gotOut, gotErr, code, stdout, stderr)
	}
}

// ok runs a command that must succeed, and returns what it wrote.
func (e etcdctl) ok(t testing.TB, args ...string) string {
	t.Helper()
	code, stdout, stderr := e.run(t, args...)
	if code != 0 {
		t.Fatalf("etcdctl %q = exit code %d, want 0:\n%s%s", args, code, stdout, stderr)
	}
	return stdout
}

// startPublished starts a single member and waits until clients find its URLs
// in the member list, which etcdctl asks for first.
func startPublished(t testing.TB, flags ...string) *node {
	t.Helper()
	n := startNode(t, flags...)
	waitPublished(t, &cluster{nodes: []*node{n}})
	return n
}

// ctlStep is a command and the end of it.
type ctlStep struct {
	args   string // separated by single spaces
	code   int
	stdout string
	stderr string
}

// ctlKeys is one story on a fresh cluster; reads are linearizable, because
// etcdctl may turn to another member for every command.
var ctlKeys = []ctlStep{
	{"set /a 1", 0, "1\n", ""},
	{"get -q /a", 0, "1\n", ""},
	{"-o extended get -q /a", 0, "Key: /a\nCreated-Index: 2\nModified-Index: 2\nTTL: 0\nIndex: 2\n\n1\n", ""},
	{"-o json get -q /a", 0, `{"action":"get","node":{"key":"/a","value":"1","nodes":null,"createdIndex":2,"modifiedIndex":2},"prevNode":null}` + "\n", ""},
	{"get -q /none/x", 4, "", "Error:  100: Key not found (/none) [2]\n"},
	{"get -q /a/x", 4, "", "Error:  104: Not a directory (/a) [2]\n"},

	{"mk /a 2", 4, "", "Error:  105: Key already exists (/a) [2]\n"},
	{"mk /b 2", 0, "2\n", ""},
	{"update /b 3", 0, "3\n", ""},
	{"update /none 3", 4, "", "Error:  100: Key not found (/none) [4]\n"},
	{"-o json update /b 4", 0, `{"action":"update","node":{"key":"/b","value":"4","nodes":null,"createdIndex":3,"modifiedIndex":5},"prevNode":{"key":"/b","value":"3","nodes":null,"createdIndex":3,"modifiedIndex":4}}` + "\n", ""},
	{"-o extended set --ttl 300 /t 1", 0, "Key: /t\nCreated-Index: 6\nModified-Index: 6\nTTL: 300\nIndex: 6\n\n1\n", ""},
	{"-o extended update /t 2", 0, "Key: /t\nCreated-Index: 6\nModified-Index: 7\nPrevNode.Value: 1\nTTL: 0\nIndex: 7\n\n2\n", ""},

	{"set --swap-with-value 2 /t 3", 0, "3\n", ""},
	{"set --swap-with-value 2 /t 4", 4, "", "Error:  101: Compare failed ([2 != 3]) [8]\n"},
	{"set --swap-with-index 8 /t 4", 0, "4\n", ""},
	{"set --swap-with-index 8 /t 5", 4, "", "Error:  101: Compare failed ([8 != 9]) [9]\n"},
	{"set --swap-with-value x --swap-with-index 8 /t 5", 4, "", "Error:  101: Compare failed ([x != 4] [8 != 9]) [9]\n"},
	{"rm --with-value 3 /t", 4, "", "Error:  101: Compare failed ([3 != 4]) [9]\n"},
	{"rm --with-index 8 /t", 4, "", "Error:  101: Compare failed ([8 != 9]) [9]\n"},
	{"rm --with-value 4 /t", 0, "\n", ""},
	{"rm /t", 4, "", "Error:  100: Key not found (/t) [10]\n"},
	{"rm /b", 0, "PrevNode.Value: 4\n", ""},

	{"mkdir /d", 0, "", ""},
	{"mkdir /d", 4, "", "Error:  105: Key already exists (/d) [12]\n"},
	{"setdir /d", 4, "", "Error:  102: Not a file (/d) [12]\n"},
	{"setdir --ttl 300 /e", 0, "", ""},
	{"-o extended get -q /e", 1, "", "/e: is a directory\n"},
	{"updatedir /e", 0, "", ""},
	{"-o json ls -q /e", 0, `{"action":"get","node":{"key":"/e","dir":true,"value":"","nodes":null,"createdIndex":13,"modifiedIndex":14},"prevNode":null}` + "\n", ""},
	{"updatedir --ttl 300 /none", 4, "", "Error:  100: Key not found (/none) [14]\n"},
	{"updatedir /a", 4, "", "Error:  104: Not a directory (/a) [14]\n"},
	{"set /d 1", 4, "", "Error:  102: Not a file (/d) [14]\n"},
	{"set /a/b 1", 4, "", "Error:  104: Not a directory (/a) [14]\n"},

	{"set /d/z/f 1", 0, "1\n", ""},
	{"set /d/b 2", 0, "2\n", ""},
	{"set /d/_hidden 3", 0, "3\n", ""},
	{"ls -q", 0, "/a\n/d\n/e\n", ""},
	{"ls -q --sort -p /d", 0, "/d/b\n/d/z/\n", ""},
	{"ls -q -r -p", 0, "/a\n/d/\n/d/b\n/d/z/\n/d/z/f\n/e/\n", ""},
	{"ls -q --recursive --sort /d/z", 0, "/d/z/f\n", ""},
	{"ls -q /d/_hidden", 0, "/d/_hidden\n", ""},
	{"ls -q /none", 4, "", "Error:  100: Key not found (/none) [17]\n"},

	{"rm /d", 4, "", "Error:  102: Not a file (/d) [17]\n"},
	{"rm --dir /d", 4, "", "Error:  108: Directory not empty (/d) [17]\n"},
	{"rmdir /d", 4, "", "Error:  108: Directory not empty (/d) [17]\n"},
	{"rmdir /e", 0, "", ""},
	{"rm --recursive /d", 0, "", ""},
	{"mk --in-order /q 1", 0, "1\n", ""},
	{"mk --in-order --ttl 300 /q 2", 0, "2\n", ""},
	{"ls -q /q", 0, "/q/00000000000000000020\n/q/00000000000000000021\n", ""},
	{"mk --in-order /a 1", 4, "", "Error:  104: Not a directory (/a) [21]\n"},

	{"rm -r /", 4, "", "Error:  107: Root is read only (/) [21]\n"},
	{"set / 1", 4, "", "Error:  107: Root is read only (/) [21]\n"},
	{"get", 1, "", "Error:  key required\n"},
}

func TestEtcdctlKeys(t *testing.T) {
	t.Parallel()
	t.Run("of one member", func(t *testing.T) {
		t.Parallel()
		wantStory(t, newEtcdctl(t, startPublished(t).client))
	})
	t.Run("of three members", func(t *testing.T) {
		t.Parallel()
		newEtcdctl(t) // skips before anything is started
		c := startCluster(t)
		waitPublished(t, c)
		wantStory(t, newEtcdctl(t, c.others(c.leader(t))...))
	})
}

func wantStory(t *testing.T, e etcdctl) {
	t.Helper()
	for _, step := range ctlKeys {
		e.want(t, strings.Split(step.args, " "), step.code, step.stdout, step.stderr)
	}
	// What has to be escaped on the way.
	const key, value = "/sp ace/ü&%+?#;", "a=b & c;+ %41 <ü>"
	e.want(t, []string{"set", key, value}, 0, value+"\n", "")
	e.want(t, []string{"get", "-q", key}, 0, value+"\n", "")
	e.want(t, []string{"set", "--swap-with-value", value, key, "2"}, 0, "2\n", "")
	e.want(t, []string{"rm", "--with-value", "2", key}, 0, "\n", "")
}

// waitWatchers waits until members have so many watches open in all.
func waitWatchers(t testing.TB, want float64, nodes ...*node) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), readyMax)
	defer cancel()
	if err := until(ctx, func() error {
		var sum float64
		for _, n := range nodes {
			got, err := metric(ctx, n.client, "deimos_store_watchers")
			if err != nil {
				return err
			}
			sum += got
		}
		if sum != want {
			return fmt.Errorf("%v watches are open, want %v", sum, want)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// waitOutput waits until a process has written exactly this to stdout; in any
// order of its lines if sorted is given.
func waitOutput(t testing.TB, p *process, want string, sorted bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), readyMax)
	defer cancel()
	if err := until(ctx, func() error {
		got := p.stdout.String()
		if sorted {
			got = strings.Join(slices.Sorted(strings.Lines(got)), "")
		}
		if got != want {
			return fmt.Errorf("%q has written\n%q, want\n%q", p.cmd.Args[1:], got, want)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

func TestEtcdctlWatches(t *testing.T) {
	t.Parallel()
	newEtcdctl(t)
	n := startPublished(t)
	e := newEtcdctl(t, n.client)
	once := e.start(t, "watch", "/w/a")
	forever := e.start(t, "watch", "--forever", "--recursive", "/w")
	inJSON := e.start(t, "-o", "json", "watch", "--forever", "/w/a")
	const command = `echo $ETCD_WATCH_MODIFIED_INDEX $ETCD_WATCH_ACTION $ETCD_WATCH_KEY $ETCD_WATCH_VALUE`
	hook := e.start(t, "exec-watch", "--recursive", "/w", "--", "sh", "-c", command)
	waitWatchers(t, 4, n)

	e.ok(t, "set", "/w/a", "1")
	e.ok(t, "set", "--ttl", "1", "/w/b", "2")
	waitOutput(t, forever, "[set] /w/a\n1\n[set] /w/b\n2\n[expire] /w/b\n\n", false)
	e.ok(t, "mkdir", "/w/d")
	e.ok(t, "rmdir", "/w/d")
	e.ok(t, "rm", "/w/a")
	waitOutput(t, forever, "[set] /w/a\n1\n[set] /w/b\n2\n[expire] /w/b\n\n[delete] /w/a\nPrevNode.Value: 1\n", false)
	waitOutput(t, inJSON,
		`{"action":"set","node":{"key":"/w/a","value":"1","nodes":null,"createdIndex":2,"modifiedIndex":2},"prevNode":null}`+"\n"+
			`{"action":"delete","node":{"key":"/w/a","value":"","nodes":null,"createdIndex":2,"modifiedIndex":7},"prevNode":{"key":"/w/a","value":"1","nodes":null,"createdIndex":2,"modifiedIndex":2}}`+"\n", false)
	// The commands of exec-watch run side by side.
	waitOutput(t, hook, "2 set /w/a 1\n3 set /w/b 2\n4 expire /w/b\n7 delete /w/a\n", true)
	if code := once.wait(t, etcdctlMax); code != 0 || once.stdout.String() != "1\n" {
		t.Errorf("etcdctl watch = exit code %d, %q, want 0 and the value", code, once.stdout.String())
	}
	for _, p := range []*process{forever, inJSON, hook} {
		p.signal(t, syscall.SIGINT)
		p.wait(t, etcdctlMax)
	}
	waitWatchers(t, 0, n)

	e.want(t, []string{"watch", "--after-index", "2", "--recursive", "/w"}, 0, "[set] /w/b\n2\n", "")
	e.want(t, []string{"watch", "--after-index", "4", "/w/a"}, 0, "PrevNode.Value: 1\n", "")
	again := e.start(t, "exec-watch", "--after-index", "2", "--recursive", "/w", "--", "sh", "-c", command)
	waitOutput(t, again, "3 set /w/b 2\n4 expire /w/b\n7 delete /w/a\n", true)
}

func TestEtcdctlWatchOfClearedHistoryFails(t *testing.T) {
	t.Parallel()
	newEtcdctl(t)
	n := startPublished(t, "--history-events", "3")
	e := newEtcdctl(t, n.client)
	for i := range 5 {
		e.ok(t, "set", "/a", fmt.Sprint(i))
	}
	e.want(t, []string{"watch", "--after-index", "1", "/a"}, 4, "",
		"Error:  401: The event in requested index is outdated and cleared (the requested history has been cleared [4/2]) [6]\n")
	e.want(t, []string{"watch", "--after-index", "3", "/a"}, 0, "2\n", "")
}

func TestEtcdctlWatchGoesOnWhenItsMemberDies(t *testing.T) {
	t.Parallel()
	newEtcdctl(t)
	c := startCluster(t)
	waitPublished(t, c)
	e := newEtcdctl(t, c.others(nil)...)
	watch := e.start(t, "watch", "--forever", "--recursive", "/w")
	waitWatchers(t, 1, c.nodes...)
	e.ok(t, "set", "/w/a", "1")
	waitOutput(t, watch, "[set] /w/a\n1\n", false)
	waitWatchers(t, 1, c.nodes...) // the next one, from the index it has seen
	for _, n := range c.nodes {
		if open, err := metric(t.Context(), n.client, "deimos_store_watchers"); err != nil {
			t.Fatal(err)
		} else if open == 1 {
			n.kill(t)
			break
		}
	}
	c.leader(t) // another one may have to be elected first
	e.ok(t, "set", "/w/b", "2")
	e.ok(t, "rm", "/w/a")
	waitOutput(t, watch, "[set] /w/a\n1\n[set] /w/b\n2\n[delete] /w/a\nPrevNode.Value: 1\n", false)
	if watch.ended() {
		t.Errorf("the watch has ended with %d:\n%s", watch.code, watch.stderr.String())
	}
}

// added is what etcdctl member add writes.
var added = regexp.MustCompile(`^Added member named (\S+) with ID ([0-9a-f]+) to cluster\n\n` +
	`ETCD_NAME="(\S+)"\nETCD_INITIAL_CLUSTER="(\S+)"\nETCD_INITIAL_CLUSTER_STATE="(\S+)"\n$`)

// addByEtcdctl adds a node that is not running, and gives it the flags that
// etcdctl names. It returns the id of the new member.
func addByEtcdctl(t testing.TB, e etcdctl, n *node) string {
	t.Helper()
	out := e.ok(t, "member", "add", n.name, n.peer)
	m := added.FindStringSubmatch(out)
	if m == nil || m[1] != n.name || m[3] != n.name {
		t.Fatalf("etcdctl member add wrote %q, want what %v matches", out, added)
	}
	n.args = append(n.args, "--initial-cluster", m[4], "--initial-cluster-state", m[5])
	return m[2]
}

func TestEtcdctlMembers(t *testing.T) {
	t.Parallel()
	newEtcdctl(t)
	n1, n2, n3 := startPublished(t), newNode(t, "n2"), newNode(t, "n3")
	e := newEtcdctl(t, n1.client)
	id1 := idOf(t, n1, "n1")
	line := func(id string, n *node, leads bool) string {
		return fmt.Sprintf("%s: name=%s peerURLs=%s clientURLs=%s isLeader=%v\n", id, n.name, n.peer, n.client, leads)
	}
	wantList := func(want ...string) {
		t.Helper()
		got := slices.Sorted(strings.Lines(e.ok(t, "member", "list")))
		if slices.Sort(want); !slices.Equal(got, want) {
			t.Errorf("etcdctl member list = %q, want %q", got, want)
		}
	}
	wantList(line(id1, n1, true))

	id2 := addByEtcdctl(t, e, n2)
	wantList(line(id1, n1, true), fmt.Sprintf("%s[unstarted]: peerURLs=%s\n", id2, n2.peer))
	e.want(t, []string{"member", "add", "n2", n2.peer}, 1, "", "membership: peerURL exists\n")
	code, out, _ := e.run(t, "cluster-health")
	if want := "member " + id2 + " is unreachable: no available published client urls\n"; code != 5 || !strings.Contains(out, want) || !strings.HasSuffix(out, "cluster is degraded\n") {
		t.Errorf("cluster-health with a member that has not started = %d %q, want 5 and %q", code, out, want)
	}
	n2.start(t)
	n2.waitReady(t)
	waitVoter(t, n1, "n2", 30*time.Second)
	e = newEtcdctl(t, n2.client)
	wantList(line(id1, n1, true), line(id2, n2, false))
	e.want(t, []string{"set", "/a", "1"}, 0, "1\n", "")

	id3 := addByEtcdctl(t, e, n3)
	const elsewhere = "http://127.0.0.1:1"
	e.want(t, []string{"member", "update", id3, elsewhere}, 0, "Updated member with ID "+id3+" in cluster\n", "")
	wantList(line(id1, n1, true), line(id2, n2, false), fmt.Sprintf("%s[unstarted]: peerURLs=%s\n", id3, elsewhere))
	e.want(t, []string{"member", "update", id3, n2.peer}, 1, "", "membership: peerURL exists\n")
	e.want(t, []string{"member", "update", id3, n3.peer}, 0, "Updated member with ID "+id3+" in cluster\n", "")
	n3.start(t)
	n3.waitReady(t)
	waitVoter(t, n1, "n3", 30*time.Second)

	for _, gone := range []struct {
		id string
		n  *node
	}{{id1, n1}, {id3, n3}} { // the leader first
		e.want(t, []string{"member", "remove", gone.id}, 0, "Removed member "+gone.id+" from cluster\n", "")
		if code := gone.n.run.wait(t, exitMax); code != 1 {
			t.Errorf("%s ended with %d after its removal, want 1", gone.n.name, code)
		}
		e.want(t, []string{"member", "remove", gone.id}, 1, "", "Couldn't find a member in the cluster with an ID of "+gone.id+".\n")
		e.want(t, []string{"member", "update", gone.id, elsewhere}, 1, "", "unexpected status code 410\n")
	}
	n2.waitReady(t)
	wantList(line(id2, n2, true))
	e.want(t, []string{"member", "remove", id2}, 1, "", "Received an error trying to remove member "+id2+": unexpected status code 409")
	e.want(t, []string{"member", "update", "abc", elsewhere}, 1, "", "No such member: abc\n")
	e.want(t, []string{"get", "/a"}, 0, "1\n", "")
}

func TestEtcdctlClusterHealth(t *testing.T) {
	t.Parallel()
	newEtcdctl(t)
	c := startCluster(t)
	waitPublished(t, c)
	leader := c.leader(t)
	ids := map[*node]string{}
	for _, n := range c.nodes {
		ids[n] = idOf(t, leader, n.name)
	}
	// The first endpoint leads nowhere, and those after it to the leader.
	const dead = "http://127.0.0.1:1"
	e := newEtcdctl(t, dead, leader.client)
	wantHealth := func(code int, verdict string, words map[*node]string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), readyMax)
		defer cancel()
		if err := until(ctx, func() error {
			got, out, _ := e.run(t, "cluster-health")
			if got != code || !strings.HasSuffix(out, "cluster is "+verdict+"\n") {
				return fmt.Errorf("cluster-health = %d %q, want %d and %q", got, out, code, verdict)
			}
			for n, word := range words {
				if want := "member " + ids[n] + " is " + word + ": "; !strings.Contains(out, want) {
					return fmt.Errorf("cluster-health = %q, want %q", out, want)
				}
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	}
	others := slices.DeleteFunc(slices.Clone(c.nodes), func(n *node) bool { return n == leader })
	wantHealth(0, "healthy", map[*node]string{leader: "healthy", others[0]: "healthy", others[1]: "healthy"})
	e.want(t, []string{"set", "/a", "1"}, 0, "1\n", "")

	others[0].kill(t)
	wantHealth(5, "degraded", map[*node]string{leader: "healthy", others[0]: "unreachable", others[1]: "healthy"})
	for range 4 { // etcdctl meets the dead one as well, and goes on to the next
		e.want(t, []string{"set", "/a", "1"}, 0, "1\n", "")
	}
	others[1].kill(t)
	wantHealth(5, "unavailable", map[*node]string{leader: "unhealthy", others[0]: "unreachable", others[1]: "unreachable"})
	waitNoLeader(t, leader)
	noLeader := "client: etcd member " + leader.client + " has no leader"
	for _, tt := range []struct {
		code int
		args []string
	}{
		{4, []string{"set", "/a", "2"}},
		{4, []string{"get", "-q", "/a"}},
		{1, []string{"member", "list"}},
		{1, []string{"member", "add", "n4", "http://127.0.0.1:2"}},
		{1, []string{"member", "remove", ids[others[0]]}},
	} {
		code, out, errs := e.run(t, tt.args...)
		if code != tt.code || !strings.Contains(out+errs, noLeader) {
			t.Errorf("etcdctl %q without a quorum = exit code %d, %q, want %d and %q", tt.args, code, out+errs, tt.code, noLeader)
		}
	}
	e.want(t, []string{"get", "/a"}, 0, "1\n", "") // a local read
	newEtcdctl(t, dead).want(t, []string{"get", "/a"}, 2, "",
		"Error:  client: etcd cluster is unavailable or misconfigured; error #0: dial tcp 127.0.0.1:1: connect: connection refused\n\n"+
			"error #0: dial tcp 127.0.0.1:1: connect: connection refused\n\n")

	for _, n := range others {
		n.start(t)
		n.waitReady(t)
	}
	wantHealth(0, "healthy", nil)
	e.want(t, []string{"get", "-q", "/a"}, 0, "1\n", "")
}

// waitNoLeader waits until a member says that it knows no leader.
func waitNoLeader(t testing.TB, n *node) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), readyMax)
	defer cancel()
	if err := until(ctx, func() error {
		status, body, err := get(ctx, n.client+"/v2/keys/?quorum=true")
		if err == nil && !strings.Contains(body, `"errorCode":301`) {
			err = fmt.Errorf("a linearizable read = %d %s, want error 301", status, body)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}
