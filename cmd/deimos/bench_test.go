package main

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos/internal/load"
)

// benchServer answers every request with a status, and counts those that are for
// keys below a path.
func benchServer(t *testing.T, status int, path string) (url string, count *atomic.Int64) {
	t.Helper()
	count = new(atomic.Int64)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, path) {
			count.Add(1)
		}
		w.WriteHeader(status)
		io.WriteString(w, `{"node":{"value":"1"}}`)
	}))
	t.Cleanup(s.Close)
	return s.URL, count
}

// bench runs deimos bench and returns the exit code and what it printed.
func bench(t *testing.T, env []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), append([]string{"bench"}, args...), env, &out, &errs)
	return code, out.String(), errs.String()
}

func TestBenchPrintsWhatItMeasured(t *testing.T) {
	url, count := benchServer(t, http.StatusOK, "/v2/keys/load/k")
	code, out, stderr := bench(t, nil, "mixed", "--endpoints", url, "--prefix", "/v2/keys", "--key-prefix", "/load", "--requests", "50",
		"--warmup", "0s", "--connections", "2", "--keys", "10", "--reads", "0.5")
	if code != 0 || stderr != "" {
		t.Fatalf("bench = %d with %q", code, stderr)
	}
	if count.Load() != 50+10 { // the keys were written before
		t.Errorf("the server had %d requests, want 60", count.Load())
	}
	for _, want := range []string{
		`^work +mixed, 50 % reads, 10 keys, values of 128 bytes\n`, `\nendpoints +` + url + `\n`, `\nconnections +2\n`,
		`\nduration +[0-9.]+[mµ]?s after a warm-up of 0s\n`, `\nsucceeded +50, [0-9.]+/s\n`, `\nfailed +0\n`,
		`\ntraffic +0.0 MB sent, 0.0 MB received, [0-9.]+ MB/s\n`,
		`\nlatency +min \S+s, p50 \S+s, p90 \S+s, p99 \S+s, p99.9 \S+s, max \S+s\n`, `\n  of reads +min `, `\n  of writes +min `,
		`\ngenerator +[0-9.]+ of a processor, [0-9.]+ µs a request\n$`,
	} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("bench printed\n%s\nwhich does not match %q", out, want)
		}
	}
}

func TestBenchPrintsJSON(t *testing.T) {
	url, _ := benchServer(t, http.StatusOK, "/")
	code, out, stderr := bench(t, []string{"DEIMOS_ENDPOINTS=http://127.0.0.1:1", "DEIMOS_ENDPOINTS=" + url},
		"put", "--output", "json", "--requests", "20", "--warmup=0s")
	var got load.Result
	if err := json.Unmarshal([]byte(out), &got); err != nil || code != 0 || stderr != "" {
		t.Fatalf("bench = %d with %q and %q, %v", code, out, stderr, err)
	}
	if got.Operations != 20 || got.Work != load.Put || got.Latency.Count != 20 || got.Endpoints[0] != url {
		t.Errorf("bench printed %s", out)
	}
}

func TestBenchExitCodes(t *testing.T) {
	fine, _ := benchServer(t, http.StatusOK, "/")
	broken, _ := benchServer(t, http.StatusServiceUnavailable, "/")
	closed := httptest.NewServer(nil)
	closed.Close()
	for _, tt := range []struct {
		args string
		code int
		want string // in stderr
	}{
		{"put --requests 5 --warmup 0s --endpoints " + fine, 0, ""},
		{"put --requests 5 --warmup 0s --endpoints " + broken, 1, "deimos: bench put: nothing succeeded, 5 × status 503\n"},
		{"get --requests 5 --warmup 0s --keys 5 --endpoints " + broken, 1, "5 could not be written: 5 × status 503"},
		{"put --endpoints " + closed.URL, 3, "cannot connect: " + closed.URL},
		{"", 2, "deimos: deimos bench needs one of the works put, get, get-local, mixed, list, watch-fanout, fill, open-loop\n"},
		{"burn", 2, `there is no work "burn"`},
		{"put get", 2, `unexpected argument "get"`},
		{"put --burn", 2, "--burn"},
		{"put --output xml", 2, `--output: invalid value "xml"`},
		{"put --connections 0", 2, "deimos: --connections: 0 is not within 1 … 60000\n"},
		{"put --endpoints 127.0.0.1:4001", 2, "--endpoints: "},
		{"put --rate 5", 2, "deimos: --rate is not for put\n"},
		{"get --reads 0.5", 2, "deimos: --reads is not for get\n"},
		{"open-loop --rate 0", 2, "--rate: "},
		{"open-loop --watchers 5", 2, "--watchers is not for open-loop"},
		{"fill --duration 5s", 2, "deimos: --duration is not for fill\n"},
		{"fill --warmup 0s", 2, "deimos: --warmup is not for fill\n"},
		{"fill --requests 9", 2, "deimos: --requests is not for fill\n"},
		{"put --cert a", 2, "--cert and --key come together"},
		{"put --cacert /nowhere/ca.crt", 2, "/nowhere/ca.crt"},
		{"put --cacert a --insecure-skip-verify", 2, "exclude each other"},
	} {
		code, out, stderr := bench(t, nil, strings.Fields(tt.args)...)
		if code != tt.code || !strings.Contains(stderr, tt.want) || (tt.want == "") != (stderr == "") || strings.Count(stderr, "\n") > 1 {
			t.Errorf("bench %s = %d with %q, want %d with %q", tt.args, code, stderr, tt.code, tt.want)
		}
		if printed := out != ""; printed != (tt.code == 0 || strings.Contains(tt.want, "nothing succeeded")) {
			t.Errorf("bench %s printed %q", tt.args, out)
		}
	}
}

