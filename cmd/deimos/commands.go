package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/marsevilspirit/deimos/daemon"
)

const rootHelp = `Without a command, deimos runs a member of a cluster or a proxy; its settings
are flags, listed by

  deimos --help

The commands below read and write the keys of a cluster, coordinate programs with
it, look after it, or prepare files for its members.`

// The groups of commands in the help.
const (
	groupKeys    = "keys"
	groupShare   = "share"
	groupCluster = "cluster"
)

// isCommand tells whether the command line, without the name of the program,
// asks for a command rather than for a member to be run.
func isCommand(args []string) bool {
	if len(args) == 0 || strings.HasPrefix(args[0], "-") {
		return false
	}
	root := newRoot(nil)
	addCompletion(root)
	return slices.ContainsFunc(root.Commands(), func(c *cobra.Command) bool { return c.Name() == args[0] }) || isCompletion(args)
}

// runCommand runs the command that args name, in the environment env
// ("NAME=value"). Wrong use is a [*daemon.UsageError]; nothing is written to
// stderr about an error that is returned.
func runCommand(ctx context.Context, args, env []string, stdout, stderr io.Writer) error {
	root := newRoot(env)
	root.SetOut(stdout)
	root.SetErr(stderr)
	addCompletion(root)
	if isCompletion(args) {
		offerFlags(root)
	}
	root.SetArgs(normalizeFor(root, args))
	var helpErr error // which cobra does not ask for
	root.SetHelpFunc(func(c *cobra.Command, _ []string) { helpErr = printCommandHelp(c) })
	if err := root.ExecuteContext(ctx); err != nil {
		return err
	}
	return helpErr
}

// printCommandHelp explains a command on its standard output.
func printCommandHelp(c *cobra.Command) error {
	_, err := fmt.Fprintf(c.OutOrStdout(), "%s\n\n%s", strings.TrimSpace(orElse(c.Long, c.Short)), c.UsageString())
	if err != nil {
		return fmt.Errorf("print help: %w", err)
	}
	return nil
}

// normalizeFor is normalize for the flags of commands. An argument that is not
// the name of a flag stays as it is, because it may be a value, and so does what
// is behind "--".
func normalizeFor(root *cobra.Command, args []string) []string {
	out := slices.Clone(args)
	for i, arg := range out {
		if arg == "--" {
			break
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(arg, "-"), "=")
		if strings.HasPrefix(arg, "-") && len(name) > 1 && isFlag(root, name) {
			out[i] = "-" + arg
		}
	}
	return out
}

// isFlag reports whether c or a command below it has a flag of that name.
func isFlag(c *cobra.Command, name string) bool {
	return name == "help" || c.Flags().Lookup(name) != nil ||
		slices.ContainsFunc(c.Commands(), func(sub *cobra.Command) bool { return isFlag(sub, name) })
}

// newRoot returns the tree of commands, which run in the environment env. Each
// command returns its errors and prints none.
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
		return daemon.Usagef("%s: %s, see %s --help", c.CommandPath(), explainFlag(err), c.CommandPath())
	})
	root.SetHelpCommand(helpCommand(root))
	root.AddGroup(
		&cobra.Group{ID: groupKeys, Title: "Keys:"},
		&cobra.Group{ID: groupShare, Title: "Coordination:"},
		&cobra.Group{ID: groupCluster, Title: "The cluster:"},
	)
	addGroup(root, groupKeys, getCommand(env), putCommand(env), createCommand(env), updateCommand(env), rmCommand(env),
		lsCommand(env), treeCommand(env), mkdirCommand(env), watchCommand(env), execWatchCommand(env),
		configCommand(env), exportCommand(env), importCommand(env))
	addGroup(root, groupShare, lockCommand(env), electCommand(env), registerCommand(env), servicesCommand(env))
	addGroup(root, groupCluster, membersCommand(env), healthCommand(env), statusCommand(env), benchCommand(env), caCommand(), logCommand())
	root.AddCommand(manCommand())
	root.InitDefaultHelpCmd()
	return root
}

// explainFlag says what is wrong with a flag.
func explainFlag(err error) string {
	e, ok := errors.AsType[*pflag.InvalidValueError](err)
	if !ok {
		return err.Error()
	}
	flag := e.GetFlag()
	reason := "it must be " + orElse(flagKinds[flag.Value.Type()], flag.Value.Type())
	if errors.Is(err, strconv.ErrRange) {
		reason = "it is out of range"
	}
	return fmt.Sprintf("--%s: invalid value %q: %s", flag.Name, e.GetValue(), reason)
}

// flagKinds says what the values of a kind of flag are.
var flagKinds = map[string]string{
	"bool":     "true or false",
	"duration": "a time such as 30s or 5m",
	"float64":  "a number",
	"int":      "a whole number",
	"int64":    "a whole number",
	"uint64":   "a whole number that is not negative",
}

func addGroup(root *cobra.Command, group string, commands ...*cobra.Command) {
	for _, c := range commands {
		c.GroupID = group
	}
	root.AddCommand(commands...)
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
		return noCommand(c.CommandPath(), args[0], commandNames(c), c.CommandPath()+" --help")
	}
	return nil
}

// noCommand refuses a name that none of the commands below path has. see is what
// lists them.
func noCommand(path, name string, names []string, see string) error {
	if meant := nearest(name, names); meant != "" {
		return daemon.Usagef("%s has no command %q, did you mean %s %s? See %s", path, name, path, meant, see)
	}
	return daemon.Usagef("%s has no command %q, see %s", path, name, see)
}

// needsCommand is what a command does that only groups others.
func needsCommand(c *cobra.Command, _ []string) error {
	return daemon.Usagef("%s needs one of the commands %s", c.CommandPath(), strings.Join(commandNames(c), ", "))
}

// commandNames returns the names of the commands below one.
func commandNames(c *cobra.Command) []string {
	var names []string
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	return names
}
