package lock_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/marsevilspirit/deimos/client"
	"github.com/marsevilspirit/deimos/client/lock"
)

func Example() {
	c, err := client.New(client.Config{Endpoints: endpoints})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	// Wait for the lock for a minute at most.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	l, err := lock.Acquire(ctx, c, "report", lock.Options{TTL: 15 * time.Second})
	if err != nil {
		log.Fatal(err)
	}
	err = writeReport(l.Context(), l.Token())
	if err := l.Release(ctx); err != nil {
		log.Fatal(err) // with lock.ErrLost, what was written may be incomplete
	}
	fmt.Println(err)
	// Output: <nil>
}

// writeReport stops when the lock is lost, and sends the token with each page.
func writeReport(ctx context.Context, token uint64) error {
	for page := range 3 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := fence.write(token, page); err != nil {
			return err
		}
	}
	return nil
}

// resource is what a lock guards. It refuses those who come too late.
type resource struct {
	greatest uint64
	pages    []int
}

var fence resource

func (r *resource) write(token uint64, page int) error {
	if token < r.greatest {
		return fmt.Errorf("token %d is too old, %d was here", token, r.greatest)
	}
	r.greatest = token
	r.pages = append(r.pages, page)
	return nil
}

func ExampleTryAcquire() {
	ctx := context.Background()
	c, err := client.New(client.Config{Endpoints: endpoints})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	first, err := lock.TryAcquire(ctx, c, "backup", lock.Options{Owner: "anna"})
	if err != nil {
		log.Fatal(err)
	}
	_, err = lock.TryAcquire(ctx, c, "backup", lock.Options{Owner: "ben"})
	fmt.Println(errors.Is(err, lock.ErrHeld), err)
	if err := first.Release(ctx); err != nil {
		log.Fatal(err)
	}
	second, err := lock.TryAcquire(ctx, c, "backup", lock.Options{Owner: "ben"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(second.Token() > first.Token())
	fmt.Println(second.Release(ctx))
	// Output:
	// true lock: backup: somebody else has it: anna
	// true
	// <nil>
}
