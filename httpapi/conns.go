package httpapi

import (
	"container/list"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
)

// HeadsMaxPerAddress is how many connections of one address may have sent no
// whole request head yet, unless a [ConnsConfig] says something else.
const HeadsMaxPerAddress = 512

// ConnsConfig says how many connections clients may hold.
type ConnsConfig struct {
	// Max is how many connections may be open; accepting pauses there. It is
	// required, and at least as large as the number of listeners, of which each
	// sets one aside for the connection it waits for.
	Max int
	// HeadsMax is how many of them may have sent no whole request head yet. 0:
	// half of Max.
	HeadsMax int
	// HeadsMaxPerAddress is the same for the connections of one address. 0:
	// [HeadsMaxPerAddress].
	HeadsMaxPerAddress int
	// Registerer takes the deimos_http_connections… metrics. nil: they are not
	// registered.
	Registerer prometheus.Registerer
}

// Conns keeps the connections of the client port within bounds: their number,
// so that file descriptors are left for peers and files, and the number of
// those whose first request head, TLS handshake included, has yet to arrive
// whole. A new connection beyond the second bound takes the place of the one
// that has been waiting longest, which is closed: a client that means it sends
// its head at once, so the loser is one that does not. It starts no goroutine
// and is safe for use by any number of them; make one with [NewConns].
type Conns struct {
	headsMax        int
	headsMaxAddress int
	// slots holds a token for each connection that is open or awaited.
	slots   chan struct{}
	open    prometheus.Gauge
	refused prometheus.Counter

	mu sync.Mutex // guards the rest, and the places of connections in it
	// heads are the connections that wait for a head, the oldest first, in all
	// and by address.
	heads     *list.List
	byAddress map[netip.Addr]*list.List
}

// NewConns returns bounds that no connection counts against yet. It fails when
// a value is out of range or a metric is registered already.
func NewConns(cfg ConnsConfig) (*Conns, error) {
	if cfg.Max <= 0 || cfg.HeadsMax < 0 || cfg.HeadsMaxPerAddress < 0 {
		return nil, fmt.Errorf("httpapi: limits of connections: out of range: %d, heads %d, heads of an address %d",
			cfg.Max, cfg.HeadsMax, cfg.HeadsMaxPerAddress)
	}
	c := &Conns{
		headsMax:        cfg.HeadsMax,
		headsMaxAddress: cfg.HeadsMaxPerAddress,
		slots:           make(chan struct{}, cfg.Max),
		open: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "deimos_http_connections",
			Help: "Open connections of the client port.",
		}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "deimos_http_connections_refused_total",
			Help: "Connections closed because too many had sent no whole request head.",
		}),
		heads:     list.New(),
		byAddress: make(map[netip.Addr]*list.List),
	}
	if c.headsMax == 0 {
		c.headsMax = max(cfg.Max/2, 1)
	}
	if c.headsMaxAddress == 0 {
		c.headsMaxAddress = HeadsMaxPerAddress
	}
	if cfg.Registerer == nil {
		return c, nil
	}
	for _, m := range [...]prometheus.Collector{c.open, c.refused} {
		if err := cfg.Registerer.Register(m); err != nil {
			return nil, fmt.Errorf("httpapi: registering metrics: %w", err)
		}
	}
	return c, nil
}

// Listener returns a listener whose connections count. It stands below TLS.
// Closing it closes l. The connections must be served by a server whose
// ConnState is [Conns.ConnState].
func (c *Conns) Listener(l net.Listener) net.Listener {
	return &listener{Listener: l, conns: c, closed: make(chan struct{})}
}

// ConnState is the hook by which an [http.Server] tells that a request head
// has arrived. Connections of other listeners are left alone.
func (c *Conns) ConnState(nc net.Conn, state http.ConnState) {
	if state != http.StateActive {
		return
	}
	for {
		above, ok := nc.(interface{ NetConn() net.Conn }) // TLS, and what is around it
		if !ok {
			break
		}
		nc = above.NetConn()
	}
	if counted, ok := nc.(*conn); ok && counted.conns == c && counted.waiting.Load() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.forget(counted)
	}
}

// add counts a new connection and returns those that have to go for it.
func (c *Conns) add(nc *conn) (excess []*conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	nc.waiting.Store(true)
	nc.ofAll = c.heads.PushBack(nc)
	if nc.address.IsValid() {
		same := c.byAddress[nc.address]
		if same == nil {
			same = list.New()
			c.byAddress[nc.address] = same
		}
		nc.ofAddress = same.PushBack(nc)
		if same.Len() > c.headsMaxAddress {
			excess = append(excess, c.forgetOldest(same))
		}
	}
	if c.heads.Len() > c.headsMax {
		excess = append(excess, c.forgetOldest(c.heads))
	}
	return excess
}

func (c *Conns) forgetOldest(l *list.List) *conn {
	oldest := l.Front().Value.(*conn)
	c.forget(oldest)
	return oldest
}

// forget takes a connection off the lists, on which it may be no more. The
// caller holds the mutex.
func (c *Conns) forget(nc *conn) {
	if !nc.waiting.Load() {
		return
	}
	nc.waiting.Store(false)
	c.heads.Remove(nc.ofAll)
	nc.ofAll = nil
	if nc.ofAddress == nil {
		return
	}
	same := c.byAddress[nc.address]
	same.Remove(nc.ofAddress)
	nc.ofAddress = nil
	if same.Len() == 0 {
		delete(c.byAddress, nc.address)
	}
}

// listener accepts connections while there is room for them.
type listener struct {
	net.Listener
	conns *Conns
	// closed wakes an Accept that waits for room.
	closed    chan struct{}
	closeOnce sync.Once
}

// Accept implements [net.Listener].
func (l *listener) Accept() (net.Conn, error) {
	select {
	case l.conns.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	inner, err := l.Listener.Accept()
	if err != nil {
		<-l.conns.slots
		return nil, err
	}
	nc := &conn{Conn: inner, conns: l.conns}
	if a, ok := inner.RemoteAddr().(*net.TCPAddr); ok {
		nc.address = a.AddrPort().Addr().Unmap()
	}
	l.conns.open.Inc()
	for _, excess := range l.conns.add(nc) {
		l.conns.refused.Inc()
		// Its server finds out by itself; there is nobody else to tell.
		_ = excess.Close()
	}
	return nc, nil
}

// Close implements [net.Listener].
func (l *listener) Close() error {
	l.closeOnce.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// conn is a connection that counts until it is closed.
type conn struct {
	net.Conn
	conns *Conns
	// address is not valid where there is none, as on a Unix socket.
	address   netip.Addr
	closeOnce sync.Once
	// waiting tells that a head has yet to arrive. It changes under the mutex of
	// conns, and spares the other requests that mutex.
	waiting atomic.Bool
	// ofAll and ofAddress are its places among the connections that wait.
	ofAll, ofAddress *list.Element
}

// Close implements [net.Conn].
func (c *conn) Close() error {
	err := c.Conn.Close()
	c.closeOnce.Do(func() {
		c.conns.mu.Lock()
		c.conns.forget(c)
		c.conns.mu.Unlock()
		c.conns.open.Dec()
		<-c.conns.slots
	})
	return err
}

// CloseWrite ends the sending side alone. By it net/http lets a client whose
// body it will not read see the answer before the connection is reset.
func (c *conn) CloseWrite() error {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return half.CloseWrite()
}

// SyscallConn gives access to the socket, where there is one. The connection
// counts on until it is closed.
func (c *conn) SyscallConn() (syscall.RawConn, error) {
	below, ok := c.Conn.(syscall.Conn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	return below.SyscallConn()
}
