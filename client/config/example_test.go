package config_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/marsevilspirit/deimos/client"
	"github.com/marsevilspirit/deimos/client/config"
)

// Settings are what the service can be told.
type Settings struct {
	Greeting string        `deimos:"greeting,required"`
	Timeout  time.Duration `deimos:"timeout"`
	Backends []string      `deimos:"backends"`
	Database struct {
		Host string `deimos:"host"`
		Port int    `deimos:"port"`
	} `deimos:"db"`
	Limits map[string]int `deimos:"limits,json"`
}

// decodeSettings sets defaults, decodes and validates.
func decodeSettings(t config.Tree) (Settings, error) {
	s := Settings{Timeout: 5 * time.Second}
	if err := t.Decode(&s); err != nil {
		return s, err
	}
	if s.Timeout <= 0 {
		return s, errors.New("timeout: must be above 0")
	}
	return s, nil
}

func Example() {
	ctx := context.Background()
	c, err := client.New(client.Config{Endpoints: endpoints})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	for key, value := range map[string]string{
		"greeting": "hello", "backends": "10.0.0.1, 10.0.0.2", "db/host": "db1", "db/port": "5432", "limits": `{"alice":3}`,
	} {
		if _, err := c.Set(ctx, "/config/app/"+key, value); err != nil {
			log.Fatal(err)
		}
	}

	settings, err := config.Watch(ctx, c, "/config/app", decodeSettings, config.Options[Settings]{})
	if err != nil {
		log.Fatal(err)
	}
	defer settings.Close()

	s := settings.Load() // wherever it is needed, as often as it is needed
	fmt.Println(s.Greeting, s.Timeout, s.Backends, s.Database, s.Limits)
	// Output: hello 5s [10.0.0.1 10.0.0.2] {db1 5432} map[alice:3]
}

func ExampleWatch() {
	ctx := context.Background()
	c, err := client.New(client.Config{Endpoints: endpoints})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Set(ctx, "/config/greeter/greeting", "hello"); err != nil {
		log.Fatal(err)
	}

	told := make(chan string)
	settings, err := config.Watch(ctx, c, "/config/greeter", decodeSettings, config.Options[Settings]{
		OnChange: func(old, new *Settings) { told <- old.Greeting + " becomes " + new.Greeting },
		OnError:  func(err error) { told <- err.Error() },
	})
	if err != nil {
		log.Fatal(err)
	}
	defer settings.Close()

	for _, change := range [][2]string{{"timeout", "soon"}, {"timeout", "3s"}, {"greeting", "hi"}} {
		if _, err := c.Set(ctx, "/config/greeter/"+change[0], change[1]); err != nil {
			log.Fatal(err)
		}
		fmt.Println(<-told)
	}
	fmt.Println(settings.Load().Greeting, settings.Load().Timeout, settings.Err())
	// Output:
	// config: /config/greeter: timeout: "soon" is no duration, want one like 1m30s
	// hello becomes hello
	// hello becomes hi
	// hi 3s <nil>
}
