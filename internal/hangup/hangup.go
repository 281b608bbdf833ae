// Package hangup tells a handler of net/http when its client has closed the
// connection, although the client has sent something behind its request. net/http
// itself looks no further than the first byte of that: the request's context goes
// on, and with it a watch that nobody hears, and its file descriptor.
//
// It reads nothing from connections, and does not judge how long a client is
// silent. Where the system cannot tell, contexts end as net/http ends them.
package hangup

import (
	"context"
	"net"
	"syscall"
	"time"
)

// interval is the time between two looks at a connection: a watch has to be
// released within a second.
const interval = 500 * time.Millisecond

type connKey struct{}

// ConnContext is for the field of that name of an [net/http.Server]: it keeps the
// connection for [Context].
func ConnContext(ctx context.Context, nc net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, nc)
}

// Context returns a context that ends with parent, which is that of a request, by
// stop, and within half a second after the client has closed its side of the
// connection, or the connection is broken. Any goroutine may call stop, more than
// once; somebody has to.
func Context(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(parent)
	raw := socketOf(parent)
	if raw == nil {
		return ctx, cancel
	}
	var look *time.Timer
	ready := make(chan struct{})
	look = time.AfterFunc(interval, func() {
		<-ready
		switch {
		case ctx.Err() != nil:
		case hungUp(raw):
			cancel()
		default:
			look.Reset(interval)
		}
	})
	close(ready) // look is set
	context.AfterFunc(ctx, func() { look.Stop() })
	return ctx, cancel
}

// socketOf returns access to the socket below the connection of a request, nil
// if there is none.
func socketOf(ctx context.Context) syscall.RawConn {
	nc, _ := ctx.Value(connKey{}).(net.Conn)
	for nc != nil {
		if with, ok := nc.(syscall.Conn); ok {
			raw, err := with.SyscallConn()
			if err != nil {
				return nil
			}
			return raw
		}
		above, ok := nc.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		nc = above.NetConn()
	}
	return nil
}
