package keystest

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// canned is a store that gives one answer to everything.
type canned struct {
	status int
	index  string
	header map[string]string
	body   func(w io.Writer, r *http.Request)
}

func (c canned) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	for _, name := range []string{"X-Etcd-Index", "X-Deimos-Index"} {
		h.Set(name, c.index)
	}
	for _, name := range []string{"X-Etcd-Cluster-Id", "X-Deimos-Cluster-Id"} {
		h.Set(name, "7e27652122e8b2ae")
	}
	h.Set("X-Raft-Index", "4")
	h.Set("X-Raft-Term", "1")
	h.Set("Content-Type", "application/json")
	for name, v := range c.header {
		if v == "" {
			h.Del(name)
			continue
		}
		h.Set(name, v)
	}
	w.WriteHeader(c.status)
	c.body(w, r)
}

// answerOf plays the only step of a story against a canned store and returns
// what was wrong.
func answerOf(t *testing.T, text string, c canned) []mismatch {
	t.Helper()
	stories, err := parse("f", "== s\n"+text)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(c)
	t.Cleanup(srv.Close)
	s := &suite{door: URL(srv.URL), opts: Options{LineMax: time.Second}, occurred: map[string]bool{}, played: map[string]bool{}}
	p, err := newPlayer(t.Context(), s, s.door, stories[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	var found []mismatch
	for _, step := range stories[0].steps {
		found = append(found, p.play(t.Context(), step)...)
	}
	return found
}

func text(format string) func(io.Writer, *http.Request) {
	return func(w io.Writer, r *http.Request) {
		dir := strings.Split(r.URL.Path+"//", "/")[2]
		fmt.Fprint(w, strings.ReplaceAll(format, "DIR", dir))
	}
}

func TestPlayerSeesWhatIsWrong(t *testing.T) {
	const step = `GET /keys/a   → 200 index=1   {"action":"get","node":{"key":"/a","value":"1","modifiedIndex":1,"createdIndex":1}}`
	good := text(`{"action":"get","node":{"key":"/DIR/a","value":"1","modifiedIndex":9,"createdIndex":9}}` + "\n")
	soon := time.Now().UTC().Add(time.Minute).Truncate(time.Millisecond).Format("2006-01-02T15:04:05.000Z")
	if strings.HasSuffix(soon, "0Z") {
		soon = soon[:len(soon)-2] + "1Z"
	}
	const lifeStep = `GET /keys/a   → 200 index=1   {"expiration":"2030-01-01T00:01:00Z","ttl":60}`
	for _, tt := range []struct {
		name, step string
		c          canned
		want       string // "" for nothing wrong, else a part of the text
		rule       string
	}{
		{"nothing", step, canned{status: 200, index: "9", body: good}, "", ""},
		{"the status", step, canned{status: 201, index: "9", body: good}, "status = 201, want 200", ""},
		{"a second line", step, canned{status: 200, index: "9", body: text(`{"action":"get","node":{"key":"/DIR/a","value":"1","modifiedIndex":9,"createdIndex":9}}` + "\n\n")}, "answer = ", ""},
		{"no line end", step, canned{status: 200, index: "9", body: text(`{"action":"get","node":{"key":"/DIR/a","value":"1","modifiedIndex":9,"createdIndex":9}}`)}, "answer = ", ""},
		{"an index in the body", step, canned{status: 200, index: "9", body: text(`{"action":"get","node":{"key":"/DIR/a","value":"1","modifiedIndex":8,"createdIndex":9}}` + "\n")}, "answer = ", ""},
		{"the order of fields", step, canned{status: 200, index: "9", body: text(`{"node":{"key":"/DIR/a","value":"1","modifiedIndex":9,"createdIndex":9},"action":"get"}` + "\n")}, "answer = ", ""},
		{"an index header", "GET /keys/a   → 200 index=2", canned{status: 200, index: "9", body: good}, "X-Etcd-Index = 9, want 10", ""},
		{"a missing header", step, canned{status: 200, index: "9", header: map[string]string{"X-Raft-Term": ""}, body: good}, "X-Raft-Term", "header X-Raft-Term on success"},
		{"a padded cluster id", step, canned{status: 200, index: "9", header: map[string]string{"X-Etcd-Cluster-Id": "00ab"}, body: good}, "X-Etcd-Cluster-Id", "header X-Etcd-Cluster-Id on success"},
		{"the media type", step, canned{status: 200, index: "9", header: map[string]string{"Content-Type": "text/plain"}, body: good}, "Content-Type", "header Content-Type on success"},
		{"a wanted header", "GET /keys/a   → 200   Allow: GET", canned{status: 200, index: "9", body: good}, `header Allow = "", want "GET"`, ""},
		{"an unwanted header", "GET /keys/a   → 200   X-Raft-Term: -", canned{status: 200, index: "9", body: good}, `want none`, ""},
		{"a pattern", "GET /keys/a   → 200   ~nothing", canned{status: 200, index: "9", body: good}, "want a match of nothing", ""},
		{"a good life", lifeStep, canned{status: 200, index: "9", body: text(`{"expiration":"` + soon + `","ttl":59}` + "\n")}, "", ""},
		{"a short ttl", lifeStep, canned{status: 200, index: "9", body: text(`{"expiration":"` + soon + `","ttl":58}` + "\n")}, "ttl = 58, want 60", ""},
		{"a ttl of 0", `GET /keys/a   → 200 index=1   {"ttl":1}`, canned{status: 200, index: "9", body: text(`{"ttl":0}` + "\n")}, "ttl = 0", ""},
		{"a far expiration", lifeStep, canned{status: 200, index: "9", body: text(`{"expiration":"2030-01-01T00:01:00Z","ttl":60}` + "\n")}, "expiration = 2030-01-01T00:01:00Z, want", ""},
		{"zeros after the point", lifeStep, canned{status: 200, index: "9", body: text(`{"expiration":"` + soon[:20] + `120Z","ttl":60}` + "\n")}, "expiration = ", "expiration format"},
		{"a missing line", "w: GET /keys/a?wait=true   → 200\nw> {\"a\":1}", canned{status: 200, index: "9", body: text("")}, "the body has ended", ""},
		{"a wrong line", "w: GET /keys/a?wait=true   → 200\nw> {\"a\":1}", canned{status: 200, index: "9", body: text("{1}\n")}, "answer = {1}", ""},
		{"half a line", "w: GET /keys/a?wait=true   → 200\nw> {\"a\":1}\nw> (end)", canned{status: 200, index: "9", body: text("{\"a\":1}\n{")}, "half a line", ""},
		{"a line after the last", "w: GET /keys/a?wait=true   → 200\nw> {\"a\":1}\nw> (end)", canned{status: 200, index: "9", body: text("{\"a\":1}\n{}\n")}, "want the end", ""},
		{"an end", "w: GET /keys/a?wait=true   → 200\nw> {\"a\":1}\nw> (end)", canned{status: 200, index: "9", body: text("{\"a\":1}\n")}, "", ""},
		{"no watch", "w> {}", canned{status: 200, index: "9", body: good}, `no watch "w" is open`, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			found := answerOf(t, tt.step, tt.c)
			if tt.want == "" {
				if len(found) > 0 {
					t.Errorf("play(%q) = %v, want nothing wrong", tt.step, found)
				}
				return
			}
			for _, m := range found {
				if strings.Contains(m.text, tt.want) && m.rule == tt.rule {
					return
				}
			}
			t.Errorf("play(%q) = %v, want %q under rule %q", tt.step, found, tt.want, tt.rule)
		})
	}
}

func TestPlayerSeesAnEarlyExpiry(t *testing.T) {
	const story = `PUT /keys/a   value=1&ttl=60   → 200
w: GET /keys/a?wait=true   → 200
w> {"action":"expire","node":{"key":"/a"}}`
	found := answerOf(t, story, canned{status: 200, index: "9", body: text(`{"action":"expire","node":{"key":"/DIR/a"}}` + "\n")})
	if len(found) != 1 || !strings.Contains(found[0].text, "early") {
		t.Errorf("play() = %v, want one early expiry", found)
	}
}

func TestMoverMovesKeysAndIndexes(t *testing.T) {
	m := mover{dir: "k00000000", offset: 10, url: "http://h:1"}
	for _, tt := range []struct{ name, in, want string }{
		{"a key", "/keys/a?prevIndex=<2>", "/keys/k00000000/a?prevIndex=12"},
		{"the directory itself", "/v2/keys?wait=true", "/v2/keys/k00000000?wait=true"},
		{"the root", "/keys{root}?wait=true", "/keys?wait=true"},
		{"below the root", "/keys/{root}<00000000000000000002>", "/keys/00000000000000000012"},
		{"a place of its own", "/keys/../{}/a", "/keys/../k00000000/a"},
		{"another path", "/keysa", "/keysa"},
		{"a repetition", "/keys/{ab*3}", "/keys/k00000000/ababab"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := m.target(tt.in); got != tt.want {
				t.Errorf("target(%q) = %q, want %q", tt.in, got, tt.want)
			}
		})
	}
	const in = `{"cause":"/a","key":"/","modifiedIndex":3,"index":0,"x":"[<9> != <3>]"}`
	const want = `{"cause":"/k00000000/a","key":"/","modifiedIndex":13,"index":0,"x":"[19 != 13]"}`
	if got := m.answer(in); got != want {
		t.Errorf("answer(%s) = %s, want %s", in, got, want)
	}
	all := mover{prefix: "/v2/keys", dir: "k"}
	if got := all.target("/keys/a"); got != "/v2/keys/k/a" {
		t.Errorf("target(/keys/a) = %s, want it under /v2/keys", got)
	}
}

