package main

import (
	"context"
	"fmt"
	"io"
	"path"

	"github.com/spf13/cobra"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/client"
)

func lsCommand(env []string) *cobra.Command {
	var local, recursive bool
	c := &cobra.Command{
		Use:   "ls [DIR]",
		Short: "List a directory",
		Long: `List a directory, the root without an argument. Directories have a slash at
their end. Keys with an element that begins with an underscore are hidden from
the directories above.`,
		Example: `  deimos ls
  deimos ls /services --recursive -o table`,
		Args:              wants("[DIR]"),
		ValidArgsFunction: completeKeys(env),
	}
	c.Flags().BoolVar(&recursive, "recursive", false, "also what is in the directories below")
	c.Flags().BoolVar(&local, "local", false, localHelp)
	return clientCommand(env, c, func(ctx context.Context, s *session, args []string) error {
		options := readOptions(local)
		if recursive {
			options = append(options, client.WithRecursive())
		}
		r, err := s.Get(ctx, dirOf(args), options...)
		if err != nil {
			return err
		}
		if s.output == formatJSON {
			return s.printJSON(event{Event: r.Event, Index: r.Index})
		}
		nodes := []*deimos.Node{r.Node} // a file lists itself
		if r.Node.Dir {
			nodes = flatten(nil, r.Node.Nodes)
		}
		if s.output == formatTable {
			return s.printNodes(nodes)
		}
		return s.print(func(w io.Writer) error {
			for _, n := range nodes {
				fmt.Fprintln(w, shownKey(n))
			}
			return nil
		})
	})
}

// dirOf returns the only argument, the root without one.
func dirOf(args []string) string {
	if len(args) == 0 {
		return "/"
	}
	return args[0]
}

// flatten appends nodes and all that is in them, each directory before what is
// in it.
func flatten(to, nodes []*deimos.Node) []*deimos.Node {
	for _, n := range nodes {
		to = flatten(append(to, n), n.Nodes)
	}
	return to
}

func treeCommand(env []string) *cobra.Command {
	var local bool
	c := &cobra.Command{
		Use:               "tree [DIR]",
		Short:             "Draw a directory and all that is in it",
		Long:              "Draw a directory and all that is in it, the root without an argument.",
		Example:           "  deimos tree /services",
		Args:              wants("[DIR]"),
		ValidArgsFunction: completeKeys(env),
	}
	c.Flags().BoolVar(&local, "local", false, localHelp)
	return clientCommand(env, c, func(ctx context.Context, s *session, args []string) error {
		r, err := s.Get(ctx, dirOf(args), readOptions(local, client.WithRecursive())...)
		if err != nil {
			return err
		}
		switch s.output {
		case formatJSON:
			return s.printJSON(event{Event: r.Event, Index: r.Index})
		case formatTable:
			return s.printNodes(flatten(nil, []*deimos.Node{r.Node}))
		}
		return s.print(func(w io.Writer) error {
			fmt.Fprintln(w, shownKey(r.Node))
			drawTree(w, "", r.Node.Nodes)
			return nil
		})
	})
}

func drawTree(w io.Writer, indent string, nodes []*deimos.Node) {
	for i, n := range nodes {
		branch, under := "├── ", "│   "
		if i == len(nodes)-1 {
			branch, under = "└── ", "    "
		}
		slash := ""
		if n.Dir {
			slash = "/"
		}
		fmt.Fprintf(w, "%s%s%s%s\n", indent, branch, oneLineText(path.Base(n.Key)), slash)
		drawTree(w, indent+under, n.Nodes)
	}
}
