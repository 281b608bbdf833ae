package httpapi

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestMemberBodiesAreCheckedInOrder(t *testing.T) {
	const json = "application/json"
	large := `{"peerURLs":["http://a:1"],"pad":"` + strings.Repeat("x", memberBodyMaxBytes) + `"}`
	atLimit := `{"peerURLs":["http://a:1"]}`
	atLimit += strings.Repeat(" ", memberBodyMaxBytes-len(atLimit))
	for _, tt := range []struct {
		name, contentType, body string
		status                  int // 0: passes
		message                 string
	}{
		{"plain text", "text/plain", "x", 415, "Bad Content-Type text/plain, accept application/json"},
		{"form with a charset", "Application/X-www-form-urlencoded; charset=utf-8", "a=b", 415, "Bad Content-Type application/x-www-form-urlencoded, accept application/json"},
		{"no type", "", large, 415, "Bad Content-Type , accept application/json"},
		{"type with parameters", " Application/JSON ; charset=utf-8", `{"peerURLs":["http://a:1"]}`, 0, ""},
		{"type with broken parameters", "application/json; =;", `{"peerURLs":["http://a:1"]}`, 0, ""},
		{"over the limit", json, large, 413, "body is larger than 65536 bytes"},
		{"at the limit", json, atLimit, 0, ""},
		{"one byte over", json, atLimit + " ", 413, "body is larger than 65536 bytes"},
		{"no body", json, "", 400, "unexpected end of JSON input"},
		{"no JSON", json, "peerURLs", 400, "invalid character 'p' looking for beginning of value"},
		{"two values", json, `{"peerURLs":["http://a:1"]}{}`, 400, "invalid character '{' after top-level value"},
		{"null", json, "null", 400, "no valid URLs given"},
		{"no URLs", json, "{}", 400, "no valid URLs given"},
		{"empty URLs", json, `{"peerURLs":[]}`, 400, "no valid URLs given"},
		{"null URLs", json, `{"peerURLs":null}`, 400, "no valid URLs given"},
		{"bad scheme", json, `{"peerURLs":["http://a:1","unix://a:1"]}`, 400, "URL scheme must be http or https: unix://a:1"},
		{"no port", json, `{"peerURLs":["HTTP://Host"]}`, 400, "URL must have the form host:port: HTTP://Host"},
		{"a path", json, `{"peerURLs":["http://a:1/"]}`, 400, "URL must not have a path: http://a:1/"},
		{"a null URL", json, `{"peerURLs":[null]}`, 400, "URL scheme must be http or https: "},
	} {
		for _, method := range []string{"POST", "PUT"} {
			t.Run(tt.name+" "+method, func(t *testing.T) {
				b, f := newMembers()
				target, status := "/members", 201
				if method == "PUT" {
					target, status = "/members/8e9e05c52164694d", 204
				}
				if tt.status != 0 {
					status = tt.status
					if method == "PUT" { // the body is looked at before the id
						target = "/members/xyz"
					}
				}
				w := do(newHandler(t, b, nil), testRequest{method, target, tt.body, map[string]string{"Content-Type": tt.contentType}})
				if w.Code != status {
					t.Fatalf("%s %s = %d %s, want %d", method, target, w.Code, w.Body, status)
				}
				if tt.status == 0 {
					if got := fmt.Sprint(f.last.PeerURLs); got != "[http://a:1]" {
						t.Errorf("peer URLs = %s, want [http://a:1]", got)
					}
					return
				}
				if want := fmt.Sprintf(`{"message":%q}`, tt.message) + "\n"; w.Body.String() != want {
					t.Errorf("%s %s = %q, want %q", method, target, w.Body, want)
				}
				if f.last.Op != 0 {
					t.Errorf("a refused body reached the backend: %+v", f.last)
				}
			})
		}
	}
}

func TestMemberBodyOfTheWrongTypesIsRefused(t *testing.T) {
	for _, body := range []string{`[]`, `"http://a:1"`, `7`, `{"peerURLs":"http://a:1"}`, `{"peerURLs":[7]}`, `{"peerURLs":["http://a:1"],"isLearner":1}`} {
		if _, ref := decodeMember([]byte(body), true); ref == nil || ref.status != 400 {
			t.Errorf("decodeMember(%s) = %+v, want 400", body, ref)
		}
	}
}

