// Package daemon puts the parts of a member together: data directory, log,
// snapshots, raft node, store, peer transport and HTTP front end. A [Config]
// goes in, a running [Daemon] comes out; tests open it as cmd/deimos does.
//
// The package decides in which order things start and stop, and nothing else.
// It refuses to read flags, the environment or signals, and never ends the
// process. It owns the goroutines that serve the listeners and the one that
// watches for failures; Close waits for all of them.
package daemon
