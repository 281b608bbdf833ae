package keystest

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	// answerMax is how long a whole answer may take, lineMax how long the next
	// line of a watch may: a TTL of the stories, the second an expiry may be
	// late, and room for a busy machine.
	answerMax = 15 * time.Second
	lineMax   = 6 * time.Second
	// expiryLateMax is the contract's second, and expirySlack what a busy
	// machine may add to it before the answer is read.
	expiryLateMax = time.Second
	expirySlack   = time.Second
)

// mismatch is one place where an answer is not what the transcript says. rule
// names the rule of KnownDifferences that was broken when it is not about the
// step alone.
type mismatch struct{ rule, text string }

// player plays one story. It belongs to the goroutine of the test; only the
// reader of each watch runs beside it.
type player struct {
	suite *suite
	door  Door
	clock Clock // nil: time passes by itself
	story *story
	mover mover
	start time.Time // the wall clock of the store when the story began
	// watches are the open and the ended watches, by name; last is the head of
	// the answer before.
	watches map[string]*watch
	last    http.Header
	lives   map[string]life
}

// life is when a key of the story may expire.
type life struct{ earliest, latest time.Time }

// newPlayer picks a directory of its own for the story and reads the index it
// starts at.
func newPlayer(ctx context.Context, s *suite, door Door, st *story) (*player, error) {
	p := &player{
		suite: s, door: door, story: st,
		watches: map[string]*watch{}, lives: map[string]life{},
		start: time.Now(),
	}
	p.mover = mover{prefix: s.opts.Prefix, dir: fmt.Sprintf("k%05x%03d", rand.N(1<<20), s.count%1000), url: door.URL()}
	if c, ok := door.(Clock); ok {
		p.clock, p.start = c, c.Now()
	}
	res, err := p.roundTrip(ctx, "GET", p.mover.target("/v2/keys?quorum=true"), nil, nil)
	if err != nil {
		return nil, fmt.Errorf("keystest: reading the index to start at: %w", err)
	}
	base, err := strconv.ParseUint(res.header.Get("X-Etcd-Index"), 10, 64)
	if err != nil || base == 0 {
		return nil, fmt.Errorf("keystest: reading the index to start at: X-Etcd-Index is %q", res.header.Get("X-Etcd-Index"))
	}
	p.mover.offset = base - 1
	return p, nil
}

// close ends the watches, waits for their readers, and removes what the story
// has written, so that no life of it ends during the next one.
func (p *player) close() {
	for _, w := range p.watches {
		w.close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerMax)
	defer cancel()
	// A store that cannot do this fails the next story, with its own words.
	_, _ = p.roundTrip(ctx, "DELETE", p.mover.target("/v2/keys?recursive=true"), nil, nil)
}

// play takes one step and returns what was wrong with it.
func (p *player) play(ctx context.Context, s *step) []mismatch {
	switch s.kind {
	case stepRequest:
		return p.request(ctx, s)
	case stepOpen:
		return p.open(ctx, s)
	case stepAdvance:
		p.clock.Advance(s.pass)
		return nil
	}
	w := p.watches[s.watch]
	switch {
	case w == nil:
		return wrong("no watch %q is open", s.watch)
	case s.kind == stepHangup:
		w.close()
		return nil
	case s.kind == stepEnd:
		return w.wantEnd(ctx)
	default:
		return p.line(ctx, s, w)
	}
}

func (p *player) request(ctx context.Context, s *step) []mismatch {
	ask := p.mover.request(s)
	sent := time.Now()
	res, err := p.roundTrip(ctx, s.method, ask.target, ask.header, ask.body)
	if err != nil {
		return wrong("%s %s: %v", s.method, s.target, err)
	}
	p.noteLife(ask, res, sent)
	found := p.head(s, res.status, res.header)
	p.last = res.header
	return append(found, p.body(s, res)...)
}

