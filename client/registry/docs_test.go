package registry_test

import (
	"testing"

	"github.com/marsevilspirit/deimos/internal/guidetest"
)

// What docs/discovery.md shows is what the examples run.
func TestGuideShowsTheExamples(t *testing.T) {
	guidetest.Programs(t, "../../docs/discovery.md", 4, "example_test.go", "../grpcresolver/example_test.go")
}
