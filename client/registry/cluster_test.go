package registry_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/client"
	"github.com/marsevilspirit/deimos/client/registry"
	"github.com/marsevilspirit/deimos/daemon"
	"github.com/marsevilspirit/deimos/internal/clustertest"
)

// open returns a client of servers.
func open(t testing.TB, urls ...string) *client.Client {
	t.Helper()
	c, err := client.New(client.Config{Endpoints: urls})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// register registers an instance for the time of the test, or until the test
// closes it.
func register(t testing.TB, c *client.Client, in registry.Instance, opts ...registry.Option) *registry.Registration {
	t.Helper()
	r, err := registry.Register(t.Context(), c, in, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeQuickly(r) })
	return r
}

// closeQuickly closes a registration whose entry may stay.
func closeQuickly(r *registry.Registration) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = r.Close(ctx)
}

// discover follows a service for the time of the test.
func discover(t testing.TB, c *client.Client, service string, opts ...registry.Option) *registry.View {
	t.Helper()
	v, err := registry.Discover(t.Context(), c, service, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	return v
}

// text is a list of instances to compare with.
func text(list []registry.Instance) string {
	var words []string
	for _, in := range list {
		words = append(words, fmt.Sprintf("%v=%s", in, in.Metadata))
	}
	return strings.Join(words, " ")
}

// shows waits until a view shows what is wanted.
func shows(t testing.TB, v *registry.View, want string) {
	t.Helper()
	clustertest.Eventually(t, fmt.Sprintf("a view of %q", want), func() bool { return text(v.Instances()) == want })
}

func TestViewFollowsTheTree(t *testing.T) {
	t.Parallel()
	cluster := clustertest.New(t, 1)
	ctx, c := t.Context(), open(t, cluster.URLs()...)
	v := discover(t, c, "Hello")
	if n := len(v.Instances()); n != 0 || !v.Healthy() || v.Err() != nil {
		t.Errorf("missing directory: %d instances, healthy %v, error %v, want an empty view", n, v.Healthy(), v.Err())
	}
	// What Phobos sends.
	phobos := cluster.Member(0)
	for _, put := range []struct{ key, form string }{
		{"/phobos", "dir"}, {"/phobos/Hello", "dir"}, {"/phobos/Hello/tcp@10.0.0.9:30000", ""},
	} {
		form := map[string][]string{"ttl": {"120"}, "value": {put.form}}
		if put.form == "dir" {
			form = map[string][]string{"dir": {"true"}}
		}
		if status, body := phobos.Do("PUT", "/keys"+put.key, form); status/100 != 2 {
			t.Fatalf("PUT %s: %d %s", put.key, status, body)
		}
	}
	shows(t, v, "tcp@10.0.0.9:30000=")

	a := register(t, c, registry.Instance{Service: "Hello", Network: "quic", Addr: "[::1]:1", Metadata: "weight=1"})
	register(t, c, registry.Instance{Service: "Other", Addr: "10.0.0.1:1"})
	if _, err := c.Set(ctx, "/phobos/Hello/README", "not an instance"); err != nil {
		t.Fatal(err)
	}
	shows(t, v, "quic@[::1]:1=weight=1 tcp@10.0.0.9:30000=")
	if err := a.Close(ctx); err != nil {
		t.Fatal(err)
	}
	shows(t, v, "tcp@10.0.0.9:30000=")
	if _, err := c.Delete(ctx, "/phobos", client.WithRecursive()); err != nil {
		t.Fatal(err)
	}
	shows(t, v, "")
	register(t, c, registry.Instance{Service: "Hello", Addr: "10.0.0.2:1"})
	shows(t, v, "tcp@10.0.0.2:1=")
}

func TestRegistrationIsWhatPhobosReads(t *testing.T) {
	t.Parallel()
	cluster := clustertest.New(t, 1)
	register(t, open(t, cluster.URLs()...), registry.Instance{Service: "Hello", Addr: "10.0.0.9:30000", Metadata: "m", TTL: 2 * time.Minute})
	status, body := cluster.Member(0).Do("GET", "/keys/phobos/Hello?recursive=true", nil)
	if status != 200 || !strings.Contains(body, `"key":"/phobos/Hello/tcp@10.0.0.9:30000","value":"m"`) || !strings.Contains(body, `"ttl":120`) {
		t.Errorf("what Phobos reads: %d %s", status, body)
	}
}

func TestASuccessorKeepsItsEntry(t *testing.T) {
	t.Parallel()
	c := open(t, clustertest.New(t, 1).URLs()...)
	in := registry.Instance{Service: "web", Addr: "10.0.0.1:1", TTL: 2 * time.Second}
	beating, quick := register(t, c, in), in
	quick.TTL = time.Hour
	successor := register(t, c, quick)
	clustertest.Eventually(t, "the predecessor to give up", func() bool { return beating.State() == registry.Replaced })
	predecessor := successor // it has not noticed yet when it is closed
	successor = register(t, c, quick)
	before := modified(t, c)
	if err := predecessor.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if after := modified(t, c); after != before {
		t.Errorf("the entry was modified at %d, and then at %d", before, after)
	}
	if err := successor.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := c.Get(t.Context(), "/phobos/web/tcp@10.0.0.1:1"); !errors.Is(err, deimos.ErrKeyNotFound) {
		t.Errorf("after the end: %v, want ErrKeyNotFound", err)
	}
}

func TestChangesOfAService(t *testing.T) {
	t.Parallel()
	c := open(t, clustertest.New(t, 1).URLs()...)
	in := registry.Instance{Service: "web", Addr: "10.0.0.1:1", Metadata: "a"}
	prefix := registry.WithPrefix("/apps/eu")
	register(t, c, in, prefix)
	v := discover(t, c, "web", prefix)
	var seen []string
	for change := range v.Changes(t.Context()) {
		seen = append(seen, fmt.Sprintf("%v %v=%s", change.Kind, change.Instance, change.Instance.Metadata))
		switch len(seen) {
		case 1: // the same address again, as a process does that was started anew
			in.Metadata = "b"
			r := register(t, c, in, prefix)
			defer closeQuickly(r)
		case 2:
			if _, err := c.Delete(t.Context(), "/apps/eu/web/tcp@10.0.0.1:1"); err != nil {
				t.Error(err)
			}
		}
		if len(seen) == 3 {
			break
		}
	}
	if want := []string{"added tcp@10.0.0.1:1=a", "updated tcp@10.0.0.1:1=b", "removed tcp@10.0.0.1:1=b"}; !slices.Equal(seen, want) {
		t.Errorf("changes %q, want %q", seen, want)
	}
}

func TestChangesEndWithContextAndView(t *testing.T) {
	t.Parallel()
	c := open(t, clustertest.New(t, 1).URLs()...)
	v := discover(t, c, "web")
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for _, ctx := range []context.Context{ctx, t.Context()} {
		running.Go(func() {
			for range v.Changes(ctx) {
				t.Error("a change of nothing")
			}
		})
	}
	cancel()
	v.Close()
	running.Wait()
}

func TestRegistrationGoesOnAfterALeaderIsKilled(t *testing.T) {
	t.Parallel()
	cluster := clustertest.New(t, 3)
	c := open(t, cluster.URLs()...)
	in := registry.Instance{Service: "web", Addr: "10.0.0.1:1", TTL: 2 * time.Second}
	r := register(t, c, in)
	v := discover(t, c, "web")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var changes []string
	var watching sync.WaitGroup
	watching.Go(func() {
		for change := range v.Changes(ctx) {
			changes = append(changes, change.Kind.String())
		}
	})
	cluster.Leader().Kill()
	before := modified(t, c)
	clustertest.Eventually(t, "three more refreshes", func() bool { return modified(t, c) >= before+3 })
	if r.State() != registry.Registered {
		t.Errorf("state %v, error %v, want registered", r.State(), r.Err())
	}
	if err := r.Close(t.Context()); err != nil {
		t.Error(err)
	}
	shows(t, v, "")
	cancel()
	watching.Wait()
	if want := []string{"added", "removed"}; !slices.Equal(changes, want) {
		t.Errorf("changes %q, want %q", changes, want)
	}
}

// modified returns the index at which the instance was last refreshed.
func modified(t *testing.T, c *client.Client) uint64 {
	t.Helper()
	r, err := c.Get(t.Context(), "/phobos/web/tcp@10.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	return r.Node.ModifiedIndex
}

func TestViewKeepsWhatItKnowsWhileNobodyAnswers(t *testing.T) {
	t.Parallel()
	cluster := clustertest.New(t, 3)
	for _, m := range cluster.Members() { // they come back where they were
		m.Configure(func(cfg *daemon.Config) { cfg.URLs.ListenClient = []string{m.URL()} })
	}
	c := open(t, cluster.URLs()...)
	lost := make(chan registry.Event, 16)
	r := register(t, c, registry.Instance{Service: "web", Addr: "10.0.0.1:1", TTL: 2 * time.Second},
		registry.WithNotify(func(e registry.Event) { lost <- e }))
	v := discover(t, c, "web")
	const known = "tcp@10.0.0.1:1="
	shows(t, v, known)
	for _, m := range cluster.Members() {
		m.Kill()
	}
	clustertest.Eventually(t, "the view to say why it is old", func() bool { return v.Err() != nil })
	clustertest.Eventually(t, "the registration to be lost", func() bool { return r.State() == registry.Lost })
	if got := text(v.Instances()); got != known {
		t.Errorf("without members the view is %q, want %q", got, known)
	}
	if e := <-lost; e.State != registry.Failing || e.Err == nil {
		t.Errorf("the first event is %+v, want failing, with the reason", e)
	}
	age := v.Age()
	for _, m := range cluster.Members() {
		m.Start()
	}
	clustertest.Eventually(t, "the view to be fresh", func() bool { return v.Err() == nil && v.Age() < age })
	clustertest.Eventually(t, "the registration", func() bool { return r.State() == registry.Registered })
	shows(t, v, known)
}
