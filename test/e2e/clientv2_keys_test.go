package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	client "go.etcd.io/etcd/client/v2"
)

// nodeText is a node as the client understood it: its key, its value, its TTL,
// its children, and the indexes of its creation and its last change.
func nodeText(n *client.Node) string {
	if n == nil {
		return "nothing"
	}
	text := n.Key
	if n.Dir {
		text += "/"
	} else if n.Value != "" {
		text += "=" + n.Value
	}
	if n.TTL != 0 {
		text += fmt.Sprintf(" ttl %d", n.TTL)
	}
	if (n.TTL != 0) != (n.Expiration != nil) {
		text += " with only one of ttl and expiration"
	}
	text += fmt.Sprintf(" %d-%d", n.CreatedIndex, n.ModifiedIndex)
	for _, child := range n.Nodes {
		text += " [" + nodeText(child) + "]"
	}
	return text
}

// responseText is an answer or an error as the client understood it.
func responseText(r *client.Response, err error) string {
	if err != nil {
		return err.Error()
	}
	text := r.Action + " " + nodeText(r.Node)
	if r.PrevNode != nil {
		text += ", was " + nodeText(r.PrevNode)
	}
	return text
}

// v2Step is a call and what the client makes of the answer.
type v2Step struct {
	name string
	call func(context.Context, client.KeysAPI) (*client.Response, error)
	want string
}

func v2Set(key, value string, o client.SetOptions) func(context.Context, client.KeysAPI) (*client.Response, error) {
	return func(ctx context.Context, k client.KeysAPI) (*client.Response, error) {
		return k.Set(ctx, key, value, &o)
	}
}

func v2Delete(key string, o client.DeleteOptions) func(context.Context, client.KeysAPI) (*client.Response, error) {
	return func(ctx context.Context, k client.KeysAPI) (*client.Response, error) { return k.Delete(ctx, key, &o) }
}

func v2Get(key string, o client.GetOptions) func(context.Context, client.KeysAPI) (*client.Response, error) {
	o.Quorum = true // the next call may go to another member
	return func(ctx context.Context, k client.KeysAPI) (*client.Response, error) { return k.Get(ctx, key, &o) }
}

func v2InOrder(dir, value string, ttl time.Duration) func(context.Context, client.KeysAPI) (*client.Response, error) {
	return func(ctx context.Context, k client.KeysAPI) (*client.Response, error) {
		return k.CreateInOrder(ctx, dir, value, &client.CreateInOrderOptions{TTL: ttl})
	}
}

