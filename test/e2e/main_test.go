package e2e

import (
	"os"
	"testing"

	"github.com/marsevilspirit/deimos/internal/proctest"
)

// program is the path of the deimos binary.
var program string

func TestMain(m *testing.M) {
	if job := os.Getenv(contenderVariable); job != "" {
		os.Exit(contend(job))
	}
	os.Exit(proctest.Main(m, &program))
}
