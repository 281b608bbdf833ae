package mirror

import (
	"maps"
	"testing"

	"github.com/marsevilspirit/deimos"
)

func TestFlattenKeepsFilesOnly(t *testing.T) {
	for _, tt := range []struct {
		name, dir string
		node      *deimos.Node
		want      Files
	}{
		{"nothing", "/d", nil, Files{}},
		{"a file in place of the directory", "/d", file("/d", "x"), Files{}},
		{"nested", "/d/", dir("/d", file("/d/a", "1"), dir("/d/b", file("/d/b/c", ""), dir("/d/b/e"))), Files{"a": "1", "b/c": ""}},
		{"the root", "/", dir("/", file("/a", "1"), dir("/b", file("/b/c", "2"))), Files{"a": "1", "b/c": "2"}},
	} {
		if got := flatten(base(tt.dir), tt.node); !maps.Equal(got, tt.want) {
			t.Errorf("%s: flatten = %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestApply(t *testing.T) {
	gone := func(key string, isDir bool) *deimos.Node { return &deimos.Node{Key: key, Dir: isDir} }
	for _, tt := range []struct {
		name    string
		action  deimos.Action
		node    *deimos.Node
		want    Files
		changed bool
	}{
		{"new file", deimos.ActionCreate, file("/d/n", "3"), Files{"a": "1", "b/c": "2", "n": "3"}, true},
		{"new value", deimos.ActionUpdate, file("/d/a", "3"), Files{"a": "3", "b/c": "2"}, true},
		{"swapped", deimos.ActionCompareAndSwap, file("/d/b/c", ""), Files{"a": "1", "b/c": ""}, true},
		{"the same value", deimos.ActionSet, file("/d/a", "1"), Files{"a": "1", "b/c": "2"}, false},
		{"removed file", deimos.ActionCompareAndDelete, gone("/d/a", false), Files{"b/c": "2"}, true},
		{"removed again", deimos.ActionDelete, gone("/d/x", false), Files{"a": "1", "b/c": "2"}, false},
		{"expired directory", deimos.ActionExpire, gone("/d/b", true), Files{"a": "1"}, true},
		{"a directory in place of a file", deimos.ActionSet, dir("/d/a"), Files{"b/c": "2"}, true},
		{"new directory", deimos.ActionCreate, dir("/d/n"), Files{"a": "1", "b/c": "2"}, false},
		{"TTL of a directory", deimos.ActionUpdate, dir("/d/b"), Files{"a": "1", "b/c": "2"}, false},
		{"TTL of the mirrored directory", deimos.ActionUpdate, dir("/d"), Files{"a": "1", "b/c": "2"}, false},
		{"the mirrored directory is removed", deimos.ActionDelete, gone("/d", true), Files{}, true},
		{"a directory above is removed", deimos.ActionDelete, gone("/", true), Files{"a": "1", "b/c": "2"}, false},
		{"a neighbour", deimos.ActionDelete, gone("/dd", true), Files{"a": "1", "b/c": "2"}, false},
	} {
		f := Files{"a": "1", "b/c": "2"}
		changed := f.apply("/d", deimos.Event{Action: tt.action, Node: tt.node})
		if !maps.Equal(f, tt.want) || changed != tt.changed {
			t.Errorf("%s: apply = %v, changed %v, want %v, %v", tt.name, f, changed, tt.want, tt.changed)
		}
	}
	f := Files{"a": "1"}
	if changed := f.apply("/p/q/d", deimos.Event{Action: deimos.ActionExpire, Node: gone("/p/q", true)}); len(f) != 0 || !changed {
		t.Errorf("a directory above expires: %v, changed %v, want nothing", f, changed)
	}
}
