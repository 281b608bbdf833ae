package registry_test

import (
	"context"
	"flag"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos/client"
	"github.com/marsevilspirit/deimos/client/registry"
	"github.com/marsevilspirit/deimos/internal/clustertest"
)

var (
	servicesFlag  = flag.Int("services", 5, "services of TestViewsConvergeAfterAKill")
	instancesFlag = flag.Int("instances", 4, "instances of each service of TestViewsConvergeAfterAKill")
)

// fleet is a number of services with their instances, and a view of each.
type fleet struct {
	clients []*client.Client
	views   []*registry.View
	mu      sync.Mutex
	regs    [][]*registry.Registration
}

// service returns the name of the i-th service.
func service(i int) string { return fmt.Sprintf("service-%03d", i) }

// register registers instances first to last of all services at once.
func (f *fleet) register(t *testing.T, first, last int) {
	t.Helper()
	var all sync.WaitGroup
	for i, c := range f.clients {
		for j := first; j <= last; j++ {
			all.Go(func() {
				in := registry.Instance{Service: service(i), Addr: fmt.Sprintf("10.0.%d.%d:80", i, j)}
				r, err := registry.Register(t.Context(), c, in)
				if err != nil {
					t.Error(err)
					return
				}
				f.mu.Lock()
				defer f.mu.Unlock()
				f.regs[i] = append(f.regs[i], r)
			})
		}
	}
	all.Wait()
}

// converge waits until each view has n instances.
func (f *fleet) converge(t *testing.T, n int) {
	t.Helper()
	clustertest.Eventually(t, fmt.Sprintf("%d views of %d instances", len(f.views), n), func() bool {
		for _, v := range f.views {
			if len(v.Instances()) != n {
				return false
			}
		}
		return true
	})
}

// closeAll removes everything at once.
func (f *fleet) closeAll(t *testing.T) {
	t.Helper()
	var all sync.WaitGroup
	for _, regs := range f.regs {
		for _, r := range regs {
			all.Go(func() {
				if err := r.Close(context.WithoutCancel(t.Context())); err != nil {
					t.Error(err)
				}
			})
		}
	}
	all.Wait()
}

// Each service gets another instance while the leader is being killed. With
// -services 100 -instances 20 its figures say something.
func TestViewsConvergeAfterAKill(t *testing.T) {
	t.Parallel()
	cluster := clustertest.New(t, 3)
	f := &fleet{regs: make([][]*registry.Registration, *servicesFlag)}
	for i := range *servicesFlag {
		f.clients = append(f.clients, open(t, cluster.URLs()...))
		f.views = append(f.views, discover(t, f.clients[i], service(i)))
	}
	begun := time.Now()
	f.register(t, 1, *instancesFlag)
	registered := time.Since(begun)
	f.converge(t, *instancesFlag)
	t.Logf("%d services × %d instances: registered in %v, in all views after %v", *servicesFlag, *instancesFlag, registered, time.Since(begun))

	cluster.Leader().Kill()
	killed := time.Now()
	f.register(t, *instancesFlag+1, *instancesFlag+1)
	registered = time.Since(killed)
	f.converge(t, *instancesFlag+1)
	t.Logf("leader killed: another instance of each registered %v later, in all views %v after the kill", registered, time.Since(killed))

	begun = time.Now()
	f.closeAll(t)
	f.converge(t, 0)
	t.Logf("all removed and gone from all views in %v", time.Since(begun))
}
