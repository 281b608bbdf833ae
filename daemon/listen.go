package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"syscall"
	"time"
)

// A connection whose other side is silent is probed, and given up soon: a client that
// has lost its power, or a network its memory, would hold its watches for minutes, and
// an event stream, whose heartbeats lie unacknowledged and keep the probes away, for
// ever. With a heartbeat each 15 s it is half a minute.
const (
	probeAfter = 10 * time.Second
	probePause = 2 * time.Second
	probes     = 3
	silenceMax = 15 * time.Second
)

// listen opens a listener for each URL. When one fails, none stays open.
func listen(flag string, urls []string) ([]net.Listener, error) {
	config := net.ListenConfig{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: probeAfter, Interval: probePause, Count: probes},
		Control:         boundSilence,
	}
	var listeners []net.Listener
	for _, text := range urls {
		u, err := url.Parse(text)
		if err == nil {
			var l net.Listener
			if l, err = config.Listen(context.Background(), "tcp", u.Host); err == nil {
				listeners = append(listeners, l)
				continue
			}
		}
		return nil, errors.Join(listenError(flag, text, err), closeAll(listeners))
	}
	return listeners, nil
}

func listenError(flag, text string, err error) error {
	remedy := ""
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		remedy = fmt.Sprintf(": stop the process that listens there, or choose another --%s", flag)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		remedy = fmt.Sprintf(": give an address of this machine with --%s", flag)
	}
	return fmt.Errorf("cannot listen on %s (%s): %w%s", text, flag, err, remedy)
}

func closeAll(listeners []net.Listener) error {
	var errs []error
	for _, l := range listeners {
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func addrs(listeners []net.Listener) []string {
	out := make([]string, 0, len(listeners))
	for _, l := range listeners {
		out = append(out, l.Addr().String())
	}
	return out
}
