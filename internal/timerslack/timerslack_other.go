//go:build !linux

package timerslack

// Raise does nothing: only Linux has a timer slack.
func Raise() error { return nil }

// WithDefault calls start.
func WithDefault(start func() error) error { return start() }
