package httpapi

import (
	"bytes"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"net/url"
	"path"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// slowForm is a form from a plain reading of the query, with the maps of
// net/url: the first value of each known name, and the smallest misspelt one.
func slowForm(query string) (first map[param]string, misspelt []string, err error) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return nil, nil, err
	}
	first = map[param]string{}
	for name, v := range values {
		if p, ok := parameter([]byte(name)); ok {
			first[p] = v[0]
		} else if len(name) >= 4 && strings.EqualFold(name[:4], "prev") {
			misspelt = append(misspelt, name)
		}
	}
	slices.Sort(misspelt)
	return first, misspelt, nil
}

func compareForm(t *testing.T, what string, got *form, first map[param]string, misspelt []string) {
	t.Helper()
	for p := range paramCount {
		want, given := first[p]
		if got.given[p] != given || string(got.value[p]) != want {
			t.Errorf("%s: parameter %d = %q (%t), want %q (%t)", what, p, got.value[p], got.given[p], want, given)
		}
	}
	if got.hasMisspelt != (len(misspelt) > 0) || got.hasMisspelt && string(got.misspelt) != misspelt[0] {
		t.Errorf("%s: misspelt = %q (%t), want the first of %q", what, got.misspelt, got.hasMisspelt, misspelt)
	}
}