// head compares status and headers.
func (p *player) head(s *step, status int, h http.Header) []mismatch {
	var found []mismatch
	if status != s.status {
		found = append(found, wrong("%s %s: status = %d, want %d", s.method, s.target, status, s.status)...)
	}
	for _, w := range s.want {
		got, have, want := strings.Join(h.Values(w.name), ", "), h.Values(w.name) != nil, w.value
		switch want {
		case "-":
			if have {
				found = append(found, wrong("%s %s: header %s = %q, want none", s.method, s.target, w.name, got)...)
			}
			continue
		case "same":
			want = p.last.Get(w.name)
		}
		if !have || got != want {
			found = append(found, wrong("%s %s: header %s = %q, want %q", s.method, s.target, w.name, got, want)...)
		}
	}
	if s.index >= 0 {
		found = append(found, p.rules(s, status, h)...)
	}
	return found
}

// body compares the whole body of an answer.
func (p *player) body(s *step, res *result) []mismatch {
	got := res.body
	if s.method == http.MethodHead {
		if got != "" {
			return wrong("HEAD %s: body = %q, want none", s.target, got)
		}
		return nil
	}
	var found []mismatch
	for _, expr := range s.patterns {
		if !p.mover.pattern(expr).MatchString(got) {
			found = append(found, wrong("%s %s: body = %q, want a match of %s", s.method, s.target, clip(got), expr)...)
		}
	}
	if s.answerLine == 0 {
		return found
	}
	want := p.mover.answer(s.answer)
	if !s.hasText {
		want += "\n"
	}
	diff := p.compare(got, want)
	for i := range diff {
		if diff[i].rule == "" {
			diff[i].text = fmt.Sprintf("%s %s: %s", s.method, s.target, diff[i].text)
			p.suite.note(p, s, got)
		}
	}
	return append(found, diff...)
}

// noteLife remembers when a key that was written with a TTL may expire.
func (p *player) noteLife(ask asked, res *result, sent time.Time) {
	if res.status >= 300 || p.clock != nil {
		return
	}
	path, query, _ := strings.Cut(ask.target, "?")
	values, err := url.ParseQuery(string(ask.body))
	if err != nil {
		return
	}
	more, err := url.ParseQuery(query)
	if err != nil {
		return
	}
	ttl, err := strconv.Atoi(values.Get("ttl") + more.Get("ttl"))
	if err != nil {
		return
	}
	_, key, _ := strings.Cut(path, "keys")
	d := time.Duration(ttl) * time.Second
	p.lives[key] = life{sent.Add(d), time.Now().Add(d + expiryLateMax + expirySlack)}
}

// result is a whole answer.
type result struct {
	status int
	header http.Header
	body   string
}

func (p *player) roundTrip(ctx context.Context, method, target string, h http.Header, body []byte) (*result, error) {
	ctx, cancel := context.WithTimeout(ctx, answerMax)
	defer cancel()
	res, err := p.send(ctx, method, target, h, body)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	return &result{res.StatusCode, res.Header, string(text)}, nil
}

// send builds a request whose target goes out byte by byte as it is given.
func (p *player) send(ctx context.Context, method, target string, h http.Header, body []byte) (*http.Response, error) {
	base, err := url.Parse(p.door.URL())
	if err != nil {
		return nil, err
	}
	path, query, _ := strings.Cut(target, "?")
	var rd io.Reader
	if len(body) > 0 {
		rd = strings.NewReader(string(body))
	}
	r, err := http.NewRequestWithContext(ctx, method, p.door.URL(), rd)
	if err != nil {
		return nil, err
	}
	r.URL = &url.URL{Scheme: base.Scheme, Host: base.Host, Opaque: path, RawQuery: query}
	for name, v := range h {
		r.Header[name] = v
	}
	return p.door.Do(r)
}

// open starts a watch and compares the head of its answer.
func (p *player) open(ctx context.Context, s *step) []mismatch {
	if old := p.watches[s.watch]; old != nil {
		old.close()
	}
	ask := p.mover.request(s)
	wctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	// The head must come without an event, so it has a deadline of its own.
	late := time.AfterFunc(answerMax, cancel)
	res, err := p.send(wctx, s.method, ask.target, ask.header, ask.body)
	late.Stop()
	if err != nil {
		cancel()
		return wrong("%s %s: %v", s.method, s.target, err)
	}
	p.watches[s.watch] = newWatch(res, cancel, cmp.Or(p.suite.opts.LineMax, lineMax))
	found := p.head(s, res.StatusCode, res.Header)
	p.last = res.Header
	return found
}

