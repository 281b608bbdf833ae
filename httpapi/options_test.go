package httpapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/marsevilspirit/deimos"
)

// rejection is a request that a check of section 3.3 stops.
type rejection struct {
	row   int
	name  string
	req   testRequest
	want  int
	code  deimos.Code
	cause string
}

func form209(cause string) (int, deimos.Code, string) { return 400, deimos.CodeInvalidField, cause }

// rejections holds every cause of section 3.3 at least once.
func rejections() []rejection {
	var all []rejection
	add := func(row int, q testRequest, want int, code deimos.Code, cause string) {
		all = append(all, rejection{row, fmt.Sprintf("%02d %s %s %s", row, q.method, q.target, cause), q, want, code, cause})
	}
	put := func(row int, query, body string, want int, code deimos.Code, cause string) {
		target := "/keys/a"
		if query != "" {
			target += "?" + query
		}
		add(row, testRequest{method: "PUT", target: target, body: body}, want, code, cause)
	}
	typed := func(row int, contentType, body string, want int, cause string) {
		add(row, testRequest{"PUT", "/keys/a", body, map[string]string{"Content-Type": contentType}}, want, deimos.CodeInvalidForm, cause)
	}
	field := func(row int, query, cause string) {
		status, code, cause := form209(cause)
		put(row, query, "", status, code, cause)
	}

	add(2, testRequest{method: "GET", target: "/keys/%ff%00"}, 400, 209, "key is not valid UTF-8")
	add(2, testRequest{method: "POST", target: "/keys/a%7f"}, 400, 209, "key contains a control character")
	add(2, testRequest{method: "GET", target: "/keys/a%c2%9f"}, 400, 209, "key contains a control character")
	add(2, testRequest{method: "DELETE", target: "/keys/" + strings.Repeat("a", 4096)}, 400, 209, "key is longer than 4096 bytes")
	add(2, testRequest{method: "PUT", target: "/keys" + strings.Repeat("/a", 129)}, 400, 209, "key has more than 128 levels")
	add(2, testRequest{method: "POST", target: "/keys/" + strings.Repeat("a", 4075)}, 400, 209, "key is longer than 4096 bytes")
	add(2, testRequest{method: "POST", target: "/keys" + strings.Repeat("/a", 128)}, 400, 209, "key has more than 128 levels")

	typed(3, "application/x-www-form-urlencoded; a=b; c", "value=1", 400, "mime: invalid media parameter")
	typed(4, "text/plain; charset=utf-8", "value=1", 415, `unsupported content type "text/plain"`)
	typed(4, "application/json", `{"value":"x"}`, 415, `unsupported content type "application/json"`)
	typed(4, "", "value=1", 415, `unsupported content type ""`)
	put(5, "", "value="+strings.Repeat("x", 3211264), 413, 210, "body is larger than 3211264 bytes")

	put(6, "", "value=%zz", 400, 210, `invalid URL escape "%zz"`)
	put(6, "", "%4", 400, 210, `invalid URL escape "%4"`)
	put(6, "", "value=1;dir=true", 400, 210, "invalid semicolon separator in query")
	put(6, "value=%zz", "", 400, 210, `invalid URL escape "%zz"`)
	put(6, "a;b", "", 400, 210, "invalid semicolon separator in query")
	add(6, testRequest{method: "GET", target: "/keys/a?a;b"}, 400, 210, "invalid semicolon separator in query")
	typed(6, "multipart/form-data", "value=1", 400, "no multipart boundary param in Content-Type")
	typed(6, "multipart/form-data; boundary=b", "--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n", 400, "multipart part without a name")
	typed(6, "multipart/form-data; boundary=b", "value=1", 400, "multipart: NextPart: EOF")

	field(7, "prevexist=true", `unknown parameter "prevexist"`)
	field(7, "previous=1&PREVValue=2&prevZ=3", `unknown parameter "PREVValue"`)
	field(7, "prev=1", `unknown parameter "prev"`)
	add(7, testRequest{"PUT", "/keys/a?prevA=1", "prevB=1", nil}, 400, 209, `unknown parameter "prevA"`)
	add(7, testRequest{method: "GET", target: "/keys/a?PrevIndex=1"}, 400, 209, `unknown parameter "PrevIndex"`)

	for _, bad := range []string{"", "-1", "+1", "1.5", "0x1", "18446744073709551616", "yes", "%201", "1e3"} {
		put(8, "prevIndex="+bad, "", 400, 203, `invalid value for "prevIndex"`)
		put(8, "waitIndex="+bad, "", 400, 203, `invalid value for "waitIndex"`)
	}
	put(8, "waitIndex=x&prevIndex=x", "", 400, 203, `invalid value for "prevIndex"`)

	flags := []string{"recursive", "sorted", "wait", "dir", "quorum", "stream"}
	for i, name := range flags {
		for _, bad := range []string{"", "yes", "tRUE", "2", "%20true"} {
			field(9, name+"="+bad, "invalid value for "+strconv.Quote(name))
		}
		if i > 0 {
			field(9, name+"=x&"+flags[i-1]+"=x", "invalid value for "+strconv.Quote(flags[i-1]))
		}
	}
	for _, method := range []string{"HEAD", "PUT", "POST", "DELETE"} {
		add(10, testRequest{method: method, target: "/keys/a?wait=true"}, 400, 209, `"wait" can only be used with GET requests`)
	}
	put(11, "prevValue=", "", 400, 201, `"prevValue" cannot be empty`)
	field(12, "noValueOnSuccess=", `invalid value for "noValueOnSuccess"`)
	field(12, "noValueOnSuccess=x&ttl=x", `invalid value for "noValueOnSuccess"`)
	for _, bad := range []string{"-1", "1.5", "1e30", "9223372036854775808", "3153600001", "+1", "x", "18446744073709551616"} {
		put(12, "", "ttl="+strings.ReplaceAll(bad, "+", "%2B"), 400, 202, `invalid value for "ttl"`)
	}
	field(13, "prevExist=", "invalid value for prevExist")
	field(13, "prevExists=yes", "invalid value for prevExists")
	field(13, "prevExists=yes&prevExist=no", "invalid value for prevExist")
	field(13, "prevExist=false&prevExists=true", `"prevExist" and "prevExists" differ`)
	field(14, "refresh=", "invalid value for refresh")
	put(14, "refresh=true", "value=x", 400, 211, "A value was provided on a refresh")
	put(14, "refresh=true", "value=&ttl=", 400, 212, "No TTL value set")
	field(14, "refresh=true&ttl=5&prevExists=false", `"refresh=true" contradicts "prevExist=false"`)
	field(15, "prevExists=false&prevValue=x", `"prevExist=false" contradicts "prevValue"`)
	field(15, "prevExists=false&prevIndex=7", `"prevExist=false" contradicts "prevIndex"`)
	field(15, "prevExist=0&prevIndex=7&prevValue=x", `"prevExist=false" contradicts "prevValue" and "prevIndex"`)
	field(16, "value=%ff", `"value" is not valid UTF-8`)
	field(16, "prevValue=%ff", `"prevValue" is not valid UTF-8`)
	put(16, "prevValue=%ff", "value=%fe", 400, 209, `"value" is not valid UTF-8`)
	put(16, "", "value="+strings.Repeat("x", 1<<20+1), 413, 210, "value is larger than 1048576 bytes")
	put(16, "prevValue=%ff", "value="+strings.Repeat("x", 1<<20+1), 400, 209, `"prevValue" is not valid UTF-8`)
	for _, bad := range []string{"-1", "x", "18446744073709551615", "18446744073709551616", "1.0"} {
		add(16, testRequest{"GET", "/keys/a?wait=true", "", map[string]string{"Accept": "text/event-stream", "Last-Event-ID": bad}},
			400, 203, `invalid value for "Last-Event-ID"`)
	}
	return all
}

