package keystest

import (
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseRefusesWhatIsNoTranscript(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"no story", "GET /keys/a   → 200", "before the first story"},
		{"a bad title", "== #", "bad story title"},
		{"a title with a slash", "== a/b", "bad story title"},
		{"two stories of one title", "== a\n== a", `a second story "a"`},
		{"an unknown need", "== a\nneeds: luck", `unknown need "luck"`},
		{"an advance without need", "== a\nadvance 1s", "does not say it needs it"},
		{"a bad duration", "== a\nneeds: advance\nadvance soon", "not a duration"},
		{"no arrow", "== a\nGET /keys/a", "without →"},
		{"no target", "== a\nGET   → 200", "bad request"},
		{"a relative target", "== a\nGET keys   → 200", "bad request"},
		{"two bodies", "== a\nPUT /keys/a   b=1   c=2   → 200", "a second body"},
		{"an open quote", "== a\nPUT /keys/a   \"b   → 200", "body"},
		{"no status", "== a\nGET /keys/a   → ok", "bad status"},
		{"a status out of range", "== a\nGET /keys/a   → 99", "bad status"},
		{"a bad index", "== a\nGET /keys/a   → 200 index=-1", "bad index"},
		{"an answer that is none", "== a\nGET /keys/a   → 200   what", "bad answer"},
		{"two answers", "== a\nGET /keys/a   → 200   {}\n{}", "a second answer"},
		{"an answer to nothing", "== a\n{}", "without a request"},
		{"an answer to a line", "== a\nw> x\n{}", "without a request"},
		{"a bad pattern", "== a\nGET /keys/a   → 200\n~(", "pattern"},
		{"a bad quoted answer", "== a\nGET /keys/a   → 200   \"x", "answer"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parse("f", tt.text)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "f.txt:") {
				t.Errorf("parse(%q) = %v, want an error with %q and the place", tt.text, err, tt.want)
			}
		})
	}
}

func TestParseReadsEveryFormOfAStep(t *testing.T) {
	const text = `# remark
== a story
needs: flags --cors *
needs: advance
PUT /keys/a?x=1   Content-Type: -   value=1   → 201 index=2   Allow: -   {"a":1}   # remark
HEAD /keys/a   → 404
~^x$
w: GET /keys/a?wait=true   → 200 index=2
w> {"b":2}
w>
w> (end)
w: close
advance 1.5s
PUT /keys/a   "a\nb"   → 400   "text\n"
`
	stories, err := parse("f", text)
	if err != nil {
		t.Fatal(err)
	}
	if len(stories) != 1 {
		t.Fatalf("parse() = %d stories, want 1", len(stories))
	}
	st := stories[0]
	if !st.fresh || !st.advance || !cmp.Equal(st.flags, []string{"--cors", "*"}) || st.key() != "f/a story" {
		t.Errorf("story = %+v, want fresh, advance and flags", st)
	}
	var kinds []stepKind
	for _, s := range st.steps {
		kinds = append(kinds, s.kind)
	}
	want := []stepKind{stepRequest, stepRequest, stepOpen, stepLine, stepLine, stepEnd, stepHangup, stepAdvance, stepRequest}
	if diff := cmp.Diff(want, kinds); diff != "" {
		t.Fatalf("kinds of steps (-want +got):\n%s", diff)
	}
	put := st.steps[0]
	if put.target != "/keys/a?x=1" || put.body != "value=1" || put.status != 201 || put.index != 2 ||
		put.answer != `{"a":1}` || put.answerLine != 5 || put.want[0] != (headerWant{"Allow", "-"}) {
		t.Errorf("step = %+v, want what the line says", put)
	}
	if last := st.steps[8]; last.body != "a\nb" || last.answer != "text\n" || !last.hasText {
		t.Errorf("step = %+v, want body and answer unquoted", last)
	}
}

func TestTranscriptsParse(t *testing.T) {
	stories, err := load(transcripts)
	if err != nil {
		t.Fatal(err)
	}
	if len(stories) < 150 {
		t.Errorf("load() = %d stories, want all", len(stories))
	}
}

func FuzzParse(f *testing.F) {
	names, err := fs.Glob(transcripts, "testdata/*.txt")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Add("== a\nw: GET /keys/a   → 200 index=3\nw> x\nw> (end)\nw: close")
	f.Fuzz(func(t *testing.T, text string) {
		stories, err := parse("f", text)
		if err != nil {
			return
		}
		m := mover{dir: "k00000000", offset: 7, url: "http://h"}
		for _, st := range stories {
			for _, s := range st.steps {
				if len(s.target)+len(s.body)+len(s.answer) > 1<<10 || strings.Contains(s.target+s.body+s.answer, "*") {
					continue // repetitions are as long as they say
				}
				m.request(s)
				m.back(m.answer(s.answer))
			}
		}
	})
}
