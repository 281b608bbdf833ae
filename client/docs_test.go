package client_test

import (
	"testing"

	"github.com/marsevilspirit/deimos/internal/guidetest"
)

// What docs/client.md shows is what the examples run.
func TestGuideShowsTheExamples(t *testing.T) {
	guidetest.Programs(t, "../docs/client.md", 5, "example_test.go")
}
