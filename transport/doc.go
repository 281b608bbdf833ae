// Package transport carries raft messages and snapshots between members.
//
// [HTTP] is the real one. It wraps etcd's rafthttp, whose identifiers, log,
// statistics and fatal exits stay in here: each member dials two long-lived
// streams to each peer and reads from them what the peer sends; a message for
// which no stream is open is posted by itself; a snapshot is posted as a body
// of any length that goes straight to a file. [Network] joins members of one
// process without sockets, for tests. Both deliver to a [raftnode.Receiver]
// and behave alike.
//
// What a caller can count on:
//   - Messages from one member to another arrive in the order in which they
//     were sent, may be dropped, and may arrive twice. A drop is told with
//     ReportUnreachable. Messages posted while the streams are down may
//     overtake each other; raft allows for that.
//   - Sending never blocks and never calls the receiver back on the sending
//     goroutine.
//   - A message for another member, from a removed member or of another
//     cluster is refused before it is delivered.
//   - Nothing is delivered after Stop returns, and every goroutine of the
//     package has ended by then.
//
// What it refuses to do: it does not judge what a message says (raftnode
// does), does not listen (the owner of the listeners serves Handler), does not
// verify or install snapshots (snap does), and does not resend.
//
// The goroutines belong to the [HTTP] or [Endpoint] that started them, and
// Stop waits for them.
package transport