func TestEveryRejection(t *testing.T) {
	b := newFake()
	h := newHandler(t, b, nil)
	for _, tt := range rejections() {
		name := tt.name
		if len(name) > 120 {
			name = name[:120]
		}
		t.Run(name, func(t *testing.T) {
			checkRejection(t, h, tt.req, tt)
		})
	}
	if got := b.store.View().Index(); got != 1 {
		t.Errorf("store index after rejected requests = %d, want 1", got)
	}
}

func checkRejection(t *testing.T, h http.Handler, q testRequest, want rejection) {
	t.Helper()
	w := do(h, q)
	var got struct {
		ErrorCode int
		Message   string
		Cause     string
		Index     *uint64
	}
	if w.Code != want.want {
		t.Errorf("status = %d (%.200s), want %d", w.Code, w.Body, want.want)
	}
	if q.method != "HEAD" {
		dec := json.NewDecoder(bytes.NewReader(w.Body.Bytes()))
		if err := dec.Decode(&got); err != nil || dec.More() {
			t.Fatalf("body = %.200s (%v), want one JSON object", w.Body, err)
		}
		if got.ErrorCode != int(want.code) || got.Cause != want.cause || got.Message != want.code.String() || got.Index == nil || *got.Index != 0 {
			t.Errorf("body = %.200s, want code %d, cause %s, index 0", w.Body, want.code, want.cause)
		}
	}
	if ct := w.Header().Get("Content-Type"); ct != "application/json" {
		t.Errorf("Content-Type = %q, want application/json", ct)
	}
	if index := keysHeadersOf(t, w.Header()); index != "0" {
		t.Errorf("index header = %s, want 0", index)
	}
	if w.Code == 413 && strings.HasPrefix(want.cause, "body") && w.Header().Get("Connection") != "close" {
		t.Errorf("Connection = %q after 413, want close", w.Header().Get("Connection"))
	}
}

