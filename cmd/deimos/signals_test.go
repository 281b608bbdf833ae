package main

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestLaterSignals(t *testing.T) {
	pause := os.Signal(nil) // stands for a pause between signals
	for _, tt := range []struct {
		name       string
		supervises bool
		signals    []os.Signal
		want       string
	}{
		{"force the end", false, []os.Signal{syscall.SIGTERM, pause, syscall.SIGINT}, "stop terminated, force interrupt"},
		{"force nothing at once", false, []os.Signal{syscall.SIGTERM, syscall.SIGTERM, syscall.SIGINT, pause, syscall.SIGINT},
			"stop terminated, force interrupt"},
		{"are for the command", true, []os.Signal{syscall.SIGTERM, pause, syscall.SIGTERM, syscall.SIGINT},
			"stop terminated, pass terminated, pass interrupt"},
		{"are for the command at once", true, []os.Signal{syscall.SIGTERM, syscall.SIGINT}, "stop terminated, pass interrupt"},
		{"sent to the group are one", true, []os.Signal{syscall.SIGTERM, syscall.SIGTERM}, "stop terminated"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				signals := make(chan os.Signal)
				var log []string
				done := make(chan struct{})
				go func() {
					defer close(done)
					watchSignals(signals,
						func(s os.Signal) { log = append(log, "stop "+s.String()) },
						func(s os.Signal) bool {
							if tt.supervises {
								log = append(log, "pass "+s.String())
							}
							return tt.supervises
						},
						func(s os.Signal) { log = append(log, "force "+s.String()) })
				}()
				for _, s := range tt.signals {
					if s == pause {
						<-time.After(2 * signalPause)
					} else {
						signals <- s
					}
				}
				close(signals)
				<-done
				if got := strings.Join(log, ", "); got != tt.want {
					t.Errorf("the signals %v lead to %q, want %q", tt.signals, got, tt.want)
				}
			})
		})
	}
}

func TestSignalsAreForTheCommandThatIsSupervised(t *testing.T) {
	later := &laterSignals{}
	if later.pass(syscall.SIGTERM) {
		t.Error("pass(TERM) = true before a command is supervised, want false")
	}
	to := make(chan os.Signal, 1)
	laterSignalsOf(later.in(t.Context())).passTo(to)
	for _, sig := range []os.Signal{syscall.SIGTERM, syscall.SIGINT} { // there is room for one
		if !later.pass(sig) {
			t.Errorf("pass(%s) = false while a command is supervised, want true", sig)
		}
	}
	if got := <-to; got != syscall.SIGTERM {
		t.Errorf("the command gets %s, want TERM", got)
	}
	later.passTo(nil)
	if later.pass(syscall.SIGTERM) {
		t.Error("pass(TERM) = true after the command, want false")
	}
	laterSignalsOf(t.Context()).passTo(to) // nobody catches signals: nothing happens
}
