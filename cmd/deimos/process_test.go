package main

import (
	"os"
	"testing"
)

// envRunMain makes the test binary the program itself, for tests that need it
// as a process.
const envRunMain = "RUN_DEIMOS_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(envRunMain) != "" {
		main()
	}
	os.Exit(m.Run())
}