// TestEarlierChecksAnswerFirst puts two offences into one request, for every
// pair of checks that one PUT can fail.
func TestEarlierChecksAnswerFirst(t *testing.T) {
	h := newHandler(t, newFake(), nil)
	type offence struct {
		row         int
		query, body string
		code        deimos.Code
		cause       string
	}
	offences := []offence{
		{6, "", "x=%zz", 210, `invalid URL escape "%zz"`},
		{6, "a;b", "", 210, "invalid semicolon separator in query"},
		{7, "prevent=1", "", 209, `unknown parameter "prevent"`},
		{8, "prevIndex=-", "", 203, `invalid value for "prevIndex"`},
		{8, "waitIndex=-", "", 203, `invalid value for "waitIndex"`},
		{9, "recursive=-", "", 209, `invalid value for "recursive"`},
		{9, "sorted=-", "", 209, `invalid value for "sorted"`},
		{9, "dir=-", "", 209, `invalid value for "dir"`},
		{9, "quorum=-", "", 209, `invalid value for "quorum"`},
		{9, "stream=-", "", 209, `invalid value for "stream"`},
		{10, "wait=true", "", 209, `"wait" can only be used with GET requests`},
		{11, "prevValue=", "", 201, `"prevValue" cannot be empty`},
		{12, "noValueOnSuccess=-", "", 209, `invalid value for "noValueOnSuccess"`},
		{12, "ttl=-", "", 202, `invalid value for "ttl"`},
		{13, "prevExist=-", "", 209, "invalid value for prevExist"},
		{13, "prevExists=-", "", 209, "invalid value for prevExists"},
		{14, "refresh=-", "", 209, "invalid value for refresh"},
		{16, "", "value=%ff", 209, `"value" is not valid UTF-8`},
	}
	for i, first := range offences {
		for _, second := range offences[i+1:] {
			q := testRequest{method: "PUT", target: "/keys/a?" + second.query + "&" + first.query}
			q.body = strings.Trim(first.body+"&"+second.body, "&")
			want := rejection{want: 400, code: first.code, cause: first.cause}
			t.Run(first.cause+" before "+second.cause, func(t *testing.T) { checkRejection(t, h, q, want) })
			q.target = "/v2/keys/a%01?" + second.query + "&" + first.query
			want = rejection{want: 400, code: 209, cause: "key contains a control character"}
			t.Run("key before "+first.cause, func(t *testing.T) { checkRejection(t, h, q, want) })
		}
	}
	for _, tt := range []struct {
		name   string
		q      testRequest
		status int
		cause  string
		code   deimos.Code
	}{
		{"type before size", testRequest{"PUT", "/keys/a", strings.Repeat("x", 3211265), map[string]string{"Content-Type": "text/css"}}, 415, `unsupported content type "text/css"`, 210},
		{"size before parsing", testRequest{"PUT", "/keys/a?%zz", strings.Repeat(";", 3211265), nil}, 413, "body is larger than 3211264 bytes", 210},
		{"wait before contradictions", testRequest{"DELETE", "/keys/a?wait=1&prevExist=0&prevIndex=1", "", nil}, 400, `"wait" can only be used with GET requests`, 209},
		{"exist before refresh", testRequest{"PUT", "/keys/a?refresh=1&prevExist=1&prevExists=0", "value=1", nil}, 400, `"prevExist" and "prevExists" differ`, 209},
		{"refresh value before ttl", testRequest{"PUT", "/keys/a?refresh=1&prevExist=0", "value=1", nil}, 400, "A value was provided on a refresh", 211},
		{"refresh ttl before exist", testRequest{"PUT", "/keys/a?refresh=1&prevExist=0", "", nil}, 400, "No TTL value set", 212},
		{"refresh before contradiction", testRequest{"PUT", "/keys/a?refresh=1&prevExist=0&ttl=1&prevIndex=1", "", nil}, 400, `"refresh=true" contradicts "prevExist=false"`, 209},
		{"contradiction before UTF-8", testRequest{"PUT", "/keys/a?prevExist=0&prevIndex=1", "value=%ff", nil}, 400, `"prevExist=false" contradicts "prevIndex"`, 209},
	} {
		t.Run(tt.name, func(t *testing.T) {
			checkRejection(t, h, tt.q, rejection{want: tt.status, code: tt.code, cause: tt.cause})
		})
	}
}

