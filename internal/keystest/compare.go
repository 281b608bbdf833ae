package keystest

import (
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// lifeSlack is how far ttl and expiration may be from what is written.
const lifeSlack = time.Second

// storyTime is the wall clock at the start of every story.
var storyTime = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

var (
	expirationField = regexp.MustCompile(`"expiration":"([^"]*)"`)
	ttlField        = regexp.MustCompile(`"ttl":(-?\d+)`)
	expirationForm  = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{0,2}[1-9])?Z$`)
	waits           = regexp.MustCompile(`[?&]wait=(1|t|T|TRUE|true|True)(&|$)`)
	expireEvent     = regexp.MustCompile(`^(?:data: )?\{"action":"expire","node":\{"key":"([^"]*)"`)
)

// compare compares two bodies byte by byte, except for ttl and expiration,
// which may be off by [lifeSlack].
func (p *player) compare(got, want string) []mismatch {
	var found []mismatch
	gotTimes, wantTimes := expirationField.FindAllStringSubmatch(got, -1), expirationField.FindAllStringSubmatch(want, -1)
	gotTTLs, wantTTLs := ttlField.FindAllStringSubmatch(got, -1), ttlField.FindAllStringSubmatch(want, -1)
	plain := func(s string) string {
		return ttlField.ReplaceAllString(expirationField.ReplaceAllString(s, `"expiration":"T"`), `"ttl":"N"`)
	}
	if plain(got) != plain(want) {
		return wrong("answer = %s\n\twant %s\n\tas a transcript: %s", clip(got), clip(want), clip(p.mover.back(got)))
	}
	for i := range wantTTLs {
		g, errG := strconv.Atoi(gotTTLs[i][1])
		w, errW := strconv.Atoi(wantTTLs[i][1])
		if errG != nil || errW != nil || g <= 0 || g < w-1 || g > w+1 {
			found = append(found, wrong("ttl = %s, want %s within 1 s, in %s", gotTTLs[i][1], wantTTLs[i][1], clip(got))...)
		}
	}
	for i := range wantTimes {
		found = append(found, p.compareExpiration(gotTimes[i][1], wantTimes[i][1])...)
	}
	return found
}

// compareExpiration compares a wall clock of the answer with one of the
// transcript. The story may have taken all of the time that has passed before
// the node got its life.
func (p *player) compareExpiration(got, want string) []mismatch {
	w, err := time.Parse(time.RFC3339Nano, want)
	if err != nil {
		return wrong("bad expiration in the transcript: %v", err)
	}
	g, err := time.Parse(time.RFC3339Nano, got)
	if err != nil {
		return wrong("expiration = %q, want RFC 3339: %v", got, err)
	}
	earliest := p.start.Add(w.Sub(storyTime))
	passed := time.Since(p.start)
	if p.clock != nil {
		passed = p.clock.Now().Sub(p.start)
	}
	latest := earliest.Add(passed)
	var found []mismatch
	if g.Before(earliest.Add(-lifeSlack)) || g.After(latest.Add(lifeSlack)) {
		found = append(found, wrong("expiration = %s, want %s … %s within %v", got,
			earliest.UTC().Format(time.RFC3339Nano), latest.UTC().Format(time.RFC3339Nano), lifeSlack)...)
	}
	if !expirationForm.MatchString(got) {
		found = append(found, mismatch{"expiration format", fmt.Sprintf("expiration = %q, want UTC with at most milliseconds", got)})
	}
	return found
}

// rules checks what section 4 of the contract demands of the headers of every
// answer of the keys handler.
func (p *player) rules(s *step, status int, h http.Header) []mismatch {
	kind := "success"
	switch {
	case status == http.StatusMethodNotAllowed:
		kind = "405"
	case status >= 300:
		kind = "error"
	case s.kind == stepOpen || waits.MatchString(s.target):
		kind = "watch"
	}
	var found []mismatch
	broken := func(name, want string) {
		found = append(found, mismatch{
			rule: "header " + name + " on " + kind,
			text: fmt.Sprintf("%s %s: header %s = %q, want %s", s.method, s.target, name, h.Get(name), want),
		})
	}
	index := uint64(s.index)
	if index > 0 {
		index += p.mover.offset
	}
	for _, name := range []string{"X-Etcd-Index", "X-Deimos-Index"} {
		switch got := h.Get(name); {
		case got == "":
			broken(name, strconv.FormatUint(index, 10))
		case got != strconv.FormatUint(index, 10):
			found = append(found, wrong("%s %s: header %s = %s, want %d (index=%d of the story)", s.method, s.target, name, got, index, s.index)...)
		}
	}
	for _, name := range []string{"X-Etcd-Cluster-Id", "X-Deimos-Cluster-Id"} {
		id := h.Get(name)
		switch {
		case !clusterIDForm.MatchString(id):
			broken(name, "lower-case hex without padding")
		case p.suite.clusterID == "":
			p.suite.clusterID = id
		case p.suite.clusterID != id:
			broken(name, p.suite.clusterID)
		}
	}
	for _, name := range []string{"X-Raft-Index", "X-Raft-Term"} {
		if n, err := strconv.ParseUint(h.Get(name), 10, 64); err != nil || n == 0 {
			broken(name, "a number above 0")
		}
	}
	if kind != "watch" && s.kind != stepOpen {
		if n, err := strconv.Atoi(h.Get("Content-Length")); err != nil || n < 0 {
			broken("Content-Length", "the length of the body")
		}
	}
	if want := wantType(s); h.Get("Content-Type") != want {
		broken("Content-Type", want)
	}
	return found
}

// wantType is the media type of a keys answer: what the step says, plain text
// for 405, else JSON.
func wantType(s *step) string {
	for _, w := range s.want {
		if w.name == "Content-Type" {
			return w.value
		}
	}
	if s.status == http.StatusMethodNotAllowed {
		return "text/plain; charset=utf-8"
	}
	return "application/json"
}

// expiredKey is the key of an expire event, in JSON or on a data line.
func expiredKey(text string) (string, bool) {
	m := expireEvent.FindStringSubmatch(text)
	if m == nil {
		return "", false
	}
	return m[1], true
}

// clip keeps a failure readable.
func clip(s string) string {
	const most = 1500
	s = strings.TrimSuffix(s, "\n")
	if len(s) > most {
		return fmt.Sprintf("%s… (%d bytes)", s[:most], len(s))
	}
	return s
}
