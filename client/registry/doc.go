// Package registry tells where services are: programs register themselves with
// [Register] and find others with [Discover].
//
// # In the tree
//
// An instance of a service is a file with a life, named by its address:
//
//	/phobos/Hello/tcp@10.0.0.9:30000
//
// with what the instance says of itself as the value, in whatever form the
// programs agree on. Phobos writes the same keys, so both find each other. The
// directory above is [DefaultPrefix] unless [WithPrefix] says otherwise.
//
// # Who is registered
//
// A registration lasts as long as its program refreshes it, and after that for
// its TTL. It says nothing about whether the instance answers. The entry of an
// address belongs to whoever wrote it last: a program that was started again takes
// its entry over, and its predecessor, should it still run, gives up with
// [ErrReplaced] and removes nothing.
//
// # Errors
//
// Neither a registration nor a view ends because no member answers. A
// registration tries again and is found [Lost] when its life may be over; a view
// keeps what it knew last and tells how old that is.
//
// # Goroutines
//
// A [Registration] owns one goroutine and a [View] three; their Close waits
// for them. The client is the caller's: close it after them.
//
// The package checks no health, balances no load, and caches nothing on disk.
package registry
