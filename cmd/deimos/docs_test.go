package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/marsevilspirit/deimos/internal/clustertest"
)

// alike takes out of an output what differs from run to run.
func alike(text string) string {
	for _, d := range docsDifferences {
		text = d.is.ReplaceAllString(text, d.becomes)
	}
	return text
}

var docsDifferences = []struct {
	is      *regexp.Regexp
	becomes string
}{
	{regexp.MustCompile(`\b[0-9a-f]{12,16}\b`), "ID"},
	{regexp.MustCompile(`http://127\.0\.0\.1:\d+`), "URL"},
	{regexp.MustCompile(`\b[0-9.]+(µs|ms|s)  healthy`), "TIME  healthy"},
	{regexp.MustCompile(`\b3[56][0-9]{2}s  `), "HOUR  "},
	{regexp.MustCompile(`leader  ID  [0-9 ]+\n`), "leader  ID  INDEXES\n"},
	{regexp.MustCompile(` +(\n|  )`), "$1"}, // columns
	{regexp.MustCompile(` {2,}`), "  "},
	{regexp.MustCompile(` +\n`), "\n"},
}

// TestTheDocumentedCommandsPrintWhatIsDocumented runs docs/cli.md from top to
// bottom in a shell, against one member. The program in the shell is the test
// binary.
func TestTheDocumentedCommandsPrintWhatIsDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(bin, "deimos")); err != nil {
		t.Fatal(err)
	}
	member := clustertest.NewHTTP(t, 1)
	env := append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), envEndpoints+"="+member.URLs()[0], envRunMain+"=1")
	commands := 0
	for block := range strings.SplitSeq(string(page), "    $ ") {
		line, want, _ := strings.Cut(block, "\n")
		if commands++; commands == 1 {
			continue // what is before the first
		}
		var expected strings.Builder
		for out := range strings.Lines(want) {
			text, indented := strings.CutPrefix(out, "    ")
			if !indented {
				break
			}
			expected.WriteString(text)
		}
		cmd := exec.CommandContext(t.Context(), "sh", "-c", line)
		cmd.Env = env
		got, err := cmd.CombinedOutput()
		if _, failed := err.(*exec.ExitError); err != nil && !failed {
			t.Fatal(err)
		}
		if alike(string(got)) != alike(expected.String()) {
			t.Errorf("docs/cli.md: %s prints\n%swant\n%s", line, got, &expected)
		}
		if bytes.HasPrefix(got, []byte("deimos: ")) != (err != nil) {
			t.Errorf("docs/cli.md: %s = %v with %q", line, err, got)
		}
	}
	if commands < 25 {
		t.Errorf("docs/cli.md has %d commands, want all of them found", commands)
	}
}
