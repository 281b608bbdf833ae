package registry_test

import (
	"os"
	"strings"
	"testing"
)

// What docs/discovery.md shows is what the examples run.
func TestGuideShowsTheExamples(t *testing.T) {
	guide, err := os.ReadFile("../../docs/discovery.md")
	if err != nil {
		t.Fatal(err)
	}
	var examples string
	for _, name := range []string{"example_test.go", "../grpcresolver/example_test.go"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		examples += string(text)
	}
	parts := strings.Split(string(guide), "```go\n")
	for _, part := range parts[1:] {
		code, _, ok := strings.Cut(part, "```")
		if !ok || !strings.Contains(examples, code) {
			t.Errorf("docs/discovery.md shows what is in no example:\n%s", code)
		}
	}
	if len(parts) < 5 {
		t.Errorf("docs/discovery.md has %d programs, want 4 at least", len(parts)-1)
	}
}
