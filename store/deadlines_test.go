package store

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// expireAll expires with the given limit and returns the texts of the events.
func expireAll(s *Store, nowMS int64, limit int) []string {
	from := len(s.batch)
	s.Expire(nowMS, limit)
	var texts []string
	for _, e := range s.batch[from:] {
		texts = append(texts, eventText(e))
	}
	return texts
}

func TestNodesExpireAfterTheirDeadlineInOrder(t *testing.T) {
	s := newWith(t, // at 1000 ms
		set("/z", "1", ttl(1)), set("/b/c", "2", ttl(3)), set("/a", "3", ttl(3)), set("/b-", "4", ttl(3)),
		set("/k", "5"), set("/a0", "6", ttl(9)))
	for _, tt := range []struct {
		name  string
		nowMS int64
		limit int
		want  []string
	}{
		{"before", 1999, 10, nil},
		{"at the deadline", 2000, 10, nil},
		{"limit of none", 2001, 0, nil},
		{"negative limit", 2001, -3, nil},
		{"after", 2001, 10, []string{"expire /z= 8/2 prev /z=1 due 2000 2/2"}},
		{"limit", 4001, 2, []string{
			"expire /a= 9/4 prev /a=3 due 4000 4/4",
			"expire /b-= 10/5 prev /b-=4 due 4000 5/5",
		}},
		{"rest", 4001, 2, []string{"expire /b/c= 11/3 prev /b/c=2 due 4000 3/3"}},
		{"none due", 4001, 2, nil},
	} {
		if got := expireAll(s, tt.nowMS, tt.limit); !slices.Equal(got, tt.want) {
			t.Errorf("%s: Expire(%d, %d) made\n%q, want\n%q", tt.name, tt.nowMS, tt.limit, got, tt.want)
		}
	}
	s.Publish(2)
	if diff := cmp.Diff("/a0=6 due 10000 7/7\n/b/ 3/3\n/k=5 6/6\n", treeText(s.View())); diff != "" {
		t.Errorf("tree differs (-want +got):\n%s", diff)
	}
}

func TestDirectoryExpiresWithItsContentInOneEvent(t *testing.T) {
	s := newWith(t, set("/d", "", dir, ttl(2)), set("/d/x", "1", ttl(1)), set("/d/y", "1", ttl(2)),
		set("/d/z/_k", "1", ttl(50)), set("/dd", "1"))
	want := []string{
		"expire /d/x= 7/3 prev /d/x=1 due 2000 3/3",
		"expire /d/ 8/2 prev /d/ due 3000 2/2",
	}
	if got := expireAll(s, 3001, 100); !slices.Equal(got, want) {
		t.Errorf("Expire(3001, 100) made\n%q, want\n%q", got, want)
	}
	s.Publish(2)
	if _, ok := s.View().NextDeadline(); ok || s.View().Len() != 1 {
		t.Errorf("after expiry: %d nodes, deadline %t, want 1, false", s.View().Len(), ok)
	}
}

func TestWritesReplaceDeadlines(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(s *Store, t *testing.T)
		want int64
	}{
		{"set without", func(s *Store, t *testing.T) { mustApply(t, s, set("/a", "2")) }, 0},
		{"set with", func(s *Store, t *testing.T) { mustApply(t, s, set("/a", "2", ttl(7))) }, 8000},
		{"update without", func(s *Store, t *testing.T) { mustApply(t, s, update("/a", "2")) }, 0},
		{"swap with", func(s *Store, t *testing.T) { mustApply(t, s, swap("/a", "2", prevIndex(2), ttl(1))) }, 2000},
		{"refresh", func(s *Store, t *testing.T) { mustApply(t, s, set("/a", "", refresh, ttl(9))) }, 10000},
		{"delete", func(s *Store, t *testing.T) { mustApply(t, s, del("/a")) }, 0},
		{"failed", func(s *Store, t *testing.T) {
			if _, err := s.Apply(create("/a", "", ttl(9)), 1); err == nil {
				t.Error("Apply(create) = nil error, want one")
			}
		}, 6000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newWith(t, set("/a", "1", ttl(5)))
			tt.do(s, t)
			if got, ok := s.View().NextDeadline(); got != tt.want || ok != (tt.want != 0) {
				t.Errorf("NextDeadline() = %d, %t, want %d, %t", got, ok, tt.want, tt.want != 0)
			}
			if n := s.deadlines.tree.Len(); n > 1 {
				t.Errorf("nodes with a deadline = %d, want at most 1", n)
			}
		})
	}
}

func TestNextDeadlineIsOfThePublishedState(t *testing.T) {
	s := newWith(t, set("/a", "1", ttl(5)))
	if _, err := s.Apply(set("/b", "1", ttl(1)), 1000); err != nil {
		t.Fatal(err)
	}
	if got, _ := s.View().NextDeadline(); got != 6000 {
		t.Errorf("NextDeadline() before Publish = %d, want 6000", got)
	}
	s.Publish(2)
	if got, _ := s.View().NextDeadline(); got != 2000 {
		t.Errorf("NextDeadline() after Publish = %d, want 2000", got)
	}
}

func TestManyNodesDueAtOnceGoInPieces(t *testing.T) {
	const nodes, limit = 10000, 1000
	s := New(Config{})
	for i := range nodes {
		mustApply(t, s, set(fmt.Sprintf("/k%d", i), "v", ttl(1)))
	}
	for pieces := 1; ; pieces++ {
		n := s.Expire(2001, limit)
		s.Publish(uint64(pieces))
		if left := nodes - pieces*limit; s.View().Len() != max(left, 0) || n > limit {
			t.Fatalf("Expire() number %d removed %d and left %d, want %d left", pieces, n, s.View().Len(), left)
		}
		if n == 0 {
			break
		}
	}
	if got := s.View().Index(); got != 1+2*nodes {
		t.Errorf("Index() = %d, want %d", got, 1+2*nodes)
	}
}
