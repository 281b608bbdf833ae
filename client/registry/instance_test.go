package registry

import (
	"fmt"
	"slices"
	"testing"
)

func TestDiff(t *testing.T) {
	list := func(items ...string) []Instance {
		var l []Instance
		for _, s := range items {
			l = append(l, Instance{Service: "s", Network: "tcp", Addr: s[:1], Metadata: s[1:]})
		}
		return l
	}
	for _, tt := range []struct {
		name     string
		from, to []Instance
		want     string
	}{
		{"nothing", nil, nil, "[]"},
		{"start", nil, list("a1", "b1"), "[added a1 added b1]"},
		{"same", list("a1"), list("a1"), "[]"},
		{"all", list("a1", "b1", "c1"), list("b2", "c1", "d1"), "[removed a1 updated b2 added d1]"},
		{"end", list("a1"), nil, "[removed a1]"},
	} {
		got := []string{}
		for _, c := range diff(tt.from, tt.to) {
			got = append(got, fmt.Sprintf("%v %s%s", c.Kind, c.Instance.Addr, c.Instance.Metadata))
		}
		if fmt.Sprint(got) != tt.want {
			t.Errorf("%s: diff = %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestParse(t *testing.T) {
	for _, name := range []string{"", "tcp", "@h:1", "tcp@", "a/tcp@h:1"} {
		if in, ok := parse("s", name, ""); ok {
			t.Errorf("parse(%q) = %v, want false", name, in)
		}
	}
	in, ok := parse("s", "udp@[::1]:53", "m")
	if want := (Instance{Service: "s", Network: "udp", Addr: "[::1]:53", Metadata: "m"}); !ok || in != want {
		t.Errorf("parse = %v, %v, want %v", in, ok, want)
	}
	l := []Instance{{Network: "udp", Addr: "a"}, {Network: "tcp", Addr: "b"}, {Network: "tcp", Addr: "a"}}
	slices.SortFunc(l, compare)
	if fmt.Sprint(l[0], l[1], l[2]) != "tcp@a tcp@b udp@a" {
		t.Errorf("sorted: %v", l)
	}
}