// v2Keys is one story on a fresh cluster.
var v2Keys = []v2Step{
	{"set", v2Set("/a", "1", client.SetOptions{}), "set /a=1 2-2"},
	{"set again", v2Set("/a", "2", client.SetOptions{}), "set /a=2 3-3, was /a=1 2-2"},
	{"get", v2Get("/a", client.GetOptions{}), "get /a=2 3-3"},
	{"get of nothing", v2Get("/none", client.GetOptions{}), "100: Key not found (/none) [3]"},
	{"create on a key", func(ctx context.Context, k client.KeysAPI) (*client.Response, error) { return k.Create(ctx, "/a", "3") },
		"105: Key already exists (/a) [3]"},
	{"create", func(ctx context.Context, k client.KeysAPI) (*client.Response, error) { return k.Create(ctx, "/b", "3") },
		"create /b=3 4-4"},
	{"update", func(ctx context.Context, k client.KeysAPI) (*client.Response, error) { return k.Update(ctx, "/b", "4") },
		"update /b=4 4-5, was /b=3 4-4"},
	{"update of nothing", func(ctx context.Context, k client.KeysAPI) (*client.Response, error) {
		return k.Update(ctx, "/none", "4")
	}, "100: Key not found (/none) [5]"},

	{"set with prevValue", v2Set("/b", "5", client.SetOptions{PrevValue: "4"}), "compareAndSwap /b=5 4-6, was /b=4 4-5"},
	{"set with a wrong prevValue", v2Set("/b", "6", client.SetOptions{PrevValue: "4"}), "101: Compare failed ([4 != 5]) [6]"},
	{"set with prevIndex", v2Set("/b", "6", client.SetOptions{PrevIndex: 6}), "compareAndSwap /b=6 4-7, was /b=5 4-6"},
	{"set with a wrong prevIndex", v2Set("/b", "7", client.SetOptions{PrevIndex: 6}), "101: Compare failed ([6 != 7]) [7]"},
	{"set with both wrong", v2Set("/b", "7", client.SetOptions{PrevValue: "5", PrevIndex: 6}), "101: Compare failed ([5 != 6] [6 != 7]) [7]"},
	{"set with prevExist and prevValue", v2Set("/b", "8", client.SetOptions{PrevExist: client.PrevExist, PrevValue: "6"}),
		"compareAndSwap /b=8 4-8, was /b=6 4-7"},
	{"set with conditions that contradict", v2Set("/b", "9", client.SetOptions{PrevExist: client.PrevNoExist, PrevIndex: 8}),
		`209: Invalid field ("prevExist=false" contradicts "prevIndex") [0]`},
	{"set without an answer's value", v2Set("/b", "9", client.SetOptions{NoValueOnSuccess: true}), "set nothing"},

	{"set with a TTL", v2Set("/t", "1", client.SetOptions{TTL: 300 * time.Second}), "set /t=1 ttl 300 10-10"},
	{"refresh", v2Set("/t", "", client.SetOptions{TTL: 600 * time.Second, Refresh: true, PrevExist: client.PrevExist}),
		"update /t=1 ttl 600 10-11, was /t=1 ttl 300 10-10"},
	{"refresh with a value", v2Set("/t", "2", client.SetOptions{TTL: time.Minute, Refresh: true, PrevExist: client.PrevExist}),
		"211: Value provided on refresh (A value was provided on a refresh) [0]"},
	{"refresh without a TTL", v2Set("/t", "", client.SetOptions{Refresh: true, PrevExist: client.PrevExist}),
		"212: A TTL must be provided on refresh (No TTL value set) [0]"},
	{"refresh of nothing", v2Set("/none", "", client.SetOptions{TTL: time.Minute, Refresh: true, PrevExist: client.PrevExist}),
		"100: Key not found (/none) [11]"},
	{"set that ends a TTL", v2Set("/t", "2", client.SetOptions{PrevIndex: 11}), "compareAndSwap /t=2 10-12, was /t=1 ttl 600 10-11"},

	{"set of a directory", v2Set("/d", "", client.SetOptions{Dir: true, PrevExist: client.PrevNoExist}), "create /d/ 13-13"},
	{"set on a directory", v2Set("/d", "1", client.SetOptions{}), "102: Not a file (/d) [13]"},
	{"update of a directory's TTL", v2Set("/d", "", client.SetOptions{Dir: true, PrevExist: client.PrevExist, TTL: 300 * time.Second}),
		"update /d/ ttl 300 13-14, was /d/ 13-13"},
	{"update that ends it", v2Set("/d", "", client.SetOptions{Dir: true, PrevExist: client.PrevExist}), "update /d/ 13-15, was /d/ ttl 300 13-14"},
	{"set below a key", v2Set("/a/x", "1", client.SetOptions{}), "104: Not a directory (/a) [15]"},
	{"set of the root", v2Set("/", "1", client.SetOptions{}), "107: Root is read only (/) [15]"},

	{"in order", v2InOrder("/d", "one", 0), "create /d/00000000000000000016=one 16-16"},
	{"in order with a TTL", v2InOrder("/d", "two", 300*time.Second), "create /d/00000000000000000017=two ttl 300 17-17"},
	{"in order below a key", v2InOrder("/a", "3", 0), "104: Not a directory (/a) [17]"},
	{"set far below", v2Set("/d/k/z", "1", client.SetOptions{}), "set /d/k/z=1 18-18"},
	{"set beside it", v2Set("/d/k/b", "", client.SetOptions{}), "set /d/k/b 19-19"},
	{"get of a directory", v2Get("/d/k", client.GetOptions{Sort: true}), "get /d/k/ 18-18 [/d/k/b 19-19] [/d/k/z=1 18-18]"},
	{"get of a tree", v2Get("/", client.GetOptions{Sort: true, Recursive: true}), "get // 0-0 [/a=2 3-3] [/b=9 9-9] [/d/ 13-15" +
		" [/d/00000000000000000016=one 16-16] [/d/00000000000000000017=two ttl 300 17-17] [/d/k/ 18-18 [/d/k/b 19-19] [/d/k/z=1 18-18]]] [/t=2 10-12]"},

	{"delete with a wrong prevValue", v2Delete("/a", client.DeleteOptions{PrevValue: "1"}), "101: Compare failed ([1 != 2]) [19]"},
	{"delete with a wrong prevIndex", v2Delete("/a", client.DeleteOptions{PrevIndex: 2}), "101: Compare failed ([2 != 3]) [19]"},
	{"delete with prevValue", v2Delete("/a", client.DeleteOptions{PrevValue: "2", PrevIndex: 3}), "compareAndDelete /a 3-20, was /a=2 3-3"},
	{"delete", v2Delete("/b", client.DeleteOptions{}), "delete /b 9-21, was /b=9 9-9"},
	{"delete of nothing", v2Delete("/b", client.DeleteOptions{}), "100: Key not found (/b) [21]"},
	{"delete of a directory as a key", v2Delete("/d/k", client.DeleteOptions{}), "102: Not a file (/d/k) [21]"},
	{"delete of a full directory", v2Delete("/d/k", client.DeleteOptions{Dir: true}), "108: Directory not empty (/d/k) [21]"},
	{"delete of a tree", v2Delete("/d", client.DeleteOptions{Recursive: true}), "delete /d/ 13-22, was /d/ 13-15"},
	{"delete of the root", v2Delete("/", client.DeleteOptions{Recursive: true, Dir: true}), "107: Root is read only (/) [22]"},
	{"a key that must be escaped", v2Set("/sp ace/ü&%+?#;", "a=b & c;+ %41 <ü>", client.SetOptions{}), "set /sp ace/ü&%+?#;=a=b & c;+ %41 <ü> 23-23"},
	{"swap of such a value", v2Set("/sp ace/ü&%+?#;", "x", client.SetOptions{PrevValue: "a=b & c;+ %41 <ü>"}),
		"compareAndSwap /sp ace/ü&%+?#;=x 23-24, was /sp ace/ü&%+?#;=a=b & c;+ %41 <ü> 23-23"},
}

