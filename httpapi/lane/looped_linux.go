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
	with, ok := c.nc.(syscall.Conn)
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

// readNow reads into the input without waiting.
func (c *conn) readNow() (int, error) {
	if err := c.raw.Read(c.tryRead); err != nil {
		return 0, err
	}
	return c.n, c.err
}

func (c *conn) readFd(fd uintptr) bool {
	c.n, c.err = ignoringInterrupts(unix.Read, int(fd), c.in[:])
	return true
}

// writeNow writes as much as can be without waiting.
func (c *conn) writeNow(p []byte) (int, error) {
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

// sendNow sends as much of what the answer has gathered as can be without waiting,
// and leaves the rest there.
func (c *conn) sendNow() {
	a := &c.answer
	if a.err != nil {
		return
	}
	n, err := c.writeNow(a.out)
	if err != unix.EAGAIN {
		a.err = err
	}
	a.out = a.out[max(n, 0):]
}

func ignoringInterrupts(do func(int, []byte) (int, error), fd int, p []byte) (int, error) {
	for {
		n, err := do(fd, p)
		if err != unix.EINTR {
			return n, err
		}
	}
}
