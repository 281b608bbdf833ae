package main

import (
	"context"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/internal/pki"
)

const (
	// completeTimeout bounds the wait of somebody who has pressed the tab key.
	completeTimeout = time.Second
	// completeMax is how many keys a shell is given.
	completeMax = 1000
)

// addCompletion adds the command that prints scripts for shells, which write to
// the output that root has now. Wrong use of it is that of other commands.
func addCompletion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() != "completion" {
			continue
		}
		c.Args, c.RunE = noSuchCommand, needsCommand
		for _, shell := range c.Commands() {
			shell.Args = wants()
		}
	}
}

// isCompletion tells whether a shell asks what may come next.
func isCompletion(args []string) bool {
	return len(args) > 0 && (args[0] == cobra.ShellCompRequestCmd || args[0] == cobra.ShellCompNoDescRequestCmd)
}

// offerFlags makes the tree fit for what a shell is told of flags: the root has
// those of a member, and usages are without the marks of their values.
func offerFlags(root *cobra.Command) {
	for _, o := range new(settings).options() {
		for _, name := range o.names() {
			if o.value.Type() == kindBool {
				root.Flags().Bool(name, false, o.usage)
			} else {
				root.Flags().String(name, "", o.usage)
			}
			root.Flags().Lookup(name).Hidden = name == o.alias
		}
	}
	root.Flags().Bool("version", false, "print the version and exit")
	unmark(root)
}

// unmark removes the marks of values from the usages of the flags of a command
// and of those below it.
func unmark(c *cobra.Command) {
	c.Flags().VisitAll(func(f *pflag.Flag) { _, f.Usage = pflag.UnquoteUsage(f) })
	for _, sub := range c.Commands() {
		unmark(sub)
	}
}

// complete offers values of a flag to the shell.
func complete(c *cobra.Command, flag string, values ...string) {
	if err := c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic("cmd: complete --" + flag + ": " + err.Error())
	}
}

// completeKeys offers the shell the keys that begin with what is typed, for the
// first argument. Nobody answers: nothing is offered.
func completeKeys(env []string) cobra.CompletionFunc {
	return completeFirst(env, func(ctx context.Context, s *session, typed string) ([]string, error) {
		dir := cleanKey(typed)
		if !strings.HasSuffix(typed, "/") {
			dir = path.Dir(dir)
		}
		r, err := s.List(ctx, dir)
		if err != nil {
			return nil, err
		}
		var keys []string
		for _, n := range r.Node.Nodes {
			key := n.Key
			if n.Dir {
				key += "/"
			}
			if strings.HasPrefix(key, "/"+strings.TrimLeft(typed, "/")) && oneLineText(key) == key {
				keys = append(keys, key)
			}
			if len(keys) == completeMax {
				break
			}
		}
		return keys, nil
	})
}

// completeMembers offers the names and ids of members.
func completeMembers(env []string) cobra.CompletionFunc {
	return completeFirst(env, func(ctx context.Context, s *session, typed string) ([]string, error) {
		members, err := s.Members(ctx)
		if err != nil {
			return nil, err
		}
		var names []string
		for _, m := range members {
			if id := deimos.FormatID(m.ID); strings.HasPrefix(id, typed) {
				names = append(names, cobra.CompletionWithDesc(id, m.Name))
			}
			if m.Name != "" && strings.HasPrefix(m.Name, typed) {
				names = append(names, m.Name)
			}
		}
		slices.Sort(names)
		return names, nil
	})
}

// completeFirst completes the first argument by asking the cluster. The flags
// on the command line say where it is.
func completeFirst(env []string, list func(ctx context.Context, s *session, typed string) ([]string, error)) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		const nothing = cobra.ShellCompDirectiveNoFileComp
		if len(args) > 0 {
			return nil, nothing
		}
		s := &session{env: env, command: c}
		flag := func(name string) string { return c.Flags().Lookup(name).Value.String() }
		s.endpoints, s.prefix, s.timeout = flag("endpoints"), flag("prefix"), completeTimeout
		s.files = pki.Files{CA: flag("cacert"), Cert: flag("cert"), Key: flag("key"), Unverified: flag("insecure-skip-verify") == "true"}
		if err := s.open(); err != nil {
			return nil, nothing
		}
		defer closeClient(s.Client)
		ctx := c.Context()
		if ctx == nil {
			ctx = context.Background()
		}
		found, err := list(ctx, s, typed)
		if err != nil {
			return nil, nothing
		}
		directive := nothing
		if len(found) > 0 && slices.ContainsFunc(found, func(key string) bool { return strings.HasSuffix(key, "/") }) {
			directive |= cobra.ShellCompDirectiveNoSpace
		}
		return found, directive
	}
}
