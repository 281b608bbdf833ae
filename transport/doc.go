// Package transport carries raft messages, snapshots and calls between members,
// and lets nobody else in.
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
//   - A message for another member, from a removed member, of another cluster,
//     from or for another data directory, in the name of another member, from a
//     second process of a member, or without proof where there is a secret is
//     refused before it is delivered.
//   - Nothing is delivered after Stop returns, and every goroutine of the
//     package has ended by then.
//
// What it refuses to do: it does not judge what a message says (raftnode
// does), does not listen (the owner of the listeners serves Handler, with TLS
// or without), does not verify or install snapshots (snap does), and does not
// resend.
//
// The goroutines belong to the [HTTP] or [Endpoint] that started them, and
// Stop waits for them.
//
// # What is behind the peer port
//
//	GET  /raft/stream/message/<sender>   what the receiver sends to the sender
//	GET  /raft/stream/msgapp/<sender>    the same, append messages only
//	POST /raft                           one message
//	POST /raft/snapshot                  a message with its length in front, and the snapshot
//	POST /deimos/call                    a call: opaque bytes, at most 64 KiB each way
//	GET  /members                        the members, as on the client port
//
// Every other path is answered with 404.
//
// # The opening
//
// Every request begins with headers that say who speaks to whom. Ids are in
// hex, incarnations have 32 hex digits.
//
//	X-Etcd-Cluster-ID     the sender's cluster
//	X-Server-From         the sender
//	X-Raft-To             the receiver
//	X-Deimos-Incarnation  the incarnation of the sender
//	X-Deimos-Expects      the incarnation that the sender expects of the receiver;
//	                      not there when the sender does not know one
//	X-PeerURLs            the peer URLs of the sender, separated by commas
//
// The query of every request that names a sender also names the sender's run
// (?run=): 16 random bytes in hex that the process made when it started. It is
// not in a header, because a proof covers the query also in the eyes of a
// receiver that knows nothing of the run of a sender.
//
// Who is no member yet may leave all of them out, for GET /members only; what
// is there must be right. The receiver checks, before it reads the body: the
// proof (see below), the cluster, the receiver, that the sender was not
// removed, that the sender's incarnation is the known one if there is one, that
// the sender is known, and that its own incarnation is the expected one. What
// the log says of an incarnation counts first, then what was told by who
// vouched for the member.
//
// A sender is known when it was added with AddPeer, or when somebody vouches
// for it by listing it under GET /members. An unknown sender is refused, and
// asked about in the background, once a second at most. These are asked:
//
//   - the peers that are known;
//   - the introducers, which are peer URLs from the operator's configuration,
//     without saying who asks: their list counts if it is one of this cluster;
//   - the sender itself, at the first 8 peer URLs that it names, if the members
//     share a secret, or if the sender has come with a certificate that was
//     verified, and then at https URLs only: its list counts for itself, if it
//     is one of this cluster and this member is in it, too. Without a secret and
//     without a certificate nobody is asked where a sender says.
//
// At most 64 members are known that way. For one more, the one that has been
// silent for longest is forgotten, and is unknown again.
//
// Every answer says who gives it:
//
//	X-Etcd-Cluster-ID     the cluster
//	X-Deimos-Member       the answering member
//	X-Deimos-Incarnation  its incarnation
//	X-Deimos-Run          its run
//	X-Deimos-Refused      only there if the request was refused, which is before it
//	                      was acted on: one of cluster, recipient, sender, removed,
//	                      incarnation, twin, unsettled, expected, secret, run, clock,
//	                      paused, busy, not_ready, too_large, opening
//	X-Deimos-Knows        with incarnation: the one that is known of the sender
//	X-Deimos-Twin         with twin: for how long, in milliseconds, the receiver has
//	                      known the process that speaks for the sender, a space, and
//	                      where that is
//	X-Deimos-Time         with clock: the time of the receiver, in unix milliseconds
//	X-Deimos-Digest       the SHA-256 of the body in hex, for calls and /members
//
// The answer of GET /members can also have:
//
//	X-Raft-Index           the raft index, in decimal, that the answering member had
//	                       applied before it made the list
//	X-Deimos-Incarnations  the incarnations of members that have started, at most
//	                       1024: id=incarnation, separated by commas
//
// A call that is refused with not_ready (status 503) was not processed.
//
// A connection with a refused request is closed without reading more of its
// body. The sender checks cluster, member and incarnation before it reads the
// body of the answer. It ends itself when it is told that it was removed, that its
// incarnation is another one ([WipedError]), or that it is the second process of
// its member ([TwinError], see below), or for 3 s on end by most of the
// peers that have answered at all, before any peer has taken a request, that
// they are of another cluster ([ForeignError]). A receiver ends itself likewise
// when another incarnation is expected of it.
//
// # One process for each member
//
// A copy of a data directory has the member and the incarnation of the first.
// If both ran, they would vote as one voter. So a member remembers of each other
// one the run that speaks for it, from its openings and its answers, and another
// run has to wait until that one has ended. How that is found out:
//
//   - GET /members is asked at the peer URLs of the member, in the name of
//     nobody. If the known run answers, the other one is refused with twin.
//   - If it is certain that the known run is not there (another process answers,
//     or the connection is refused), and nothing of it is open here, it has ended.
//     A process that is restarted in place is let in that way, at once: the
//     connections of one that is killed end with it.
//   - If nothing is open and nothing was heard for 7 s, it has ended.
//   - Otherwise, once it has been silent for 2 s, its connections are broken. One
//     that is alive opens a stream anew within 2 s, and the other one is refused
//     with twin. One that does not, and has been silent for 7 s, has ended.
//
// Meanwhile the other run is refused with unsettled, and tries again. When it is
// let in, the connections of the first are broken, and nothing of it is read any
// more. Who knows no run yet, because it has just started, takes the one that
// answers at the peer URLs of the member for the first, and only if none does the
// one that comes.
//
// A process that is refused with twin ends itself if the other one has been known
// there for longer than any peer has accepted this one, or if no peer has yet.
// Otherwise it came first, and the peer has started anew: it warns, and ends only
// when peers have said so for a minute on end. The other one ends before, at the
// first peer that knows better.
//
// What holds: as long as a process can be reached at the peer URLs of its member,
// or is heard, no copy is let in by who knows it, nor by who has just started and
// can reach it. Two processes do not go on for more than about a minute if one
// peer speaks with both. What does not hold:
//
//   - Who is cut off from all peers for 7 s is replaced by a copy, as by the copy
//     that an operator starts for a host that is lost, and ends when it is back.
//     What the copy does not know of what it has confirmed is lost with it; if a
//     leader counts on that, the copy ends (raftnode.LostLogError).
//   - A copy that starts while no process of the member runs takes its place.
//   - A peer that can reach only the copy takes that; it counts there until the
//     copy has met a peer that knows the first.
//   - The only member of a cluster has no peers that could tell.
//   - Old versions name no run. What comes without one is taken as it is.
//
// # The proof
//
// Where the members share a secret, the opening also has:
//
//	X-Deimos-Run     the run of the receiving process; empty when not known
//	X-Deimos-Time    when the request was made, in unix milliseconds
//	X-Deimos-Nonce   16 random bytes in hex
//	X-Deimos-Digest  the SHA-256 of the covered bytes of the body in hex: all of a
//	                 message and of a call, of a snapshot the message with its
//	                 length in front, of other requests none
//	X-Deimos-Proof   the proof in hex
//
// A proof is the HMAC-SHA256 of these fields, each preceded by its length in 8
// bytes, big-endian: the text "deimos peer proof 2", the method, path and query,
// X-Etcd-Cluster-ID, X-Server-From, X-Raft-To, X-Deimos-Incarnation,
// X-Deimos-Expects, X-Deimos-Run, X-Deimos-Time, X-Deimos-Nonce,
// X-Deimos-Digest, X-PeerURLs; a header that is not there is empty. The key is the
// HMAC-SHA256 of the text "deimos peer proof 2 request" with the secret as key.
//
// The answer has the receiver's run and a proof of the same kind over: the same
// text, the proof of the request, the status in decimal, X-Etcd-Cluster-ID,
// X-Deimos-Member, X-Deimos-Incarnation, X-Deimos-Run, X-Deimos-Refused,
// X-Deimos-Knows, X-Deimos-Digest, X-Deimos-Time, X-Deimos-Incarnations,
// X-Raft-Index, and X-Deimos-Twin if it is there. The text for its key ends in "answer". Only a request with a good
// proof gets an answer with one.
//
// A request for another run is answered with 401 and the run, and the sender
// repeats it at once: no proof outlives the process that it is for. Within a
// run, a proof that was used before is refused; proofs are remembered of 256
// senders, and of a sender that is not remembered those are refused that may
// have been. A good proof whose time is more than 5 minutes from the receiver's
// clock is refused with clock (status 412), in an answer with a proof.
//
// Ten failures in a second from one address, or from one /64 of IPv6, are
// answered by not looking at the proofs of that address for a second (status
// 429). Another run and the clock are no failures. From an address that has sent
// a good proof within 10 minutes, good proofs of members that are known are
// taken meanwhile, so that a neighbour behind the same address cannot keep a
// member out.
//
// # What a secret does not give
//
// It does not hide anything, and it covers openings, messages, calls and lists,
// not the bytes of a stream after its opening, nor those of a snapshot after its
// message, nor the texts of refusals. Who can write to the connections of
// others can change those. Use TLS on networks where somebody could. A secret
// makes no difference between members: one that knows it can speak as any.
package transport
