package queue

import (
	"context"
	"iter"
	"strings"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/client"
)

// First returns who has the turn. ok is false if nobody is in the line.
func First(ctx context.Context, c *client.Client, dir string) (p Place, ok bool, err error) {
	places, _, err := remote{c}.places(ctx, dir)
	if err != nil || len(places) == 0 {
		return Place{}, false, err
	}
	return places[0], true, nil
}

// Follow returns who has the turn now, and then whoever has it next; the zero
// Place stands for nobody. It ends as [client.Client.Watch] does, and everything
// runs in the loop.
func Follow(ctx context.Context, c *client.Client, dir string) iter.Seq2[Place, error] {
	return func(yield func(Place, error) bool) {
		inLine := make(map[string]Place)
		var last Place
		for e, err := range c.Watch(ctx, dir, client.WithRecursive(), client.WithState()) {
			if err != nil {
				yield(Place{}, err)
				return
			}
			apply(inLine, dir, e)
			now := first(inLine)
			if now == last && !e.Reset {
				continue
			}
			last = now
			if !yield(now, nil) {
				return
			}
		}
	}
}

// apply changes who is in the line by an event.
func apply(inLine map[string]Place, dir string, e client.WatchEvent) {
	switch {
	case e.Reset:
		clear(inLine)
		for _, p := range placesOf(e.Node) {
			inLine[p.Key] = p
		}
	case !strings.HasPrefix(e.Node.Key, dir+"/"):
		if e.Action.Removes() { // the line with all that was in it
			clear(inLine)
		}
	default:
		delete(inLine, e.Node.Key)
		if p, ok := placeIn(dir, e.Node); ok {
			inLine[p.Key] = p
		}
	}
}

// placeIn is placeOf for a node that is anywhere below the directory.
func placeIn(dir string, n *deimos.Node) (Place, bool) {
	p, ok := placeOf(n)
	return p, ok && !strings.Contains(n.Key[len(dir)+1:], "/")
}

// first returns the place with the lowest key, or the zero Place.
func first(inLine map[string]Place) Place {
	var low Place
	for _, p := range inLine {
		if low.Key == "" || p.Key < low.Key {
			low = p
		}
	}
	return low
}
