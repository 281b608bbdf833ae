package store

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

func keys(nodes iter.Seq[*Node]) []string {
	var keys []string
	for n := range nodes {
		keys = append(keys, n.Key())
	}
	return keys
}

func getText(v View, key string) string {
	n, err := v.Get(key)
	if err != nil {
		return outcomeText(nil, err)
	}
	return nodeText(n)
}

func TestGetNamesTheFirstElementThatFails(t *testing.T) {
	v := newWith(t, set("/a", "1"), set("/d/e/_h", "2", ttl(3))).View()
	for _, tt := range []struct{ key, want string }{
		{"/", "// 0/0"},
		{"/a", "/a=1 2/2"},
		{"/d", "/d/ 3/3"},
		{"/d/e/_h", "/d/e/_h=2 due 4000 3/3"},
		{"/nope/x/y", "100 /nope at 3"},
		{"/d/x/y", "100 /d/x at 3"},
		{"/d/e/x", "100 /d/e/x at 3"},
		{"/a/b", "104 /a at 3"},
		{"/d/e/_h/x/y", "104 /d/e/_h at 3"},
		{"", `209 key "" is not clean at 3`},
		{"/d/", `209 key "/d/" is not clean at 3`},
		{"d", `209 key "d" is not clean at 3`},
	} {
		if got := getText(v, tt.key); got != tt.want {
			t.Errorf("Get(%q) = %s, want %s", tt.key, got, tt.want)
		}
	}
}

func TestListingsAreSortedAndLeaveHiddenNodesOut(t *testing.T) {
	v := newWith(t,
		set("/b", "1"), set("/a/y/_h/k", "1"), set("/a/y/_h/m", "1"), set("/a/y/z", "1"), set("/a/x", "1"),
		set("/a-b", "1"), set("/a/_f", "1"), set("/_h/v/_w/x", "1"), set("/_h/v/y", "1"), set("/a/y/_", "1"),
		set("/a!", "", dir), set("/é", "1"), set("/a/a_b", "1")).View()
	for _, tt := range []struct {
		key                   string
		children, descendants []string
	}{
		{"/", []string{"/a", "/a!", "/a-b", "/b", "/é"},
			[]string{"/a", "/a/a_b", "/a/x", "/a/y", "/a/y/z", "/a!", "/a-b", "/b", "/é"}},
		{"/a", []string{"/a/a_b", "/a/x", "/a/y"}, []string{"/a/a_b", "/a/x", "/a/y", "/a/y/z"}},
		{"/a/y/_h", []string{"/a/y/_h/k", "/a/y/_h/m"}, []string{"/a/y/_h/k", "/a/y/_h/m"}},
		{"/_h", []string{"/_h/v"}, []string{"/_h/v", "/_h/v/y"}},
		{"/a!", nil, nil},
		{"/é", nil, nil},
		{"/a/x", nil, nil},
	} {
		n, err := v.Get(tt.key)
		if err != nil {
			t.Fatalf("Get(%s) = %v, want no error", tt.key, err)
		}
		if got := keys(v.Children(n)); !slices.Equal(got, tt.children) {
			t.Errorf("Children(%s) = %q, want %q", tt.key, got, tt.children)
		}
		if got := keys(v.Descendants(n)); !slices.Equal(got, tt.descendants) {
			t.Errorf("Descendants(%s) = %q, want %q", tt.key, got, tt.descendants)
		}
		for d := range v.Descendants(n) {
			if want := strings.Count(d.Key(), "/"); d.Depth() != want {
				t.Errorf("Depth() of %s = %d, want %d", d.Key(), d.Depth(), want)
			}
			break // iteration may stop anywhere
		}
		for range v.Children(n) {
			break
		}
	}
}

func TestRootIsADirectoryWithoutIndexes(t *testing.T) {
	root, err := New(Config{}).View().Get("/")
	if err != nil {
		t.Fatal(err)
	}
	if !root.IsDir() || !root.IsRoot() || root.Depth() != 0 || root.ModifiedIndex() != 0 || root.CreatedIndex() != 0 {
		t.Errorf("root = %+v, want a directory without indexes", root)
	}
	if got := string(root.AppendKey([]byte("key: "))); got != "key: /" {
		t.Errorf("AppendKey() = %q, want %q", got, "key: /")
	}
}

