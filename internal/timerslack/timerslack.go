// Package timerslack lets the process sleep less precisely, which saves it much
// processor time.
//
// While goroutines wait in system calls, a thread of the Go runtime wakes up
// every 20 µs and looks for processors to give to others. A member that syncs its
// log all day is in such a call most of the time. The kernel adds the timer slack
// of the thread to each of these naps, and by default that is only 50 µs. With a
// millisecond there are a tenth as many, which makes writes faster by a tenth
// and more (docs/benchmarks.md has the figures). All other timers of the process
// come up to a millisecond late too: the shortest that matters, a heartbeat, is a
// hundred times as long.
//
// The slack is the thread's, and the runtime makes that thread before anything
// else runs. So every thread has to be reached, which the Go runtime can do in a
// program without cgo only.
//
// The package refuses to overrule: a slack that is not the kernel's default, by
// the hand of a service manager such as systemd's TimerSlackNSec, stays.
package timerslack

import "time"

// Slack is how late timers may be.
const Slack = time.Millisecond
