package registry

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/marsevilspirit/deimos/client"
	"github.com/marsevilspirit/deimos/client/internal/mirror"
)

// View is a live copy of the instances of a service. Make it with [Discover].
// Its methods may be called from any goroutine, and none of them waits for a
// member.
type View struct {
	service string
	log     *slog.Logger
	mirror  *mirror.Mirror
	current atomic.Pointer[state]
	foreign map[string]bool // files that are no instances; the mirror's goroutine
}

// state is the instances at one moment. It is never changed.
type state struct {
	instances []Instance
	next      chan struct{} // closed when there is a newer state
}

// Discover begins to follow a service and waits until its instances are known.
// There may be none: a service whose directory is missing is an empty view. It
// tries until ctx ends, which has no meaning for the view later on, or until an
// error says that it will never work.
func Discover(ctx context.Context, c *client.Client, service string, opts ...Option) (*View, error) {
	return discover(ctx, c, service, opts...)
}

func discover(ctx context.Context, source mirror.Source, service string, opts ...Option) (*View, error) {
	o, err := newOptions(opts)
	if err != nil {
		return nil, err
	}
	if err := checkElement("service", service); err != nil {
		return nil, err
	}
	v := &View{service: service, log: o.log}
	dir := o.prefix + "/" + service
	if v.mirror, err = mirror.Open(ctx, source, dir, o.log, v.take); err != nil {
		return nil, fmt.Errorf("registry: discover %s: %w", dir, err)
	}
	return v, nil
}

// take publishes what is in the directory.
func (v *View) take(files mirror.Files) {
	var list []Instance
	foreign := make(map[string]bool)
	for name, value := range files {
		if in, ok := parse(v.service, name, value); ok {
			list = append(list, in)
			continue
		}
		if foreign[name] = true; !v.foreign[name] {
			v.log.Warn("file in the directory of a service is no instance", "service", v.service, "name", name)
		}
	}
	v.foreign = foreign
	slices.SortFunc(list, compare)
	before := v.current.Load()
	if before != nil && slices.Equal(before.instances, list) {
		return
	}
	v.current.Store(&state{instances: list, next: make(chan struct{})})
	if before != nil {
		close(before.next)
	}
}

// Instances returns the instances, sorted by network and address. It is one
// atomic load; the list is shared and must not be changed.
func (v *View) Instances() []Instance { return v.current.Load().instances }

// Age returns how long ago the instances were last known to be exactly those
// that are registered. It is a few seconds at most as long as the cluster
// answers; large services are looked at less often.
func (v *View) Age() time.Duration { return v.mirror.Age() }

// Healthy reports whether the instances are known to be current. It becomes
// false a quarter of a minute after the last member with a quorum has stopped
// answering, and what is known stays.
func (v *View) Healthy() bool { return v.mirror.Healthy() }

// Err returns why the instances are not known to be current, and nil if they
// are or no reason is known.
func (v *View) Err() error { return v.mirror.Err() }

// States returns the instances now, and again whenever they have changed, as
// lists like those of Instances. Whoever is slow gets the newest list next. The
// sequence ends when ctx ends or the view or its client is closed.
func (v *View) States(ctx context.Context) iter.Seq[[]Instance] {
	return func(yield func([]Instance) bool) {
		for {
			s := v.current.Load()
			if !yield(s.instances) {
				return
			}
			select {
			case <-s.next:
			case <-ctx.Done():
				return
			case <-v.mirror.Done():
				return
			}
		}
	}
}

// Changes returns the instances that are there, as added, and then what changes.
// Whoever is slow gets the difference between what they saw and what is there: an
// instance that came and went in between is not in it. The sequence ends as that
// of States does.
func (v *View) Changes(ctx context.Context) iter.Seq[Change] {
	return func(yield func(Change) bool) {
		var seen []Instance
		for list := range v.States(ctx) {
			for _, change := range diff(seen, list) {
				if !yield(change) {
					return
				}
			}
			seen = list
		}
	}
}

// Close ends the view and waits for its goroutines. What was known last stays
// in it. It may be called more than once.
func (v *View) Close() { v.mirror.Close() }
