package lock_test

import (
	"testing"

	"github.com/marsevilspirit/deimos/internal/guidetest"
)

// What docs/coordination-go.md shows is what the examples run.
func TestGuideShowsTheExamples(t *testing.T) {
	guidetest.Programs(t, "../../docs/coordination-go.md", 4, "example_test.go", "../election/example_test.go")
}
