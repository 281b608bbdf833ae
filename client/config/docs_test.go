package config_test

import (
	"os"
	"strings"
	"testing"
)

// What docs/configuration.md shows is what the examples run.
func TestGuideShowsTheExamples(t *testing.T) {
	guide, err := os.ReadFile("../../docs/configuration.md")
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
			t.Errorf("docs/configuration.md shows what is in no example:\n%s", code)
		}
	}
	if len(parts) < 4 {
		t.Errorf("docs/configuration.md has %d programs, want 3 at least", len(parts)-1)
	}
}
