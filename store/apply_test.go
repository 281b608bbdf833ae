package store

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/marsevilspirit/deimos"
)

// step is one request and what Apply is to return for it.
type step struct {
	do   *deimos.Request
	want string
}

func runSteps(t *testing.T, steps []step) *Store {
	t.Helper()
	s := New(Config{})
	for _, st := range steps {
		before := s.index
		e, err := s.Apply(st.do, 1000)
		if got := outcomeText(e, err); got != st.want {
			t.Errorf("Apply(%+v) = %s, want %s", *st.do, got, st.want)
		}
		rise := uint64(1)
		if err != nil {
			rise = 0
		}
		if s.index != before+rise {
			t.Errorf("index after Apply(%+v) = %d, want %d", *st.do, s.index, before+rise)
		}
	}
	s.Publish(1)
	return s
}

func TestWritesFollowTheTableOfOperations(t *testing.T) {
	for _, tt := range []struct {
		name  string
		steps []step
	}{
		{"story of section 7", []step{
			{set("/a", "1"), "set /a=1 2/2"},
			{update("/a", "2"), "update /a=2 3/2 prev /a=1 2/2"},
			{create("/a", "3"), "105 /a at 3"},
			{swap("/a", "3", prevValue("2")), "compareAndSwap /a=3 4/2 prev /a=2 3/2"},
			{swap("/a", "4", prevValue("2"), prevIndex(3)), "101 [2 != 3] [3 != 4] at 4"},
			{set("/a/b", "1"), "104 /a at 4"},
			{set("/a", "", dir), "set /a/ 5/5 prev /a=3 4/2"},
			{set("/a", "", dir), "102 /a at 5"},
		}},
		{"the root is read only", []step{
			{set("/", "1"), "107 / at 1"},
			{set("/", "", dir), "107 / at 1"},
			{create("/", "1"), "107 / at 1"},
			{update("/", "1"), "107 / at 1"},
			{update("/", "", refresh, ttl(1)), "107 / at 1"},
			{swap("/", "1", prevValue("x")), "107 / at 1"},
			{del("/", recursive), "107 / at 1"},
			{compareDelete("/", prevIndex(3)), "102 / at 1"},
		}},
		{"set", []step{
			{set("/f", "1", ttl(5)), "set /f=1 due 6000 2/2"},
			{set("/f", "2"), "set /f=2 3/3 prev /f=1 due 6000 2/2"},
			{set("/f", ""), "set /f= 4/4 prev /f=2 3/3"},
			{set("/d", "dropped", dir, ttl(0)), "set /d/ due 1000 5/5"},
			{set("/d", "1"), "102 /d at 5"},
			{set("/d/x/y", "1"), "set /d/x/y=1 6/6"},
			{set("/d/x", "1"), "102 /d/x at 6"},
			{set("/f/g/h", "1"), "104 /f at 6"},
			{set("/f/g", "1"), "104 /f at 6"},
		}},
		{"create", []step{
			{create("/d/e/f", "1", ttl(2)), "create /d/e/f=1 due 3000 2/2"},
			{create("/d/e", "1"), "105 /d/e at 2"},
			{create("/d/e", "", dir), "105 /d/e at 2"},
			{create("/d/e/f", "1"), "105 /d/e/f at 2"},
			{create("/d/e/f/g", "1"), "104 /d/e/f at 2"},
			{create("/d/e/f/g/h", "1"), "104 /d/e/f at 2"},
			{create("/c", "dropped", dir), "create /c/ 3/3"},
		}},
		{"update of files", []step{
			{update("/a/b", "1"), "100 /a at 1"},
			{set("/a/b", "1", ttl(9)), "set /a/b=1 due 10000 2/2"},
			{update("/a/c/d", "1"), "100 /a/c at 2"},
			{update("/a/b/c/d", "1"), "104 /a/b at 2"},
			{update("/a/b", "1", dir), "104 /a/b at 2"},
			{update("/a/b", ""), "update /a/b= 3/2 prev /a/b=1 due 10000 2/2"},
			{update("/a/b", "2", ttl(1)), "update /a/b=2 due 2000 4/2 prev /a/b= 3/2"},
		}},
		{"update of directories", []step{
			{set("/d/k", "1"), "set /d/k=1 2/2"},
			{update("/d", "x"), "102 /d at 2"},
			{update("/d", "x", dir), "102 /d at 2"},
			{update("/d", "", ttl(3)), "update /d/ due 4000 3/2 prev /d/ 2/2"},
			{update("/d", "", dir), "update /d/ 4/2 prev /d/ due 4000 3/2"},
			{update("/d", "", refresh, ttl(3)), "update /d/ due 4000 5/2 prev /d/ 4/2 refresh"},
		}},
		{"compareAndSwap", []step{
			{swap("/a/b", "1", prevIndex(1)), "100 /a at 1"},
			{set("/a/b", "1"), "set /a/b=1 2/2"},
			{swap("/a", "1", prevIndex(2)), "102 /a at 2"},
			{swap("/a", "1", prevIndex(2), dir), "102 /a at 2"},
			{swap("/a/b/c", "1", prevIndex(2)), "104 /a/b at 2"},
			{swap("/a/b", "2", prevIndex(9), dir), "104 /a/b at 2"},
			{swap("/a/b", "2", prevIndex(9)), "101 [9 != 2] at 2"},
			{swap("/a/b", "2", prevValue("x")), "101 [x != 1] at 2"},
			{swap("/a/b", "2", prevValue("x"), prevIndex(2)), "101 [x != 1] at 2"},
			{swap("/a/b", "2", prevValue("1"), prevIndex(3)), "101 [3 != 2] at 2"},
			{swap("/a/b", "2", prevValue("1"), prevIndex(2), ttl(1)), "compareAndSwap /a/b=2 due 2000 3/2 prev /a/b=1 2/2"},
			{swap("/a/b", "3", prevIndex(3)), "compareAndSwap /a/b=3 4/2 prev /a/b=2 due 2000 3/2"},
		}},
		{"refresh keeps the value", []step{
			{set("/f", "v", refresh, ttl(1)), "100 /f at 1"},
			{set("/d/f", "v", ttl(1)), "set /d/f=v due 2000 2/2"},
			{set("/d/g/h", "", refresh, ttl(1)), "100 /d/g at 2"},
			{set("/d/f/h", "", refresh, ttl(1)), "104 /d/f at 2"},
			{set("/d", "", refresh, ttl(1)), "102 /d at 2"},
			{set("/d/f", "", refresh, ttl(2)), "set /d/f=v due 3000 3/3 prev /d/f=v due 2000 2/2 refresh"},
			{set("/d/f", "", refresh, ttl(2), dir), "set /d/f=v due 3000 4/4 prev /d/f=v due 3000 3/3 refresh"},
			{update("/d/f", "", refresh, ttl(3), dir), "update /d/f=v due 4000 5/4 prev /d/f=v due 3000 4/4 refresh"},
			{update("/d/x", "", refresh, ttl(3)), "100 /d/x at 5"},
			{swap("/d/f", "", refresh, ttl(3), prevValue("w")), "101 [w != v] at 5"},
			{swap("/d/f", "", refresh, ttl(4), dir, prevValue("v")), "compareAndSwap /d/f=v due 5000 6/4 prev /d/f=v due 4000 5/4 refresh"},
			{swap("/d", "", refresh, ttl(4), prevValue("v")), "102 /d at 6"},
		}},
		{"in-order creates", []step{
			{post("/q", "j1"), "create /q/00000000000000000002=j1 2/2"},
			{post("/q", "j2", ttl(1)), "create /q/00000000000000000003=j2 due 2000 3/3"},
			{post("/q", "", dir), "create /q/00000000000000000004/ 4/4"},
			{post("/", "r"), "create /00000000000000000005=r 5/5"},
			{post("/q/00000000000000000002", "x"), "104 /q/00000000000000000002 at 5"},
			{post("/q/00000000000000000002/y/z", "x"), "104 /q/00000000000000000002 at 5"},
			{set("/q/00000000000000000007", "taken"), "set /q/00000000000000000007=taken 6/6"},
			{post("/q", "x"), "105 /q/00000000000000000007 at 6"},
			{post("/n/m", "x", prevIndex(9), prevValue("z")), "create /n/m/00000000000000000007=x 7/7"},
		}},
		{"story of section 9", []step{
			{set("/d/k", "v"), "set /d/k=v 2/2"},
			{del("/d"), "102 /d at 2"},
			{del("/d", dir), "108 /d at 2"},
			{compareDelete("/d/k", prevIndex(1)), "101 [1 != 2] at 2"},
			{compareDelete("/d/k", prevValue("v")), "compareAndDelete /d/k= 3/2 prev /d/k=v 2/2"},
			{del("/d", recursive), "delete /d/ 4/2 prev /d/ 2/2"},
		}},
		{"delete", []step{
			{del("/a/b"), "100 /a at 1"},
			{set("/a/f", "1", ttl(5)), "set /a/f=1 due 6000 2/2"},
			{del("/a/f/g"), "104 /a/f at 2"},
			{del("/a/g"), "100 /a/g at 2"},
			{compareDelete("/a/g", prevIndex(2)), "100 /a/g at 2"},
			{compareDelete("/a/f/g", prevIndex(2)), "104 /a/f at 2"},
			{compareDelete("/a", prevIndex(2), recursive, dir), "102 /a at 2"},
			{del("/a/f", dir, recursive), "delete /a/f= 3/2 prev /a/f=1 due 6000 2/2"},
			{del("/a", dir), "delete /a/ 4/2 prev /a/ 2/2"},
			{set("/h/_x", "1"), "set /h/_x=1 5/5"},
			{del("/h", dir), "108 /h at 5"},
			{del("/h", dir, recursive), "delete /h/ 6/5 prev /h/ 5/5"},
			{set("/h", "file again"), "set /h=file again 7/7"},
		}},
		{"what cannot be kept in order is refused", []step{
			{&deimos.Request{Key: "/a"}, "209 unknown operation 0 at 1"},
			{&deimos.Request{Op: 99, Key: "/a"}, "209 unknown operation 99 at 1"},
			{set("", "1"), `209 key "" is not clean at 1`},
			{set("a", "1"), `209 key "a" is not clean at 1`},
			{set("/a/", "1"), `209 key "/a/" is not clean at 1`},
			{set("/a//b", "1"), `209 key "/a//b" is not clean at 1`},
			{set("//", "1"), `209 key "//" is not clean at 1`},
			{set("/a/../b", "1"), `209 key "/a/../b" is not clean at 1`},
			{set("/.", "1"), `209 key "/." is not clean at 1`},
			{post("/a/", "1"), `209 key "/a/" is not clean at 1`},
			{set("/..a/.b/...", "1"), "set /..a/.b/...=1 2/2"},
			{set("/a\x00b\xff", "1"), "set /a\x00b\xff=1 3/3"},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) { runSteps(t, tt.steps) })
	}
}

