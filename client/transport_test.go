package client

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/internal/clustertest"
)

// hangUp ends the connection of a request without an answer.
func hangUp(t *testing.T, w http.ResponseWriter) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		t.Error(err)
		return
	}
	conn.Close()
}

// A server that takes one request on each connection and hangs up at the next:
// what net/http takes for a connection that was closed while it was idle.
func TestWriteOnAnOldConnectionIsNotSentTwice(t *testing.T) {
	var writes, reads atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := &reads
		if r.Method != http.MethodGet {
			n = &writes
		}
		if n.Add(1)%2 == 0 {
			hangUp(t, w)
			return
		}
		w.Header().Set("Content-Type", typeJSON)
		w.Write([]byte(answerSet))
	}))
	defer server.Close()
	c := open(t, Config{}, server.URL)
	for _, write := range []struct {
		name string
		call func() error
	}{
		{"PUT", func() error { _, err := c.Set(t.Context(), "/a", "1"); return err }},
		{"POST", func() error { _, err := c.CreateInOrder(t.Context(), "/a", "1"); return err }},
		{"DELETE", func() error { _, err := c.Delete(t.Context(), "/a"); return err }},
	} {
		writes.Store(0)
		if err := write.call(); err != nil {
			t.Fatal(err)
		}
		if err := write.call(); !errors.Is(err, ErrUnknownOutcome) || writes.Load() != 2 {
			t.Errorf("second %s: %v after %d requests, want ErrUnknownOutcome after 2", write.name, err, writes.Load())
		}
	}
	for range 2 {
		if _, err := c.Get(t.Context(), "/a"); err != nil {
			t.Errorf("Get: %v", err)
		}
	}
}

// A member that was restarted has closed the connections of the time before.
func TestWritesSurviveARestartedServer(t *testing.T) {
	var handled atomic.Int32
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		handled.Add(1)
		w.Header().Set("Content-Type", typeJSON)
		w.Write([]byte(answerSet))
	})
	server := httptest.NewServer(handler)
	c := open(t, Config{}, server.URL)
	if _, err := c.Set(t.Context(), "/a", "1"); err != nil {
		t.Fatal(err)
	}
	addr := server.Listener.Addr().String()
	server.Close()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Skipf("the address was taken by somebody else: %v", err)
	}
	again := &httptest.Server{Listener: l, Config: &http.Server{Handler: handler}}
	again.Start()
	defer again.Close()
	// The connection has to be seen to have ended, which takes the moment that it
	// takes the goroutine of net/http to run.
	clustertest.Eventually(t, "a write to the server that was started again", func() bool {
		_, err := c.Set(t.Context(), "/a", "1")
		return err == nil
	})
}

func TestRefusedCertificateIsNoUnknownOutcome(t *testing.T) {
	var handled atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { handled.Add(1) }))
	server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		c := open(t, Config{TLS: &tls.Config{RootCAs: roots, MinVersion: version, MaxVersion: version}}, server.URL)
		_, err := c.Set(t.Context(), "/a", "1")
		if !errors.Is(err, ErrNoEndpoint) || errors.Is(err, ErrUnknownOutcome) || handled.Load() != 0 {
			t.Errorf("%s: Set without a certificate: %v after %d requests, want ErrNoEndpoint after none",
				tls.VersionName(version), err, handled.Load())
		}
	}
}

func TestServersOfAnotherCAAreNotTrusted(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("request got through") }))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	_, err := open(t, Config{}, server.URL).Set(t.Context(), "/a", "1")
	var unknown x509.UnknownAuthorityError
	if !errors.Is(err, ErrNoEndpoint) || !errors.As(err, &unknown) {
		t.Errorf("Set: %v, want ErrNoEndpoint and an UnknownAuthorityError", err)
	}
}

func TestAnswerThatBreaksOffIsUnknown(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		w.Write([]byte(`{"action":"set",`))
		w.(http.Flusher).Flush()
		hangUp(t, w)
	}))
	defer server.Close()
	c := open(t, Config{RequestTimeout: 300 * time.Millisecond}, server.URL)
	if _, err := c.Set(t.Context(), "/a", "1"); !errors.Is(err, ErrUnknownOutcome) {
		t.Errorf("Set: %v, want ErrUnknownOutcome", err)
	}
	if _, err := c.Get(t.Context(), "/a"); !errors.Is(err, ErrNoEndpoint) {
		t.Errorf("Get: %v, want ErrNoEndpoint", err)
	}
}

func TestDeliveryOfUntouchedConnections(t *testing.T) {
	broken := errors.New("broken")
	alert := &net.OpError{Op: "remote error", Err: tls.AlertError(116)}
	conn := &countingConn{}
	conn.written.Store(7)
	for _, tt := range []struct {
		name  string
		d     *delivery
		err   error
		ended bool
		want  bool
	}{
		{"no connection", &delivery{}, broken, true, false},
		{"nothing written", &delivery{connected: true, conn: conn, mark: 7}, broken, false, false},
		{"nothing written yet", &delivery{connected: true, conn: conn, mark: 7}, broken, true, true},
		{"something written", &delivery{connected: true, conn: conn, mark: 3}, broken, false, true},
		{"unknown connection", &delivery{connected: true}, broken, false, true},
		{"refused certificate", &delivery{connected: true, conn: conn, mark: 3}, alert, false, false},
		{"alert on a connection that was used", &delivery{connected: true, reused: true, conn: conn, mark: 3}, alert, false, true},
		{"alert after an answer has begun", &delivery{connected: true, answered: true, conn: conn, mark: 3}, alert, false, true},
	} {
		if got := tt.d.possible(tt.err, tt.ended); got != tt.want {
			t.Errorf("%s: possible = %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestErrorsOfOtherServersAreStatusErrors(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	_, err := open(t, Config{Prefix: "/nokeys"}, server.URL).Get(t.Context(), "/a")
	var e *StatusError
	if !errors.As(err, &e) || e.Status != 404 || errors.Is(err, deimos.ErrKeyNotFound) {
		t.Fatalf("Get: %v, want a StatusError 404", err)
	}
	if want := "client: GET /nokeys/a at " + server.URL + ": 404 Not Found: 404 page not found"; err.Error() != want {
		t.Errorf("text %q, want %q", err, want)
	}
}
