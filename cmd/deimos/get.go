package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/client"
)

const localHelp = "read what the endpoint has, possibly old, without asking the leader"

// readOptions returns the options of a read.
func readOptions(local bool, more ...client.GetOption) []client.GetOption {
	if local {
		more = append(more, client.WithLocalRead())
	}
	return more
}

func getCommand(env []string) *cobra.Command {
	var local bool
	c := &cobra.Command{
		Use:   "get KEY",
		Short: "Print the value of a key",
		Example: `  deimos get /config/db
  deimos get /config/db -o json`,
		Args:              wants("KEY"),
		ValidArgsFunction: completeKeys(env),
	}
	c.Flags().BoolVar(&local, "local", false, localHelp)
	return clientCommand(env, c, func(ctx context.Context, s *session, args []string) error {
		r, err := s.Get(ctx, args[0], readOptions(local)...)
		if err != nil {
			return err
		}
		switch {
		case s.output == formatJSON:
			return s.printJSON(event{Event: r.Event, Index: r.Index})
		case r.Node.Dir:
			return fmt.Errorf("%s is a directory: list it with deimos ls", oneLineText(r.Node.Key))
		case s.output == formatTable:
			return s.printNodes([]*deimos.Node{r.Node})
		}
		return s.print(func(w io.Writer) error {
			fmt.Fprintln(w, *r.Node.Value)
			return nil
		})
	})
}
