package store_test

import (
	"context"
	"fmt"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/store"
)

// A writer applies requests and publishes them; a watcher and a reader see
// them from then on.
func Example() {
	s := store.New(store.Config{})
	w, err := s.Watch("/config", true, 0)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer w.Close()

	nowMS, raftIndex := int64(1000), uint64(1)
	r := &deimos.Request{Op: deimos.OpSet, Key: "/config/colour", Value: "blue"}
	if _, err := s.Apply(r, nowMS); err != nil {
		fmt.Println(err)
		return
	}
	s.Publish(raftIndex)

	e, err := w.Next(context.Background())
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(e.Action(), e.Node().Key(), e.Node().Value(), "at", e.Index())

	_, err = s.View().Get("/config/size")
	fmt.Println(err)
	// Output:
	// set /config/colour blue at 2
	// 100: Key not found (/config/size) [2]
}
