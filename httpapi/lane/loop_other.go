//go:build !linux

package lane

import "net"

// There are no loops here: each connection has its goroutine.
type loop struct{}

type looped struct{ loop *loop }

func startLoops(*Server, Handler) []*loop { return nil }

func (c *conn) join() bool { return false }

func (c *conn) belowTLS() net.Conn { return c.socket }

func (s *Server) closeLoops() {}
