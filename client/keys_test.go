package client

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos"
)

// calls are all calls on keys, with what each sends.
var calls = []struct {
	name string
	call func(context.Context, *Client) (*Response, error)
	want string
}{
	{"get", func(ctx context.Context, c *Client) (*Response, error) { return c.Get(ctx, "a/../b//c/") },
		"GET /keys/b/c?quorum=true&sorted=true"},
	{"get the root", func(ctx context.Context, c *Client) (*Response, error) { return c.Get(ctx, "") },
		"GET /keys?quorum=true&sorted=true"},
	{"get of odd names", func(ctx context.Context, c *Client) (*Response, error) { return c.Get(ctx, "/a b?c#d%2F;é") },
		"GET /keys/a%20b%3Fc%23d%252F;%C3%A9?quorum=true&sorted=true"},
	{"local recursive get", func(ctx context.Context, c *Client) (*Response, error) {
		return c.Get(ctx, "/a", WithRecursive(), WithLocalRead())
	}, "GET /keys/a?quorum=false&recursive=true&sorted=true"},
	{"set", func(ctx context.Context, c *Client) (*Response, error) { return c.Set(ctx, "/a", "x=1&y") },
		"PUT /keys/a value=x%3D1%26y"},
	{"set of nothing", func(ctx context.Context, c *Client) (*Response, error) { return c.Set(ctx, "/a", "") },
		"PUT /keys/a value="},
	{"set with options", func(ctx context.Context, c *Client) (*Response, error) {
		return c.Set(ctx, "/a", "1", WithTTL(time.Minute), WithNoValue())
	}, "PUT /keys/a?noValueOnSuccess=true ttl=60&value=1"},
	{"set of a directory", func(ctx context.Context, c *Client) (*Response, error) {
		return c.Set(ctx, "/a", "", WithDir())
	}, "PUT /keys/a?dir=true"},
	{"create", func(ctx context.Context, c *Client) (*Response, error) { return c.Create(ctx, "/a", "1", WithTTL(1)) },
		"PUT /keys/a?prevExist=false ttl=1&value=1"},
	{"mkdir", func(ctx context.Context, c *Client) (*Response, error) {
		return c.Mkdir(ctx, "/a", WithTTL(2*time.Second))
	}, "PUT /keys/a?dir=true&prevExist=false ttl=2"},
	{"create in order", func(ctx context.Context, c *Client) (*Response, error) { return c.CreateInOrder(ctx, "/q", "1") },
		"POST /keys/q value=1"},
	{"update", func(ctx context.Context, c *Client) (*Response, error) { return c.Update(ctx, "/a", "1") },
		"PUT /keys/a?prevExist=true value=1"},
	{"update of a directory", func(ctx context.Context, c *Client) (*Response, error) {
		return c.Update(ctx, "/a", "", WithDir(), WithTTL(time.Hour))
	}, "PUT /keys/a?dir=true&prevExist=true ttl=3600"},
	{"swap by value", func(ctx context.Context, c *Client) (*Response, error) {
		return c.CompareAndSwap(ctx, "/a", "2", WithPrevValue("1&"))
	}, "PUT /keys/a?prevValue=1%26 value=2"},
	{"swap by both", func(ctx context.Context, c *Client) (*Response, error) {
		return c.CompareAndSwap(ctx, "/a", "2", WithPrevIndex(7), WithPrevValue("1"), WithTTL(time.Second))
	}, "PUT /keys/a?prevIndex=7&prevValue=1 ttl=1&value=2"},
	{"refresh", func(ctx context.Context, c *Client) (*Response, error) { return c.Refresh(ctx, "/a", time.Second) },
		"PUT /keys/a?prevExist=true&refresh=true ttl=1"},
	{"refresh with a condition", func(ctx context.Context, c *Client) (*Response, error) {
		return c.Refresh(ctx, "/a", time.Second, WithPrevIndex(3), WithNoValue())
	}, "PUT /keys/a?noValueOnSuccess=true&prevExist=true&prevIndex=3&refresh=true ttl=1"},
	{"delete", func(ctx context.Context, c *Client) (*Response, error) { return c.Delete(ctx, "/a") },
		"DELETE /keys/a"},
	{"delete of directories", func(ctx context.Context, c *Client) (*Response, error) {
		return c.Delete(ctx, "/a", WithDir(), WithRecursive())
	}, "DELETE /keys/a?dir=true&recursive=true"},
	{"compare and delete", func(ctx context.Context, c *Client) (*Response, error) {
		return c.CompareAndDelete(ctx, "/a", WithPrevIndex(7), WithPrevValue("1"))
	}, "DELETE /keys/a?prevIndex=7&prevValue=1"},
	{"a long value to compare", func(ctx context.Context, c *Client) (*Response, error) {
		return c.CompareAndDelete(ctx, "/a", WithPrevValue(strings.Repeat("v", prevValueQueryMaxBytes+1)))
	}, "DELETE /keys/a prevValue=" + strings.Repeat("v", prevValueQueryMaxBytes+1)},
}

