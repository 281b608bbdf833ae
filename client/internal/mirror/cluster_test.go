package mirror

import (
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos/client"
	"github.com/marsevilspirit/deimos/internal/clustertest"
)

// Whatever is done to a tree, the mirror ends up as the tree is.
func TestTheMirrorIsTheTree(t *testing.T) {
	cluster := clustertest.New(t, 1)
	c, err := client.New(client.Config{Endpoints: cluster.URLs()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var now atomic.Pointer[Files]
	m, err := Open(t.Context(), c, "/p/d", slog.New(slog.DiscardHandler), func(f Files) { now.Store(&f) })
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for i := range 30 {
		for range 20 {
			change(t, c, rnd)
		}
		if i%10 == 9 {
			if _, err := c.Delete(t.Context(), "/p", client.WithRecursive()); err != nil {
				t.Fatal(err)
			}
			change(t, c, rnd)
		}
		want := Files{}
		if r, err := c.Get(t.Context(), "/p/d", client.WithRecursive()); err == nil {
			want = flatten("/p/d", r.Node)
		}
		clustertest.Eventually(t, fmt.Sprintf("%v", want), func() bool { return maps.Equal(*now.Load(), want) })
	}
}

// change does something random to the tree below /p. Much of it is refused.
func change(t *testing.T, c *client.Client, rnd *rand.Rand) {
	ctx := t.Context()
	keys := []string{"/p/d", "/p/d/a", "/p/d/a", "/p/d/b", "/p/d/b/c", "/p/d/b/d", "/p/d/b/d/e", "/p/d/_h", "/p/dd"}
	key, value := keys[rnd.IntN(len(keys))], fmt.Sprint(rnd.IntN(3))
	switch rnd.IntN(9) {
	case 0, 1, 2:
		_, _ = c.Set(ctx, key, value)
	case 3:
		_, _ = c.Mkdir(ctx, key)
	case 4:
		_, _ = c.Set(ctx, key, "", client.WithDir())
	case 5:
		_, _ = c.Update(ctx, key, "", client.WithDir(), client.WithTTL(time.Hour))
	case 6:
		_, _ = c.CompareAndSwap(ctx, key, value, client.WithPrevValue("1"))
	case 7:
		_, _ = c.Delete(ctx, key)
	case 8:
		_, _ = c.Delete(ctx, key, client.WithRecursive())
	}
	// Afterwards there is a directory to remove.
	if _, err := c.Set(ctx, "/p/x", value); err != nil {
		t.Fatal(err)
	}
}