func TestBenchSpeaksTLS(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer s.Close()
	ca := t.TempDir() + "/ca.crt"
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, flags := range []string{"--cacert " + ca, "--insecure-skip-verify"} {
		args := append([]string{"put", "--requests", "5", "--warmup", "0s", "--endpoints", s.URL}, strings.Fields(flags)...)
		if code, out, stderr := bench(t, nil, args...); code != 0 || !strings.Contains(out, "succeeded    5,") {
			t.Errorf("bench %s = %d with %q and %q", flags, code, out, stderr)
		}
	}
	env := []string{envEndpoints + "=" + s.URL, envCACert + "=" + ca}
	if code, out, stderr := bench(t, env, "put", "--requests", "5", "--warmup", "0s", "-o", formatJSON); code != 0 || !strings.Contains(out, `"operations": 5`) {
		t.Errorf("bench with %q = %d with %q and %q", env, code, out, stderr)
	}
	if code, _, stderr := bench(t, []string{envCert + "=a"}, "put"); code != exitUsage || !strings.Contains(stderr, "--cert and --key come together") {
		t.Errorf("bench with half a certificate = %d with %q, want %d", code, stderr, exitUsage)
	}
	if code, _, stderr := bench(t, nil, "put", "--endpoints", s.URL); code != 3 || !strings.Contains(stderr, "certificate") {
		t.Errorf("bench without the authority = %d with %q, want 3 and the certificate", code, stderr)
	}
}

func TestTimesAreShownWithThreeDigits(t *testing.T) {
	for _, tt := range []struct {
		seconds float64
		want    string
	}{
		{0, "0s"}, {0.000000999, "999ns"}, {0.0000123456, "12.3µs"}, {0.00123456, "1.23ms"}, {0.999999, "1s"}, {1.23456, "1.23s"}, {123.456, "2m3s"},
	} {
		if got := roundSeconds(tt.seconds); got != tt.want {
			t.Errorf("roundSeconds(%v) = %s, want %s", tt.seconds, got, tt.want)
		}
	}
}

func TestProgressIsOneLineThatIsWrittenOver(t *testing.T) {
	for _, tt := range []struct {
		p    load.Progress
		want string
	}{
		{load.Progress{Elapsed: -time.Second}, "warm-up"},
		{load.Progress{Elapsed: 2 * time.Second, Operations: 500, OperationsPerSecond: 249.9, P99: 1234567, Failures: 3}, "2s: 250/s, p99 1.235ms, 3 failed"},
		{load.Progress{Elapsed: time.Second, Operations: 10, OperationsPerSecond: 10, P99: time.Second, Total: 100}, "10 of 100: 10/s, p99 1s, 0 failed"},
	} {
		var out bytes.Buffer
		printProgress(&out, tt.p)
		if want := clearLine + tt.want; out.String() != want {
			t.Errorf("printProgress(%+v) prints %q, want %q", tt.p, &out, want)
		}
	}
}

func TestTimersOfALoadMayBeLate(t *testing.T) {
	for _, tt := range []struct {
		work load.Work
		urls []string
		want bool
	}{
		{load.Put, []string{"http://127.0.0.1:4001"}, true},
		{load.WatchFanout, []string{"http://a:1", "http://b:1"}, true},
		{load.Put, []string{"http://a:1", "https://b:1"}, false},
		{load.OpenLoop, []string{"http://a:1"}, false},
	} {
		o := benchOptions{config: load.Default(tt.work)}
		o.config.Target.Endpoints = tt.urls
		if got := o.mayBeLate(); got != tt.want {
			t.Errorf("mayBeLate() of %s at %q = %t, want %t", tt.work, tt.urls, got, tt.want)
		}
	}
}
