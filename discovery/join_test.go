package discovery

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/marsevilspirit/deimos"
)

var testSelf = Registration{
	ID: 0x8e9e05c52164694d, Name: "n1",
	PeerURLs: []string{"http://10.0.0.1:7001", "http://10.0.0.1:2380"},
}

// describe writes an outcome the way the transcripts do.
func describe(r Result, err error) string {
	if err != nil {
		return "! " + err.Error()
	}
	values := make([]string, 0, len(r.Members))
	for _, m := range r.Members {
		values = append(values, m.value())
	}
	of := " of " + strings.Join(values, ",")
	if r.Full {
		return "= full" + of
	}
	return "= member " + deimos.FormatID(r.Self.ID) + of
}

// replay answers with the lines of a transcript and demands its requests.
func replay(t *testing.T, lines []string) (client *http.Client, outcome func() string) {
	t.Helper()
	next := func() string {
		if len(lines) == 0 {
			t.Fatal("the transcript has ended")
		}
		line := lines[0]
		lines = lines[1:]
		return line
	}
	client = clientOf(func(r *http.Request) (*http.Response, error) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		got := strings.TrimSpace("> " + r.Method + " " + r.URL.RequestURI() + " " + string(body))
		if want := next(); got != want {
			t.Fatalf("request = %s\nwant %s", got, want)
		}
		if typ := r.Header.Get("Content-Type"); len(body) > 0 && typ != "application/x-www-form-urlencoded" {
			t.Errorf("Content-Type = %q, want that of a form", typ)
		}
		fields := strings.SplitN(next(), " ", 4)
		status, err := strconv.Atoi(fields[1])
		if err != nil {
			t.Fatal(err)
		}
		index, err := strconv.ParseUint(strings.TrimPrefix(fields[2], "index="), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		answer := ""
		if len(fields) > 3 {
			answer = fields[3] + "\n"
		}
		return respond(r, status, deimos.HeaderIndex, index, strings.NewReader(answer)), nil
	})
	return client, next
}

func TestJoinSpeaksAsTheTranscriptsSay(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("Glob = %v, %v", files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var lines []string
			for scan := bufio.NewScanner(bytes.NewReader(data)); scan.Scan(); {
				if line := scan.Text(); !strings.HasPrefix(line, "#") {
					lines = append(lines, line)
				}
			}
			synctest.Test(t, func(t *testing.T) {
				client, outcome := replay(t, lines)
				got := describe(Join(t.Context(), Config{URL: testURL, Self: testSelf, HTTP: client}))
				if want := outcome(); got != want {
					t.Errorf("Join = %s\nwant %s", got, want)
				}
			})
		})
	}
}

func member(i int) Registration {
	return Registration{ID: uint64(i + 1), Name: fmt.Sprintf("n%d", i), PeerURLs: []string{fmt.Sprintf("http://10.0.0.%d:7001", i)}}
}

// joinAll lets some members and an observer join at once.
func joinAll(t *testing.T, f *fakeDirectory, n int) []Result {
	t.Helper()
	results := make([]Result, n+1)
	var wg sync.WaitGroup
	for i := range n + 1 {
		wg.Go(func() {
			var err error
			cfg := Config{URL: testURL, Self: member(i), HTTP: &http.Client{Transport: f}}
			if i == n {
				results[i], err = Observe(t.Context(), cfg)
			} else {
				results[i], err = Join(t.Context(), cfg)
			}
			if err != nil {
				t.Errorf("member %d: Join = %v, want nil", i, err)
			}
		})
	}
	wg.Wait()
	return results
}

