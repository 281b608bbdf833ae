// Package lane answers the everyday requests of the client port without
// net/http, at a third of its cost: requests of HTTP/1.1, with TLS or without, for
// paths that the handler wants here, whose head comes in one piece and holds
// nothing out of the ordinary.
//
// It refuses to be a second HTTP implementation, and leaves TLS to crypto/tls.
// Whatever it has not been told to understand (another path, method or version, a
// handshake that fails, a head in pieces, a chunked or large body, Expect, Upgrade,
// what browsers send of origins, a malformed byte) it leaves to net/http: the
// connection goes there with all that was read, and does not come back. So there is
// one judge of what is wrong with a request, and a request has the same answer on
// both ways.
//
// A connection begins with a goroutine, which reads, calls the handler and writes.
// After its first request it goes to a loop, which answers many connections with
// one goroutine, on Linux and if the handler is a [Handler]. A request that takes
// time has a goroutine again. While an answer is a stream, another one waits for
// the client to go, and neither holds a buffer while nothing happens; nor does a
// connection without a request. A handler's request and response writer are used
// again for the next request of the connection: it must not keep them.
package lane
