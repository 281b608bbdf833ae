package keystest

import (
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// story is a list of steps on a store that starts empty at index 1.
type story struct {
	file, name string
	// fresh asks for a store of its own, started with flags.
	fresh bool
	flags []string
	// advance is set when the story moves the clock.
	advance bool
	steps   []*step
}

func (st *story) key() string { return st.file + "/" + st.name }

// stepKind tells the forms of a step apart.
type stepKind int

const (
	stepRequest stepKind = iota // a request and its whole answer
	stepOpen                    // a watch: a request and the head of its answer
	stepLine                    // the next line of a watch
	stepEnd                     // the ordinary end of a watch
	stepHangup                  // the client leaves a watch
	stepAdvance                 // the clock moves
)

// step is one line of a transcript, with the answer lines that follow it.
type step struct {
	kind  stepKind
	line  int    // 1-based, in the file
	watch string // the name of the watch, for the four steps of one

	method, target string
	header         http.Header
	body           string
	hasBody        bool

	status   int
	index    int64 // -1: the answer is not one of the keys handler
	want     []headerWant
	answer   string   // the JSON or the text; for stepLine, the line
	hasText  bool     // answer is the whole body, without an implied newline
	patterns []string // regular expressions that the body must match
	pass     time.Duration
	// answerLine is the 1-based line on which the answer stands, 0 without one.
	answerLine int
}

// headerWant is a header an answer must have: the value itself, "-" for
// absent, "same" for that of the answer before.
type headerWant struct{ name, value string }

var (
	fieldGap   = regexp.MustCompile(` {3,}`)
	headerForm = regexp.MustCompile(`^([A-Z][A-Za-z]*(?:-[A-Z][A-Za-z]*)*):(?: (.*))?$`)
	openForm   = regexp.MustCompile(`^([a-z][a-z0-9]*): (.*)$`)
	lineForm   = regexp.MustCompile(`^([a-z][a-z0-9]*)>(?: (.*))?$`)
	methodForm = regexp.MustCompile(`^[A-Za-z]+$`)
)

// parse reads one transcript. file is its name without the suffix.
func parse(file, text string) ([]*story, error) {
	p := &parser{file: file}
	for i, raw := range strings.Split(text, "\n") {
		if err := p.feed(i+1, strings.TrimRight(raw, " \t\r")); err != nil {
			return nil, fmt.Errorf("keystest: parsing %s.txt:%d: %w", file, i+1, err)
		}
	}
	return p.stories, nil
}

type parser struct {
	file    string
	stories []*story
	last    *step // the step that an answer line belongs to
}

func (p *parser) feed(n int, text string) error {
	if i := strings.Index(text, "   # "); i > 0 {
		text = strings.TrimRight(text[:i], " ")
	}
	switch {
	case text == "" || strings.HasPrefix(text, "#"):
		return nil
	case strings.HasPrefix(text, "== "):
		p.last = nil
		return p.title(strings.TrimSpace(text[3:]))
	case len(p.stories) == 0:
		return fmt.Errorf("text before the first story")
	}
	st := p.stories[len(p.stories)-1]
	if need, ok := strings.CutPrefix(text, "needs: "); ok {
		return st.need(need)
	}
	if d, ok := strings.CutPrefix(text, "advance "); ok {
		pass, err := time.ParseDuration(d)
		if err != nil || !st.advance {
			return fmt.Errorf("advance %s: not a duration, or the story does not say it needs it", d)
		}
		st.steps = append(st.steps, &step{kind: stepAdvance, line: n, pass: pass})
		return nil
	}
	if text[0] == '{' || text[0] == '"' || text[0] == '~' {
		if p.last == nil {
			return fmt.Errorf("an answer without a request")
		}
		return p.last.setAnswer(n, text)
	}
	s, err := parseStep(n, text)
	if err != nil {
		return err
	}
	p.last = nil
	if s.kind == stepRequest || s.kind == stepOpen {
		p.last = s
	}
	st.steps = append(st.steps, s)
	return nil
}

func (p *parser) title(name string) error {
	if name == "" || strings.ContainsAny(name, "#/") {
		return fmt.Errorf("bad story title %q", name)
	}
	for _, st := range p.stories {
		if st.name == name {
			return fmt.Errorf("a second story %q", name)
		}
	}
	p.stories = append(p.stories, &story{file: p.file, name: name})
	return nil
}

func (st *story) need(text string) error {
	word, rest, _ := strings.Cut(text, " ")
	switch word {
	case "fresh":
		st.fresh = true
	case "flags":
		st.fresh = true
		st.flags = append(st.flags, strings.Fields(rest)...)
	case "advance":
		st.advance = true
	default:
		return fmt.Errorf("unknown need %q", text)
	}
	return nil
}

func parseStep(n int, text string) (*step, error) {
	s := &step{line: n, index: -1, header: http.Header{}}
	if m := lineForm.FindStringSubmatch(text); m != nil {
		s.kind, s.watch, s.answer, s.answerLine = stepLine, m[1], m[2], n
		if m[2] == "(end)" {
			s.kind = stepEnd
		}
		return s, nil
	}
	if m := openForm.FindStringSubmatch(text); m != nil {
		s.kind, s.watch, text = stepOpen, m[1], m[2]
		if text == "close" {
			s.kind = stepHangup
			return s, nil
		}
	}
	ask, answer, ok := strings.Cut(text, "→ ")
	if !ok {
		return nil, fmt.Errorf("a step without →")
	}
	if err := s.parseRequest(strings.TrimSpace(ask)); err != nil {
		return nil, err
	}
	return s, s.parseAnswer(strings.TrimSpace(answer))
}

func (s *step) parseRequest(text string) error {
	fields := fieldGap.Split(text, -1)
	var ok bool
	s.method, s.target, ok = strings.Cut(fields[0], " ")
	if !ok || !methodForm.MatchString(s.method) || !strings.HasPrefix(s.target, "/") {
		return fmt.Errorf("bad request %q", fields[0])
	}
	for _, f := range fields[1:] {
		if m := headerForm.FindStringSubmatch(f); m != nil && !s.hasBody {
			s.header.Add(m[1], m[2])
			continue
		}
		if s.hasBody {
			return fmt.Errorf("a second body %q", f)
		}
		s.body, s.hasBody = f, true
		if f[0] == '"' {
			text, err := strconv.Unquote(f)
			if err != nil {
				return fmt.Errorf("body %s: %w", f, err)
			}
			s.body = text
		}
	}
	return nil
}

func (s *step) parseAnswer(text string) error {
	fields := fieldGap.Split(text, -1)
	status, rest, _ := strings.Cut(fields[0], " ")
	code, err := strconv.Atoi(status)
	if err != nil || code < 100 || code > 599 {
		return fmt.Errorf("bad status %q", status)
	}
	s.status = code
	if rest != "" {
		fields[0] = rest
	} else {
		fields = fields[1:]
	}
	for _, f := range fields {
		if v, ok := strings.CutPrefix(f, "index="); ok {
			u, err := strconv.ParseUint(v, 10, 32)
			if err != nil {
				return fmt.Errorf("bad index %q", f)
			}
			s.index = int64(u)
		} else if m := headerForm.FindStringSubmatch(f); m != nil {
			s.want = append(s.want, headerWant{m[1], m[2]})
		} else if err := s.setAnswer(s.line, f); err != nil {
			return err
		}
	}
	return nil
}

// setAnswer takes one piece of the answer's body: a JSON object, a quoted
// text, or ~ and a regular expression.
func (s *step) setAnswer(n int, text string) error {
	if expr, ok := strings.CutPrefix(text, "~"); ok {
		expr = strings.TrimSpace(expr)
		if _, err := regexp.Compile(expr); err != nil {
			return fmt.Errorf("pattern: %w", err)
		}
		s.patterns = append(s.patterns, expr)
		return nil
	}
	if s.answerLine != 0 {
		return fmt.Errorf("a second answer %q", text)
	}
	s.answerLine = n
	switch {
	case strings.HasPrefix(text, "{"):
		s.answer = text
	case strings.HasPrefix(text, `"`):
		body, err := strconv.Unquote(text)
		if err != nil {
			return fmt.Errorf("answer %s: %w", text, err)
		}
		s.answer, s.hasText = body, true
	default:
		return fmt.Errorf("bad answer %q", text)
	}
	return nil
}