func FuzzFormAgainstNetURL(f *testing.F) {
	for _, s := range []string{
		"", "value=1", "value=a+b%20c&value=2", "=x&&value", "value=%zz", "a;b", "ttl=5&prevexist=true&PREV=1",
		"prevExist=true&prevExists=false&value=%e4%bd%a0", "v%61lue=1", "value=1=2", "%", "value=%4", "prevValue=%00%ff",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, query string) {
		if strings.Count(query, "&") > 1000 {
			return // net/url has a limit of its own
		}
		first, misspelt, wantErr := slowForm(query)
		var got form
		err := got.parseURLEncoded([]byte(query))
		if (err != nil) != (wantErr != nil) {
			t.Fatalf("parseURLEncoded(%q) = %v, want %v", query, err, wantErr)
		}
		if err != nil {
			if strings.Count(query, "&") == 0 && err.Error() != wantErr.Error() {
				t.Errorf("parseURLEncoded(%q) = %v, want %v", query, err, wantErr)
			}
			return
		}
		compareForm(t, fmt.Sprintf("parseURLEncoded(%q)", query), &got, first, misspelt)

		// The same parameters as multipart say the same.
		var body bytes.Buffer
		w := multipart.NewWriter(&body)
		for pair := range strings.SplitSeq(query, "&") {
			name, value, _ := strings.Cut(pair, "=")
			name, err1 := url.QueryUnescape(name)
			value, err2 := url.QueryUnescape(value)
			if err1 != nil || err2 != nil || name == "" {
				continue
			}
			if !utf8.ValidString(name) || strings.ContainsAny(name, "\r\n\"\\%;*") {
				return // what a header cannot carry as it is
			}
			if err := w.WriteField(name, value); err != nil {
				t.Fatalf("WriteField(%q) = %v, want nil", name, err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatalf("Close() = %v, want nil", err)
		}
		var parts form
		if err := parts.parseMultipart(body.Bytes(), w.Boundary()); err != nil {
			t.Skipf("multipart of %q: %v", query, err)
		}
		compareForm(t, fmt.Sprintf("parseMultipart(%q)", query), &parts, first, misspelt)
	})
}

func FuzzMultipart(f *testing.F) {
	f.Add([]byte("--b\r\nContent-Disposition: form-data; name=value\r\n\r\nx\r\n--b--\r\n"), "b")
	f.Add([]byte("--b\r\nContent-Disposition: form-data; name=value\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n=41\r\n--b--"), "b")
	f.Add([]byte("--b\nContent-Disposition: form-data; name=ttl; filename=f\n\n5\n--b--\n"), "b")
	f.Add([]byte(""), "")
	f.Fuzz(func(_ *testing.T, body []byte, boundary string) {
		var fm form
		_ = fm.parseMultipart(body, boundary) // any outcome but a panic
	})
}

func TestMultipartBodyCounts(t *testing.T) {
	b := newFake()
	h := newHandler(t, b, nil)
	var body bytes.Buffer
	w := multipart.NewWriter(&body)
	part, err := w.CreatePart(textproto.MIMEHeader{"Content-Disposition": {`form-data; name="value"; filename="f.txt"`}})
	if err != nil {
		t.Fatalf("CreatePart() = %v, want nil", err)
	}
	value := strings.Repeat("line & more;%zz\r\n", 2000)
	if _, err := part.Write([]byte(value)); err != nil {
		t.Fatalf("Write() = %v, want nil", err)
	}
	for _, f := range [][2]string{{"value", "second"}, {"ttl", "60"}, {"unknown", "x"}} {
		if err := w.WriteField(f[0], f[1]); err != nil {
			t.Fatalf("WriteField() = %v, want nil", err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatalf("Close() = %v, want nil", err)
	}
	rec := do(h, testRequest{"PUT", "/keys/a?ttl=x", body.String(), map[string]string{"Content-Type": w.FormDataContentType()}})
	r := b.last.Load()
	if rec.Code != 201 || r == nil || r.Value != value || r.TTLSeconds != 60 {
		t.Errorf("multipart PUT = %d %.100s, request %+.100v, want 201 with value and ttl", rec.Code, rec.Body, r)
	}
}

// TestPooledBuffersDoNotLeakIntoLaterRequests sends a long request and then a
// short one over the same handler.
func TestPooledBuffersDoNotLeakIntoLaterRequests(t *testing.T) {
	b := newFake()
	h := newHandler(t, b, nil)
	do(h, testRequest{method: "PUT", target: "/keys/a?recursive=true", body: "ttl=5&prevExist=false&value=" + strings.Repeat("long", 100)})
	kept := b.last.Load()
	do(h, testRequest{method: "PUT", target: "/keys/b", body: "value=s"})
	if got := b.last.Load(); got.Value != "s" || got.HasTTL || got.Recursive {
		t.Errorf("second request = %+v, want value s and nothing else", got)
	}
	if kept.Value != strings.Repeat("long", 100) {
		t.Errorf("first request's value changed to %q", kept.Value)
	}
}

// oracleKey cleans a path the slow way.
func oracleKey(rest string) string {
	var elements []string
	for e := range strings.SplitSeq(rest, "/") {
		switch e {
		case "", ".":
		case "..":
			elements = elements[:max(0, len(elements)-1)]
		default:
			elements = append(elements, e)
		}
	}
	return "/" + strings.Join(elements, "/")
}

func FuzzKeyAgainstOracle(f *testing.F) {
	for _, s := range []string{"", "/", "/a", "//a/./b/../c/", "/../../x", "/a%2Fb", "/%2e%2e/x", "/\x00", "/\u0085", "/\xff", "/...", "/.a/..b", "/ä/?#", "/a/b/../../.."} {
		f.Add(s, false)
		f.Add(s, true)
	}
	f.Fuzz(func(t *testing.T, rest string, inOrder bool) {
		if rest != "" && rest[0] != '/' {
			rest = "/" + rest
		}
		want := oracleKey(rest)
		made := want
		if inOrder {
			made = path.Join(want, strings.Repeat("0", 20))
		}
		levels := strings.Count(made, "/")
		if made == "/" {
			levels = 0
		}
		control := strings.ContainsFunc(rest, func(r rune) bool { return r < 0x20 || 0x7f <= r && r < 0xa0 })
		bad := !utf8.ValidString(rest) || control || len(made) > 4096 || levels > 128
		got, ref := cleanKey(rest, inOrder)
		if (ref != nil) != bad {
			t.Fatalf("cleanKey(%q, %t) = %q, refused %t, want refused %t", rest, inOrder, got, ref != nil, bad)
		}
		if ref == nil && got != want {
			t.Errorf("cleanKey(%q, %t) = %q, want %q", rest, inOrder, got, want)
		}
		if ref == nil { // what is accepted comes back byte for byte through the front door
			h := newHandler(t, newFake(), nil)
			for _, prefix := range []string{"/keys", "/v2/keys"} {
				target := prefix + escapePath(rest)
				if len(target) > targetMaxBytes {
					continue
				}
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequest(http.MethodPut, target, nil))
				if w.Code != 201 && w.Code != 200 && want != "/" {
					t.Errorf("PUT %s = %d %s, want success", target, w.Code, w.Body)
				}
			}
		}
	})
}

// escapePath escapes every byte but slashes.
func escapePath(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if s[i] == '/' {
			b.WriteByte('/')
		} else {
			fmt.Fprintf(&b, "%%%02x", s[i])
		}
	}
	return b.String()
}

func TestPrefixEndsAtAnElement(t *testing.T) {
	h := newHandler(t, newFake(), nil)
	for target, want := range map[string]int{
		"/keys": 200, "/keys/": 200, "/v2/keys": 200, "/v2/keys/": 200, "/key%73": 200, "/v2%2Fkeys/": 200, "/keys/../..": 200,
		"/keysa": 404, "/v2/keysa": 404, "/v2": 404, "/v2/": 404, "/": 404, "/Keys": 404, "/v1/keys": 404, "//keys": 404, "/x/../keys": 404,
	} {
		if w := do(h, testRequest{method: "GET", target: "http://h" + target}); w.Code != want {
			t.Errorf("GET %s = %d, want %d", target, w.Code, want)
		}
	}
}

// zeros is an endless body.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }
func (zeros) Close() error               { return nil }

func TestBodyBufferStaysWithinTheLimit(t *testing.T) {
	h := newHandler(t, newFake(), nil)
	limit := h.bodyMaxBytes()
	for _, tt := range []struct {
		name    string
		size    int64 // announced
		body    io.ReadCloser
		want    error
		wantCap int64
	}{
		{"endless", limit, zeros{}, errBodyTooLarge, limit + 1},
		{"small", 100, io.NopCloser(io.LimitReader(zeros{}, 100)), nil, 101},
		{"announced large and small", limit, io.NopCloser(io.LimitReader(zeros{}, 100)), nil, bodyFirstBytes},
		{"at the limit", limit, io.NopCloser(io.LimitReader(zeros{}, limit)), nil, limit + 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &call{h: h, w: &discard{header: http.Header{}}, r: &http.Request{Body: tt.body}}
			in := bodyReader{call: c, limit: limit}
			err := in.fill(limit+1, tt.size)
			if err != tt.want || int64(cap(in.buf)) > tt.wantCap+tt.wantCap/8 {
				t.Errorf("fill(%d) = %v with a buffer of %d bytes, want %v with %d", tt.size, err, cap(in.buf), tt.want, tt.wantCap)
			}
		})
	}
}
