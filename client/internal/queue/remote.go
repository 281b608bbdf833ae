package queue

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/client"
)

// remote is a line in a cluster.
type remote struct{ c *client.Client }

var _ line = remote{}

func (r remote) places(ctx context.Context, dir string) ([]Place, uint64, error) {
	resp, err := r.c.List(ctx, dir)
	var e *deimos.Error
	switch {
	case errors.As(err, &e) && e.Code == deimos.CodeKeyNotFound:
		return nil, e.Index, nil
	case err != nil:
		return nil, 0, err
	}
	return placesOf(resp.Node), resp.Index, nil
}

func (r remote) enter(ctx context.Context, dir, value string, ttl time.Duration) (Place, error) {
	resp, err := r.c.CreateInOrder(ctx, dir, value, client.WithTTL(ttl))
	if err != nil {
		return Place{}, err
	}
	p, ok := placeOf(resp.Node)
	if !ok {
		return Place{}, fmt.Errorf("the answer does not name a place in %s", dir)
	}
	return p, nil
}

// With a condition, and only so, a renewal keeps the CreatedIndex.
func (r remote) renew(ctx context.Context, p Place, ttl time.Duration) error {
	_, err := r.c.Refresh(ctx, p.Key, ttl, client.WithPrevValue(p.Value), client.WithNoValue())
	return err
}

func (r remote) remove(ctx context.Context, p Place) error {
	_, err := r.c.CompareAndDelete(ctx, p.Key, client.WithPrevValue(p.Value))
	return err
}

// Whatever comes first, also the state in place of missed events, is a reason to
// look.
func (r remote) await(ctx context.Context, key string, index uint64) error {
	for _, err := range r.c.Watch(ctx, key, client.WithWaitIndex(index)) {
		return err
	}
	return nil
}

// placesOf returns the places that are children of a node, first come first.
func placesOf(dir *deimos.Node) []Place {
	if dir == nil {
		return nil
	}
	var places []Place
	for _, n := range dir.Nodes {
		if p, ok := placeOf(n); ok {
			places = append(places, p)
		}
	}
	return places
}

// placeOf returns the place that a node is. What was not named in order is none.
func placeOf(n *deimos.Node) (Place, bool) {
	if n == nil || n.Dir || n.Value == nil || !isPlace(n.Key) {
		return Place{}, false
	}
	return Place{Key: n.Key, Value: *n.Value, Token: n.CreatedIndex}, true
}

// isPlace reports whether a key has a name as the store gives it, of 20 digits.
func isPlace(key string) bool {
	name := path.Base(key)
	return len(name) == 20 && strings.Trim(name, "0123456789") == ""
}
