package main

import (
	"context"
	"strings"
	"testing"

	"github.com/marsevilspirit/deimos/daemon"
	"github.com/marsevilspirit/deimos/internal/clustertest"
	"github.com/marsevilspirit/deimos/internal/syncbuf"
)

// running is a command that has not ended yet.
type running struct {
	t              *testing.T
	stdout, stderr syncbuf.Buffer
	cancel         context.CancelFunc
	code           chan int
}

func (p *prompt) start(args ...string) *running {
	ctx, cancel := context.WithCancel(p.t.Context())
	r := &running{t: p.t, cancel: cancel, code: make(chan int, 1)}
	go func() { r.code <- run(ctx, args, p.env, &r.stdout, &r.stderr) }()
	return r
}

// waitFor waits until the command has printed text.
func (r *running) waitFor(text string) {
	r.t.Helper()
	clustertest.Eventually(r.t, "output "+text, func() bool { return strings.Contains(r.stdout.String(), text) })
}

// stop asks the command to end, as a signal does, and returns its exit code.
func (r *running) stop() int {
	r.cancel()
	return <-r.code
}

func TestWatchPrintsEachChangeOnALine(t *testing.T) {
	p := newPrompt(t)
	p.must("put", "/w/a", "1")
	r := p.start("watch", "/w", "--recursive", "--from-index", "2")
	p.must("put", "/w/a", "2", "--prev-value", "1")
	p.must("create", "/w/b", "two\nlines")
	p.must("rm", "/w/b")
	p.must("mkdir", "/w/d")
	p.must("rm", "/w", "--recursive")
	want := "SET /w/a 1\nCOMPARE-AND-SWAP /w/a 2\nCREATE /w/b \"two\\nlines\"\nDELETE /w/b\nCREATE /w/d/\nDELETE /w/\n"
	r.waitFor("DELETE /w/\n")
	if code := r.stop(); code != exitOK || r.stdout.String() != want || r.stderr.String() != "" {
		t.Errorf("deimos watch = %d with %q and stderr %q, want 0 with %q", code, r.stdout.String(), r.stderr.String(), want)
	}
	p.steps([]step{{args: "watch /w/a --once --from-index 2 -o json",
		stdout: `{"action":"set","node":{"key":"/w/a","value":"1","modifiedIndex":2,"createdIndex":2},"index":2}` + "\n"}})
}

func TestWatchSaysWhatIsLost(t *testing.T) {
	const history = 10
	p := promptOf(t, clustertest.New(t, 1, func(c *daemon.Config) { c.Limits.HistoryEvents = history }))
	p.must("put", "/w/a", "1")
	for range history + 1 {
		p.must("put", "/other", "x")
	}
	r := p.start("watch", "/w", "--recursive", "--from-index", "2")
	r.waitFor("RESET\nGET /w/a 1\n")
	p.must("put", "/w/a", "2")
	r.waitFor("SET /w/a 2\n")
	if code := r.stop(); code != exitOK || !strings.Contains(r.stderr.String(), "deimos: changes of /w are missing here") {
		t.Errorf("deimos watch = %d with stderr %q, want it to say what is missing", code, r.stderr.String())
	}
}

func TestWatchSurvivesTheMemberItAsked(t *testing.T) {
	c := clustertest.NewHTTP(t, 3)
	p := promptOf(t, c)
	p.must("put", "/w", "1")
	r := p.start("watch", "/w", "--from-index", "2")
	r.waitFor("SET /w 1\n")
	c.Member(0).Kill() // the first endpoint
	clustertest.Eventually(t, "a write by the other two", func() bool { return p.run("put", "/w", "2").code == exitOK })
	r.waitFor("SET /w 2\n")
	if code := r.stop(); code != exitOK || r.stderr.String() != "" {
		t.Errorf("deimos watch = %d with stderr %q, want 0 and nothing", code, r.stderr.String())
	}
}
