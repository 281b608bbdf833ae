package discovery

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos"
)

// serve runs a directory on a socket.
func serve(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL + "/v2/keys/d/"
}

func answerWith(w http.ResponseWriter, body string) {
	w.Header().Set(deimos.HeaderEtcdIndex, "3")
	fmt.Fprintln(w, body)
}

func TestJoinOverSockets(t *testing.T) {
	registered := make(chan string, 1)
	answer := emptyAnswer
	dir := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/d/_config/size"):
			answerWith(w, fmt.Sprintf(sizeAnswer, "1"))
		case r.Method == http.MethodPut:
			registered <- r.PostFormValue("value")
			answer = fmt.Sprintf(childAnswer, fmt.Sprintf(child, "8e9e05c52164694d", testSelf.value(), 3))
			w.WriteHeader(http.StatusCreated)
			answerWith(w, "{}")
		default:
			answerWith(w, answer)
		}
	})
	r, err := Join(t.Context(), Config{URL: dir, Self: testSelf})
	if err != nil || !r.Self.equal(testSelf) || len(r.Members) != 1 {
		t.Fatalf("Join = %v, %v, want the member alone", r, err)
	}
	if got := <-registered; got != testSelf.value() {
		t.Errorf("registered %q, want %q", got, testSelf.value())
	}
}

func TestTheEndOfTheContextEndsAWaitOnASocket(t *testing.T) {
	waiting := make(chan struct{}, 1)
	dir := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/size"):
			answerWith(w, fmt.Sprintf(sizeAnswer, "2"))
		case r.URL.Query().Get("wait") == "true":
			w.(http.Flusher).Flush()
			waiting <- struct{}{}
			<-r.Context().Done()
		default:
			answerWith(w, emptyAnswer)
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-waiting
		cancel()
	}()
	if _, err := Observe(ctx, Config{URL: dir}); !errors.Is(err, context.Canceled) {
		t.Errorf("Observe = %v, want %v", err, context.Canceled)
	}
}

func TestRedirects(t *testing.T) {
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(secure.Close)
	for _, tt := range []struct {
		name  string
		reads int    // redirects of each read
		to    string // where writes are redirected to; empty: nowhere
		text  string
	}{
		{"three of a read", 3, "", ""},
		{"four of a read", 4, "", "302 Found: the redirect to \"/hop/0"},
		{"of a write", 0, "/elsewhere", `307 Temporary Redirect: the redirect to "/elsewhere" is not followed`},
		{"to another scheme", -1, "", "is not followed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			registered := false
			dir := serve(t, func(w http.ResponseWriter, r *http.Request) {
				hops := tt.reads
				target := r.URL.RequestURI()
				if rest, ok := strings.CutPrefix(target, "/hop/"); ok {
					n, after, _ := strings.Cut(rest, "/")
					if _, err := fmt.Sscan(n, &hops); err != nil {
						t.Error(err)
					}
					target = "/" + after
				}
				switch {
				case r.Method == http.MethodPut && tt.to != "":
					http.Redirect(w, r, tt.to, http.StatusTemporaryRedirect)
				case r.Method == http.MethodPut:
					registered = true
					w.WriteHeader(http.StatusCreated)
				case hops < 0:
					http.Redirect(w, r, secure.URL+target, http.StatusFound)
				case hops > 0:
					http.Redirect(w, r, fmt.Sprintf("/hop/%d%s", hops-1, target), http.StatusFound)
				case strings.Contains(target, "/size"):
					answerWith(w, fmt.Sprintf(sizeAnswer, "1"))
				case registered:
					answerWith(w, fmt.Sprintf(childAnswer, fmt.Sprintf(child, "8e9e05c52164694d", testSelf.value(), 3)))
				default:
					answerWith(w, emptyAnswer)
				}
			})
			_, err := Join(t.Context(), Config{URL: dir, Self: testSelf})
			if (err == nil) != (tt.text == "") || err != nil && !strings.Contains(err.Error(), tt.text) {
				t.Errorf("Join = %v, want %q", err, tt.text)
			}
		})
	}
}

func TestAServerThatCannotProveItselfIsNotAskedAgain(t *testing.T) {
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Config.ErrorLog = nil
	server.StartTLS()
	t.Cleanup(server.Close)
	_, err := Observe(t.Context(), Config{URL: server.URL + "/keys/d"})
	var certificate *tls.CertificateVerificationError
	if !errors.As(err, &certificate) {
		t.Errorf("Observe = %v, want the failed check of the certificate", err)
	}
	// With the right roots, the same server is asked.
	_, err = Observe(t.Context(), Config{URL: server.URL + "/keys/d", HTTP: server.Client()})
	if !errors.Is(err, ErrSizeNotFound) {
		t.Errorf("Observe = %v, want %v", err, ErrSizeNotFound)
	}
}

func TestAnUnreachableDirectoryIsNamedAtTheEnd(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	dir := server.URL + "/keys/d"
	server.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := Observe(ctx, Config{URL: dir})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), dir+"/_config/size") {
		t.Errorf("Observe = %v, want %v with the URL", err, context.DeadlineExceeded)
	}
}

func TestTheIndexHeaderIsDemanded(t *testing.T) {
	client := clientOf(func(r *http.Request) (*http.Response, error) {
		body := emptyAnswer
		if strings.HasSuffix(r.URL.Path, "/size") {
			body = fmt.Sprintf(sizeAnswer, "1")
		}
		return respond(r, 200, "", 0, strings.NewReader(body)), nil
	})
	if _, err := Observe(t.Context(), Config{URL: testURL, HTTP: client}); err == nil || !strings.Contains(err.Error(), "the header X-Deimos-Index or X-Etcd-Index") {
		t.Errorf("Observe = %v, want an error that names the headers", err)
	}
}

func TestTheCallersClientStaysAsItIs(t *testing.T) {
	client := &http.Client{Transport: newFakeDirectory("1", deimos.HeaderIndex), Timeout: time.Hour}
	if _, err := Join(t.Context(), Config{URL: testURL, Self: testSelf, HTTP: client}); err != nil {
		t.Fatal(err)
	}
	if client.Timeout != time.Hour || client.CheckRedirect != nil {
		t.Errorf("client = %+v, want it unchanged", client)
	}
}
