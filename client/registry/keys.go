package registry

import (
	"context"
	"time"

	"github.com/marsevilspirit/deimos/client"
)

// keys is what a registration does with its key.
type keys interface {
	// put writes the key, whatever is there.
	put(ctx context.Context, key, value string, ttl time.Duration) (entry, error)
	get(ctx context.Context, key string) (entry, error)
	// refresh and remove work only if the key was last modified at this index.
	refresh(ctx context.Context, key string, ttl time.Duration, modified uint64) (entry, error)
	remove(ctx context.Context, key string, modified uint64) error
}

// entry is what is under a key.
type entry struct {
	value             string
	created, modified uint64
}

// clientKeys are the keys that a client works on.
type clientKeys struct{ c *client.Client }

func (k clientKeys) put(ctx context.Context, key, value string, ttl time.Duration) (entry, error) {
	return entryOf(k.c.Set(ctx, key, value, client.WithTTL(ttl)))
}

func (k clientKeys) get(ctx context.Context, key string) (entry, error) {
	return entryOf(k.c.Get(ctx, key))
}

func (k clientKeys) refresh(ctx context.Context, key string, ttl time.Duration, modified uint64) (entry, error) {
	return entryOf(k.c.Refresh(ctx, key, ttl, client.WithPrevIndex(modified)))
}

func (k clientKeys) remove(ctx context.Context, key string, modified uint64) error {
	_, err := k.c.CompareAndDelete(ctx, key, client.WithPrevIndex(modified))
	return err
}

func entryOf(r *client.Response, err error) (entry, error) {
	if err != nil {
		return entry{}, err
	}
	e := entry{created: r.Node.CreatedIndex, modified: r.Node.ModifiedIndex}
	if r.Node.Value != nil {
		e.value = *r.Node.Value
	}
	return e, nil
}
