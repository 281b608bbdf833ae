package election_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/marsevilspirit/deimos/client"
	"github.com/marsevilspirit/deimos/client/election"
)

func Example() {
	ctx := context.Background()
	c, err := client.New(client.Config{Endpoints: endpoints})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	e, err := election.New(c, "mail", election.Options{TTL: 15 * time.Second})
	if err != nil {
		log.Fatal(err)
	}
	term, err := e.Campaign(ctx, "http://10.0.0.9:8080")
	if err != nil {
		log.Fatal(err)
	}
	// Here it leads until term.Done() is closed. Others see it:
	leader, err := e.Leader(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(leader.Value, leader.Token == term.Token())
	if err := term.Resign(ctx); err != nil {
		log.Fatal(err)
	}
	_, err = e.Leader(ctx)
	fmt.Println(err)
	// Output:
	// http://10.0.0.9:8080 true
	// election: mail: nobody leads
}

func ExampleElection_Observe() {
	ctx := context.Background()
	c, err := client.New(client.Config{Endpoints: endpoints})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	e, err := election.New(c, "news", election.Options{})
	if err != nil {
		log.Fatal(err)
	}
	term, err := e.Campaign(ctx, "http://10.0.0.8:8080")
	if err != nil {
		log.Fatal(err)
	}
	for leader, err := range e.Observe(ctx) {
		if err != nil {
			log.Fatal(err) // ctx has ended, or it will never work
		}
		if leader.Token == 0 {
			fmt.Println("nobody leads")
			break
		}
		fmt.Println(leader.Value, "leads")
		if err := term.Resign(ctx); err != nil {
			log.Fatal(err)
		}
	}
	// Output:
	// http://10.0.0.8:8080 leads
	// nobody leads
}
