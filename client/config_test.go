package client

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestEndpointsAreBroughtIntoOneForm(t *testing.T) {
	for _, tt := range []struct{ given, want string }{
		{"http://127.0.0.1:4001", "http://127.0.0.1:4001"},
		{"http://127.0.0.1:4001/", "http://127.0.0.1:4001"},
		{"HTTPS://Example.COM:443", "https://example.com:443"},
		{"http://[::1]:4001", "http://[::1]:4001"},
		{"http://[fe80::1%25eth0]:4001", "http://[fe80::1%25eth0]:4001"},
	} {
		if got, err := parseEndpoint(tt.given); got != tt.want || err != nil {
			t.Errorf("parseEndpoint(%q) = %q, %v, want %q, nil", tt.given, got, err, tt.want)
		}
	}
}

func TestBadEndpointsAreNamed(t *testing.T) {
	for _, tt := range []struct{ given, want string }{
		{"", "has no scheme"},
		{"127.0.0.1:4001", "has no scheme"},
		{"ftp://a:1", "has no scheme"},
		{"http://a", "has no port"},
		{"http://a:0", "has no port"},
		{"http://a:70000", "has no port"},
		{"http://:4001", "has no valid host"},
		{"http://a,b:4001", "has no valid host"},
		{"http://a:4001/keys", "more than host and port"},
		{"http://a:4001?x=1", "more than host and port"},
		{"http://me:pw@a:4001", "names a user"},
		{"http://a b:4001", "is not a URL"},
	} {
		_, err := New(Config{Endpoints: []string{tt.given}})
		if !errors.Is(err, ErrInvalidArgument) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("New with endpoint %q: error %v, want one that contains %q", tt.given, err, tt.want)
		}
	}
}

func TestConfigDefaults(t *testing.T) {
	got, err := Config{}.check()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got.Endpoints, []string{DefaultEndpoint}) || got.DialTimeout != DefaultDialTimeout ||
		got.RequestTimeout != DefaultRequestTimeout || got.Prefix != DefaultPrefix || got.SyncInterval != 0 || got.Logger == nil {
		t.Errorf("check of a zero Config = %+v", got)
	}
	given := []string{"http://a:1", "http://b:1/", "http://a:1/"}
	got, err = Config{Endpoints: given, Prefix: "/v2/keys/"}.check()
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"http://a:1", "http://b:1"}; !slices.Equal(got.Endpoints, want) || got.Prefix != "/v2/keys" {
		t.Errorf("Endpoints, Prefix = %v, %q, want %v, /v2/keys", got.Endpoints, got.Prefix, want)
	}
}

func TestBadConfigIsRefused(t *testing.T) {
	many := make([]string, EndpointsMax+1)
	for i := range many {
		many[i] = fmt.Sprintf("http://a:%d", i+1)
	}
	for _, tt := range []struct {
		name string
		cfg  Config
		want string
	}{
		{"negative dial timeout", Config{DialTimeout: -1}, "DialTimeout is -1ns"},
		{"negative request timeout", Config{RequestTimeout: -time.Second}, "RequestTimeout is -1s"},
		{"negative sync interval", Config{SyncInterval: -1}, "SyncInterval"},
		{"relative prefix", Config{Prefix: "keys"}, `Prefix "keys"`},
		{"empty path as prefix", Config{Prefix: "/"}, `Prefix "/"`},
		{"unclean prefix", Config{Prefix: "/v2//keys"}, `Prefix "/v2//keys"`},
		{"prefix with a query", Config{Prefix: "/keys?x=1"}, "Prefix"},
		{"too many endpoints", Config{Endpoints: many}, "257 are given, at most 256"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := New(tt.cfg)
			if !errors.Is(err, ErrInvalidArgument) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("New: error %v, want one that contains %q", err, tt.want)
			}
		})
	}
	if _, err := New(Config{Endpoints: many[1:]}); err != nil {
		t.Errorf("New with %d endpoints: %v", EndpointsMax, err)
	}
}