func TestUpdateWritesTheAnswersThatDiffer(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "f.txt")
	if err := os.WriteFile(name, []byte("== s\nGET /keys/a   → 200   {\"old\":1}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &suite{opts: Options{UpdateDir: dir}}
	p := &player{suite: s, story: &story{file: "f"}, mover: mover{dir: "k00000000", offset: 5}}
	s.note(p, &step{answer: `{"old":1}`, answerLine: 2}, `{"key":"/k00000000/a","index":7}`+"\n")
	if err := s.update(); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if want := "== s\nGET /keys/a   → 200   {\"key\":\"/a\",\"index\":2}\n"; string(got) != want {
		t.Errorf("update() wrote %q, want %q", got, want)
	}
	s.edits[0].line = 99
	if err := s.update(); err == nil {
		t.Error("update() of a line that is not there = nil, want an error")
	}
}

// handDoor leads to a store whose clock the test turns.
type handDoor struct {
	Door
	mu      sync.Mutex
	now     time.Time
	due     time.Time
	expired chan struct{} // closed once now is not before due
}

func (d *handDoor) Now() time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.now
}

func (d *handDoor) Advance(by time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	before := d.now.Before(d.due)
	d.now = d.now.Add(by)
	if before && !d.now.Before(d.due) {
		close(d.expired)
	}
}

