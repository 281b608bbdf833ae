// Package keystest is the conformance suite of the keys API. The behaviour is
// written once, as transcripts in testdata/*.txt, and played through every
// door that leads to a key store: a server in the test's own process, one
// member over HTTP, a follower of three, the real binary, another store that
// speaks the same protocol.
//
// A transcript is a list of stories in the notation of the HTTP contract (see
// testdata/README.md). The stories count from store index 1 and from the root
// of an empty tree; the player moves them under a fresh directory of the
// store it is given and onto the index it reads there, so that a used store
// will do. It must be the only writer while it plays.
//
// The package never starts a server and knows nothing of how one is built. A
// story that needs more than a base URL (an empty store, flags, a clock that
// can be moved) is played when the door offers it and skipped by name when
// not. Goroutines belong to the player of one story: each reads the body of
// one watch, and the player waits for all of them before the story ends.
package keystest

import (
	"embed"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

//go:embed testdata/*.txt
var transcripts embed.FS

// Door is a way to a key store. Run calls it from the goroutine of the test
// and, for the bodies of watches, from goroutines of its own.
type Door interface {
	// URL is the base URL of the store: scheme, host and port, without a path.
	URL() string
	// Do sends one request as it is. It follows no redirect, asks for no
	// compression, and returns once the head of the answer has come.
	Do(*http.Request) (*http.Response, error)
}

// Clock is what a [Door] offers in addition when the clock of its store,
// cluster time and wall clock alike, is turned by hand. Stories that let time
// pass are skipped without it; stories that wait for an expiry move it.
type Clock interface {
	// Now is the wall clock that the store computes expirations with.
	Now() time.Time
	// Advance moves the clock and returns; what becomes due by it may be
	// removed later.
	Advance(time.Duration)
}

// Fresher is what a [Door] offers in addition when it can give a store that
// nobody has written to. Stories that need one are skipped without it.
type Fresher interface {
	// Fresh starts a store with the given flags of the deimos program, as
	// "--name", "value", and returns the door to it. It cleans up when t ends,
	// and skips t with a reason when it does not know a flag.
	Fresh(t testing.TB, flags ...string) Door
}

// Options say how a suite is played. The zero value plays the transcripts as
// they are written and knows no difference.
type Options struct {
	// Prefix replaces both /keys and /v2/keys in the stories; "" leaves each
	// request under the prefix it is written with.
	Prefix string
	// KnownDifferences lists where the store behind the door differs on
	// purpose, each with its reason. A key is one of
	//	"file/story"     the story differs somewhere, the rest of it is not played
	//	"file/story#3"   the third step of the story differs, the rest is played
	//	"header X on Y"  header X breaks its rule on answers of kind Y, which
	//	                 is success, watch, error or 405
	//	"expiration format"  expirations are not rounded to milliseconds
	// A listed difference that does not occur is a failure, like an unlisted one.
	KnownDifferences map[string]string
	// LineMax is how long the next line of a watch may take; 0 means 6 s. No
	// life in the stories is longer than 2 s, and an expiry is 1 s late at most.
	LineMax time.Duration
	// UpdateDir is a directory of transcripts. When it is set, answers that
	// differ are also written into its files; the result is to be read as a
	// diff before it is kept.
	UpdateDir string
}

// URL is the door to the store at a base URL, over HTTP/1.1 with a client of
// its own.
func URL(base string) Door {
	return &urlDoor{
		base: strings.TrimSuffix(base, "/"),
		client: &http.Client{
			Transport: &http.Transport{DisableCompression: true},
			CheckRedirect: func(*http.Request, []*http.Request) error {
				return http.ErrUseLastResponse
			},
		},
	}
}

type urlDoor struct {
	base   string
	client *http.Client
}

func (d *urlDoor) URL() string                                { return d.base }
func (d *urlDoor) Do(r *http.Request) (*http.Response, error) { return d.client.Do(r) }

// Run plays every story through the door, each as a subtest named by its file
// and its title. The stories run one after the other, since they count store
// indexes; different doors may be played in parallel.
func Run(t *testing.T, door Door, opts Options) {
	t.Helper()
	stories, err := load(transcripts)
	if err != nil {
		t.Fatal(err)
	}
	s := &suite{door: door, opts: opts, occurred: map[string]bool{}, played: map[string]bool{}}
	if c, ok := door.(interface{ CloseIdleConnections() }); ok {
		t.Cleanup(c.CloseIdleConnections)
	}
	for file, list := range byFile(stories) {
		t.Run(file, func(t *testing.T) {
			for _, st := range list {
				t.Run(st.name, func(t *testing.T) { s.run(t, st) })
			}
		})
	}
	for _, text := range s.unseen(stories) {
		t.Error(text)
	}
	if opts.UpdateDir != "" {
		if err := s.update(); err != nil {
			t.Fatal(err)
		}
	}
}

// CloseIdleConnections lets go of the connections that no request uses.
func (d *urlDoor) CloseIdleConnections() { d.client.CloseIdleConnections() }

// suite is the state that the stories of one Run share. The test's goroutine
// owns it.
type suite struct {
	door      Door
	opts      Options
	clusterID string
	// occurred holds the keys of known differences that were seen, played the
	// stories that were not skipped.
	occurred, played map[string]bool
	edits            []edit
	count            int
}

func (s *suite) run(t *testing.T, st *story) {
	door := s.door
	if reason := s.prepare(t, st, &door); reason != "" {
		t.Skip(reason)
	}
	s.count++
	p, err := newPlayer(t.Context(), s, door, st)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	s.played[st.key()] = true
	for i, step := range st.steps {
		differs := false
		for _, m := range p.play(t.Context(), step) {
			key := s.known(st, i+1, m)
			if key == "" {
				t.Errorf("%s:%d: %s", st.file+".txt", step.line, m.text)
			} else if !s.occurred[key] {
				s.occurred[key] = true
				t.Logf("known difference %q (%s): %s", key, s.opts.KnownDifferences[key], m.text)
			}
			differs = differs || key == "" && m.rule == "" || key == st.key()
		}
		if differs && s.opts.UpdateDir == "" {
			return // the state is no longer the one the story tells of
		}
	}
}

// prepare finds the door a story needs; it returns the reason when there is
// none.
func (s *suite) prepare(t *testing.T, st *story, door *Door) string {
	if st.advance {
		if _, ok := s.door.(Clock); !ok {
			return "the clock behind this door cannot be moved"
		}
	}
	if st.fresh {
		f, ok := s.door.(Fresher)
		if !ok {
			return "this door gives no fresh store"
		}
		*door = f.Fresh(t, st.flags...)
		s.clusterID = ""
		t.Cleanup(func() { s.clusterID = "" })
	}
	return ""
}

// known returns the key under which a mismatch is listed, "" if it is not.
func (s *suite) known(st *story, step int, m mismatch) string {
	keys := []string{st.key() + fmt.Sprintf("#%d", step), st.key()}
	if m.rule != "" {
		keys = append([]string{m.rule}, keys...)
	}
	for _, k := range keys {
		if _, ok := s.opts.KnownDifferences[k]; ok {
			return k
		}
	}
	return ""
}

// unseen lists what is wrong with the known differences: those that did not
// occur although what they are about was played, and those about nothing.
func (s *suite) unseen(stories []*story) []string {
	all := len(s.played) > 0
	names := map[string]bool{}
	for _, st := range stories {
		names[st.key()] = true
		all = all && (s.played[st.key()] || st.fresh || st.advance)
	}
	var found []string
	for key := range s.opts.KnownDifferences {
		name, _, _ := strings.Cut(key, "#")
		rule := strings.HasPrefix(key, "header ") || key == "expiration format"
		switch {
		case s.occurred[key]:
		case !rule && !names[name]:
			found = append(found, fmt.Sprintf("the known difference %q names no story", key))
		case rule && all || s.played[name]:
			found = append(found, fmt.Sprintf("the known difference %q did not occur", key))
		}
	}
	slices.Sort(found)
	return found
}

// load parses all transcripts; the order is that of the file names.
func load(fsys fs.FS) ([]*story, error) {
	names, err := fs.Glob(fsys, "testdata/*.txt")
	if err != nil {
		return nil, fmt.Errorf("keystest: listing transcripts: %w", err)
	}
	slices.Sort(names)
	var all []*story
	for _, name := range names {
		text, err := fs.ReadFile(fsys, name)
		if err != nil {
			return nil, fmt.Errorf("keystest: reading transcript: %w", err)
		}
		list, err := parse(strings.TrimSuffix(path.Base(name), ".txt"), string(text))
		if err != nil {
			return nil, err
		}
		all = append(all, list...)
	}
	return all, nil
}

// byFile yields the stories of one file after the other.
func byFile(stories []*story) func(yield func(string, []*story) bool) {
	return func(yield func(string, []*story) bool) {
		for len(stories) > 0 {
			n := 1
			for n < len(stories) && stories[n].file == stories[0].file {
				n++
			}
			if !yield(stories[0].file, stories[:n]) {
				return
			}
			stories = stories[n:]
		}
	}
}

var clusterIDForm = regexp.MustCompile(`^[1-9a-f][0-9a-f]{0,15}$`)