func TestWhatIsSent(t *testing.T) {
	for _, tt := range calls {
		t.Run(tt.name, func(t *testing.T) {
			w := &wire{answer: func(*http.Request) (*http.Response, error) {
				return reply(200, `{"action":"get","node":{"key":"/a","value":"1","modifiedIndex":5,"createdIndex":4}}`,
					"X-Etcd-Index", "9", "X-Raft-Index", "12", "X-Raft-Term", "3", "X-Etcd-Cluster-Id", "7e27652122e8b2ae"), nil
			}}
			r, err := tt.call(t.Context(), newWired(t, Config{}, w))
			if err != nil {
				t.Fatal(err)
			}
			if got := w.requests(); !slices.Equal(got, []string{tt.want}) {
				t.Errorf("sent %q, want %q", got, tt.want)
			}
			if r.Index != 9 || r.RaftIndex != 12 || r.RaftTerm != 3 || r.ClusterID != 0x7e27652122e8b2ae || r.Node.ModifiedIndex != 5 {
				t.Errorf("response %+v", r)
			}
		})
	}
}

func TestArgumentsWithoutMeaningAreRefused(t *testing.T) {
	const hour = time.Hour
	long := strings.Repeat("v", prevValueQueryMaxBytes+1)
	for _, tt := range []struct {
		name string
		call func(context.Context, *Client) (*Response, error)
		want string
	}{
		{"no life", func(ctx context.Context, c *Client) (*Response, error) { return c.Set(ctx, "/a", "1", WithTTL(0)) },
			"client: the TTL is 0s, must be above 0"},
		{"negative life", func(ctx context.Context, c *Client) (*Response, error) { return c.Refresh(ctx, "/a", -1) },
			"client: the TTL is -1ns, must be above 0"},
		{"a life too long", func(ctx context.Context, c *Client) (*Response, error) {
			return c.Create(ctx, "/a", "1", WithTTL(deimos.TTLMaxSeconds*time.Second+1))
		}, "must be at most 3153600000 s"},
		{"index 0", func(ctx context.Context, c *Client) (*Response, error) {
			return c.CompareAndSwap(ctx, "/a", "1", WithPrevIndex(0))
		}, "WithPrevIndex: the index must not be 0"},
		{"no value", func(ctx context.Context, c *Client) (*Response, error) {
			return c.CompareAndDelete(ctx, "/a", WithPrevValue(""))
		}, "WithPrevValue: the value must not be empty"},
		{"no condition", func(ctx context.Context, c *Client) (*Response, error) { return c.CompareAndDelete(ctx, "/a", nil) },
			"the condition is nil"},
		{"a directory with a value", func(ctx context.Context, c *Client) (*Response, error) {
			return c.Set(ctx, "/a", "1", WithDir(), WithTTL(hour))
		}, `a directory has no value, but "1" is given`},
		{"a long comparison where a body is not read", func(ctx context.Context, c *Client) (*Response, error) {
			return c.CompareAndDelete(ctx, "/a", WithPrevValue(long))
		}, "a value of 2049 bytes is too long for a delete under /v2/keys"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := &wire{answer: func(*http.Request) (*http.Response, error) { return reply(200, `{"action":"set"}`), nil }}
			_, err := tt.call(t.Context(), newWired(t, Config{Prefix: "/v2/keys"}, w))
			if !errors.Is(err, ErrInvalidArgument) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one that contains %q", err, tt.want)
			}
			if len(w.requests()) > 0 {
				t.Errorf("sent %q, want nothing", w.requests())
			}
		})
	}
}

func TestTTLIsRoundedUpToSeconds(t *testing.T) {
	for d, want := range map[time.Duration]string{
		1: "1", time.Second - 1: "1", time.Second: "1", time.Second + 1: "2", 90 * time.Second: "90",
		deimos.TTLMaxSeconds * time.Second: "3153600000",
	} {
		p := newParams()
		p.setTTL(d)
		if got := p.form.Get("ttl"); got != want || p.err != nil {
			t.Errorf("TTL of %v = %s, %v, want %s", d, got, p.err, want)
		}
	}
}

func TestErrorsKeepCodeCauseAndIndex(t *testing.T) {
	w := &wire{answer: func(*http.Request) (*http.Response, error) {
		return reply(404, `{"errorCode":100,"message":"Key not found","cause":"/a","index":12}`), nil
	}}
	_, err := newWired(t, Config{}, w).Get(t.Context(), "/a/b")
	var e *deimos.Error
	if !errors.Is(err, deimos.ErrKeyNotFound) || !errors.As(err, &e) || e.Cause != "/a" || e.Index != 12 {
		t.Errorf("error %v, want 100: Key not found (/a) [12]", err)
	}
}

func TestListOfAFileIsAnError(t *testing.T) {
	w := &wire{answer: func(*http.Request) (*http.Response, error) {
		return reply(200, `{"action":"get","node":{"key":"/a","value":"1"}}`), nil
	}}
	if _, err := newWired(t, Config{}, w).List(t.Context(), "/a"); !errors.Is(err, deimos.ErrNotDir) {
		t.Errorf("List of a file: %v, want ErrNotDir", err)
	}
}
