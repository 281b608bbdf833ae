package main

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/internal/pki"
)

// answering is a server that gives every request the same answer.
func answering(t *testing.T, status int, body string) *prompt {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}))
	t.Cleanup(server.Close)
	return &prompt{t, []string{envEndpoints + "=" + server.URL}}
}

func TestAnAnswerThatLeavesTheOutcomeOpenIsTold(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int
		body   string
		want   string
	}{
		{"timeout", http.StatusInternalServerError,
			fmt.Sprintf(`{"errorCode":300,"message":"Raft Internal Error","cause":%q,"index":1}`, deimos.CauseWriteTimeout),
			` answered "` + deimos.CauseWriteTimeout + `": look before you repeat it` + "\n"},
		{"proxy", http.StatusBadGateway, `{"message":"lost on the way"}`,
			` answered with status 502: "lost on the way": look before you repeat it` + "\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := answering(t, tt.status, tt.body).run("put", "/k", "v")
			if o.code != exitFailure || !strings.HasSuffix(o.stderr, tt.want) || strings.Contains(o.stderr, "no answer") {
				t.Errorf("deimos put = %+v, want code %d and %q", o, exitFailure, tt.want)
			}
		})
	}
}

func TestARefusalSaysWhatToDo(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int
		code   deimos.Code
		cause  string
		want   string
	}{
		{"full disk", http.StatusInsufficientStorage, deimos.CodeRaftInternal, deimos.CauseDiskReserve,
			"disk space of the members is below the reserve, and nothing was changed: make room there"},
		{"large value", http.StatusBadRequest, deimos.CodeInvalidForm, "value is larger than 1024 bytes",
			"value is larger than 1024 bytes: members take more with a greater --max-value-bytes"},
		{"another form", http.StatusBadRequest, deimos.CodeInvalidForm, "odd", "Invalid POST form: odd"},
		{"removed member", http.StatusForbidden, deimos.CodeRaftInternal, deimos.CauseRemoved, "Raft Internal Error: " + deimos.CauseRemoved},
	} {
		t.Run(tt.name, func(t *testing.T) {
			body := fmt.Sprintf(`{"errorCode":%d,"message":%q,"cause":%q,"index":1}`, tt.code, tt.code, tt.cause)
			o := answering(t, tt.status, body).run("put", "/k", "v")
			if want := (outcome{exitFailure, "", "deimos: " + tt.want + "\n"}); o != want {
				t.Errorf("deimos put = %+v, want %+v", o, want)
			}
		})
	}
}

func TestAdviceFitsTheEndpointThatDoesNotAnswer(t *testing.T) {
	dir := t.TempDir()
	ca, err := pki.CreateCA(dir, "test", 0)
	if err != nil {
		t.Fatal(err)
	}
	// secure is a server with a certificate of the authority, valid until a day.
	secure := func(name, host string, validity time.Duration) (url, until string) {
		issued, err := ca.Issue(pki.IssueRequest{Name: name, Hosts: []string{host}, Usage: pki.UsageMember, Validity: validity})
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.LoadX509KeyPair(issued.CertFile, issued.KeyFile)
		if err != nil {
			t.Fatal(err)
		}
		server := httptest.NewUnstartedServer(http.NotFoundHandler())
		server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
		server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
		server.StartTLS()
		t.Cleanup(server.Close)
		return server.URL, date(issued.Certificate.NotAfter)
	}
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	expired, until := secure("expired", "127.0.0.1", time.Nanosecond)
	other, _ := secure("other", "elsewhere.test", 0)
	p := &prompt{t, []string{envCACert + "=" + ca.CertFile()}}
	for _, tt := range []struct{ args, want string }{
		{"get /a --endpoints " + strings.Replace(plain.URL, "http:", "https:", 1), "use http:// in --endpoints"},
		{"import --from " + strings.Replace(plain.URL, "http:", "https:", 1) + "/keys", "use http:// in --from"},
		{"get /a --endpoints " + expired, "the certificate of " + expired + " has expired on " + until + ": the member needs a new one"},
		{"health --endpoints " + expired, "the certificate of " + expired + " has expired on " + until + ": the member needs a new one"},
		{"status --endpoints " + other, "the certificate of " + other + " is for other names: use one of those in --endpoints"},
		{"get /a --endpoints http://127.0.0.1:1", "is a member running there? See --endpoints"},
		{"import --from http://127.0.0.1:1/keys", "is a member running there? See --from"},
	} {
		o := p.run(strings.Fields(tt.args)...)
		if o.code != exitConnect || !strings.HasSuffix(o.stderr, tt.want+"\n") {
			t.Errorf("deimos %s = %+v, want code %d and %q", tt.args, o, exitConnect, tt.want)
		}
	}
}

func TestStatusShowsNoNumbersOfAnEndpointThatDoesNotAnswer(t *testing.T) {
	(&prompt{t, nil}).steps([]step{{
		args:   "status --endpoints http://127.0.0.1:1",
		code:   exitConnect,
		stdout: "http://127.0.0.1:1  -  -  -  -  -  -  -  -  dial tcp 127.0.0.1:1: connect: connection refused\n",
		stderr: "1 of 1 endpoints have no status: is a member running there? See --endpoints",
	}})
}
