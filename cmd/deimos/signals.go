package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// endSignals returns the signals that ask the program to end. A member or proxy whose
// terminal has gone closes like any other, unless nohup has kept that from it; a
// command passes this signal on or dies of it.
func endSignals(args []string) []os.Signal {
	signals := []os.Signal{syscall.SIGINT, syscall.SIGTERM}
	if !isCommand(args) && !signal.Ignored(syscall.SIGHUP) {
		signals = append(signals, syscall.SIGHUP)
	}
	return signals
}

// signalPause is how soon after the first signal the same one counts for
// nothing, and no other one forces the end: some senders signal a process and its
// group at the same moment.
const signalPause = time.Second

// watchSignals asks for a graceful end at the first signal. Those that come later
// are for pass; when it does not take one that comes after signalPause, the end is
// forced. It lives as long as the process.
func watchSignals(signals <-chan os.Signal, stop func(os.Signal), pass func(os.Signal) bool, force func(os.Signal)) {
	first := <-signals
	at := time.Now()
	stop(first)
	for s := range signals {
		soon := time.Since(at) <= signalPause
		if (soon && s == first) || pass(s) || soon {
			continue
		}
		force(s)
		return
	}
}

// laterSignals are the signals that come after the request to end. While a
// command is supervised they are the command's, which may be cleaning up; else
// they are nobody's, and the next one forces the end. The methods may be called
// from any goroutine, and without a laterSignals (nil), as in a program that
// catches no signals.
type laterSignals struct {
	mu sync.Mutex
	to chan<- os.Signal // nil: nobody
}

// passTo gives the signals to a command from now on, or to nobody (nil).
func (l *laterSignals) passTo(to chan<- os.Signal) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.to = to
}

// pass reports whether there is a command for a signal. One whose signals wait in
// great number does not get another.
func (l *laterSignals) pass(s os.Signal) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.to == nil {
		return false
	}
	select {
	case l.to <- s:
	default:
	}
	return true
}

type laterSignalsKey struct{}

// in returns a context from which laterSignalsOf has l.
func (l *laterSignals) in(ctx context.Context) context.Context {
	return context.WithValue(ctx, laterSignalsKey{}, l)
}

func laterSignalsOf(ctx context.Context) *laterSignals {
	l, _ := ctx.Value(laterSignalsKey{}).(*laterSignals)
	return l
}

// signalError is why the context of the program ends: a signal.
type signalError struct{ os.Signal }

func (e signalError) Error() string { return e.Signal.String() }

func (e signalError) Unwrap() error { return context.Canceled }

// signalOf returns the signal that has ended the context.
func signalOf(ctx context.Context) os.Signal {
	if e, ok := errors.AsType[signalError](context.Cause(ctx)); ok {
		return e.Signal
	}
	return syscall.SIGTERM
}
