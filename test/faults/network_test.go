package faults

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"regexp"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos/internal/faultproxy"
	"github.com/marsevilspirit/deimos/internal/proctest"
)

// outsider is who opens a connection without saying, or knowing, which member
// he is: members that join, and first members before their ids are known here.
const outsider = -1

// network carries the bytes between members. Each member has a door, which its
// advertised peer URL leads to. The door reads which member opens the
// connection, which stands in the plain part of every opening, and leads it
// through the proxy of this ordered pair. All methods may be called from any
// goroutine.
type network struct {
	doors []net.Listener
	links map[pair]*link
	wg    sync.WaitGroup

	mu     sync.Mutex
	closed bool
	slots  map[string]int // by member id
	open   map[net.Conn]struct{}
}

// pair is who opened a connection, and to whom.
type pair struct{ opener, target int }

// link is the connections of a pair.
type link struct {
	proxy *faultproxy.Proxy
	// back counts the bytes from the target that reached the opener.
	back atomic.Int64
}

// newNetwork makes a door before each of the listening addresses.
func newNetwork(t testing.TB, targets []string) *network {
	t.Helper()
	n := &network{links: map[pair]*link{}, slots: map[string]int{}, open: map[net.Conn]struct{}{}}
	t.Cleanup(n.close)
	for to, target := range targets {
		for from := outsider; from < len(targets); from++ {
			p, err := faultproxy.New(context.Background(), target)
			if err != nil {
				t.Fatal(err)
			}
			n.links[pair{from, to}] = &link{proxy: p}
		}
		n.doors = append(n.doors, proctest.Listen(t))
	}
	for to, door := range n.doors {
		n.wg.Go(func() { n.accept(door, to) })
	}
	return n
}

// address is where the others find a member.
func (n *network) address(slot int) string { return n.doors[slot].Addr().String() }

// know tells which member has an id.
func (n *network) know(id string, slot int) {
	n.mu.Lock()
	n.slots[id] = slot
	n.mu.Unlock()
}

// sortAgain closes the connections of outsiders, so that members whose ids were
// not known when they opened them open them again.
func (n *network) sortAgain() {
	for p, l := range n.links {
		if p.opener == outsider {
			l.proxy.CloseAll()
		}
	}
}

// ways are the two kinds of connections that carry bytes from one member to
// another: those that the sender opened, and those that the receiver opened.
func (n *network) ways(from, to int) (opened, answered *link) {
	return n.links[pair{from, to}], n.links[pair{to, from}]
}

// cut stops the bytes from one member to another, or throws them away.
func (n *network) cut(from, to int, drop bool) {
	opened, answered := n.ways(from, to)
	if drop {
		opened.proxy.Drop(faultproxy.ToTarget)
		answered.proxy.Drop(faultproxy.ToClient)
		return
	}
	opened.proxy.Cut(faultproxy.ToTarget)
	answered.proxy.Cut(faultproxy.ToClient)
}

// each does something to the links between members.
func (n *network) each(do func(*faultproxy.Proxy)) {
	for p, l := range n.links {
		if p.opener != outsider && p.opener != p.target {
			do(l.proxy)
		}
	}
}

// heal ends all faults.
func (n *network) heal() { n.each((*faultproxy.Proxy).Heal) }

// flow is how many bytes from one member have reached another on connections
// that the receiver opened, and how many such connections are open.
func (n *network) flow(from, to int) (bytes int64, conns int) {
	_, answered := n.ways(from, to)
	return answered.back.Load(), answered.proxy.Conns()
}

func (n *network) close() {
	n.mu.Lock()
	n.closed = true
	for c := range n.open {
		c.Close()
	}
	n.mu.Unlock()
	for _, d := range n.doors {
		d.Close()
	}
	for _, l := range n.links {
		l.proxy.Close()
	}
	n.wg.Wait()
}

// adopt notes a connection that close has to end; false after close.
func (n *network) adopt(c net.Conn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		c.Close()
		return false
	}
	n.open[c] = struct{}{}
	return true
}

func (n *network) drop(c net.Conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.open, c)
	c.Close()
}

func (n *network) accept(door net.Listener, to int) {
	for {
		c, err := door.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // it was gone already, or files are short for a moment
			letPass(context.Background(), 10*time.Millisecond)
			continue
		}
		if n.adopt(c) {
			n.wg.Go(func() { n.serve(c, to) })
		}
	}
}

// sender finds the id of the member that opens a connection.
var sender = regexp.MustCompile(`(?i)\r\nX-Server-From: *([0-9a-f]+)\r\n`)

const headMaxBytes = 16 << 10

// serve leads one connection through the proxy of its pair.
func (n *network) serve(c net.Conn, to int) {
	defer n.drop(c)
	head := make([]byte, 0, 4096)
	if c.SetReadDeadline(time.Now().Add(10*time.Second)) != nil {
		return
	}
	for !bytes.Contains(head, []byte("\r\n\r\n")) && len(head) < headMaxBytes {
		buf := make([]byte, 4096)
		k, err := c.Read(buf)
		head = append(head, buf[:k]...)
		if err != nil {
			return
		}
	}
	if c.SetReadDeadline(time.Time{}) != nil {
		return
	}
	l := n.links[pair{n.opener(head), to}]
	target, err := net.Dial("tcp", l.proxy.Addr())
	if err != nil || !n.adopt(target) {
		return
	}
	defer n.drop(target)
	if _, err := target.Write(head); err != nil {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { pump(target, c, nil) })
	both.Go(func() { pump(c, target, &l.back) })
	both.Wait()
}

func (n *network) opener(head []byte) int {
	m := sender.FindSubmatch(head)
	if m == nil {
		return outsider
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if slot, ok := n.slots[string(m[1])]; ok {
		return slot
	}
	return outsider
}

// pump copies until the end of the stream, which it passes on, or an error,
// which ends both connections.
func pump(to, from net.Conn, count *atomic.Int64) {
	buf := make([]byte, 32<<10)
	for {
		k, err := from.Read(buf)
		if k > 0 {
			if count != nil {
				count.Add(int64(k))
			}
			if _, werr := to.Write(buf[:k]); werr != nil {
				err = werr
			}
		}
		if errors.Is(err, io.EOF) {
			// If this fails, the other side is gone already.
			_ = to.(*net.TCPConn).CloseWrite()
			return
		}
		if err != nil {
			to.Close()
			from.Close()
			return
		}
	}
}
