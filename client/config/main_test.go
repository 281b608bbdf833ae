package config_test

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/marsevilspirit/deimos/internal/clustertest"
)

// endpoints are those of the member that the examples speak to.
var endpoints []string

func TestMain(m *testing.M) { goleak.VerifyTestMain(withMember{m}) }

// withMember runs the tests while a member runs for the examples.
type withMember struct{ m *testing.M }

// Run implements [goleak.TestingM].
func (w withMember) Run() int {
	code := 1
	err := clustertest.RunMember(func(url string) {
		endpoints = []string{url}
		code = w.m.Run()
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "the member of the examples:", err)
		return 1
	}
	return code
}
