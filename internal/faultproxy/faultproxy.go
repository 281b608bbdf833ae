// Package faultproxy is a TCP proxy for tests that lets bytes through late,
// slowly, or not at all, in each direction by itself.
//
// It knows nothing of the protocol that it carries and injects no faults of
// its own accord. A proxy owns its listener, its connections and their
// goroutines; Close waits for all of them.
package faultproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Direction says which bytes a fault is for. Directions can be joined with |.
type Direction uint8

// The directions.
const (
	// ToTarget is for bytes that the dialling side sends.
	ToTarget Direction = 1 << iota
	// ToClient is for bytes that the target sends.
	ToClient
	// Both is for all bytes.
	Both = ToTarget | ToClient
)

// The limits of a proxy.
const (
	// connMax bounds the connections that are open at one time; one more is
	// closed at once.
	connMax = 256
	// chunkBytes is the most that is read at once. A direction of a connection
	// holds at most chunkMax chunks that are late.
	chunkBytes  = 16 << 10
	chunkMax    = 64
	dialTimeout = 5 * time.Second
	acceptPause = 10 * time.Millisecond
)

// Proxy forwards TCP connections to a target. All methods may be called from
// any goroutine.
type Proxy struct {
	target   string
	listener net.Listener
	cancel   context.CancelFunc
	wg       sync.WaitGroup

	mu     sync.Mutex
	closed bool
	open   map[*link]struct{}
	faults faults
}

// faults are what is done to bytes. The value is immutable: a change replaces
// it and closes changed.
type faults struct {
	changed chan struct{}
	cut     Direction
	drop    Direction
	delay   time.Duration
	rate    int // bytes per second, 0: no limit
}

// New starts a proxy on a free loopback port. It is closed by Close, or when
// ctx ends; t.Context() of a test ends before its cleanups run. The target, a
// host and port, is dialled for each connection and need not listen yet.
func New(ctx context.Context, target string) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("faultproxy: listen for %s: %w", target, err)
	}
	p := &Proxy{target: target, listener: l, open: make(map[*link]struct{})}
	p.faults.changed = make(chan struct{})
	ctx, p.cancel = context.WithCancel(ctx)
	p.wg.Go(func() { p.accept(ctx) })
	p.wg.Go(func() {
		<-ctx.Done()
		p.shut()
	})
	return p, nil
}

// Addr returns the host and port to dial instead of the target.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Cut holds back the bytes of a direction, as if packets were lost: nothing
// arrives, and once the buffers in between are full the sender's writes block.
// Connections stay open, and what was held back arrives after Heal. New
// connections are accepted under a cut.
func (p *Proxy) Cut(d Direction) { p.change(func(f *faults) { f.cut |= d }) }

// Drop takes the bytes of a direction and throws them away, so that the sender
// notices nothing. A connection that has lost bytes never carries that
// direction again: Heal closes it.
func (p *Proxy) Drop(d Direction) { p.change(func(f *faults) { f.drop |= d }) }

// Delay delivers bytes of both directions d later than they came. Bytes that
// came before the call keep their time.
func (p *Proxy) Delay(d time.Duration) { p.change(func(f *faults) { f.delay = d }) }

// Trickle lets at most bytesPerSecond bytes of each direction of a connection
// through; 0 takes the limit away.
func (p *Proxy) Trickle(bytesPerSecond int) {
	p.change(func(f *faults) { f.rate = bytesPerSecond })
}

// Heal ends all faults.
func (p *Proxy) Heal() {
	p.change(func(f *faults) { *f = faults{} })
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.open {
		if l.holed() {
			l.close()
		}
	}
}

// CloseAll closes the connections that are open, both sides of each. New ones
// are accepted.
func (p *Proxy) CloseAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.open {
		l.close()
	}
}

// Conns returns the number of connections that are open.
func (p *Proxy) Conns() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.open)
}

// Close ends the proxy and all its connections and waits for its goroutines. It
// may be called more than once.
func (p *Proxy) Close() {
	p.cancel()
	p.wg.Wait()
}

func (p *Proxy) shut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	_ = p.listener.Close() // it was open, and nothing is lost with it
	for l := range p.open {
		l.close()
	}
}

func (p *Proxy) change(f func(*faults)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.faults.changed
	f(&p.faults)
	p.faults.changed = make(chan struct{})
	close(old)
}

func (p *Proxy) current() faults {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.faults
}

