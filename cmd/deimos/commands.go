package main

import (
	"context"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/marsevilspirit/deimos/daemon"
)

const rootHelp = `Without a command, deimos runs a member of a cluster or a proxy; its settings
are flags, listed by

  deimos --help

The commands below prepare files for it and end at once, or put load on it.`

// isCommand tells whether the command line, without the name of the program,
// asks for a command rather than for a member to be run.
func isCommand(args []string) bool {
	if len(args) == 0 || strings.HasPrefix(args[0], "-") {
		return false
	}
	root := newRoot(nil)
	root.InitDefaultCompletionCmd(args...)
	return slices.ContainsFunc(root.Commands(), func(c *cobra.Command) bool { return c.Name() == args[0] }) ||
		args[0] == cobra.ShellCompRequestCmd || args[0] == cobra.ShellCompNoDescRequestCmd
}

// runCommand runs the command that args name, in the environment env
// ("NAME=value"). Wrong use is a [*daemon.UsageError]; nothing is written to
// stderr about an error that is returned.
func runCommand(ctx context.Context, args, env []string, stdout, stderr io.Writer) error {
	root := newRoot(env)
	root.SetArgs(normalize(args))
	root.SetOut(stdout)
	root.SetErr(stderr)
	return root.ExecuteContext(ctx)
}

// newRoot returns the tree of commands, which run in the environment env. Each command returns its errors and
// prints none.
func newRoot(env []string) *cobra.Command {
	root := &cobra.Command{
		Use:           "deimos",
		Short:         "a clustered, consistent key-value store",
		Long:          rootHelp,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noSuchCommand,
		RunE:          needsCommand,
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return daemon.Usagef("%s: %v, see %s --help", c.CommandPath(), err, c.CommandPath())
	})
	root.SetHelpCommand(helpCommand(root))
	root.AddCommand(benchCommand(env), caCommand())
	root.InitDefaultHelpCmd()
	return root
}

// helpCommand is cobra's own but for a command that does not exist, which it
// takes for wrong use.
func helpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]...",
		Short: "Explain a command",
		RunE: func(_ *cobra.Command, args []string) error {
			c, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return daemon.Usagef("there is no command %q to explain", strings.Join(args, " "))
			}
			c.InitDefaultHelpFlag()
			return c.Help()
		},
	}
}

// noSuchCommand refuses the arguments of a command that only groups others.
func noSuchCommand(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return daemon.Usagef("%s has no command %q, see %s --help", c.CommandPath(), args[0], c.CommandPath())
	}
	return nil
}

// needsCommand is what a command does that only groups others.
func needsCommand(c *cobra.Command, _ []string) error {
	var names []string
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	return daemon.Usagef("%s needs one of the commands %s", c.CommandPath(), strings.Join(names, ", "))
}
