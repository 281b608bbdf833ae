// Package proctest holds what the tests with real processes have in common: it
// builds the program once for a test binary, and gives out addresses that a
// process can have again after a restart. It starts and ends no process: what
// is expected of one is the business of each test.
package proctest

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
)

// Main runs the tests of a package and returns the exit code for TestMain. It
// sets program to the path of the deimos binary: that of the environment
// variable DEIMOS_BIN, or else one that is built now and removed in the end.
func Main(m *testing.M, program *string) int {
	code, err := buildAndRun(m, program)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

func buildAndRun(m *testing.M, program *string) (code int, err error) {
	if *program = os.Getenv("DEIMOS_BIN"); *program != "" {
		// Looked at also so that go test runs again when it is another program.
		if _, err := os.Stat(*program); err != nil {
			return 0, fmt.Errorf("proctest: the program that DEIMOS_BIN names: %w", err)
		}
		return m.Run(), nil
	}
	dir, err := os.MkdirTemp("", "deimos-bin-")
	if err != nil {
		return 0, fmt.Errorf("proctest: making a directory for the program: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	*program = filepath.Join(dir, "deimos")
	if err := lookAtSources(); err != nil {
		return 0, err
	}
	cmd := exec.Command("go", "build", "-o", *program, "github.com/marsevilspirit/deimos/cmd/deimos")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // as make does, also where the race detector needs cgo
	if out, err := cmd.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("proctest: building the program: %w\n%s", err, out)
	}
	return m.Run(), nil
}

// lookAtSources looks at every source file of the program, so that go test does
// not take an outcome from its cache that another program had: it remembers
// which files a test has looked at, but not what go build has read.
func lookAtSources() error {
	root, err := os.Getwd() // go test's: the directory of the package
	if err != nil {
		return fmt.Errorf("proctest: looking for the sources: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(root, "go.mod")); err == nil {
			break
		}
		above := filepath.Dir(root)
		if above == root {
			return errors.New("proctest: no go.mod is above the working directory, which has to be in the sources")
		}
		root = above
	}
	return filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(path) == ".go" {
			_, err = os.Stat(path)
		}
		return err
	})
}

var nextPort atomic.Uint32

// FreeAddress gives out addresses of this machine below the range from which
// the system takes ports for outgoing connections, so that a member can be
// started again on its own, and no two tests of this process get the same.
func FreeAddress(t testing.TB) string {
	t.Helper()
	l := Listen(t)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return l.Addr().String()
}

// Listen listens on such an address. Whoever listens itself takes this: an
// address that was just given back stays in use while another test starts a
// process, which holds all files of this one until it runs its own program.
func Listen(t testing.TB) net.Listener {
	t.Helper()
	const low, count = 12000, 18000
	for range count {
		port := low + (uint32(os.Getpid())*37+nextPort.Add(1))%count
		if l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port)))); err == nil {
			return l
		}
	}
	t.Fatal("proctest: no port is free")
	return nil
}