func TestMemberBodyWithoutALengthIsBoundedToo(t *testing.T) {
	const head = "Host: h\r\nConnection: close\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
	for _, tt := range []struct {
		name, send, want, has string
	}{
		{"short", "POST /members HTTP/1.1\r\n" + head + chunked(`{"peerURLs":["http://a:1"]}`), "HTTP/1.1 201 ", `"http://a:1"`},
		{"too long", "POST /members HTTP/1.1\r\n" + head + chunked(strings.Repeat(" ", memberBodyMaxBytes+1)), "HTTP/1.1 413 ", "body is larger than 65536 bytes"},
		{"malformed", "POST /members HTTP/1.1\r\n" + head + "zz\r\n", "HTTP/1.1 400 ", `{"message":`},
		{"announced too long", "POST /members HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 99999999\r\n\r\n{", "HTTP/1.1 413 ", "body is larger"},
		{"ignored", "POST /members/8e9e05c52164694d/lead HTTP/1.1\r\n" + head + chunked("GET /keys HTTP/1.1\r\n\r\n"), "HTTP/1.1 200 ", `"n1"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, _ := newMembers()
			got := raw(t, realServer(t, newHandler(t, b, nil)), tt.send)
			if !strings.HasPrefix(got, tt.want) || !strings.Contains(got, tt.has) {
				t.Errorf("answer = %.400q, want %s… with %s", got, tt.want, tt.has)
			}
			if n := len(statusLine.FindAllString(got, -1)); n != 1 {
				t.Errorf("%d answers, want one: %.600q", n, got)
			}
		})
	}
}

func TestPeerURLsHaveOneForm(t *testing.T) {
	for _, tt := range []struct {
		given, want, problem string
	}{
		{"http://10.0.0.1:7001", "http://10.0.0.1:7001", ""},
		{"HTTPS://Node-1.Example:2380", "https://node-1.example:2380", ""},
		{"http://localhost:00080", "http://localhost:80", ""},
		{"http://[FE80::1]:1", "http://[fe80::1]:1", ""},
		{"http://[fe80::1%25Eth0]:1", "http://[fe80::1%25Eth0]:1", ""},
		{"http://a_b:65535", "http://a_b:65535", ""},
		{"", "", problemScheme},
		{"10.0.0.1:7001", "", problemScheme},
		{"//a:1", "", problemScheme},
		{"ftp://a:1", "", problemScheme},
		{"unixs://a:1/b", "", problemScheme},
		{" http://a:1", "", problemScheme},
		{"http:a:1", "", problemHost},
		{"http://a", "", problemHost},
		{"http://a:", "", problemHost},
		{"http://:1", "", problemHost},
		{"http://a:0", "", problemHost},
		{"http://a:65536", "", problemHost},
		{"http://a:-1", "", problemHost},
		{"http://a:b", "", problemHost},
		{"http://[::1", "", problemHost},
		{"http://u@a:1", "", problemHost},
		{"http://u:p@a:1", "", problemHost},
		{"http://a b:1", "", problemHost},
		{"http://a,b:1", "", problemHost},
		{"http://[1:2]:1", "", problemHost},
		{"http://[::1%25a,b]:1", "", problemHost},
		{"http://[10.0.0.1]:1", "", problemHost},
		{"http://]:1", "", problemHost},
		{"http://a%25b:1", "", problemHost},
		{"http://ü:1", "", problemHost},
		{"http://%zz:1", "", problemHost},
		{"http://a\x00:1", "", problemHost},
		{"http://a:1/", "", problemPath},
		{"http://a:1/b", "", problemPath},
		{"http://a:1?", "", problemPath},
		{"http://a:1?b=c", "", problemPath},
		{"http://a:1#", "", problemPath},
	} {
		if got, problem := peerURL(tt.given); got != tt.want || problem != tt.problem {
			t.Errorf("peerURL(%q) = %q, %q, want %q, %q", tt.given, got, problem, tt.want, tt.problem)
		}
	}
}

func FuzzMemberBody(f *testing.F) {
	for _, seed := range []string{
		`{"peerURLs":["http://10.0.0.2:7001"],"isLearner":true}`, `{"peerURLs":["HTTP://A:01","http://a:1"]}`,
		`{"peerURLs":["http://[fe80::1%25eth0]:1"]}`, `{"peerURLs":[null]}`, `{"PEERURLS":[""],"isLearner":null}`, `null`, `[[`, ``,
	} {
		f.Add([]byte(seed), true)
	}
	f.Fuzz(func(t *testing.T, body []byte, learner bool) {
		m, ref := decodeMember(body, learner)
		if ref != nil {
			if ref.status != 400 || ref.err.Cause == "" || len(m.PeerURLs) != 0 {
				t.Fatalf("decodeMember(%q) = %+v, %+v, want 400, a cause and no body", body, m, ref)
			}
			return
		}
		if len(m.PeerURLs) == 0 || !slices.IsSorted(m.PeerURLs) || len(slices.Compact(slices.Clone(m.PeerURLs))) != len(m.PeerURLs) {
			t.Fatalf("decodeMember(%q) = %q, want URLs, sorted, each once", body, m.PeerURLs)
		}
		for _, text := range m.PeerURLs {
			if again, problem := peerURL(text); again != text || problem != "" || !utf8.ValidString(text) {
				t.Fatalf("peerURL(%q) = %q, %q, want itself", text, again, problem)
			}
			u, err := url.Parse(text)
			if err != nil || u.Path != "" || u.User != nil {
				t.Fatalf("Parse(%q) = %+v, %v, want a bare URL", text, u, err)
			}
			if _, _, err := net.SplitHostPort(u.Host); err != nil {
				t.Fatalf("SplitHostPort(%q) = %v, want nil", u.Host, err)
			}
		}
	})
}
