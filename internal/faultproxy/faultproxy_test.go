package faultproxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds how long a test waits for what must happen; silence is how
// long it listens for what must not.
const (
	patience = 10 * time.Second
	silence  = 50 * time.Millisecond
)

// echo starts a target that sends back what it gets, and a proxy before it.
func echo(t *testing.T) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	p, err := New(context.Background(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Close()
		l.Close()
		<-done
	})
	return p
}

func dial(t *testing.T, p *Proxy) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func send(t *testing.T, c net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Fatalf("Write(%q) = %v", s, err)
	}
}

func expect(t *testing.T, c net.Conn, want string) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("Read() = %q, %v, want %q", got[:n], err, want)
	}
}

func expectSilence(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(silence)); err != nil {
		t.Fatal(err)
	}
	var timeout net.Error
	if n, err := c.Read(make([]byte, 1)); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Fatalf("Read() = %d, %v, want a timeout", n, err)
	}
}

func expectEnd(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	var timeout net.Error
	n, err := c.Read(make([]byte, 1))
	if err == nil || errors.As(err, &timeout) && timeout.Timeout() {
		t.Fatalf("Read() = %d, %v, want the end of the connection", n, err)
	}
}

func TestBytesPassUnchanged(t *testing.T) {
	c := dial(t, echo(t))
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	go func() {
		_, _ = c.Write(want)
		_ = c.(*net.TCPConn).CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("echo of %d bytes = %d bytes, %v", len(want), len(got), err)
	}
}

func TestCutHoldsBytesBack(t *testing.T) {
	for _, tt := range []struct {
		name string
		d    Direction
	}{{"to target", ToTarget}, {"to client", ToClient}, {"both", Both}} {
		t.Run(tt.name, func(t *testing.T) {
			p := echo(t)
			c := dial(t, p)
			send(t, c, "a")
			expect(t, c, "a")
			p.Cut(tt.d)
			send(t, c, "b")
			expectSilence(t, c)
			p.Heal()
			expect(t, c, "b")
		})
	}
}

func TestCutIsForOneDirection(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p, err := New(context.Background(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	client := dial(t, p)
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	p.Cut(ToClient)
	send(t, client, "a")
	expect(t, server, "a")
	send(t, server, "b")
	expectSilence(t, client)
	p.Heal()
	expect(t, client, "b")
}

func TestDroppedBytesEndTheConnectionAtHeal(t *testing.T) {
	p := echo(t)
	c := dial(t, p)
	send(t, c, "a")
	expect(t, c, "a")
	p.Drop(ToTarget)
	send(t, c, "b")
	expectSilence(t, c)
	p.Heal()
	expectEnd(t, c)
	c = dial(t, p)
	send(t, c, "c")
	expect(t, c, "c")
}

func TestDelayIsTheLeastTime(t *testing.T) {
	const delay = 30 * time.Millisecond
	p := echo(t)
	p.Delay(delay)
	c := dial(t, p)
	start := time.Now()
	send(t, c, "a")
	expect(t, c, "a")
	if got := time.Since(start); got < 2*delay {
		t.Errorf("round trip = %v, want at least %v", got, 2*delay)
	}
}

func TestTrickleLimitsTheRate(t *testing.T) {
	p := echo(t)
	p.Trickle(10_000)
	c := dial(t, p)
	want := string(bytes.Repeat([]byte("x"), 1000))
	start := time.Now()
	send(t, c, want)
	expect(t, c, want)
	if got := time.Since(start); got < 90*time.Millisecond {
		t.Errorf("1000 bytes at 10000 bytes/s took %v, want at least 90ms", got)
	}
}

func TestCloseAllEndsConnectionsOnly(t *testing.T) {
	p := echo(t)
	c := dial(t, p)
	send(t, c, "a")
	expect(t, c, "a")
	p.CloseAll()
	expectEnd(t, c)
	c = dial(t, p)
	send(t, c, "b")
	expect(t, c, "b")
	if got := p.Conns(); got < 1 {
		t.Errorf("Conns() = %d, want at least 1", got)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	p := echo(t)
	for range connMax {
		c := dial(t, p)
		send(t, c, "a")
		expect(t, c, "a")
	}
	expectEnd(t, dial(t, p))
	if got := p.Conns(); got != connMax {
		t.Errorf("Conns() = %d, want %d", got, connMax)
	}
}

func TestUnreachableTargetEndsTheConnection(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	target := l.Addr().String()
	l.Close()
	p, err := New(context.Background(), target)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	expectEnd(t, dial(t, p))
}

func TestCloseEndsACutConnection(t *testing.T) {
	p := echo(t)
	c := dial(t, p)
	p.Cut(Both)
	send(t, c, "a")
	p.Close()
	p.Close()
	expectEnd(t, c)
	if c, err := net.Dial("tcp", p.Addr()); err == nil {
		c.Close()
		t.Error("Dial() after Close = nil, want an error")
	}
}

func TestContextEndsTheProxy(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	p, err := New(ctx, "127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	p.wg.Wait()
	if c, err := net.Dial("tcp", p.Addr()); err == nil {
		c.Close()
		t.Error("Dial() after the context ended = nil, want an error")
	}
}
