package e2e

import (
	"os"
	"testing"

	"github.com/marsevilspirit/deimos/internal/proctest"
)

// program is the path of the deimos binary.
var program string

func TestMain(m *testing.M) { os.Exit(proctest.Main(m, &program)) }
