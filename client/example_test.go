package client_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/client"
)

func Example() {
	ctx := context.Background()
	c, err := client.New(client.Config{Endpoints: endpoints})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	if _, err := c.Set(ctx, "/greeting", "hello"); err != nil {
		log.Fatal(err)
	}
	r, err := c.Get(ctx, "/greeting")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(r.Node.Key, "is", *r.Node.Value)
	// Output: /greeting is hello
}

func ExampleClient_List() {
	ctx := context.Background()
	c, err := client.New(client.Config{Endpoints: endpoints})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	for _, host := range []string{"10.0.0.9", "10.0.0.8"} {
		if _, err := c.Set(ctx, "/services/web/"+host, "up", client.WithTTL(30*time.Second)); err != nil {
			log.Fatal(err)
		}
	}
	r, err := c.List(ctx, "/services/web")
	if err != nil {
		log.Fatal(err)
	}
	for _, node := range r.Node.Nodes {
		fmt.Println(node.Key, *node.Value, node.TTL > 0)
	}
	// Output:
	// /services/web/10.0.0.8 up true
	// /services/web/10.0.0.9 up true
}

func ExampleClient_Refresh() {
	ctx := context.Background()
	c, err := client.New(client.Config{Endpoints: endpoints})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	r, err := c.Set(ctx, "/services/db", "10.0.0.7", client.WithTTL(10*time.Second))
	if err != nil {
		log.Fatal(err)
	}
	// A third of the life later, and every time after that:
	r, err = c.Refresh(ctx, "/services/db", 10*time.Second, client.WithPrevIndex(r.Node.ModifiedIndex))
	switch {
	case errors.Is(err, deimos.ErrKeyNotFound), errors.Is(err, deimos.ErrCompareFailed):
		fmt.Println("came too late")
	case err != nil:
		log.Fatal(err)
	default:
		fmt.Println("alive for", r.Node.TTL, "seconds more, value", *r.Node.Value)
	}
	// Output: alive for 10 seconds more, value 10.0.0.7
}

func ExampleClient_CompareAndSwap() {
	ctx := context.Background()
	c, err := client.New(client.Config{Endpoints: endpoints})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	r, err := c.Set(ctx, "/config", "a")
	if err != nil {
		log.Fatal(err)
	}
	read := r.Node.ModifiedIndex

	_, err = c.CompareAndSwap(ctx, "/config", "b", client.WithPrevIndex(read))
	fmt.Println("first:", err == nil)
	_, err = c.CompareAndSwap(ctx, "/config", "c", client.WithPrevIndex(read))
	fmt.Println("second is too late:", errors.Is(err, deimos.ErrCompareFailed))
	// Output:
	// first: true
	// second is too late: true
}

// claim creates a key with a value that nobody else writes, and reports whether
// the key is ours. When the answer to a Create is lost, it may be repeated: at
// most one of the two has an effect, and the value tells whose key it is.
func claim(ctx context.Context, c *client.Client, key, me string) (bool, error) {
	for {
		_, err := c.Create(ctx, key, me)
		switch {
		case err == nil:
			return true, nil
		case errors.Is(err, client.ErrUnknownOutcome):
			continue // ends with ctx
		case !errors.Is(err, deimos.ErrKeyExists):
			return false, err
		}
		r, err := c.Get(ctx, key)
		if err != nil {
			return false, err
		}
		return *r.Node.Value == me, nil
	}
}

func Example_safeRetry() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := client.New(client.Config{Endpoints: endpoints})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	fmt.Println(claim(ctx, c, "/claimed", "host1/17"))
	fmt.Println(claim(ctx, c, "/claimed", "host2/42"))
	// Output:
	// true <nil>
	// false <nil>
}

func ExampleClient_Watch() {
	ctx := context.Background()
	c, err := client.New(client.Config{Endpoints: endpoints})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	if _, err := c.Set(ctx, "/jobs/1", "mow"); err != nil {
		log.Fatal(err)
	}
	jobs := make(map[string]string)
	for e, err := range c.Watch(ctx, "/jobs", client.WithRecursive(), client.WithState()) {
		if err != nil {
			log.Fatal(err) // ctx has ended, or it will never work
		}
		switch {
		case e.Reset: // at the start, and whenever changes may have been missed
			clear(jobs)
			if e.Node != nil {
				for _, n := range e.Node.Nodes {
					jobs[n.Key] = *n.Value
				}
			}
		case !strings.HasPrefix(e.Node.Key, "/jobs/"): // the directory itself
			if e.Action.Removes() {
				clear(jobs)
			}
		case e.Action.Removes():
			delete(jobs, e.Node.Key)
		default:
			jobs[e.Node.Key] = *e.Node.Value
		}
		fmt.Println(e.Action, jobs)
		if len(jobs) == 2 {
			break
		}
		if _, err := c.Set(ctx, "/jobs/2", "rake"); err != nil {
			log.Fatal(err)
		}
	}
	// Output:
	// get map[/jobs/1:mow]
	// set map[/jobs/1:mow /jobs/2:rake]
}

func Example_errors() {
	ctx := context.Background()
	c, err := client.New(client.Config{Endpoints: endpoints})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	_, err = c.Get(ctx, "/nope/a")
	var e *deimos.Error
	switch {
	case errors.Is(err, deimos.ErrKeyNotFound) && errors.As(err, &e):
		fmt.Println("no such key:", e.Cause)
	case errors.Is(err, client.ErrNoEndpoint):
		fmt.Println("nobody answers:", err)
	case errors.Is(err, client.ErrUnknownOutcome):
		fmt.Println("look whether it happened:", err)
	}
	// Output: no such key: /nope
}

func Example_tls() {
	ca, err := os.ReadFile("deimos-ca/ca.crt")
	if err != nil {
		log.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		log.Fatal("deimos-ca/ca.crt has no certificate")
	}
	alice, err := tls.LoadX509KeyPair("deimos-ca/alice.crt", "deimos-ca/alice.key")
	if err != nil {
		log.Fatal(err)
	}
	c, err := client.New(client.Config{
		Endpoints: []string{"https://127.0.0.1:4001", "https://127.0.0.1:4002", "https://127.0.0.1:4003"},
		TLS:       &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{alice}},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
}
