package client_test

import (
	"os"
	"strings"
	"testing"
)

// What docs/client.md shows is what the examples run.
func TestGuideShowsTheExamples(t *testing.T) {
	guide, err := os.ReadFile("../docs/client.md")
	if err != nil {
		t.Fatal(err)
	}
	examples, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(string(guide), "```go\n")
	for _, part := range parts[1:] {
		code, _, ok := strings.Cut(part, "```")
		if !ok || !strings.Contains(string(examples), code) {
			t.Errorf("docs/client.md shows what is not in example_test.go:\n%s", code)
		}
	}
	if len(parts) < 6 {
		t.Errorf("docs/client.md has %d programs, want 5 at least", len(parts)-1)
	}
}
