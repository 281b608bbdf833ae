package lane

import (
	"errors"
	"os"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// eventsMax is how many connections a turn of a loop takes on.
	eventsMax = 128
	// streamsMax is how many streams a turn lets go on, so that an event with a
	// thousand watchers does not keep the requests waiting meanwhile.
	streamsMax = 32
	// interest is what a loop is told of its connections: once, when something has
	// come. They are read until nothing is left.
	interest = unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLET&0xffffffff
	ended    = unix.EPOLLRDHUP | unix.EPOLLHUP | unix.EPOLLERR
)

// longAgo as a deadline wakes a loop.
var longAgo = time.Unix(1, 0)

// loop answers the requests of many connections in one goroutine: one wait of
// epoll(7) tells of all that have sent something, where a goroutine for each of
// them would have to be woken, would try to read in vain before it sleeps again,
// and would wait at each request for what the raft node does, and at each watch
// for an event. A connection comes here with its first request. What takes time is
// left to a goroutine of the request's own, and the connection comes back
// afterwards.
type loop struct {
	server  *Server
	handler Handler
	// epoll is watched by the runtime like a connection, so that the goroutine
	// sleeps like any other; raw gives access to its descriptor, and tryWait is
	// called with that.
	epoll   *os.File
	raw     syscall.RawConn
	tryWait func(fd uintptr) bool
	events  [eventsMax]unix.EpollEvent
	came    int  // how many of the events are filled in
	sleeps  bool // whether to wait for them

	// conns are the connections by their places, which the events name.
	conns []*conn
	free  []int32
	count int
	// taken are the messages that are being worked on, and due the streams that
	// have been told to go on and wait for their turn.
	taken []message
	due   []*conn
	sweep *time.Timer // that posts the next "sweeps", nil while there is none to come

	mu     sync.Mutex // guards the rest
	posted []message
	// parked tells that the goroutine sleeps, or is about to, and has to be woken.
	parked bool
	over   bool
}

// message tells a loop what has become of a connection, or to look after all.
type message struct {
	conn    *conn
	what    news
	request int // that it is about, by its number on the connection
}

type news int

const (
	joins   news = iota // it is the loop's from now on
	resumes             // its call goes on
	streams             // what its call has written was sent elsewhere
	returns             // its request was answered elsewhere
	ends                // so it was, and is the last one
	sweeps              // to look for what is idle for too long
	closes              // the server stops
)

// startLoops starts a loop for each processor. What the requests set off needs
// them too, but with fewer loops one would be idle while another has too much to do.
func startLoops(s *Server, h Handler) []*loop {
	var loops []*loop
	for range runtime.GOMAXPROCS(0) {
		l, err := newLoop(s, h)
		if err != nil {
			// It goes without: each connection has its goroutine then.
			s.logf("http: no epoll instance for connections: %v", err)
			break
		}
		s.wg.Go(l.run)
		loops = append(loops, l)
	}
	return loops
}

func newLoop(s *Server, h Handler) (*loop, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // the runtime watches only such files
		return nil, errors.Join(os.NewSyscallError("fcntl", err), unix.Close(fd))
	}
	l := &loop{server: s, handler: h, epoll: os.NewFile(uintptr(fd), "epoll")}
	if l.raw, err = l.epoll.SyscallConn(); err != nil {
		return nil, errors.Join(err, l.epoll.Close())
	}
	l.tryWait = l.wait
	return l, nil
}

// run is the goroutine of the loop. It ends with the server, after the last
// connection.
func (l *loop) run() {
	defer func() { _ = l.epoll.Close() }() // nothing was written to it
	for l.turn() {
	}
}

func (l *loop) turn() bool {
	l.take()
	for _, m := range l.taken {
		l.hear(m)
	}
	l.goOnStreaming()
	if l.finished() {
		return false
	}
	// What the last requests have set off, such as a read of the raft node, can often
	// be done before the next ones arrive. Sleeping at once would wake another
	// thread for it, and that one this.
	runtime.Gosched()
	l.park()
	for _, e := range l.events[:l.came] {
		if c := l.conns[e.Fd]; c != nil {
			c.mayRead()
			c.hungUp = c.hungUp || e.Events&ended != 0
			l.attend(c)
			l.serve(c)
		}
	}
	return true
}

// take takes the messages that have come.
func (l *loop) take() {
	clear(l.taken)
	l.mu.Lock()
	l.posted, l.taken = l.taken[:0], l.posted
	l.mu.Unlock()
}

// finished reports whether nothing can come any more.
func (l *loop) finished() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = l.count == 0 && len(l.posted) == 0 && l.server.closing.Load()
	if l.over && l.sweep != nil {
		l.sweep.Stop()
	}
	return l.over
}