// checkAgreement demands that all have the same members, each is in it or
// full, and as many are in it as the cluster wants.
func checkAgreement(t *testing.T, results []Result, size int) {
	t.Helper()
	in := 0
	for i, r := range results {
		if len(r.Members) != size || !reflect.DeepEqual(r.Members, results[0].Members) {
			t.Errorf("members of %d = %v, want %d as 0 has: %v", i, r.Members, size, results[0].Members)
		}
		if r.Full {
			continue
		}
		in++
		if !r.Self.equal(member(i)) {
			t.Errorf("Self of %d = %v, want %v", i, r.Self, member(i))
		}
	}
	if in != size {
		t.Errorf("%d processes became members, want %d", in, size)
	}
}

func TestJoinersAgreeOnTheMembers(t *testing.T) {
	for _, header := range []string{deimos.HeaderIndex, deimos.HeaderEtcdIndex} {
		for _, n := range []int{1, 2, 3, 5} {
			t.Run(fmt.Sprintf("%s/%d", header, n), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					size := min(n, 3)
					checkAgreement(t, joinAll(t, newFakeDirectory(strconv.Itoa(size), header), n), size)
				})
			})
		}
	}
}

func TestJoinersAgreeOverABadNetwork(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFakeDirectory("3", deimos.HeaderIndex)
				f.rand, f.faults = rand.New(rand.NewPCG(seed, 0)), 0.3
				checkAgreement(t, joinAll(t, f, 5), 3)
			})
		})
	}
}

func TestJoinWaitsForLateMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeDirectory("2", deimos.HeaderIndex)
		var wg sync.WaitGroup
		for i, late := range []time.Duration{0, 17 * time.Minute} {
			wg.Go(func() {
				<-time.After(late)
				r, err := Join(t.Context(), Config{URL: testURL, Self: member(i), HTTP: &http.Client{Transport: f}})
				if err != nil || len(r.Members) != 2 || r.Full {
					t.Errorf("Join of member %d = %v, %v, want two members", i, r, err)
				}
			})
		}
		wg.Wait()
	})
}

const (
	sizeAnswer  = `{"action":"get","node":{"key":"/d/_config/size","value":"%s","modifiedIndex":2,"createdIndex":2}}`
	emptyAnswer = `{"action":"get","node":{"key":"/d","dir":true,"modifiedIndex":2,"createdIndex":2}}`
	childAnswer = `{"action":"get","node":{"key":"/d","dir":true,"nodes":[%s]}}`
	child       = `{"key":"/d/%s","value":%q,"modifiedIndex":%d,"createdIndex":%[3]d}`
)

