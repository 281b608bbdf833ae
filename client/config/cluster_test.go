package config_test

import (
	"flag"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos/client"
	"github.com/marsevilspirit/deimos/client/config"
	"github.com/marsevilspirit/deimos/internal/clustertest"
)

var (
	watchersFlag = flag.Int("watchers", 12, "views of TestAChangeReachesAllViews")
	changesFlag  = flag.Int("changes", 10, "changes whose way TestAChangeReachesAllViews measures")
)

// app is what the views decode.
type app struct {
	Version int           `deimos:"version,required"`
	Timeout time.Duration `deimos:"timeout"`
}

// arrival tells when a view had a version.
type arrival struct {
	version int
	at      time.Time
}

// Views at all members see each change, before a leader is killed and after.
// With -watchers 200 -changes 100 its figures say something.
func TestAChangeReachesAllViews(t *testing.T) {
	t.Parallel()
	cluster := clustertest.New(t, 3)
	writer := open(t, cluster.URLs()...)
	put := func(version int) time.Time {
		t.Helper()
		begun := time.Now()
		if _, err := writer.Set(t.Context(), "/config/app/version", strconv.Itoa(version)); err != nil {
			t.Fatal(err)
		}
		return begun
	}
	put(0)
	arrivals := make(chan arrival, 100**watchersFlag)
	var views []*config.View[app]
	for i := range *watchersFlag {
		// Each has a connection of its own, to one member first.
		urls := slices.Concat(cluster.URLs()[i%3:], cluster.URLs()[:i%3])
		v, err := config.Watch(t.Context(), open(t, urls...), "/config/app", config.Decode[app], config.Options[app]{
			OnChange: func(_, value *app) { arrivals <- arrival{value.Version, time.Now()} },
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(v.Close)
		views = append(views, v)
	}

	var ways []time.Duration
	for version := 1; version <= *changesFlag; version++ {
		begun := put(version)
		for range views {
			a := <-arrivals
			if a.version != version {
				t.Fatalf("a view came to version %d while %d was on its way", a.version, version)
			}
			ways = append(ways, a.at.Sub(begun))
		}
	}
	slices.Sort(ways)
	t.Logf("%d views of 3 members, %d changes: from the write's beginning to OnChange p50 %v, p99 %v, max %v",
		len(views), *changesFlag, ways[len(ways)/2], ways[len(ways)*99/100], ways[len(ways)-1])

	cluster.Leader().Kill()
	killed := time.Now()
	last := *changesFlag + 1
	clustertest.Eventually(t, "a write after the kill", func() bool {
		_, err := writer.Set(t.Context(), "/config/app/version", strconv.Itoa(last))
		return err == nil
	})
	written := time.Now()
	var reached sync.WaitGroup
	for _, v := range views {
		reached.Go(func() {
			clustertest.Eventually(t, fmt.Sprintf("version %d", last), func() bool { return v.Load().Version == last })
		})
	}
	reached.Wait()
	t.Logf("kill of the leader: written %v after it, seen by all %v later", written.Sub(killed), time.Since(written))
}

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

func TestARemovedDirectoryIsRefusedIfAFieldIsRequired(t *testing.T) {
	t.Parallel()
	c := open(t, clustertest.New(t, 1).URLs()...)
	ctx := t.Context()
	if _, err := config.Watch(ctx, c, "/config/app", config.Decode[app], config.Options[app]{}); err == nil {
		t.Error("Watch of a missing directory has a value")
	}
	if _, err := c.Set(ctx, "/config/app/version", "1"); err != nil {
		t.Fatal(err)
	}
	v, err := config.Watch(ctx, c, "/config/app/", config.Decode[app], config.Options[app]{})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	if _, err := c.Delete(ctx, "/config", client.WithRecursive()); err != nil {
		t.Fatal(err)
	}
	clustertest.Eventually(t, "the refusal", func() bool { return v.Err() != nil })
	if v.Load().Version != 1 {
		t.Errorf("value %+v, want the last good one", v.Load())
	}
	if _, err := c.Set(ctx, "/config/app/version", "2"); err != nil {
		t.Fatal(err)
	}
	clustertest.Eventually(t, "the new value", func() bool { return v.Load().Version == 2 && v.Err() == nil })
}