func TestNothingIsVisibleBeforePublish(t *testing.T) {
	s := newWith(t, set("/a", "1"))
	old := s.View()
	if _, err := s.Apply(set("/b", "1"), 1); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Apply(del("/a"), 1); err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string]View{"old": old, "latest": s.View()} {
		if got := treeText(v); got != "/a=1 2/2\n" || v.Index() != 2 || v.RaftIndex() != 1 || v.Len() != 1 {
			t.Errorf("%s view before Publish = %q at %d/%d, want /a at 2/1", name, got, v.Index(), v.RaftIndex())
		}
	}
	s.Publish(9)
	if got := treeText(old); got != "/a=1 2/2\n" {
		t.Errorf("old view after Publish = %q, want it unchanged", got)
	}
	if v := s.View(); treeText(v) != "/b=1 3/3\n" || v.Index() != 4 || v.RaftIndex() != 9 {
		t.Errorf("new view = %q at %d/%d, want /b at 4/9", treeText(v), v.Index(), v.RaftIndex())
	}
}

func TestSkipToRaisesTheIndexAndClearsTheHistory(t *testing.T) {
	s := newWith(t, set("/a", "1"))
	for _, tt := range []struct{ to, index, oldest uint64 }{{1, 2, 1}, {2, 2, 1}, {50, 50, 51}, {49, 50, 51}} {
		s.SkipTo(tt.to)
		s.Publish(2)
		if v := s.View(); v.Index() != tt.index || v.OldestIndex() != tt.oldest {
			t.Errorf("after SkipTo(%d): index %d, oldest %d, want %d, %d", tt.to, v.Index(), v.OldestIndex(), tt.index, tt.oldest)
		}
	}
	mustApply(t, s, set("/a", "2"))
	w := mustWatch(t, s, "/a", false, 51)
	if got := waiting(t, w); !slices.Equal(got, []string{"set /a=2 51/51 prev /a=1 2/2"}) {
		t.Errorf("Watch(/a, 51) = %q, want the event at 51", got)
	}
}

// Tree order is: parents first, then elements compared bytewise.
func TestCompareKeysComparesElementByElement(t *testing.T) {
	element := rapid.StringOfN(rapid.RuneFrom([]rune("ab!-/0é\x01\x00")), 1, 12, -1)
	key := rapid.Custom(func(t *rapid.T) string {
		return "/" + strings.Join(rapid.SliceOfN(element, 1, 4).Draw(t, "elements"), "/")
	})
	rapid.Check(t, func(t *rapid.T) {
		a, b := key.Draw(t, "a"), key.Draw(t, "b")
		if rapid.Bool().Draw(t, "related") {
			b = a + key.Draw(t, "more")
		}
		want := slices.Compare(strings.Split(a, "/"), strings.Split(b, "/"))
		if got := compareKeys(a, b); cmp.Compare(got, 0) != want {
			t.Errorf("compareKeys(%q, %q) = %d, want the sign of %d", a, b, got, want)
		}
	})
}

// Readers share pages with the draft; the race detector watches.
func TestReadersRunBesideTheWriter(t *testing.T) {
	s := New(Config{HistoryEvents: 100})
	var readers sync.WaitGroup
	stop := make(chan struct{})
	for range 3 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				v := s.View()
				root, err := v.Get("/")
				if err != nil {
					t.Error(err)
					return
				}
				n := 0
				for range v.Descendants(root) {
					n++
				}
				for d := range v.Children(root) {
					n -= len(keys(v.Children(d))) + 1
				}
				if n != 0 {
					t.Errorf("a view at %d has %d nodes more below / than in its directories", v.Index(), n)
				}
				if _, err := v.WriteTo(new(strings.Builder)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range 3000 {
		mustApply(t, s, set(fmt.Sprintf("/d%d/k%d", i%5, i%300), "v", ttl(int64(i%7))))
		if i%50 == 49 {
			s.Expire(2000, 10)
			mustApply(t, s, del(fmt.Sprintf("/d%d", i%5), recursive))
		}
	}
	close(stop)
	readers.Wait()
}
