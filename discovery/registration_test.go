package discovery

import (
	"bytes"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/marsevilspirit/deimos"
)

func TestParseURLDemandsADirectoryOfKeys(t *testing.T) {
	for _, tt := range []struct{ url, text string }{
		{"http://reg:4001/keys/discovery/6c0", ""},
		{"https://reg/v2/keys/t", ""},
		{"http://[::1]:4001/keys/_etcd/registry/t/", ""},
		{"http://reg:4001/keys/a%20b", ""},
		{"", "begins with http"},
		{"reg:4001/keys/t", "begins with http"},
		{"ftp://reg/keys/t", "begins with http"},
		{"http://%zz/keys/t", "not a URL"},
		{"http:///keys/t", "has a host"},
		{"http://:4001/keys/t", "has a host"},
		{"http://u:p@reg/keys/t", "no query, fragment or user"},
		{"http://reg/keys/t?quorum=true", "no query"},
		{"http://reg/keys/t?", "no query"},
		{"http://reg/keys/t#f", "fragment"},
		{"http://reg", "the path"},
		{"http://reg/t", "the path"},
		{"http://reg/keys", "the path"},
		{"http://reg/keys/", "the path"},
		{"http://reg/v2/keys/", "the path"},
		{"http://reg/keysa/t", "the path"},
		{"http://reg/keys/../t", "no empty"},
		{"http://reg/keys/a//b", "no empty"},
	} {
		err := ParseURL(tt.url)
		if (err == nil) != (tt.text == "") || err != nil && !strings.Contains(err.Error(), tt.text) {
			t.Errorf("ParseURL(%q) = %v, want %q", tt.url, err, tt.text)
		}
	}
}

func TestPeerURLsOfRegistrations(t *testing.T) {
	for _, tt := range []struct {
		url string
		ok  bool
	}{
		{"http://h:1", true}, {"https://[::1]:65535", true}, {"http://10.0.0.1:7001", true},
		{"h:1", false}, {"ftp://h:1", false}, {"http://h", false}, {"http://:1", false}, {"http://h:0", false},
		{"http://h:65536", false}, {"http://h:1/", false}, {"http://h:1?", false}, {"http://h:1#", false},
		{"http://u@h:1", false}, {"http://@h:1", false}, {"http://a,b:1", false}, {"http://a&b:1", false}, {"http://%zz:1", false},
	} {
		if err := checkPeerURL(tt.url); (err == nil) != tt.ok {
			t.Errorf("checkPeerURL(%q) = %v, want ok %v", tt.url, err, tt.ok)
		}
	}
}

func TestLongTextsOfOthersAreShortened(t *testing.T) {
	if got, want := shorten(strings.Repeat("é", 101)), strings.Repeat("é", 100)+"…"; got != want {
		t.Errorf("shorten = %q, want %q", got, want)
	}
	if got, want := shorten("x"+strings.Repeat("é", 101)), "x"+strings.Repeat("é", 99)+"…"; got != want {
		t.Errorf("shorten = %q, want %q", got, want)
	}
}

func FuzzParseRegistration(f *testing.F) {
	for _, seed := range [][2]string{
		{"8e9e05c52164694d", "n1=http://10.0.0.1:7001&n1=http://10.0.0.1:2380"},
		{"1", "n=https://[::1]:1"}, {"0", "n=http://h:1"}, {"01", "n=http://h:1"}, {"x", ""}, {"1", "=&="},
		{"1", "a=http://h:1&b=http://h:2"}, {"ffffffffffffffff", "é=http://h=:1"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, key, value string) {
		r, err := parseRegistration(key, value)
		if err != nil {
			return
		}
		if got := r.value(); got != value {
			t.Errorf("value() of %q = %q, want it back", value, got)
		}
		if got := deimos.FormatID(r.ID); got != key {
			t.Errorf("id of %q = %q, want it back", key, got)
		}
		again, err := parseRegistration(key, r.value())
		if err != nil || !reflect.DeepEqual(r, again) {
			t.Errorf("parse(value()) = %v, %v, want %v", again, err, r)
		}
	})
}

// FuzzAnswers lets a directory answer anything: the members that Observe
// returns are complete and fit together all the same.
func FuzzAnswers(f *testing.F) {
	for _, seed := range []string{
		`{"action":"get","node":{"key":"/d","value":"2","dir":true,"nodes":[{"key":"/d/1","value":"a=http://h:1","createdIndex":4},{"key":"/d/2","value":"b=http://h:2","createdIndex":3}]}}`,
		`{"node":{"dir":true,"value":"1","nodes":[null,{"key":"","dir":true}]}}`,
		`{"node":{"dir":true,"value":"1","nodes":[{"key":"/d/1","value":"a=http://h:1"},{"key":"/e/1","value":"a=http://h:1"}]}}`,
		`{"errorCode":100}`, `null`, `[]`, "", "{",
	} {
		f.Add([]byte(seed), 200)
		f.Add([]byte(seed), 404)
	}
	f.Fuzz(func(t *testing.T, body []byte, status int) {
		waits := 0
		client := clientOf(func(r *http.Request) (*http.Response, error) {
			if r.URL.Query().Get("wait") == "true" {
				// One change, then the end: no answer here makes the caller pause.
				waits++
				return respond(r, map[bool]int{true: http.StatusOK, false: http.StatusTeapot}[waits == 1], "", 0, strings.NewReader("x")), nil
			}
			return respond(r, 200+(status%300+300)%300, deimos.HeaderIndex, 7, bytes.NewReader(body)), nil
		})
		r, err := Observe(t.Context(), Config{URL: testURL, HTTP: client})
		if err != nil {
			return
		}
		if len(r.Members) == 0 || !r.Full {
			t.Fatalf("Observe = %v, want members and Full", r)
		}
		ids := make(map[uint64]bool)
		for _, m := range r.Members {
			if err := m.check(); err != nil {
				t.Errorf("member %v: %v", m, err)
			}
			if ids[m.ID] {
				t.Errorf("the id %x is there twice", m.ID)
			}
			ids[m.ID] = true
		}
	})
}
