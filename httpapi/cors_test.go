package httpapi

import (
	"crypto/tls"
	"net/http/httptest"
	"testing"
)

func TestForeignPagesMayNotWrite(t *testing.T) {
	const refused = `{"errorCode":209,"message":"Invalid field","cause":"origin not allowed","index":0}` + "\n"
	for _, tt := range []struct {
		name   string
		cors   []string
		secure bool
		header map[string]string
		want   bool // served
	}{
		{"no browser", nil, false, nil, true},
		{"foreign", nil, false, map[string]string{"Origin": "http://bad.example"}, false},
		{"listed", []string{"http://good.example"}, false, map[string]string{"Origin": "http://good.example"}, true},
		{"not the listed one", []string{"http://good.example"}, false, map[string]string{"Origin": "http://bad.example"}, false},
		{"listed with another port", []string{"http://good.example"}, false, map[string]string{"Origin": "http://good.example:81"}, false},
		{"listed with another scheme", []string{"http://good.example"}, false, map[string]string{"Origin": "https://good.example"}, false},
		{"listed as a prefix", []string{"http://good.example"}, false, map[string]string{"Origin": "http://good.example.bad"}, false},
		{"any", []string{"*"}, false, map[string]string{"Origin": "http://bad.example", "Sec-Fetch-Site": "cross-site"}, true},
		{"own", nil, false, map[string]string{"Host": "m1:4001", "Origin": "http://m1:4001"}, true},
		{"own with another port", nil, false, map[string]string{"Host": "m1:4001", "Origin": "http://m1:4002"}, false},
		{"own with the port left out", nil, false, map[string]string{"Host": "m1:80", "Origin": "http://m1"}, true},
		{"own behind a TLS proxy", nil, false, map[string]string{"Host": "m1", "Origin": "https://m1"}, true},
		{"own over TLS", nil, true, map[string]string{"Host": "m1:443", "Origin": "https://M1"}, true},
		{"clear page on a TLS member", nil, true, map[string]string{"Host": "m1", "Origin": "http://m1"}, false},
		{"rebound name", nil, false, map[string]string{"Host": "127.0.0.1:4001", "Origin": "http://evil.example:4001"}, false},
		{"opaque", nil, false, map[string]string{"Origin": "null"}, false},
		{"strange scheme", nil, false, map[string]string{"Host": "m1", "Origin": "ftp://m1"}, false},
		{"cross-site without origin", nil, false, map[string]string{"Sec-Fetch-Site": "cross-site"}, false},
		{"cross-site from a listed origin", []string{"http://good.example"}, false, map[string]string{"Origin": "http://good.example", "Sec-Fetch-Site": "cross-site"}, true},
		{"same-site without origin", nil, false, map[string]string{"Sec-Fetch-Site": "same-origin"}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHandler(t, newFake(), func(c *Config) { c.CORS = tt.cors })
			send := func(method, target string) *httptest.ResponseRecorder {
				r := testRequest{method, target, "", tt.header}.build()
				if tt.secure {
					r.TLS = &tls.ConnectionState{}
				}
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				return w
			}
			for _, method := range []string{"PUT", "POST", "DELETE"} {
				for _, target := range []string{"/keys/a", "/v2/keys", "/machines", "/nothing/here"} {
					w := send(method, target)
					if got := w.Body.String() != refused; got != tt.want {
						t.Errorf("%s %s = %d %s, served = %t, want %t", method, target, w.Code, w.Body, got, tt.want)
					}
					if !tt.want && (w.Code != 403 || w.Header().Get("Content-Type") != "application/json") {
						t.Errorf("%s %s = %d %s, want 403 application/json", method, target, w.Code, w.Header().Get("Content-Type"))
					}
				}
			}
			keysHeadersOf(t, send("PUT", "/keys/a").Header())
			if w := send("GET", "/keys"); w.Code != 200 {
				t.Errorf("GET = %d, want 200: everybody may read", w.Code)
			}
		})
	}
}

func TestCORSHeaders(t *testing.T) {
	for _, tt := range []struct {
		name   string
		cors   []string
		origin string
		want   string // Allow-Origin
		vary   string
	}{
		{"none configured", nil, "http://good.example", "", ""},
		{"listed", []string{"http://good.example", "http://b:8080"}, "http://good.example", "http://good.example", "Origin"},
		{"not listed", []string{"http://good.example"}, "http://bad.example", "", ""},
		{"no origin", []string{"http://good.example"}, "", "", ""},
		{"any", []string{"*"}, "http://x.example", "*", ""},
		{"any, no origin", []string{"*"}, "", "*", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHandler(t, newFake(), func(c *Config) { c.CORS = tt.cors })
			for _, q := range []testRequest{
				{method: "OPTIONS", target: "/nothing/here"}, {method: "OPTIONS", target: "/keys/a"}, {method: "GET", target: "/keys/nope"},
				{method: "GET", target: "/keys?wait=x"}, {method: "PATCH", target: "/keys"}, {method: "GET", target: "/nothing"}, {method: "GET", target: "/health"},
			} {
				q.header = map[string]string{"Origin": tt.origin}
				header := do(h, q).Header()
				methods, headers := "", ""
				if tt.want != "" {
					methods, headers = "POST, GET, OPTIONS, PUT, DELETE", "accept, content-type, authorization"
				}
				for name, want := range map[string]string{
					"Access-Control-Allow-Origin": tt.want, "Access-Control-Allow-Methods": methods,
					"Access-Control-Allow-Headers": headers, "Vary": tt.vary,
				} {
					if got := header.Get(name); got != want {
						t.Errorf("%s %s: header %s = %q, want %q", q.method, q.target, name, got, want)
					}
				}
			}
		})
	}
}

func TestOptionsIsAnsweredEverywhere(t *testing.T) {
	h := newHandler(t, newFake(), nil)
	for _, target := range []string{"/keys/a", "/keys/%ff", "/nothing/here", "/", "/metrics"} {
		w := do(h, testRequest{"OPTIONS", target, "", map[string]string{"Origin": "http://good.example"}})
		if w.Code != 200 || w.Body.Len() != 0 || w.Header().Get("Content-Length") != "0" {
			t.Errorf("OPTIONS %s = %d %q, want 200 and an empty body", target, w.Code, w.Body)
		}
	}
}

func TestMalformedOriginsAreRefused(t *testing.T) {
	for _, origin := range []string{"", "good.example", "http://", "http://a/", "http://a/b", "//a", "http://a?b", "http://u@a", "://", "http://a b"} {
		if _, err := New(Config{Backend: newFake(), CORS: []string{origin}}); err == nil {
			t.Errorf("New(CORS %q) = nil, want an error", origin)
		}
	}
	for _, origin := range []string{"*", "http://a", "https://a.b:81", "http://[::1]:80", "chrome-extension://abc"} {
		if _, err := New(Config{Backend: newFake(), CORS: []string{origin}}); err != nil {
			t.Errorf("New(CORS %q) = %v, want nil", origin, err)
		}
	}
}
