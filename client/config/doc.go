// Package config gives a program its configuration from a directory of the
// cluster, as a value of its own type that follows the directory while the
// program runs.
//
// [Watch] turns the files below the directory into a value with a function of
// the program, or with [Decode], which fills structs by field tags. The value is
// read with one atomic load. One that cannot be made, because a file is missing or
// wrong, is refused: the last good value stays, and the error can be seen.
//
// Neither does a value go because no member answers; [View.Age] tells how old it
// may be.
//
// # Goroutines
//
// A [View] owns three goroutines, and [View.Close] waits for them. The client is
// the caller's: close it after them. Functions of the program are called from
// one goroutine, one after the other.
//
// The package writes nothing to the cluster, and caches nothing on disk: a
// program that starts while no member answers has no configuration.
package config