func TestAcceptedParameters(t *testing.T) {
	for _, tt := range []struct {
		name string
		req  testRequest
		want int
	}{
		{"every spelling of true", testRequest{"GET", "/keys?recursive=1&sorted=t&quorum=T&dir=TRUE&stream=true&noValueOnSuccess=True", "", nil}, 200},
		{"every spelling of false", testRequest{"GET", "/keys?recursive=0&sorted=f&quorum=F&dir=FALSE&stream=false&wait=False", "", nil}, 200},
		{"largest index", testRequest{"GET", "/keys?waitIndex=18446744073709551615&prevIndex=00000000000000000000007", "", nil}, 200},
		{"synonyms that agree", testRequest{"PUT", "/keys/a?prevExist=f&prevExists=0", "", nil}, 201},
		{"first value counts", testRequest{"PUT", "/keys/b?ttl=x&dir=x", "ttl=5&ttl=x&dir=true&dir=", nil}, 201},
		{"names are case-sensitive", testRequest{"PUT", "/keys/c?TTL=x&Dir=x&Refresh=x", "", nil}, 201},
		{"no prev in the middle", testRequest{"PUT", "/keys/d?xprev=1&pre=2&pr%C3%A9v=3", "", nil}, 201},
		{"empty body of a strange type", testRequest{"PUT", "/keys/e", "", map[string]string{"Content-Type": "text/plain; ="}}, 201},
		{"media parameters", testRequest{"PUT", "/keys/f", "value=1", map[string]string{"Content-Type": "Application/X-WWW-Form-Urlencoded; charset=UTF-8; x=y"}}, 201},
		{"body of a get is not read", testRequest{"GET", "/keys", "value=%zz", map[string]string{"Content-Type": "text/plain"}}, 200},
		{"refresh=false means nothing", testRequest{"PUT", "/keys/g", "refresh=false&value=1", nil}, 201},
		{"largest ttl", testRequest{"PUT", "/keys/h", "ttl=3153600000", nil}, 201},
		{"longest key", testRequest{"PUT", "/keys/" + strings.Repeat("%61", 4095), "", nil}, 201},
		{"deepest key", testRequest{"PUT", "/keys" + strings.Repeat("/a", 127) + "/b", "", nil}, 201},
		{"longest directory of a post", testRequest{"POST", "/keys/" + strings.Repeat("b", 4074), "", nil}, 201},
		{"deepest directory of a post", testRequest{"POST", "/keys" + strings.Repeat("/c", 127), "", nil}, 201},
		{"largest value", testRequest{"PUT", "/keys/i", "value=" + strings.Repeat("%41", 1<<20), nil}, 201},
		{"Last-Event-ID without event stream", testRequest{"GET", "/keys", "", map[string]string{"Last-Event-ID": "x", "Accept": "text/event-stream"}}, 200},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHandler(t, newFake(), nil)
			if w := do(h, tt.req); w.Code != tt.want {
				t.Errorf("%s %.80s = %d %.200s, want %d", tt.req.method, tt.req.target, w.Code, w.Body, tt.want)
			}
		})
	}
}

func FuzzIndexAndTTL(f *testing.F) {
	for _, s := range []string{"0", "1", "-1", "1.5", "1e30", "9223372036854775808", "18446744073709551615", "18446744073709551616", "3153600000", "3153600001", "007", "", " 1", "٣"} {
		f.Add(s)
	}
	digits := regexp.MustCompile(`^[0-9]+$`)
	limit := new(big.Int).Lsh(big.NewInt(1), 64)
	f.Fuzz(func(t *testing.T, s string) {
		want, isNumber := new(big.Int).SetString(s, 10)
		isNumber = isNumber && digits.MatchString(s) && want.Cmp(limit) < 0
		got, ok := parseUint([]byte(s))
		if ok != isNumber || ok && got != want.Uint64() {
			t.Errorf("parseUint(%q) = %d, %t, want %v, %t", s, got, ok, want, isNumber)
		}
		var fm form
		fm.given[pTTL], fm.value[pTTL] = true, []byte(s)
		var o options
		ref := o.lives(&fm)
		if good := s == "" || isNumber && want.Uint64() <= deimos.TTLMaxSeconds; good != (ref == nil) {
			t.Errorf("ttl %q: accepted = %t, want %t", s, ref == nil, good)
		}
		if ref == nil && s != "" && uint64(o.ttlSeconds) != want.Uint64() {
			t.Errorf("ttl %q = %d, want %v", s, o.ttlSeconds, want)
		}
	})
}
