package lock_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/marsevilspirit/deimos/client"
	"github.com/marsevilspirit/deimos/daemon"
)

// endpoints are those of the member that the examples speak to.
var endpoints []string

func TestMain(m *testing.M) { goleak.VerifyTestMain(withMember{m}) }

// withMember runs the tests while a member runs for the examples.
type withMember struct{ m *testing.M }

// Run implements [goleak.TestingM].
func (w withMember) Run() int {
	code, err := w.run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "the member of the examples:", err)
		return 1
	}
	return code
}

func (w withMember) run() (code int, err error) {
	dir, err := os.MkdirTemp("", "deimos-client-lock-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	d, err := daemon.Open(context.Background(), daemon.Config{
		DataDir: dir,
		URLs: daemon.URLs{
			AdvertisePeer: []string{"http://127.0.0.1:1"}, ListenPeer: []string{"http://127.0.0.1:0"},
			ListenClient: []string{"http://127.0.0.1:0"},
		},
	})
	if err != nil {
		return 0, err
	}
	endpoints = []string{"http://" + d.ClientAddrs()[0]}
	code = w.m.Run()
	return code, d.Close(context.Background())
}

// open returns a client of members.
func open(t *testing.T, endpoints ...string) *client.Client {
	t.Helper()
	c, err := client.New(client.Config{Endpoints: endpoints})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}