// park waits for events, unless there are messages.
func (l *loop) park() {
	l.came = 0
	l.mu.Lock()
	l.parked = len(l.posted)+len(l.due) == 0
	l.sleeps = l.parked
	l.mu.Unlock()
	err := l.raw.Read(l.tryWait)
	l.mu.Lock()
	l.parked = false
	l.mu.Unlock()
	if err != nil {
		_ = l.epoll.SetReadDeadline(time.Time{}) // it was woken by a message
	}
}

// wait takes what events there are. It returns false to be called again when
// there are some.
func (l *loop) wait(fd uintptr) bool {
	n, err := unix.EpollWait(int(fd), l.events[:], 0)
	if err == nil {
		l.came = n
	}
	return n > 0 || !l.sleeps
}

// post gives the loop a message. It returns false when the loop has ended. It may
// be called from any goroutine.
func (l *loop) post(c *conn, what news) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return false
	}
	m := message{conn: c, what: what}
	if c != nil {
		m.request = c.requests
	}
	l.posted = append(l.posted, m)
	if l.parked {
		l.parked = false
		_ = l.epoll.SetReadDeadline(longAgo) // it is closed after the end only
	}
	return true
}

func (l *loop) hear(m message) {
	c := m.conn
	switch m.what {
	case joins:
		l.add(c)
	case resumes:
		c.woken = c.woken || m.request == c.requests
		if c.streaming {
			l.due = append(l.due, c)
			return
		}
		l.goOn(c)
		l.serve(c)
	case streams:
		c.comeBack()
		c.streaming, c.answer.held = true, true
		l.attend(c)
		l.serve(c)
	case returns:
		c.comeBack()
		c.busy, c.call = false, nil
		c.answer.began = time.Now() // for how long it is idle
		l.serve(c)
	case ends:
		l.remove(c)
		c.finished()
	case sweeps:
		l.sweep = nil
		l.closeIdle(l.server.full.IdleTimeout)
		if l.count > 0 {
			l.armSweep()
		}
	case closes:
		l.closeIdle(0)
		for _, c := range l.conns {
			if c != nil {
				l.attend(c)
			}
		}
	}
}

// goOnStreaming lets the streams that have waited longest go on.
func (l *loop) goOnStreaming() {
	now := l.due[:min(len(l.due), streamsMax)]
	for _, c := range now {
		l.goOn(c)
		l.serve(c)
	}
	l.due = slices.Delete(l.due, 0, len(now))
}

// add takes a connection on.
func (l *loop) add(c *conn) {
	if n := len(l.free); n > 0 {
		c.place, l.free = l.free[n-1], l.free[:n-1]
	} else {
		c.place = int32(len(l.conns))
		l.conns = append(l.conns, nil)
	}
	l.conns[c.place] = c
	l.count++
	c.comeBack()
	var err error
	failed := c.raw.Control(func(fd uintptr) {
		err = unix.EpollCtl(l.epollFd(), unix.EPOLL_CTL_ADD, int(fd), &unix.EpollEvent{Events: interest, Fd: c.place})
	})
	if failed != nil || err != nil {
		l.drop(c) // it was closed, or the kernel has no memory
		return
	}
	l.armSweep()
	l.serve(c)
}

// remove forgets a connection, which is closed or given away.
func (l *loop) remove(c *conn) {
	c.busy, c.streaming, c.call = true, false, nil // with nothing that concerns the loop
	l.conns[c.place] = nil
	l.free = append(l.free, c.place)
	l.count--
}

// drop closes a connection.
func (l *loop) drop(c *conn) {
	l.remove(c)
	_ = c.nc.Close() // there is nobody to tell
	c.finished()
}

// giveAway leaves a connection to net/http.
func (l *loop) giveAway(c *conn) {
	l.remove(c)
	// It fails only on a closed connection, which is no longer there.
	_ = c.raw.Control(func(fd uintptr) {
		_ = unix.EpollCtl(l.epollFd(), unix.EPOLL_CTL_DEL, int(fd), nil)
	})
	c.leave(func() {
		c.handOver()
		c.finished()
	})
}

func (l *loop) epollFd() (fd int) {
	_ = l.raw.Control(func(p uintptr) { fd = int(p) }) // it is closed after the end only
	return fd
}

// closeIdle closes the connections that have had no request under way for so long.
func (l *loop) closeIdle(limit time.Duration) {
	now := time.Now()
	for _, c := range l.conns {
		if c != nil && !c.busy && now.Sub(c.answer.began) >= limit {
			l.drop(c)
		}
	}
}

// armSweep looks for idle connections some time from now. They are closed when
// they have been idle for IdleTimeout, or up to a quarter longer.
func (l *loop) armSweep() {
	if limit := l.server.full.IdleTimeout; l.sweep == nil && limit > 0 {
		l.sweep = time.AfterFunc(limit/4, func() { l.post(nil, sweeps) })
	}
}

// closeLoops tells the loops that the server stops.
func (s *Server) closeLoops() {
	for _, l := range s.loops {
		l.post(nil, closes)
	}
}
