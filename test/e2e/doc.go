// Package e2e tests the deimos program as its users meet it: as processes that
// are started with flags, spoken to over HTTP, killed with signal 9 and
// started again on what they left behind.
//
// It holds tests only. TestMain builds the program once; every test starts
// its own processes on ports and directories of its own, waits for conditions
// instead of times, and ends what it started. A process that wrote "panic:"
// or "fatal error:" to its stderr fails its test, whatever else happened.
package e2e
