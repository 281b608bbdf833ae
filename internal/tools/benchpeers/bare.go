package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// bareAnswer has the size of what Deimos answers when a key with a value of 128
// bytes is read.
func bareAnswer() []byte {
	body := `{"action":"get","node":{"key":"/bench/k0000","value":"` + strings.Repeat("x", 128) + `","modifiedIndex":10000,"createdIndex":10000}}` + "\n"
	return fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\nDate: %s\r\n"+
		"X-Deimos-Cluster-Id: 0000000000000000\r\nX-Etcd-Cluster-Id: 0000000000000000\r\nX-Deimos-Index: 10000\r\nX-Etcd-Index: 10000\r\n"+
		"X-Raft-Index: 10000\r\nX-Raft-Term: 2\r\n\r\n%s", len(body), time.Now().UTC().Format(time.RFC1123), body)
}

// serveBare answers whatever arrives, a read at a time, with the same bytes, in
// one thread and with two system calls: what is left is the price of the sockets,
// below which no server on this machine can be. It takes each read for a request,
// which holds for load that waits for its answers.
func serveBare(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	go answerBarely(epoll, bareAnswer())
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		if err := takeBare(epoll, c); err != nil {
			return err
		}
	}
}

// takeBare takes the socket of a connection from the Go runtime.
func takeBare(epoll int, c net.Conn) error {
	tcp, ok := c.(interface{ File() (*os.File, error) })
	if !ok {
		return errors.New("the connection has no file")
	}
	f, err := tcp.File()
	if err != nil {
		return err
	}
	fd, err := unix.Dup(int(f.Fd()))
	if err = errors.Join(err, f.Close(), c.Close()); err != nil {
		return err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return err
	}
	return unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
}

func answerBarely(epoll int, answer []byte) {
	runtime.LockOSThread()
	events, buf := make([]unix.EpollEvent, 256), make([]byte, 64<<10)
	for {
		n, err := unix.EpollWait(epoll, events, -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			fail(fmt.Errorf("epoll: %w", err))
		}
		for _, e := range events[:max(n, 0)] {
			fd := int(e.Fd)
			got, err := unix.Read(fd, buf)
			if err == nil && got == 0 {
				err = io.EOF
			}
			if err == nil {
				_, err = unix.Write(fd, answer)
			}
			if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
				_ = unix.Close(fd) // the client has gone
			}
		}
	}
}
