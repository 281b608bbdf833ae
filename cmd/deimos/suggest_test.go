package main

import (
	"strings"
	"testing"
)

func TestSuggest(t *testing.T) {
	options := new(settings).options()
	for _, tt := range []struct{ name, unknown, want string }{
		{"swapped letters", "nmae", "name"},
		{"missing letter", "listen-client-url", "listen-client-urls"},
		{"surplus letter", "proxxy", "proxy"},
		{"wrong letter", "data_dir", "data-dir"},
		{"several slips in a long name", "bootsrtap-confg", "bootstrap-config"},
		{"alias", "initial-clusters", "initial-cluster"},
		{"beginning of one", "peer-secret", "peer-secret-file"},
		{"beginning of a name and its alias", "initial-advertise", "initial-advertise-peer-urls"},
		{"beginning of several", "listen", ""},
		{"short, and one letter missing", "cor", "cors"},
		{"short", "n", ""},
		{"empty", "", ""},
		{"something else", "bogus", ""},
		{"endless", strings.Repeat("name", 1<<20), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := suggest(tt.unknown, options); got != tt.want {
				t.Errorf("suggest(%.40q) = %q, want %q", tt.unknown, got, tt.want)
			}
		})
	}
}

func TestDistance(t *testing.T) {
	for _, tt := range []struct {
		a, b        string
		limit, want int
	}{
		{"", "", 9, 0}, {"abc", "abc", 9, 0}, {"abc", "acb", 9, 1}, {"abc", "ab", 9, 1}, {"abc", "xabc", 9, 1},
		{"abc", "axc", 9, 1}, {"abcd", "badc", 9, 2}, {"ca", "abc", 9, 3}, {"abc", "xyz", 9, 3}, {"abc", "xyz", 2, 2}, {"", "abc", 2, 2},
	} {
		for _, pair := range [][2]string{{tt.a, tt.b}, {tt.b, tt.a}} {
			if got := distance(pair[0], pair[1], tt.limit); got != tt.want {
				t.Errorf("distance(%q, %q, %d) = %d, want %d", pair[0], pair[1], tt.limit, got, tt.want)
			}
		}
	}
}
