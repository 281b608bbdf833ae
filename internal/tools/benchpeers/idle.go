package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// idlePerAddress is how many connections come from one address of the
	// loopback network, each of which has only so many ports.
	idlePerAddress = 20_000
	// idleDialMax bounds the time until a watcher is accepted.
	idleDialMax = 10 * time.Second
	// idleDialers is how many connections are made at once.
	idleDialers = 32
	// idleReserve is how many files a process needs besides its connections.
	idleReserve = 1000
)

// idleCell looks what a watcher costs that nothing happens to.
func (b *bench) idleCell() *cell {
	c := &cell{name: "idle-watchers", columns: []string{deimos, etcd},
		rows: []row{{idleName(b.idle), size, true}}}
	c.open = func(context.Context) (measure, func() error, error) {
		n, before, err := raiseOpenFiles(b.idle)
		if err != nil {
			return nil, nil, err
		}
		if n < b.idle {
			c.rows[0].name = idleName(n)
			c.note("idle-watchers: %s of %s, because this process may not open more files", thousands(float64(n)), thousands(float64(b.idle)))
			fmt.Fprintf(b.log, "benchpeers: %s\n", c.notes[0])
		}
		return func(ctx context.Context, system string) ([]float64, error) { return b.idleWatchers(ctx, system, n) },
			func() error { return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before) }, nil
	}
	return c
}

func idleName(n int) string { return thousands(float64(n)) + " idle long polls: memory of each" }

// raiseOpenFiles lets this process and those that it starts have n connections,
// or as many as the system allows.
func raiseOpenFiles(n int) (allowed int, before syscall.Rlimit, err error) {
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		return 0, before, err
	}
	need := uint64(n + idleReserve)
	want := syscall.Rlimit{Cur: need, Max: max(before.Max, need)}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &want); err != nil { // not root
		want = syscall.Rlimit{Cur: min(need, before.Max), Max: before.Max}
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &want); err != nil {
			return 0, before, err
		}
	}
	return min(n, int(want.Cur)-idleReserve), before, nil
}

func (b *bench) idleWatchers(ctx context.Context, system string, n int) (figures []float64, err error) {
	cl, err := b.start(ctx, system, options{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, cl.stop()) }()
	s := cl.members[0]
	if err := b.rest(ctx); err != nil {
		return nil, err
	}
	before, err := memory(s.pid(), "VmRSS")
	if err != nil {
		return nil, err
	}
	conns, err := watchAll(ctx, s, system, n)
	defer func() {
		for _, conn := range conns {
			_ = conn.Close() // nothing was written that counts
		}
	}()
	if err != nil {
		return nil, err
	}
	if err := b.rest(ctx); err != nil {
		return nil, err
	}
	after, err := memory(s.pid(), "VmRSS")
	if err != nil {
		return nil, err
	}
	return []float64{(after - before) / float64(n)}, nil
}

// rest lets a server come to rest.
func (b *bench) rest(ctx context.Context) error {
	select {
	case <-time.After(b.settle):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// watchAll opens n long polls, each on one of 10,000 keys, and returns those
// that were accepted also where there is an error.
func watchAll(ctx context.Context, s *server, system string, n int) ([]net.Conn, error) {
	var (
		mu       sync.Mutex
		conns    []net.Conn
		firstErr error
		all      sync.WaitGroup
	)
	next := make(chan int)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for range idleDialers {
		all.Go(func() {
			for i := range next {
				conn, err := watch(ctx, s, system, i)
				mu.Lock()
				if conn != nil {
					conns = append(conns, conn)
				}
				if err != nil && firstErr == nil {
					firstErr = fmt.Errorf("watcher %d of %d: %w", i+1, n, err)
					cancel()
				}
				mu.Unlock()
			}
		})
	}
	for i := range n {
		select {
		case next <- i:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(next)
	all.Wait()
	if firstErr == nil {
		firstErr = ctx.Err()
	}
	return conns, firstErr
}

// chooseLate lets the system choose the port of a socket when it connects, and
// not before, which is slow where most are taken.
func chooseLate(_, _ string, conn syscall.RawConn) error {
	var err error
	if controlErr := conn.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	}); controlErr != nil {
		return controlErr
	}
	return err
}

// watch opens a long poll and waits until it is accepted.
func watch(ctx context.Context, s *server, system string, i int) (net.Conn, error) {
	host := strings.TrimPrefix(s.url, "http://")
	dialer := net.Dialer{Timeout: idleDialMax, KeepAlive: -1, Control: chooseLate,
		LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+i/idlePerAddress))}}
	conn, err := dialer.DialContext(ctx, "tcp", host)
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(idleDialMax)); err != nil {
		return conn, err
	}
	if _, err := fmt.Fprintf(conn, "GET %s/bench/k%04d?wait=true HTTP/1.1\r\nHost: %s\r\n\r\n", prefix(system), i%10_000, host); err != nil {
		return conn, err
	}
	line, err := bufio.NewReaderSize(conn, 512).ReadString('\n')
	if err != nil {
		return conn, err
	}
	if !strings.HasPrefix(line, "HTTP/1.1 200 ") {
		return conn, fmt.Errorf("it was refused: %s", strings.TrimSpace(line))
	}
	return conn, nil
}
