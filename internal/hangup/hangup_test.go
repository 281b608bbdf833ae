package hangup

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// patience is for a busy machine; nothing takes so long that works.
const patience = 30 * time.Second

// watching serves one request and tells when it begins and when its context has
// ended.
func watching(t *testing.T, secure bool) (addr string, begun, ended chan struct{}) {
	begun, ended = make(chan struct{}), make(chan struct{})
	released, release := context.WithCancel(t.Context())
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		ctx, stop := Context(r.Context())
		defer stop()
		select {
		case begun <- struct{}{}:
		case <-released.Done(): // the next request of the same client
			return
		}
		select {
		case <-ctx.Done():
			close(ended)
		case <-released.Done():
		}
	}))
	s.Config.ConnContext = ConnContext
	if secure {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(func() {
		release()
		s.Close()
	})
	return s.Listener.Addr().String(), begun, ended
}

func dial(t *testing.T, addr string, secure bool) net.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	if secure {
		return tls.Client(nc, &tls.Config{InsecureSkipVerify: true}) // the server's identity is of no interest here
	}
	return nc
}

func TestTheContextEndsWhenTheClientHangsUp(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the system does not tell")
	}
	for _, tt := range []struct {
		name   string
		behind string // what the client sends behind its request
		secure bool
		leave  func(net.Conn) error
	}{
		{"closed with nothing behind", "", false, net.Conn.Close},
		{"closed with a byte behind", "\n", false, net.Conn.Close},
		{"closed with another request behind", "GET / HTTP/1.1\r\nHost: h\r\n\r\n", false, net.Conn.Close},
		{"half closed", "\n", false, func(nc net.Conn) error { return nc.(*net.TCPConn).CloseWrite() }},
		{"reset", "\n", false, func(nc net.Conn) error {
			return errors.Join(nc.(*net.TCPConn).SetLinger(0), nc.Close())
		}},
		{"closed, with TLS", "\n", true, net.Conn.Close},
	} {
		t.Run(tt.name, func(t *testing.T) {
			addr, begun, ended := watching(t, tt.secure)
			nc := dial(t, addr, tt.secure)
			defer nc.Close()
			if _, err := io.WriteString(nc, "GET /watch HTTP/1.1\r\nHost: h\r\n\r\n"+tt.behind); err != nil {
				t.Fatal(err)
			}
			<-begun
			if err := tt.leave(nc); err != nil && !tt.secure { // TLS may find that its farewell is not wanted
				t.Fatal(err)
			}
			select {
			case <-ended:
			case <-time.After(patience):
				t.Error("the context goes on although the client has hung up")
			}
		})
	}
}

func TestAClientThatIsThereHasNotHungUp(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client := dial(t, l.Addr().String(), false)
	defer client.Close()
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if _, err := io.WriteString(client, "G"); err != nil {
		t.Fatal(err)
	}
	raw := socketOf(ConnContext(t.Context(), server))
	if raw == nil {
		t.Fatal("socketOf() = nil, want the socket")
	}
	if hungUp(raw) {
		t.Error("hungUp() = true, want false: the client is there and has sent something")
	}
}

func TestAContextWithoutAConnectionEndsWithItsParent(t *testing.T) {
	parent, cancel := context.WithCancel(t.Context())
	ctx, stop := Context(parent)
	defer stop()
	if ctx.Err() != nil {
		t.Errorf("Err() = %v, want nil", ctx.Err())
	}
	cancel()
	<-ctx.Done()
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
