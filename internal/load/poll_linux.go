package load

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// move moves the bytes of all callers until the run is over.
func (r *run) move() error {
	if r.cfg.Goroutines || r.hasTLS() {
		r.moveWithGoroutines()
		return nil
	}
	var pollers []*poller
	defer func() {
		for _, p := range pollers {
			p.close()
		}
	}()
	for i := range loops() {
		p, err := newPoller(r)
		if err != nil {
			return err
		}
		pollers = append(pollers, p)
		for j := i; j < len(r.callers); j += loops() {
			p.lines = append(p.lines, &polled{caller: r.callers[j], fd: -1})
		}
	}
	var all sync.WaitGroup
	errs := make([]error, len(pollers))
	for i, p := range pollers {
		all.Go(func() {
			errs[i] = p.loop()
			if errs[i] != nil {
				r.over.Store(true)
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// poller moves the bytes of many connections in one thread. What it asks the
// system for is one read and one write a request and, together for all that
// have arrived, one wait.
type poller struct {
	run    *run
	epoll  int
	timer  int // wakes it when a request is due, which is sooner than a wait can tell
	armed  time.Duration
	buf    []byte
	lines  []*polled
	queue  []*polled // lines that have asked too early, in a ring
	head   int
	queued int
	wake   time.Duration // when the first of them may ask again
	looked time.Duration // when it looked after its lines

	opening int // lines that are connecting or have not been answered anything
}

// polled is a connection of a poller.
type polled struct {
	caller
	fd     int // -1: there is none
	index  int
	state  lineState
	queued bool
	fresh  bool          // it counts as opening
	out    []byte        // what has not been written yet
	since  time.Duration // when it began to connect
	retry  time.Duration // when to connect again
}

type lineState uint8

const (
	unconnected lineState = iota
	connecting
	idle    // nothing is awaited
	talking // an answer is awaited
	silent  // finished
)

// pollBufferBytes is the size of a read; eventsMax how many connections one wait
// tells about.
const (
	pollBufferBytes = 64 << 10
	eventsMax       = 256
)

const timerIndex = -1

func newPoller(r *run) (*poller, error) {
	p := &poller{run: r, epoll: -1, timer: -1, buf: make([]byte, pollBufferBytes)}
	var err error
	if p.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("load: epoll: %w", err)
	}
	if p.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC); err != nil {
		p.close()
		return nil, fmt.Errorf("load: timer: %w", err)
	}
	if err := unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, p.timer, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: timerIndex}); err != nil {
		p.close()
		return nil, fmt.Errorf("load: epoll: %w", err)
	}
	return p, nil
}

func (p *poller) close() {
	for _, l := range p.lines {
		p.hangUp(l)
	}
	for _, fd := range []int{p.timer, p.epoll} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

// loop serves the lines until the run is over.
func (p *poller) loop() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p.queue = make([]*polled, len(p.lines))
	for i, l := range p.lines {
		l.index = i
	}
	p.lookAfter(p.run.now())
	events := make([]unix.EpollEvent, eventsMax)
	for !p.run.over.Load() {
		wait, err := p.wait()
		if err != nil {
			return err
		}
		n, err := unix.EpollWait(p.epoll, events, wait)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("load: epoll: %w", err)
		}
		for _, e := range events[:max(n, 0)] {
			if e.Fd == timerIndex {
				p.armed = 0
				_, _ = unix.Read(p.timer, p.buf[:8]) // else it stays ready
				continue
			}
			p.ready(p.lines[e.Fd], e.Events)
		}
		p.serveQueue()
		if now := p.run.now(); now-p.looked >= tick {
			p.looked = now
			p.lookAfter(now)
		}
	}
	return nil
}

// wait returns for how many milliseconds to wait, and sets the timer if a
// request is due before that.
func (p *poller) wait() (ms int, err error) {
	const usual = int(tick / time.Millisecond)
	if p.queued == 0 {
		return usual, nil
	}
	rest := p.wake - p.run.now()
	switch {
	case rest <= 0:
		return 0, nil
	case rest > tick || p.armed == p.wake:
		return usual, nil
	}
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(rest))}
	if err := unix.TimerfdSettime(p.timer, 0, &spec, nil); err != nil {
		return 0, fmt.Errorf("load: timer: %w", err)
	}
	p.armed = p.wake
	return usual, nil
}

// ready serves a line on which something has happened.
func (p *poller) ready(l *polled, events uint32) {
	switch {
	case l.fd < 0:
	case l.state == connecting:
		p.connected(l)
	default:
		if events&unix.EPOLLOUT != 0 && len(l.out) > 0 {
			p.write(l, l.out)
		}
		if l.fd >= 0 && events&^unix.EPOLLOUT != 0 {
			p.read(l)
		}
	}
}

