// Package deimos is the vocabulary that servers and clients of Deimos share:
// requests, events, nodes, members, error codes, and the names of parameters
// and headers. It mirrors the HTTP contract, which is etcd's v2 API with the
// additions that docs/architecture.md lists.
//
// The package holds words, not behaviour: it imports the standard library
// only, does no I/O, starts no goroutine and keeps no state.
package deimos
