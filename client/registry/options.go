package registry

import (
	"log/slog"
	"path"
	"strings"
	"unicode/utf8"
)

// An Option changes how [Register] and [Discover] work.
type Option func(*options)

type options struct {
	prefix string
	log    *slog.Logger
	notify func(Event)
}

// WithPrefix sets the directory of all services, an absolute path. Without it
// that is DefaultPrefix.
func WithPrefix(dir string) Option { return func(o *options) { o.prefix = dir } }

// WithLogger sets who is told of registrations that are lost and made anew, and
// of directories that cannot be watched. Without it that is nobody.
func WithLogger(log *slog.Logger) Option { return func(o *options) { o.log = log } }

// WithNotify sets a function that is called with each [Event] of a
// registration, in order, from the goroutine of the registration. It must return
// soon, since nothing is refreshed meanwhile, and must not call
// [Registration.Close]. It means nothing for [Discover].
func WithNotify(f func(Event)) Option { return func(o *options) { o.notify = f } }

func newOptions(opts []Option) (options, error) {
	o := options{prefix: DefaultPrefix, log: slog.New(slog.DiscardHandler), notify: func(Event) {}}
	for _, set := range opts {
		set(&o)
	}
	if !strings.HasPrefix(o.prefix, "/") || path.Clean(o.prefix) != o.prefix || o.prefix == "/" || !utf8.ValidString(o.prefix) {
		return o, invalid("prefix %q is not a path like %q", o.prefix, DefaultPrefix)
	}
	return o, nil
}
