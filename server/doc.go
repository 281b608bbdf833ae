// Package server is the replicated key-value server: it turns requests into
// proposals and waits for them, answers reads, publishes its member's
// addresses, proposes the expiry of what is due, and applies committed entries
// to the store.
//
// It has two halves, as raftnode has. [Machine] is the replicated state: the
// store, the members, the cluster time and the record of applied proposals. It
// is synchronous and deterministic: no clock, no map order, no local setting
// reaches it. [Server] is what a front end calls; it owns two goroutines, one
// that proposes expiry and one that publishes the member's attributes.
//
// The package refuses to read the wall clock, to judge a condition before its
// request is applied, to propose anything twice, and to know about HTTP.
package server