func TestJoinRefusesWhatCannotBecomeACluster(t *testing.T) {
	notSize := func(size string) []string { return []string{"200", fmt.Sprintf(sizeAnswer, size)} }
	children := func(list ...string) []string {
		return []string{"200", fmt.Sprintf(sizeAnswer, "3"), "200", fmt.Sprintf(childAnswer, strings.Join(list, ","))}
	}
	entry := func(key, value string, index int) string { return fmt.Sprintf(child, key, value, index) }
	for _, tt := range []struct {
		name    string
		answers []string // status and body in turn
		want    error
		text    string
	}{
		{"no size", []string{"404", `{"errorCode":100,"message":"Key not found","cause":"/d","index":2}`}, ErrSizeNotFound, "Key not found (/d)"},
		{"no keys API", []string{"404", "404 page not found\n"}, ErrSizeNotFound, "404 page not found"},
		{"size 0", notSize("0"), ErrSizeBad, `is "0"`},
		{"size negative", notSize("-1"), ErrSizeBad, `is "-1"`},
		{"size with sign", notSize("+3"), ErrSizeBad, `is "+3"`},
		{"size a word", notSize("three"), ErrSizeBad, `is "three"`},
		{"size a fraction", notSize("3.0"), ErrSizeBad, `is "3.0"`},
		{"size empty", notSize(""), ErrSizeBad, `is ""`},
		{"size with a line end", notSize(`3\n`), ErrSizeBad, `is "3\n"`},
		{"size too large", notSize("99999999999999999999"), ErrSizeBad, `is "99999999999999999999"`},
		{"size a directory", []string{"200", emptyAnswer}, ErrSizeBad, "is a directory"},
		{"refused", []string{"403", `{"errorCode":209,"message":"Invalid field","cause":"origin","index":0}`}, nil, "403 Forbidden: Invalid field (origin)"},
		{"strange status", []string{"204", ""}, nil, "204 No Content"},
		{"answer is a page", []string{"200", "<html>"}, nil, "not an answer of the keys API"},
		{"answer without node", []string{"200", "{}"}, nil, "no node"},
		{"answer too large", []string{"200", strings.Repeat(" ", answerMaxBytes+1)}, nil, "larger than 1048576 bytes"},
		{"directory is a file", []string{"200", fmt.Sprintf(sizeAnswer, "3"), "200", fmt.Sprintf(sizeAnswer, "3")}, nil, "is not a directory"},
		{"directory is gone", []string{"200", fmt.Sprintf(sizeAnswer, "3"), "404", ""}, nil, "404 Not Found"},
		{"write refused", []string{"200", fmt.Sprintf(sizeAnswer, "3"), "200", emptyAnswer, "413", `{"errorCode":210,"message":"Invalid POST form","cause":"too large","index":0}`}, nil, "413 Request Entity Too Large: Invalid POST form (too large)"},
		{"wait refused", []string{"200", fmt.Sprintf(sizeAnswer, "3"), "200", fmt.Sprintf(childAnswer, entry("8e9e05c52164694d", testSelf.value(), 4)),
			"200", fmt.Sprintf(childAnswer, entry("8e9e05c52164694d", testSelf.value(), 4)), "400", `{"errorCode":203,"message":"x","index":0}`}, nil, "400 Bad Request: x"},
		{"registration lost", []string{"200", fmt.Sprintf(sizeAnswer, "3"), "200", emptyAnswer, "201", "{}", "200", emptyAnswer}, ErrNotRegistered, "/8e9e05c52164694d"},
		{"key is no id", children(entry("n2", "n2=http://h:1", 4)), ErrBadRegistration, "/n2: the key is not a member id"},
		{"key is padded", children(entry("02", "n2=http://h:1", 4)), ErrBadRegistration, "/02: the key is not a member id"},
		{"key is upper case", children(entry("AB", "n2=http://h:1", 4)), ErrBadRegistration, "/AB: the key is not a member id"},
		{"key is 0", children(entry("0", "n2=http://h:1", 4)), ErrBadRegistration, "a member has an id"},
		{"child is a directory", children(`{"key":"/d/2","dir":true}`), ErrBadRegistration, "/2: it is a directory"},
		{"value is no list", children(entry("2", "n2", 4)), ErrBadRegistration, `"n2" is not name=URL&name=URL`},
		{"value is empty", children(entry("2", "", 4)), ErrBadRegistration, "is not name=URL"},
		{"value with two names", children(entry("2", "n2=http://h:1&n3=http://h:2", 4)), ErrBadRegistration, "more than one name"},
		{"value with a path", children(entry("2", "n2=http://h:1/x", 4)), ErrBadRegistration, "no path"},
		{"name of another", children(entry("2", "n2=http://h:2", 4), entry("3", "n2=http://h:3", 5)), ErrBadRegistration, `2 and 3 in http://reg:4001/keys/discovery/6c0 both have the name "n2"`},
		{"own name", children(entry("2", "n1=http://h:2", 4)), ErrBadRegistration, `2 and 8e9e05c52164694d in http://reg:4001/keys/discovery/6c0 both have the name "n1"`},
		{"URL of another", children(entry("2", "n2=http://h:2&n2=http://i:1", 4), entry("3", "n3=http://h:3&n3=http://i:1", 5)), ErrBadRegistration, "both have the peer URL http://i:1"},
		{"own URL", children(entry("2", "n2=http://h:2&n2=http://10.0.0.1:2380", 4)), ErrBadRegistration, "both have the peer URL http://10.0.0.1:2380"},
		{"own id with another value", children(entry("8e9e05c52164694d", "n1=http://h:1", 4)), ErrDuplicateID, `is "n1=http://h:1"`},
		{"id of other settings", children(entry("66", "stray=http://h:66", 4)), ErrBadRegistration, "other settings"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			answers := tt.answers
			client := clientOf(func(r *http.Request) (*http.Response, error) {
				if len(answers) == 0 {
					t.Fatalf("request %s %s, want none", r.Method, r.URL)
				}
				status, err := strconv.Atoi(answers[0])
				if err != nil {
					t.Fatal(err)
				}
				body := answers[1]
				answers = answers[2:]
				return respond(r, status, deimos.HeaderIndex, 9, strings.NewReader(body)), nil
			})
			cfg := Config{URL: testURL, Self: testSelf, HTTP: client, MemberID: func(name string, urls []string) uint64 {
				// The members of these stories have the ids that they should have, but
				// for the one named "stray".
				switch {
				case name == "stray":
					return 1
				case strings.HasPrefix(urls[0], "http://h:"):
					port, err := strconv.ParseUint(urls[0][len("http://h:"):], 16, 64)
					if err != nil {
						t.Fatal(err)
					}
					return port
				}
				return testSelf.ID
			}}
			r, err := Join(t.Context(), cfg)
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("Join = %v, want %v with %q", err, tt.want, tt.text)
			}
			if err != nil && (!strings.HasPrefix(err.Error(), "discovery: ") || strings.Count(err.Error(), "discovery: ") > 1) {
				t.Errorf("Join = %q, want one prefix", err)
			}
			if len(r.Members) > 0 {
				t.Errorf("members with an error = %v, want none", r.Members)
			}
			if len(answers) > 0 {
				t.Errorf("%d answers were not asked for", len(answers)/2)
			}
		})
	}
}

