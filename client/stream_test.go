package client

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
)

// streamOf returns a stream over text.
func streamOf(text, kind string, lineMax int) *stream {
	resp := reply(200, "", "Content-Type", kind, "X-Etcd-Index", "4")
	resp.Body = io.NopCloser(strings.NewReader(text))
	ctx, cancel := context.WithCancelCause(context.Background())
	s := (&Client{lineMaxBytes: lineMax}).newStream(ctx, cancel, &endpoint{}, resp, kind)
	s.inquiry = newInquiry(nil, cancel) // nothing here takes so long
	return s
}

// indexes reads a stream to its end.
func indexes(s *stream) ([]uint64, error) {
	defer s.close()
	var list []uint64
	for {
		_, index, err := s.next()
		if err != nil {
			return list, err
		}
		list = append(list, index)
	}
}

func TestStreamsAreRead(t *testing.T) {
	for _, tt := range []struct {
		name, kind, text string
		want             []uint64
		end              error
	}{
		{"event stream", typeEvents, beat + sse(5) + beat + beat + sse(7), []uint64{5, 7}, errEnd},
		{"carriage returns", typeEvents, strings.ReplaceAll(beat+sse(5), "\n", "\r\n"), []uint64{5}, errEnd},
		{"fields of the future", typeEvents, "retry: 10\n\nfoo\nid: 5\ndata:" + set(5) + "\n\n", []uint64{5}, errEnd},
		{"data in parts", typeEvents, "data: {\"action\":\"set\",\ndata: \"node\":{\"modifiedIndex\":5}}\n\n", []uint64{5}, errEnd},
		{"event without its last line", typeEvents, sse(5) + strings.TrimSuffix(sse(6), "\n"), []uint64{5}, errEnd},
		{"nothing", typeEvents, "", nil, errEnd},
		{"no JSON", typeEvents, "data: {\n\n", nil, errUnreadable},
		{"no node", typeEvents, "data: {}\n\n", nil, errUnreadable},
		{"lines", typeJSON, set(5) + "\n\n" + set(6) + "\n", []uint64{5, 6}, errEnd},
		{"a line that breaks off", typeJSON, set(5) + "\n" + set(6), []uint64{5}, errEnd},
		{"a line that is none", typeJSON, set(5) + "\n]\n", []uint64{5}, errUnreadable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := indexes(streamOf(tt.text, tt.kind, lineMaxBytes))
			if !slices.Equal(got, tt.want) || !errors.Is(err, tt.end) {
				t.Errorf("indexes %v, %v, want %v, %v", got, err, tt.want, tt.end)
			}
		})
	}
}

func TestEventsAreBounded(t *testing.T) {
	line := set(5)
	for _, tt := range []struct {
		name, kind, text string
		max              int
		want             error
	}{
		{"line that fits", typeJSON, line + "\n", len(line) + 1, errEnd},
		{"line that does not", typeJSON, line + "\n", len(line), errUnreadable},
		{"line without end", typeJSON, strings.Repeat("x", 1000), 100, errUnreadable},
		{"event that fits", typeEvents, sse(5), len("data: ") + len(line) + 1, errEnd},
		{"event that does not", typeEvents, sse(5), len("data: ") + len(line), errUnreadable},
		{"event of many lines", typeEvents, strings.Repeat("data: x\n", 100) + "\n", 100, errUnreadable},
	} {
		if _, err := indexes(streamOf(tt.text, tt.kind, tt.max)); !errors.Is(err, tt.want) {
			t.Errorf("%s of %d bytes at most: %v, want %v", tt.name, tt.max, err, tt.want)
		}
	}
}

func TestUnreadableStreamEndsTheWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{watches: []func(*http.Request) (*http.Response, error){events(4, nil, sse(5), "data: nonsense\n\n")}}
		c := newWired(t, Config{}, &wire{answer: s.answer})
		var last error
		n := 0
		for _, last = range c.Watch(t.Context(), "/a") {
			n++
		}
		if n != 2 || !errors.Is(last, errUnreadable) {
			t.Errorf("%d items, the last with %v, want an event and then the error", n, last)
		}
	})
}

func TestAnswersAreBounded(t *testing.T) {
	for size, want := range map[int64]error{int64(len(answerSet)): nil, int64(len(answerSet)) - 1: errTooLarge} {
		w := &wire{answer: func(*http.Request) (*http.Response, error) { return reply(200, answerSet), nil }}
		c := newWired(t, two, w)
		c.answerMaxBytes = size
		if _, err := c.Get(t.Context(), "/a"); !errors.Is(err, want) || len(w.seen) != 1 {
			t.Errorf("Get of at most %d bytes: %v after %d requests, want %v after 1", size, err, len(w.seen), want)
		}
		_, err := c.Set(t.Context(), "/a", "1")
		if !errors.Is(err, want) || errors.Is(err, ErrUnknownOutcome) != (want != nil) {
			t.Errorf("Set with an answer of at most %d bytes: %v, want %v", size, err, want)
		}
	}
}

// A stream of whatever bytes ends, and so does one that is cut anywhere: what
// comes of it is a beginning of what would have come of all.
func FuzzStream(f *testing.F) {
	f.Add(beat+sse(5)+beat+sse(6), true, 70)
	f.Add(set(5)+"\n"+set(6)+"\n", false, 100)
	f.Add("data:\ndata: {\n\n: x\r\n\r\n", true, 3)
	f.Fuzz(func(t *testing.T, text string, isEvents bool, cut int) {
		kind := typeJSON
		if isEvents {
			kind = typeEvents
		}
		all, err := indexes(streamOf(text, kind, 1<<10))
		if !errors.Is(err, errEnd) && !errors.Is(err, errUnreadable) {
			t.Fatalf("end of the stream: %v", err)
		}
		if slices.Contains(all, 0) {
			t.Fatalf("indexes %v, want none to be 0", all)
		}
		if cut < 0 || cut > len(text) {
			return
		}
		if part, _ := indexes(streamOf(text[:cut], kind, 1<<10)); len(part) > len(all) || !slices.Equal(part, all[:len(part)]) {
			t.Fatalf("of a part: %v, of all: %v", part, all)
		}
	})
}
