package discovery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/marsevilspirit/deimos"
)

const testURL = "http://reg:4001/keys/discovery/6c0"

// roundTripper makes an [http.RoundTripper] of a function.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func clientOf(f roundTripper) *http.Client { return &http.Client{Transport: f} }

// respond makes a response; index 0 leaves the header out.
func respond(r *http.Request, status int, header string, index uint64, body io.Reader) *http.Response {
	h := http.Header{}
	if index > 0 {
		h.Set(header, strconv.FormatUint(index, 10))
	}
	return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(body), Request: r}
}

// fakeDirectory is a small keys API with one directory, in memory. All of its
// waiting is on channels, so it works in a synctest bubble.
type fakeDirectory struct {
	header string // of the store index

	mu      sync.Mutex
	index   uint64
	nodes   map[string]*deimos.Node // by the key below the directory
	events  []uint64                // indexes of writes that a recursive watch sees
	changed chan struct{}

	rand   *rand.Rand
	faults float64 // how likely a request is lost, before or after its effect
}

func newFakeDirectory(size, header string) *fakeDirectory {
	f := &fakeDirectory{header: header, index: 1, nodes: map[string]*deimos.Node{}, changed: make(chan struct{})}
	f.put("_config/size", size)
	return f
}

func (f *fakeDirectory) put(key, value string) *deimos.Node {
	f.index++
	n := &deimos.Node{Key: "/discovery/6c0/" + key, Value: &value, CreatedIndex: f.index, ModifiedIndex: f.index}
	f.nodes[key] = n
	if !strings.HasPrefix(key, "_") {
		f.events = append(f.events, f.index)
	}
	close(f.changed)
	f.changed = make(chan struct{})
	return n
}

func (f *fakeDirectory) RoundTrip(r *http.Request) (*http.Response, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before, after := f.lost(), f.lost()
	if before {
		return nil, errors.New("connection refused")
	}
	response := f.serve(r)
	if after {
		return nil, errors.New("connection reset")
	}
	return response, nil
}

func (f *fakeDirectory) lost() bool { return f.rand != nil && f.rand.Float64() < f.faults }

func (f *fakeDirectory) serve(r *http.Request) *http.Response {
	key := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/keys/discovery/6c0"), "/")
	query := r.URL.Query()
	switch {
	case r.Method == http.MethodPut && f.nodes[key] != nil:
		return f.fail(r, http.StatusPreconditionFailed, deimos.CodeKeyExists, key)
	case r.Method == http.MethodPut:
		if err := r.ParseForm(); err != nil {
			return f.fail(r, http.StatusBadRequest, deimos.CodeInvalidForm, err.Error())
		}
		return f.event(r, http.StatusCreated, f.put(key, r.PostForm.Get("value")))
	case query.Get("wait") == "true":
		from, err := strconv.ParseUint(query.Get("waitIndex"), 10, 64)
		if err != nil {
			return f.fail(r, http.StatusBadRequest, deimos.CodeIndexNaN, "")
		}
		return respond(r, http.StatusOK, f.header, f.index, &pollBody{f: f, ctx: r.Context(), from: from})
	case key == "":
		dir := &deimos.Node{Key: "/discovery/6c0", Dir: true, CreatedIndex: 2, ModifiedIndex: 2}
		for name, n := range f.nodes {
			if !strings.HasPrefix(name, "_") {
				dir.Nodes = append(dir.Nodes, n)
			}
		}
		return f.event(r, http.StatusOK, dir)
	case f.nodes[key] != nil:
		return f.event(r, http.StatusOK, f.nodes[key])
	}
	return f.fail(r, http.StatusNotFound, deimos.CodeKeyNotFound, path.Join("/discovery/6c0", key))
}

func (f *fakeDirectory) event(r *http.Request, status int, n *deimos.Node) *http.Response {
	body, err := json.Marshal(deimos.Event{Action: deimos.ActionGet, Node: n})
	if err != nil {
		panic(err)
	}
	return respond(r, status, f.header, f.index, strings.NewReader(string(body)+"\n"))
}

func (f *fakeDirectory) fail(r *http.Request, status int, code deimos.Code, cause string) *http.Response {
	body := fmt.Sprintf(`{"errorCode":%d,"message":%q,"cause":%q,"index":%d}`, int(code), code, cause, f.index)
	return respond(r, status, f.header, f.index, strings.NewReader(body))
}

// pollBody is a long poll: one event, or nothing after five minutes.
type pollBody struct {
	f    *fakeDirectory
	ctx  context.Context
	from uint64
	done bool
}

func (b *pollBody) Read(p []byte) (int, error) {
	if b.done {
		return 0, io.EOF
	}
	b.done = true
	timeout := time.NewTimer(5 * time.Minute)
	defer timeout.Stop()
	for {
		b.f.mu.Lock()
		changed, events := b.f.changed, b.f.events
		b.f.mu.Unlock()
		for _, index := range events {
			if index >= b.from {
				return copy(p, "{}\n"), nil
			}
		}
		select {
		case <-changed:
		case <-timeout.C:
			return 0, io.EOF
		case <-b.ctx.Done():
			return 0, b.ctx.Err()
		}
	}
}
