package daemon

import (
	"errors"
	"fmt"
	"net"
	"net/url"
)

// listen opens a listener for each URL. When one fails, none stays open.
func listen(flag string, urls []string) ([]net.Listener, error) {
	var listeners []net.Listener
	for _, text := range urls {
		u, err := url.Parse(text)
		if err == nil {
			var l net.Listener
			if l, err = net.Listen("tcp", u.Host); err == nil {
				listeners = append(listeners, l)
				continue
			}
		}
		return nil, errors.Join(fmt.Errorf("cannot listen on %s (%s): %w", text, flag, err), closeAll(listeners))
	}
	return listeners, nil
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
