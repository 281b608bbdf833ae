package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// pastedMax is how long one block of commands may take.
const pastedMax = 30 * time.Second

// TestTheCommandsOfTheCoordinationGuide pastes what docs/coordination.md tells to
// paste, in order, and compares the answers with those that it shows.
func TestTheCommandsOfTheCoordinationGuide(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"lock.sh", "queue-lock.sh", "elect.sh"} {
		script(t, name)
	}
	top, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(top, "docs", "coordination.md"))
	if err != nil {
		t.Fatal(err)
	}
	n := startNode(t)
	blocks := indented(string(text))
	if len(blocks) < 20 || len(blocks)%2 != 0 {
		t.Fatalf("void: %d indented blocks, want many, commands and answers in turn", len(blocks))
	}
	for i := 0; i < len(blocks); i += 2 {
		commands, want := blocks[i], blocks[i+1]
		if !strings.HasPrefix(commands, "curl ") && !strings.HasPrefix(commands, "docs/examples/") {
			t.Fatalf("this is no command, although a block of answers is before it:\n%s", commands)
		}
		got := paste(t, top, n.client, commands)
		pattern := strings.ReplaceAll(regexp.QuoteMeta(want), "…", ".*")
		if !regexp.MustCompile("^" + pattern + "$").MatchString(got) {
			t.Fatalf("the answer to\n%s\nis\n%s\nwant\n%s", commands, got, want)
		}
	}
}

// indented returns the code blocks of a text, which are indented by four spaces.
func indented(text string) []string {
	var blocks []string
	inside := false
	for line := range strings.Lines(text) {
		code, ok := strings.CutPrefix(line, "    ")
		switch {
		case !ok:
		case inside:
			blocks[len(blocks)-1] += code
		default:
			blocks = append(blocks, code)
		}
		inside = ok
	}
	return blocks
}

// paste runs commands for the member of the guide, which is another one here.
func paste(t testing.TB, dir, client, commands string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), pastedMax)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-e", "-c", strings.ReplaceAll(commands, "http://127.0.0.1:4001", client))
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "DEIMOS_ENDPOINTS="+client, "no_proxy=127.0.0.1")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", commands, err, stderr.String())
	}
	return strings.ReplaceAll(string(out), "\r", "")
}