// line compares the next line of a watch, and the moment of an expiry.
func (p *player) line(ctx context.Context, s *step, w *watch) []mismatch {
	got, err := p.next(ctx, w)
	if err != nil {
		return wrong("watch %s: %v, want %s", s.watch, err, s.answer)
	}
	var found []mismatch
	for _, m := range p.compare(got, p.mover.answer(s.answer)) {
		if m.rule == "" {
			m.text = fmt.Sprintf("watch %s: %s", s.watch, m.text)
			p.suite.note(p, s, got)
		}
		found = append(found, m)
	}
	if key, ok := expiredKey(got); ok && p.clock == nil {
		now, l := time.Now(), p.lives[key]
		switch {
		case l.earliest.IsZero():
		case now.Before(l.earliest):
			found = append(found, wrong("watch %s: %s expired %v early", s.watch, key, l.earliest.Sub(now))...)
		case now.After(l.latest):
			found = append(found, wrong("watch %s: %s expired %v too late", s.watch, key, now.Sub(l.latest))...)
		}
	}
	return found
}

var errEnded = errors.New("the body has ended")

// next waits for a line. A clock that is turned by hand is turned when nothing
// comes by itself, for the line may be told of an expiry.
func (p *player) next(ctx context.Context, w *watch) (string, error) {
	if p.clock == nil {
		return w.next(ctx, w.patience)
	}
	const first, turn, turns = 300 * time.Millisecond, 100 * time.Millisecond, 60
	text, err := w.next(ctx, first)
	for i := 0; i < turns && err != nil && !errors.Is(err, errEnded); i++ {
		p.clock.Advance(turn)
		text, err = w.next(ctx, turn/2)
	}
	return text, err
}

// watch is an open answer; a goroutine reads its lines until the body ends.
type watch struct {
	lines    chan string // closed at the end of the body, after err was set
	err      error
	patience time.Duration // for the next line
	cancel   context.CancelFunc
	done     chan struct{}
}

func newWatch(res *http.Response, cancel context.CancelFunc, patience time.Duration) *watch {
	w := &watch{
		lines: make(chan string, 4096), patience: patience,
		cancel: cancel, done: make(chan struct{}),
	}
	go w.read(res.Body)
	return w
}

// read delivers the lines. A story reads far fewer than the channel holds;
// what does not fit ends the watch with an error.
func (w *watch) read(body io.ReadCloser) {
	defer close(w.done)
	defer close(w.lines)
	defer body.Close()
	r := bufio.NewReader(body)
	for {
		text, err := r.ReadString('\n')
		if err != nil {
			if text != "" {
				err = fmt.Errorf("half a line %q: %w", text, err)
			}
			if !errors.Is(err, io.EOF) || text != "" {
				w.err = err
			}
			return
		}
		select {
		case w.lines <- strings.TrimSuffix(text, "\n"):
		default:
			w.err = errors.New("more lines than a story reads")
			return
		}
	}
}

func (w *watch) next(ctx context.Context, most time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	select {
	case text, ok := <-w.lines:
		if !ok {
			return "", fmt.Errorf("%w (%v)", errEnded, w.err)
		}
		return text, nil
	case <-ctx.Done():
		return "", fmt.Errorf("no line within %v", most)
	}
}

func (w *watch) wantEnd(ctx context.Context) []mismatch {
	text, err := w.next(ctx, w.patience)
	switch {
	case err == nil:
		return wrong("watch: next line = %s, want the end", text)
	case !errors.Is(err, errEnded):
		return wrong("watch: %v, want the end", err)
	case w.err != nil:
		return wrong("watch: ended with %v, want an ordinary end", w.err)
	default:
		return nil
	}
}

// close hangs up and waits for the reader.
func (w *watch) close() {
	w.cancel()
	<-w.done
}

func wrong(format string, args ...any) []mismatch {
	return []mismatch{{text: fmt.Sprintf(format, args...)}}
}