// connect begins to connect, unless too many others do.
func (p *poller) connect(l *polled, now time.Duration) {
	if p.opening >= openingMax {
		return // lookAfter tries again
	}
	fd, err := dialing(l.server().addr)
	if err == nil {
		l.fd = fd
		err = unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLOUT, Fd: int32(l.index)})
	}
	if err != nil {
		p.drop(l, KindConnect, now)
		return
	}
	l.state, l.since, l.fresh = connecting, now, true
	p.opening++
}

// settle tells that a line does not count as opening any more.
func (p *poller) settle(l *polled) {
	if l.fresh {
		l.fresh = false
		p.opening--
	}
}

// connected ends the connecting.
func (p *poller) connected(l *polled) {
	now := p.run.now()
	code, err := unix.GetsockoptInt(l.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil || code != 0 || p.watch(l, unix.EPOLLIN) != nil {
		p.drop(l, KindConnect, now)
		return
	}
	l.caller.connected(now)
	p.advance(l, now)
}

// watch says what to wait for on a line.
func (p *poller) watch(l *polled, events uint32) error {
	return unix.EpollCtl(p.epoll, unix.EPOLL_CTL_MOD, l.fd, &unix.EpollEvent{Events: events, Fd: int32(l.index)})
}

// advance lets a line say the next thing.
func (p *poller) advance(l *polled, now time.Duration) {
	out, at, v := l.next(now)
	switch v {
	case finished:
		p.hangUp(l)
		l.state = silent
		p.run.left()
	case later:
		l.state, p.wake = idle, at
		if !l.queued {
			l.queued = true
			p.queue[(p.head+p.queued)%len(p.queue)] = l
			p.queued++
		}
	case send:
		l.state = talking
		p.write(l, out)
	}
}

// serveQueue lets lines ask again whose time has come.
func (p *poller) serveQueue() {
	for range p.queued {
		now := p.run.now()
		if p.wake > now {
			return
		}
		l := p.queue[p.head]
		p.head = (p.head + 1) % len(p.queue)
		p.queued--
		l.queued = false
		if l.state == idle && l.fd >= 0 {
			p.advance(l, now)
		}
	}
}

func (p *poller) write(l *polled, out []byte) {
	again := len(l.out) > 0
	n, err := unix.Write(l.fd, out)
	switch {
	case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR):
		n = 0
	case err != nil:
		p.drop(l, KindClosed, p.run.now())
		return
	}
	l.out = out[n:]
	switch rest := len(l.out) > 0; {
	case rest == again:
		return
	case rest:
		err = p.watch(l, unix.EPOLLIN|unix.EPOLLOUT)
	default:
		err = p.watch(l, unix.EPOLLIN)
	}
	if err != nil {
		p.drop(l, KindClosed, p.run.now())
	}
}

func (p *poller) read(l *polled) {
	n, err := unix.Read(l.fd, p.buf)
	now := p.run.now()
	switch {
	case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR):
		return
	case err != nil || n == 0:
		p.drop(l, KindClosed, now)
		return
	case l.state != talking: // nobody has asked
		p.hangUp(l)
		p.connect(l, now)
		return
	}
	p.settle(l)
	switch done, keep := l.receive(p.buf[:n], now); {
	case done && keep:
		p.advance(l, now)
	case done:
		p.hangUp(l)
		p.connect(l, now)
	}
}

// drop gives a connection up.
func (p *poller) drop(l *polled, kind string, now time.Duration) {
	waited := l.state == talking || kind == KindConnect
	p.hangUp(l)
	if waited {
		l.lost(kind, now)
	}
	if l.retry = now; kind == KindConnect {
		l.retry = now + reconnectPause
	}
}

// hangUp closes a connection if there is one.
func (p *poller) hangUp(l *polled) {
	if l.fd >= 0 {
		_ = unix.Close(l.fd) // nothing has been written that is not answered
	}
	p.settle(l)
	l.fd, l.state, l.out = -1, unconnected, nil
}

// lookAfter gives up what is overdue, and connects what is not connected.
func (p *poller) lookAfter(now time.Duration) {
	for _, l := range p.lines {
		switch {
		case l.state == talking && l.overdue(now):
			p.drop(l, KindTimeout, now)
		case l.state == connecting && now-l.since > p.run.cfg.Timeout:
			p.drop(l, KindConnect, now)
		case l.state == unconnected && now >= l.retry:
			p.connect(l, now)
		}
	}
}