func TestParentsGetTheIndexOfTheWriteAndNoEvent(t *testing.T) {
	s := newWith(t, set("/a/b", "1"), set("/a/c/d/e", "2", ttl(7)))
	want := "/a/ 2/2\n/a/b=1 2/2\n/a/c/ 3/3\n/a/c/d/ 3/3\n/a/c/d/e=2 due 8000 3/3\n"
	if diff := cmp.Diff(want, treeText(s.View())); diff != "" {
		t.Errorf("tree differs (-want +got):\n%s", diff)
	}
}

func TestRecursiveDeleteTakesTheSubtreeAndNothingElse(t *testing.T) {
	s := newWith(t, set("/ab", "1"), set("/a-b", "2"), set("/a/x", "3", ttl(1)), set("/a/y/z", "4", ttl(1)),
		set("/a\x01", "5"), set("/aa/x", "6"), set("/b", "7", ttl(2)))
	mustApply(t, s, del("/a", recursive))
	want := "/a\x01=5 6/6\n/a-b=2 3/3\n/aa/ 7/7\n/aa/x=6 7/7\n/ab=1 2/2\n/b=7 due 3000 8/8\n"
	if diff := cmp.Diff(want, treeText(s.View())); diff != "" {
		t.Errorf("tree differs (-want +got):\n%s", diff)
	}
	if got := s.deadlines.tree.Len(); got != 1 {
		t.Errorf("nodes with a deadline = %d, want 1", got)
	}
}

