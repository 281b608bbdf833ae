package config

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"sync/atomic"
	"time"

	"github.com/marsevilspirit/deimos/client"
	"github.com/marsevilspirit/deimos/client/internal/mirror"
)

// Options are what need not be said to [Watch]. Both functions are called from
// the one goroutine that also decodes, in order: what comes while they are at work
// is merged, and decoded when they have returned. The first call can come
// before Watch has returned. They must not call [View.Close].
type Options[T any] struct {
	// OnChange is called after a value was replaced by another one. Neither may be
	// changed. Nil: nobody is told.
	OnChange func(old, new *T)
	// OnError is called with the error of a state that was refused. Nil: nobody is
	// told.
	OnError func(error)
	// Logger is told of refused states and of directories that cannot be watched.
	// Nil: discarded.
	Logger *slog.Logger
}

// View is a value that follows a directory. Make it with [Watch]. Its methods
// may be called from any goroutine, and none but Close waits.
type View[T any] struct {
	dir     string
	decode  func(Tree) (T, error)
	options Options[T]
	mirror  *mirror.Mirror
	value   atomic.Pointer[T]
	refused atomic.Pointer[error] // of the newest state; nil if that is good
}

// Watch begins to follow the files below dir, an absolute path, and waits for
// the first value. decode makes a value of the files, and refuses those of which
// none can be made; it may keep and change the tree. There is nothing in the tree
// of a directory that is missing: whether that makes a value is for decode to
// say.
//
// Watch tries until ctx ends, which has no meaning for the view later on, or
// until an error says that it will never work. When decode refuses the first
// state there is no value to go on with, and its error is returned.
func Watch[T any](ctx context.Context, c *client.Client, dir string, decode func(Tree) (T, error), opts Options[T]) (*View[T], error) {
	return watch(ctx, c, dir, decode, opts)
}

func watch[T any](ctx context.Context, source mirror.Source, dir string, decode func(Tree) (T, error), opts Options[T]) (*View[T], error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	v := &View[T]{dir: dir, decode: decode, options: opts}
	m, err := mirror.Open(ctx, source, dir, opts.Logger, v.take)
	if err != nil {
		return nil, fmt.Errorf("config: watch %s: %w", dir, err)
	}
	v.mirror = m
	if v.value.Load() == nil {
		m.Close()
		return nil, *v.refused.Load()
	}
	return v, nil
}

// take decodes a state.
func (v *View[T]) take(files mirror.Files) {
	value, err := v.decode(Tree(files))
	if err != nil {
		err = fmt.Errorf("config: %s: %w", v.dir, err)
		v.refused.Store(&err)
		v.options.Logger.Error("configuration is refused, the last good one stays", "dir", v.dir, "error", err)
		if v.options.OnError != nil {
			v.options.OnError(err)
		}
		return
	}
	before := v.value.Load()
	if before != nil && reflect.DeepEqual(*before, value) {
		v.refused.Store(nil)
		return
	}
	v.value.Store(&value)
	v.refused.Store(nil)
	if before != nil && v.options.OnChange != nil {
		v.options.OnChange(before, &value)
	}
}

// Load returns the last good value, which must not be changed. It is one atomic
// load and never nil. A program that needs several fields to agree loads once.
func (v *View[T]) Load() *T { return v.value.Load() }

// Err returns why the newest state was refused, else why the value is not known
// to be current, and nil if neither is known.
func (v *View[T]) Err() error {
	if err := v.refused.Load(); err != nil {
		return *err
	}
	return v.mirror.Err()
}

// Age returns how long ago the files were last known to be exactly those of
// the cluster, whether or not they made a good value. It is a few seconds at most
// as long as the cluster answers.
func (v *View[T]) Age() time.Duration { return v.mirror.Age() }

// Healthy reports whether the newest state is known and was good.
func (v *View[T]) Healthy() bool { return v.refused.Load() == nil && v.mirror.Healthy() }

// Close ends the view and waits for its goroutines. The last good value stays.
// It may be called more than once.
func (v *View[T]) Close() { v.mirror.Close() }