func (p *Proxy) accept(ctx context.Context) {
	for {
		c, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// The connection was gone before it was accepted, or the process
			// is out of files for a moment.
			select {
			case <-ctx.Done():
			case <-time.After(acceptPause):
			}
			continue
		}
		l := &link{proxy: p, client: c, done: make(chan struct{})}
		p.mu.Lock()
		ok := !p.closed && len(p.open) < connMax
		if ok {
			p.open[l] = struct{}{}
			p.wg.Go(func() { l.run(ctx) })
		}
		p.mu.Unlock()
		if !ok {
			_ = c.Close()
		}
	}
}

// link is one connection through the proxy.
type link struct {
	proxy  *Proxy
	client net.Conn
	done   chan struct{} // closed with the link

	mu     sync.Mutex
	server net.Conn // nil until the target was dialled
	closed bool
	hole   bool // bytes were dropped
}

// run carries the connection until both directions have ended.
func (l *link) run(ctx context.Context) {
	defer func() {
		l.close()
		l.proxy.mu.Lock()
		delete(l.proxy.open, l)
		l.proxy.mu.Unlock()
	}()
	d := net.Dialer{Timeout: dialTimeout}
	server, err := d.DialContext(ctx, "tcp", l.proxy.target)
	if err != nil || !l.attach(server) {
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() { l.carry(ToTarget, l.client, server) })
	wg.Go(func() { l.carry(ToClient, server, l.client) })
	wg.Wait()
}

func (l *link) attach(server net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		_ = server.Close()
		return false
	}
	l.server = server
	return true
}

func (l *link) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	l.closed = true
	close(l.done)
	// The errors of closing say only that the other side was faster.
	_ = l.client.Close()
	if l.server != nil {
		_ = l.server.Close()
	}
}

// punch notes that bytes of the link are lost.
func (l *link) punch() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hole = true
}

func (l *link) holed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.hole
}

// chunk is a piece of a stream and the time at which it is due.
type chunk struct {
	data []byte
	due  time.Time
}

// carry moves one direction: this goroutine reads, another one writes what is
// due. An end of the stream is passed on; an error ends the link.
func (l *link) carry(d Direction, from, to net.Conn) {
	queue := make(chan chunk, chunkMax)
	var wg sync.WaitGroup
	wg.Go(func() { l.write(d, to, queue) })
	err := l.read(d, from, queue)
	close(queue)
	if !errors.Is(err, io.EOF) {
		l.close()
	}
	wg.Wait()
}

func (l *link) read(d Direction, from net.Conn, queue chan<- chunk) error {
	for {
		buf := make([]byte, chunkBytes)
		n, err := from.Read(buf)
		f := l.proxy.current()
		switch {
		case n == 0:
		case f.drop&d != 0:
			l.punch()
			if l.proxy.current().drop&d == 0 {
				return net.ErrClosed // Heal may have looked before
			}
		case l.holed():
			return net.ErrClosed
		default:
			select {
			case queue <- chunk{buf[:n], time.Now().Add(f.delay)}:
			case <-l.done:
				return net.ErrClosed
			}
		}
		if err != nil {
			return err
		}
	}
}

func (l *link) write(d Direction, to net.Conn, queue <-chan chunk) {
	for c := range queue {
		for len(c.data) > 0 {
			n, ok := l.pass(d, c)
			if !ok {
				return
			}
			if _, err := to.Write(c.data[:n]); err != nil {
				l.close()
				return
			}
			c.data = c.data[n:]
		}
	}
	if half, ok := to.(*net.TCPConn); ok {
		_ = half.CloseWrite() // if this fails, the other side is gone already
	}
}

// trickleStep is how often a limited direction lets bytes through.
const trickleStep = 10 * time.Millisecond

// pass waits until bytes of c may be written and returns how many; false when
// the link has ended.
func (l *link) pass(d Direction, c chunk) (int, bool) {
	for {
		f := l.proxy.current()
		n, wait := len(c.data), time.Until(c.due)
		if f.rate > 0 {
			n = min(n, max(1, f.rate*int(trickleStep/time.Millisecond)/1000))
			wait = max(wait, time.Duration(n)*time.Second/time.Duration(f.rate))
		}
		var timer <-chan time.Time
		switch {
		case f.cut&d != 0: // wait for a change
		case wait <= 0:
			return n, true
		default:
			timer = time.After(wait)
		}
		select {
		case <-l.done:
			return 0, false
		case <-f.changed:
		case <-timer:
			if l.proxy.current().cut&d == 0 {
				return n, true
			}
		}
	}
}
