package lane

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// looped is the part of a connection that belongs to its loop.
type looped struct {
	loop  *loop // nil before it joins one
	raw   syscall.RawConn
	place int32
	// busy tells that a request is under way, or that the connection is no longer
	// here, more that there may be something to read, and hungUp that the client
	// has closed its side.
	busy, more, hungUp bool
	// away tells that a goroutine has the connection meanwhile, and woken that the
	// call has been told to go on since its last step.
	away, woken bool
	// streaming tells that the last step has left the call so.
	streaming bool
	requests  int // that have come
	call      Call
	resume    func()
	sealed    *sealed // nil: no TLS
	// What the next read or write without waiting works on. tryRead and tryWrite
	// are method values, made once.
	data              []byte
	n                 int
	err               error
	tryRead, tryWrite func(fd uintptr) bool
}

// join gives the connection to a loop, if it is one that can be watched there.
// It returns false when it stays where it is.
func (c *conn) join() bool {
	with, ok := c.socket.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := with.SyscallConn()
	if err != nil {
		return false
	}
	l := c.server.loop()
	if l == nil {
		return false
	}
	was := c.state.Swap(stateLooped)
	c.liftDeadlines()
	c.loop, c.raw = l, raw
	c.more = true // something may have come before the loop watches
	c.resume = func() { l.post(c, resumes) }
	c.tryRead, c.tryWrite = c.readFd, c.writeFd
	if l.post(c, joins) {
		return true
	}
	c.loop = nil // the server stops, and this is its last request
	c.state.Store(was)
	return false
}

// leave gives the connection to a goroutine that does do. It comes back by a
// message to the loop.
func (c *conn) leave(do func()) {
	c.away = true
	if c.sealed != nil {
		c.sealed.looped = false
	}
	go do()
}

// comeBack makes the connection the loop's.
func (c *conn) comeBack() {
	c.away = false
	if c.sealed != nil {
		c.sealed.looped = true
		c.mayRead() // what has come may be with TLS already
	}
}

// mayRead notes that there may be something to read.
func (c *conn) mayRead() {
	c.more = true
	if c.sealed != nil {
		c.sealed.drained = false
	}
}

// readNow reads into the input without waiting. There may be bytes and an error.
func (c *conn) readNow() (int, error) {
	if c.sealed != nil {
		return c.sealed.open(c.in[:])
	}
	return c.receive(c.in[:])
}

// sendNow sends as much of what the answer has gathered as can be without waiting.
// The rest stays there, or where it was sealed.
func (c *conn) sendNow() {
	a := &c.answer
	if a.err != nil {
		return
	}
	if c.sealed != nil {
		a.err = c.sealed.seal(a.out)
		a.out = a.out[:0]
		return
	}
	n, err := c.transmit(a.out)
	if err != unix.EAGAIN {
		a.err = err
	}
	a.out = a.out[max(n, 0):]
}

// unsent tells that [conn.sendNow] has left something.
func (c *conn) unsent() bool {
	return len(c.answer.out) > 0 || c.sealed != nil && len(c.sealed.out) > 0
}

// sendRest sends what [conn.sendNow] has left, and waits for the client to take it.
func (c *conn) sendRest() error {
	a := &c.answer
	if c.sealed != nil && a.err == nil {
		if a.err = a.setBound(a.takenBy(len(c.sealed.out))); a.err == nil {
			a.err = c.sealed.sendRest()
		}
	}
	return a.send()
}

// receive reads from the socket without waiting.
func (c *conn) receive(p []byte) (int, error) {
	c.data = p
	err := c.raw.Read(c.tryRead)
	c.data = nil
	if err != nil {
		return 0, err
	}
	return c.n, c.err
}

func (c *conn) readFd(fd uintptr) bool {
	c.n, c.err = ignoringInterrupts(unix.Read, int(fd), c.data)
	return true
}

// transmit writes to the socket as much as it takes without waiting.
func (c *conn) transmit(p []byte) (int, error) {
	c.data = p
	err := c.raw.Write(c.tryWrite)
	c.data = nil
	if err != nil {
		return 0, err
	}
	return c.n, c.err
}

func (c *conn) writeFd(fd uintptr) bool {
	c.n, c.err = ignoringInterrupts(unix.Write, int(fd), c.data)
	return true
}

func ignoringInterrupts(do func(int, []byte) (int, error), fd int, p []byte) (int, error) {
	for {
		n, err := do(fd, p)
		if err != unix.EINTR {
			return n, err
		}
	}
}
