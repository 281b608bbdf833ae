package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// program is the path of the deimos binary: that of the environment variable
// DEIMOS_BIN, or else one that TestMain has built.
var program string

func TestMain(m *testing.M) {
	code, err := buildAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func buildAndRun(m *testing.M) (code int, err error) {
	if bin := os.Getenv("DEIMOS_BIN"); bin != "" {
		program = bin
		return m.Run(), nil
	}
	dir, err := os.MkdirTemp("", "deimos-e2e-")
	if err != nil {
		return 0, fmt.Errorf("e2e: making a directory for the program: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	program = filepath.Join(dir, "deimos")
	cmd := exec.Command("go", "build", "-o", program, "github.com/marsevilspirit/deimos/cmd/deimos")
	if out, err := cmd.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("e2e: building the program: %w\n%s", err, out)
	}
	return m.Run(), nil
}