func TestPlayerTurnsTheClockWhileItWaitsForAnExpiry(t *testing.T) {
	start := time.Date(2040, 5, 6, 7, 8, 9, 0, time.UTC)
	door := &handDoor{now: start, due: start.Add(22 * time.Second), expired: make(chan struct{})}
	store := canned{status: 200, index: "9", body: func(w io.Writer, r *http.Request) {
		if !r.URL.Query().Has("wait") {
			return
		}
		if err := http.NewResponseController(w.(http.ResponseWriter)).Flush(); err != nil {
			t.Error(err)
		}
		select {
		case <-door.expired:
			fmt.Fprintf(w, "{\"expiration\":%q}\n", door.due.Format(time.RFC3339Nano))
		case <-r.Context().Done():
		}
	}}
	srv := httptest.NewServer(store)
	t.Cleanup(srv.Close)
	door.Door = URL(srv.URL)
	stories, err := parse("f", `== s
needs: advance
w: GET /keys/a?wait=true   → 200 index=1
advance 20.5s
w> {"expiration":"2030-01-01T00:00:22Z"}
w> (end)`)
	if err != nil {
		t.Fatal(err)
	}
	s := &suite{door: door, occurred: map[string]bool{}, played: map[string]bool{}}
	p, err := newPlayer(t.Context(), s, door, stories[0])
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	for _, step := range stories[0].steps {
		if found := p.play(t.Context(), step); len(found) > 0 {
			t.Errorf("play(line %d) = %v, want nothing wrong", step.line, found)
		}
	}
	if got := door.Now().Sub(start); got < 22*time.Second || got > 24*time.Second {
		t.Errorf("the clock was turned by %v, want little more than 22 s", got)
	}
}

func TestKnownDifferencesMustOccur(t *testing.T) {
	stories := []*story{{file: "f", name: "a"}, {file: "f", name: "b"}, {file: "f", name: "c", fresh: true}}
	s := &suite{
		opts: Options{KnownDifferences: map[string]string{
			"f/a": "", "f/a#2": "", "f/b": "", "f/c": "", "f/d": "", "expiration format": "", "header X on error": "",
		}},
		played:   map[string]bool{"f/a": true},
		occurred: map[string]bool{"f/a#2": true, "header X on error": true},
	}
	want := []string{`the known difference "f/a" did not occur`, `the known difference "f/d" names no story`}
	if got := s.unseen(stories); !slices.Equal(got, want) {
		t.Errorf("unseen() = %q, want %q", got, want)
	}
	s.played["f/b"], s.occurred["f/b"] = true, true
	want = append([]string{`the known difference "expiration format" did not occur`}, want...)
	if got := s.unseen(stories); !slices.Equal(got, want) {
		t.Errorf("unseen() after all were played = %q, want %q", got, want)
	}
}

func TestKnownDifferenceExcusesItsPlaceOnly(t *testing.T) {
	st := &story{file: "f", name: "a"}
	s := &suite{opts: Options{KnownDifferences: map[string]string{"f/a#2": "", "header X on error": ""}}}
	for _, tt := range []struct {
		name string
		step int
		m    mismatch
		want string
	}{
		{"the step", 2, mismatch{text: "x"}, "f/a#2"},
		{"another step", 3, mismatch{text: "x"}, ""},
		{"the rule", 3, mismatch{rule: "header X on error"}, "header X on error"},
		{"another rule", 3, mismatch{rule: "header Y on error"}, ""},
		{"another rule at the step", 2, mismatch{rule: "header Y on error"}, "f/a#2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := s.known(st, tt.step, tt.m); got != tt.want {
				t.Errorf("known(step %d, %+v) = %q, want %q", tt.step, tt.m, got, tt.want)
			}
		})
	}
}