func TestJoinRefusesItsOwnBadConfig(t *testing.T) {
	good := Config{URL: testURL, Self: testSelf}
	for _, tt := range []struct {
		name   string
		change func(*Config)
		text   string
	}{
		{"URL", func(c *Config) { c.URL = "http://reg:4001/x" }, `URL "http://reg:4001/x"`},
		{"no id", func(c *Config) { c.Self.ID = 0 }, "has an id"},
		{"other id", func(c *Config) { c.MemberID = func(string, []string) uint64 { return 7 } }, "its id is not 8e9e05c52164694d"},
		{"no name", func(c *Config) { c.Self.Name = "" }, "not empty"},
		{"name with &", func(c *Config) { c.Self.Name = "a&b" }, "'&'"},
		{"no URL", func(c *Config) { c.Self.PeerURLs = nil }, "has a peer URL"},
		{"bad URL", func(c *Config) { c.Self.PeerURLs = []string{"h:1"} }, `peer URL "h:1"`},
		{"URL twice", func(c *Config) { c.Self.PeerURLs = []string{"http://h:1", "http://h:1"} }, "twice"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := good
			tt.change(&cfg)
			cfg.HTTP = clientOf(func(r *http.Request) (*http.Response, error) {
				t.Fatalf("request %s, want none", r.URL)
				return nil, nil
			})
			if _, err := Join(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("Join = %v, want an error with %q", err, tt.text)
			}
		})
	}
	if _, err := Observe(t.Context(), Config{URL: "reg"}); err == nil {
		t.Error("Observe with a bad URL = nil, want an error")
	}
}

func TestJoinTriesAgainWithGrowingPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		f := newFakeDirectory("1", deimos.HeaderIndex)
		var at []time.Duration
		start := time.Now()
		client := clientOf(func(r *http.Request) (*http.Response, error) {
			if len(at) == 9 {
				return f.RoundTrip(r)
			}
			at = append(at, time.Since(start)/time.Second)
			if len(at)%2 == 0 {
				return respond(r, 503, "", 0, strings.NewReader("busy")), nil
			}
			return nil, errors.New("connection refused")
		})
		r, err := Join(t.Context(), Config{URL: testURL, Self: member(1), HTTP: client, Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil || len(r.Members) != 1 {
			t.Fatalf("Join = %v, %v, want one member", r, err)
		}
		if want := []time.Duration{0, 1, 3, 7, 15, 31, 61, 91, 121}; !reflect.DeepEqual(at, want) {
			t.Errorf("attempts at seconds %d, want %d", at, want)
		}
		if got := strings.Count(log.String(), "level=WARN"); got != len(at) {
			t.Errorf("%d warnings for %d failures, want one each", got, len(at))
		}
	})
}

func TestJoinAsksAgainWhenAServerIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeDirectory("2", deimos.HeaderIndex)
		silent := true
		client := clientOf(func(r *http.Request) (*http.Response, error) {
			wait := r.URL.Query().Get("wait") == "true"
			if silent {
				silent = false
				<-r.Context().Done()
				return nil, r.Context().Err()
			}
			if wait { // its event is never seen
				f.put("3", member(2).value())
				<-r.Context().Done()
				return nil, r.Context().Err()
			}
			return f.RoundTrip(r)
		})
		start := time.Now()
		r, err := Join(t.Context(), Config{URL: testURL, Self: member(1), HTTP: client})
		if err != nil || len(r.Members) != 2 {
			t.Errorf("Join = %v, %v, want two members", r, err)
		}
		if got, want := time.Since(start), requestTimeout+pauseMin+waitTimeout; got != want {
			t.Errorf("Join took %s, want %s", got, want)
		}
	})
}

func TestWaitsThatEndAtOnceAreNotRepeatedAtOnce(t *testing.T) {
	for _, tt := range []struct{ name, body string }{
		{"empty", ""},
		{"cleared", `{"errorCode":401,"message":"x","index":9}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFakeDirectory("2", deimos.HeaderIndex)
				waits := 0
				client := clientOf(func(r *http.Request) (*http.Response, error) {
					if r.URL.Query().Get("wait") != "true" {
						return f.RoundTrip(r)
					}
					waits++
					status := 200
					if tt.body != "" {
						status = 400
					}
					return respond(r, status, "", 0, strings.NewReader(tt.body)), nil
				})
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second+time.Millisecond)
				defer cancel()
				_, err := Join(ctx, Config{URL: testURL, Self: member(1), HTTP: client})
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("Join = %v, want %v", err, context.DeadlineExceeded)
				}
				if waits != 11 {
					t.Errorf("%d waits in ten seconds, want 11", waits)
				}
			})
		})
	}
}

func TestTheEndOfTheContextEndsJoinAtOnce(t *testing.T) {
	for _, tt := range []struct {
		name string
		dir  func(*http.Request, *fakeDirectory) (*http.Response, error)
		text string
	}{
		{"in a pause", func(*http.Request, *fakeDirectory) (*http.Response, error) {
			return nil, errors.New("connection refused")
		}, "connection refused"},
		{"in a request", func(r *http.Request, _ *fakeDirectory) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}, "_config/size"},
		{"in a wait", func(r *http.Request, f *fakeDirectory) (*http.Response, error) { return f.RoundTrip(r) }, "waitIndex=4"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFakeDirectory("2", deimos.HeaderIndex)
				client := clientOf(func(r *http.Request) (*http.Response, error) { return tt.dir(r, f) })
				ctx, cancel := context.WithCancel(t.Context())
				start := time.Now()
				const end = 5500 * time.Millisecond
				time.AfterFunc(end, cancel)
				_, err := Join(ctx, Config{URL: testURL, Self: member(1), HTTP: client})
				if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), tt.text) {
					t.Errorf("Join = %v, want %v with %q", err, context.Canceled, tt.text)
				}
				if got := time.Since(start); got != end {
					t.Errorf("Join ended after %s, want %s", got, end)
				}
			})
		})
	}
}
