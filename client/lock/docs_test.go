package lock_test

import (
	"os"
	"strings"
	"testing"
)

// What docs/coordination-go.md shows is what the examples run.
func TestGuideShowsTheExamples(t *testing.T) {
	guide, err := os.ReadFile("../../docs/coordination-go.md")
	if err != nil {
		t.Fatal(err)
	}
	var examples string
	for _, file := range []string{"example_test.go", "../election/example_test.go"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		examples += string(text)
	}
	parts := strings.Split(string(guide), "```go\n")
	for _, part := range parts[1:] {
		code, _, ok := strings.Cut(part, "```")
		if !ok || !strings.Contains(examples, code) {
			t.Errorf("docs/coordination-go.md shows what is not in the examples:\n%s", code)
		}
	}
	if len(parts) < 5 {
		t.Errorf("docs/coordination-go.md has %d programs, want 4 at least", len(parts)-1)
	}
}
