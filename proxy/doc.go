// Package proxy is the stateless forwarding mode of Deimos: it takes the
// requests of a client port to the client URL of some reachable member and
// relays the answer. A [Proxy] keeps no data, no session and no cache.
//
// # What is forwarded
//
// A request goes on as it came: method, target bytes with their escapes, Host,
// headers and body, except the headers that concern one connection only
// (Connection and what it names, Keep-Alive, TE, Trailer, Transfer-Encoding,
// Upgrade, Proxy-…, Expect). Messages are framed anew in both directions, so
// no second request can come out of a body, upgrades are ignored, CONNECT is
// answered 404, and an absolute-form target becomes the path with the Host
// that it names. The body of a GET, HEAD or OPTIONS, which members do not read,
// is read away and not forwarded; trailers are dropped. The proxy adds the
// header X-Deimos-Proxy, by which it knows its own requests when they come
// back, and returns the client's X-Request-Id. It talks to client URLs of
// members only, never to a host that a request names, and follows no redirect.
//
// # Which member
//
// Clients are spread, by their addresses, over the members that answer,
// learners included, and the requests from one address go to the same member as
// long as it does: what a client wrote, it reads, also with local reads and
// watches, as it would without a proxy. Each proxy spreads them its own way, so
// proxies that serve one host each use all members together. A member that
// fails is put aside for a pause that grows from 100 ms to 10 s, at whose end
// the proxy itself asks it. Requests turn to such members when no other is
// left, and then only after a probe that the member answered. The member list
// comes from Bootstrap and then from the members.
//
// A member may also hang: it accepts what it is sent and answers nothing. One
// that owes an answer for a second is probed (GET /livez, a second to answer)
// at once and every second from then on, and one with watches every 5 seconds.
// A member that fails a probe is put aside for everybody.
//
// # When a request is sent again
//
// A request goes to another member when nothing of it can have reached the
// first: the connection failed, or it broke before a single byte was written
// to it. Every connection counts what is written to it and, once a request is
// given up as untouched, refuses to write it later; that does not rest on what
// net/http believes. It goes on as well when the member has refused the
// certificate of the proxy, which with TLS 1.3 shows only after the request was
// written: the request died with the handshake. (A body of more than 64 KiB is
// gone then, and the answer is 503.)
//
// GET, HEAD and OPTIONS go to another member also later, as long as no answer
// has begun, and have at least a second try. When a second has passed without
// an answer, the next member is asked besides, up to three at a time, and the
// first answer counts; a member that fails a probe meanwhile is given up. So a
// cluster in which all members are slow, in an election say, loses no read to
// impatience.
//
// Other requests whose connection breaks are answered 502: they may or may not
// have been applied. At a member that hangs they wait for the request timeout
// and 2 seconds, also once it was put aside: if it wakes, its answer says what
// became of them, and an early 502 never would. Answers of members, the
// failures among them, are relayed as they are.
//
// A body is read up to 64 KiB before a member is asked, so that it can be sent
// again; a client that announces more than members take and then sends slowly
// is therefore answered 408 by the proxy and not 413 by a member.
//
// # Watches
//
// Watches with the same target and the same headers, but for headers that
// cannot matter to a member, share one upstream watch:
//
//   - A client joins an upstream watch that has not delivered an event yet. It
//     gets exactly what its own watch on that member, begun a little earlier,
//     would have got: with a waitIndex the first events from there, without one
//     the events after the index in the headers, which are those of the
//     upstream watch. That index may be older than the moment of joining;
//     resuming after it skips nothing and repeats nothing.
//   - A client without a waitIndex also joins a stream that is running. It gets
//     the whole events from then on, and index headers that tell the last event
//     delivered before: every matching event up to there is past, every later
//     one will come.
//   - A stream that starts inside the history (its waitIndex is not above the
//     index of the upstream watch) is never shared: the replay is as fast as its
//     one reader, and nobody is cut off while it lasts.
//
// Each client of a shared stream has a queue of 1024 events or 1 MiB, like a
// watcher of a member. A client that lets it overflow gets what is queued and
// then the end of its body; the others do not notice. The upstream watch ends
// with its last client. A watch whose member is lost or hangs goes on at another
// one behind the last whole event, by its index; where that cannot be done, it
// ends with the ordinary end of its body after a whole event, and its client
// resumes as it does when a member stops. A shared watch ends with its upstream,
// so a client that joined late sees the end before a whole watch timeout has
// passed.
//
// A watch that starts inside the history owes its events up to the index in its
// headers, and a client that hears signs of life but no event concludes in time
// that there are none. So as long as it may owe some, it goes on only at a member
// that has come to that index, and where none is found it breaks, as it would
// without a proxy.
//
// # Goroutines
//
// A proxy owns one goroutine that keeps the member list, from [Proxy.Start]
// on, with short-lived helpers that ask members, one for each upstream watch,
// and one for each member that is being probed; [Proxy.Close] waits for all of
// them. Everything else runs on the goroutine that net/http gives a request, or
// on those of its attempts, for which that one waits. The package serves no
// listener and checks nobody's credentials; it has the limits of a member for
// slow bodies and slow readers and leaves those of heads and connections to its
// server.
package proxy
