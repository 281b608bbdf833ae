// Package client is the Go client of Deimos: keys, watches, members. It also
// speaks to other servers with etcd's v2 API, see [Config.Prefix].
//
// # Which endpoint
//
// A [Client] stays at one endpoint as long as that answers. One that fails is
// tried last until a pause is over that grows from 100 ms to 10 s with each
// failure. It fails also when it has owed answers for 200 ms, to one call or to
// several one after the other, and the context of a call ends: calls with short
// deadlines leave an endpoint that hangs, too. [Client.Sync] and
// [Config.SyncInterval] take the endpoints from the member list of the cluster.
//
// # What is sent again
//
// A call goes to the next endpoint, and round again until [Config.RequestTimeout]
// is over, when it certainly has had no effect: there was no connection, or the
// answer promises it (an election, an overloaded member). Reads also do so when
// an answer was lost or is late. When no endpoint can be reached at all, a call
// gives up after four rounds, in less than a second unless connecting takes time.
//
// A write whose answer was lost is never sent again. It fails with an
// [UnknownOutcomeError]: it may or may not have been applied, and may still be.
// Compare, and the write can be repeated safely: whoever repeats
// [Client.CompareAndSwap] with [WithPrevIndex] and is told
// [deimos.ErrCompareFailed] reads the key and knows what happened. The same holds for
// [Client.Create] with a value that nobody else writes.
//
// # Errors
//
// What the keys API answers is a [*deimos.Error]; compare it with errors.Is and
// the values of that package, as in errors.Is(err, deimos.ErrKeyNotFound). Other
// answers are a [*StatusError]. [ErrNoEndpoint], [ErrUnknownOutcome],
// [ErrInvalidArgument] and [ErrClosed] are compared with errors.Is too.
//
// # Goroutines
//
// A Client is safe for use by any number of goroutines. It owns one goroutine
// if there is a [Config.SyncInterval], and [Client.Close] waits for it.
// Everything else runs on the goroutine of the caller, watches included, but for
// the question that a watch without events asks its endpoint twice a minute. That
// has a goroutine of its own for as long as it takes, for which the loop of the
// watch waits in the end.
//
// The package caches nothing, follows no redirect, uses no proxy of the
// environment, and keeps no session: a lock or a registration is the business
// of the packages above it.
package client
