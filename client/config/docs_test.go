package config_test

import (
	"testing"

	"github.com/marsevilspirit/deimos/internal/guidetest"
)

// What docs/configuration.md shows is what the examples run.
func TestGuideShowsTheExamples(t *testing.T) {
	guidetest.Programs(t, "../../docs/configuration.md", 3, "example_test.go")
}