// The bulk paths of a recursive delete: few and many of all nodes, with and
// without deadlines.
func TestRecursiveDeleteOfManyNodes(t *testing.T) {
	for _, tt := range []struct {
		name              string
		doomed, kept      int
		doomedTTL, keptTL bool
	}{
		{"few of many", 100, 20000, true, true},
		{"many of few", 20000, 100, true, true},
		{"all permanent", 5000, 5000, false, false},
		{"only the rest has deadlines", 5000, 5000, false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := New(Config{})
			fill := func(parent string, n int, mortal bool) {
				for i := range n {
					r := set(fmt.Sprintf("/%s/%d/k%d", parent, i%37, i), "v")
					r.HasTTL, r.TTLSeconds = mortal, int64(i%100)
					mustApply(t, s, r)
				}
			}
			fill("keep", tt.kept, tt.keptTL)
			want, wantMortal := treeText(s.View()), s.deadlines.tree.Len()
			fill("doom", tt.doomed, tt.doomedTTL)
			old := s.View()
			oldLen := old.Len()
			mustApply(t, s, del("/doom", recursive))
			if got := treeText(s.View()); got != want {
				t.Errorf("tree of %d nodes after the delete, want the %d from before", s.View().Len(), strings.Count(want, "\n"))
			}
			if got := s.deadlines.tree.Len(); got != wantMortal {
				t.Errorf("nodes with a deadline = %d, want %d", got, wantMortal)
			}
			if got := strings.Count(treeText(old), "\n"); got != oldLen {
				t.Errorf("an older view has %d nodes, want %d", got, oldLen)
			}
		})
	}
}

