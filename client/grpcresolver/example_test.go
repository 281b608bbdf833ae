package grpcresolver_test

import (
	"fmt"
	"log"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/marsevilspirit/deimos/client"
	"github.com/marsevilspirit/deimos/client/grpcresolver"
)

func Example() {
	c, err := client.New(client.Config{Endpoints: []string{"http://127.0.0.1:4001"}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	conn, err := grpc.NewClient("deimos:///Hello",
		grpc.WithResolvers(grpcresolver.NewBuilder(c)),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	fmt.Println(conn.Target())
	// Output: deimos:///Hello
}