func TestClientV2Keys(t *testing.T) {
	t.Parallel()
	play := func(t *testing.T, urls ...string) {
		c := newClientV2(t, client.Config{Endpoints: urls}, nil)
		var clusterID string
		for _, step := range v2Keys {
			// Another member of the three for every call.
			if err := c.SetEndpoints(urls); err != nil {
				t.Fatal(err)
			}
			r, err := step.call(t.Context(), c.keys)
			if got := ttlAbout(responseText(r, err)); got != step.want {
				t.Errorf("%s = %s,\nwant %s", step.name, got, step.want)
			}
			if err != nil {
				continue
			}
			if r.Node != nil && r.Action != "get" && r.Index != r.Node.ModifiedIndex {
				t.Errorf("%s: index of the answer = %d, want %d", step.name, r.Index, r.Node.ModifiedIndex)
			}
			if clusterID == "" {
				clusterID = r.ClusterID
			}
			if r.ClusterID == "" || r.ClusterID != clusterID {
				t.Errorf("%s: cluster id = %q, want %q and not empty", step.name, r.ClusterID, clusterID)
			}
		}
		if v, err := c.GetVersion(t.Context()); err != nil || v.Server != "2.3.8" || v.Cluster != "2.3.0" {
			t.Errorf("GetVersion() = %+v, %v, want 2.3.8 and 2.3.0", v, err)
		}
	}
	t.Run("of one member", func(t *testing.T) {
		t.Parallel()
		play(t, startNode(t).client)
	})
	t.Run("of three members", func(t *testing.T) {
		t.Parallel()
		play(t, startCluster(t).others(nil)...)
	})
}

// ttlAbout rounds the TTLs that have begun to run up to those that were given.
func ttlAbout(text string) string {
	for _, given := range []int{300, 600} {
		for gone := 1; gone < 60; gone++ {
			text = strings.ReplaceAll(text, fmt.Sprintf(" ttl %d ", given-gone), fmt.Sprintf(" ttl %d ", given))
		}
	}
	return text
}
