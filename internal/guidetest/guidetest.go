// Package guidetest holds guides against the code that they show. It refuses to
// run anything: that is what the examples are for. It is for tests only.
package guidetest

import (
	"os"
	"strings"
	"testing"
)

// Programs fails the test unless each Go program of a guide stands in one of the
// example files word for word, and there are at least least of them. The files
// are relative to the directory of the test.
func Programs(t *testing.T, guide string, least int, examples ...string) {
	t.Helper()
	text, err := os.ReadFile(guide)
	if err != nil {
		t.Fatal(err)
	}
	var tested string
	for _, name := range examples {
		example, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		tested += string(example)
	}
	parts := strings.Split(string(text), "```go\n")
	for _, part := range parts[1:] {
		code, _, ok := strings.Cut(part, "```")
		if !ok || !strings.Contains(tested, code) {
			t.Errorf("%s shows what is in no example:\n%s", guide, code)
		}
	}
	if shown := len(parts) - 1; shown < least {
		t.Errorf("%s has %d programs, want %d at least", guide, shown, least)
	}
}
