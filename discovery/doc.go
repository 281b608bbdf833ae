// Package discovery lets the first members of a cluster find each other:
// through a directory of keys in another, running cluster ([Join]), or through
// the SRV records of a DNS domain ([SRV]).
//
// The directory holds the wanted number of members in _config/size and, beside
// it, one registration for each member: a key named by the member's id in
// lower-case hex, whose value is name=URL&name=URL. The registrations with the
// lowest createdIndex, as many as are wanted, are the cluster. Any server of
// the keys API can hold it, Deimos or etcd v2.
//
// The package answers with a complete list of members or with an error, never
// with a part of the list: a member that started from less would form a
// cluster of its own beside the others. It only collects what was written. It
// gives no ids, removes no registration, asks nobody whether the members can be
// reached, and is of no use once a data directory holds a member.
//
// Every call does its work on the caller's goroutine and leaves none behind
// when it returns; a request that is under way ends with the context.
package discovery