func TestApplyBoundsKeysAndValues(t *testing.T) {
	longest := "/" + strings.Repeat("k", AppliedKeyMaxBytes-1)
	longestDir := longest[:AppliedKeyMaxBytes-21]
	value := strings.Repeat("v", AppliedValueMaxBytes+1)
	for _, tt := range []struct {
		name    string
		do      *deimos.Request
		refused bool
	}{
		{"longest key", set(longest, ""), false},
		{"key too long", set(longest+"k", ""), true},
		{"longest in-order key", post(longestDir, ""), false},
		{"in-order key too long", post(longestDir+"k", ""), true},
		{"largest value", set("/a", value[1:]), false},
		{"value too large", set("/a", value), true},
		{"deepest key", set(strings.Repeat("/a", AppliedKeyMaxBytes/2), ""), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := New(Config{})
			_, err := s.Apply(tt.do, 1)
			if refused := errors.Is(err, &deimos.Error{Code: deimos.CodeInvalidField}); refused != tt.refused {
				t.Errorf("Apply() = %v, want refused %t", err, tt.refused)
			}
			if err != nil {
				return
			}
			s.Publish(1)
			if err := New(Config{}).Restore(1, strings.NewReader(string(snapshot(t, s.View())))); err != nil {
				t.Errorf("Restore() of what was applied = %v, want no error", err)
			}
		})
	}
}

func TestDeadlinesNeverOverflow(t *testing.T) {
	for _, tt := range []struct {
		nowMS, ttl, want int64
	}{
		{1000, 1, 2000},
		{0, 0, 1},
		{-5, 0, 1},
		{1000, -7, 1000},
		{1000, math.MaxInt64, math.MaxInt64},
		{math.MaxInt64, 1, math.MaxInt64},
		{math.MaxInt64 - 999, 1, math.MaxInt64},
		{math.MaxInt64 - 1000, 1, math.MaxInt64},
	} {
		s := New(Config{})
		e, err := s.Apply(set("/a", "", ttl(tt.ttl)), tt.nowMS)
		if err != nil {
			t.Fatalf("Apply() = %v, want no error", err)
		}
		if got, ok := e.Node().DeadlineMS(); got != tt.want || !ok {
			t.Errorf("deadline of ttl %d at %d = %d, %t, want %d, true", tt.ttl, tt.nowMS, got, ok, tt.want)
		}
	}
}

func TestFailedWritesChangeNothing(t *testing.T) {
	s := newWith(t, set("/d/f", "1", ttl(5)), set("/e", "", dir))
	before := snapshot(t, s.View())
	for _, r := range []*deimos.Request{
		set("/d", "1"), create("/d/f", "1"), update("/x/y", "1"), swap("/d/f", "2", prevValue("9")),
		set("/d/f/g/h", "1"), create("/d/f/g", "", dir), post("/d/f", "1"), del("/d"), del("/d", dir),
		compareDelete("/d/f", prevIndex(77)), set("/n/m", "", refresh, ttl(1)), {Op: 200, Key: "/a"}, set("/a/./b", "1"),
	} {
		if e, err := s.Apply(r, 5000); err == nil {
			t.Errorf("Apply(%+v) = %s, want an error", *r, eventText(e))
		}
	}
	s.Publish(2)
	if after := snapshot(t, s.View()); string(after) != string(before) {
		t.Errorf("snapshot after failed writes differs: %d bytes, want the same %d", len(after), len(before))
	}
}
