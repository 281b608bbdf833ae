package registry_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/marsevilspirit/deimos/client"
	"github.com/marsevilspirit/deimos/client/registry"
)

func Example() {
	ctx := context.Background()
	c, err := client.New(client.Config{Endpoints: endpoints})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	reg, err := registry.Register(ctx, c, registry.Instance{Service: "Hello", Addr: "10.0.0.9:30000", Metadata: "zone=a"})
	if err != nil {
		log.Fatal(err)
	}
	view, err := registry.Discover(ctx, c, "Hello")
	if err != nil {
		log.Fatal(err)
	}
	defer view.Close()
	for _, in := range view.Instances() { // one atomic load
		fmt.Println(in.Network, in.Addr, in.Metadata)
	}

	if err := reg.Close(ctx); err != nil {
		log.Fatal(err)
	}
	// Output: tcp 10.0.0.9:30000 zone=a
}

func ExampleView_Changes() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := client.New(client.Config{Endpoints: endpoints})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	reg, err := registry.Register(ctx, c, registry.Instance{Service: "Counter", Addr: "10.0.0.9:30001"})
	if err != nil {
		log.Fatal(err)
	}

	view, err := registry.Discover(ctx, c, "Counter")
	if err != nil {
		log.Fatal(err)
	}
	defer view.Close()
	for change := range view.Changes(ctx) { // ends with ctx
		fmt.Println(change.Kind, change.Instance)
		if change.Kind == registry.Removed {
			break
		}
		if err := reg.Close(ctx); err != nil {
			log.Fatal(err)
		}
	}
	// Output:
	// added tcp@10.0.0.9:30001
	// removed tcp@10.0.0.9:30001
}

func ExampleWithNotify() {
	ctx := context.Background()
	c, err := client.New(client.Config{Endpoints: endpoints})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	reg, err := registry.Register(ctx, c, registry.Instance{Service: "Jobs", Addr: "10.0.0.9:30002"},
		registry.WithNotify(func(e registry.Event) {
			fmt.Println(e.State, e.Err) // failing, lost, registered, replaced or closed
		}))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(reg.State())
	if err := reg.Close(ctx); err != nil {
		log.Fatal(err)
	}
	// Output:
	// registered
	// closed <nil>
}
