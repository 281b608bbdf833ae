package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/client"
	"github.com/marsevilspirit/deimos/daemon"
)

const watchHelp = `

The watch goes on when a member stops or the leader changes. When the members no
longer remember what came since, it says so on the standard error and goes on
with RESET and the state, a line GET for each file.`

// watchFlags are the flags of commands that watch.
type watchFlags struct {
	c         *cobra.Command
	recursive bool
	from      uint64
}

func (f *watchFlags) register(c *cobra.Command) {
	f.c = c
	c.Flags().BoolVar(&f.recursive, "recursive", false, "also all keys below")
	c.Flags().Uint64Var(&f.from, "from-index", 0, "begin with the changes from `INDEX` on (default with the next one)")
}

// each calls do for every event until there is an error, which is nil when the
// command is asked to end. What was lost is said on the standard error.
func (f *watchFlags) each(ctx context.Context, s *session, key string, do func(client.WatchEvent) error) error {
	var options []client.WatchOption
	if f.recursive {
		options = append(options, client.WithRecursive())
	}
	if f.c.Flags().Changed("from-index") {
		if f.from == 0 {
			return daemon.Usagef("--from-index: no change has index 0; without the flag the watch begins with the next one")
		}
		options = append(options, client.WithWaitIndex(f.from))
	}
	for e, err := range s.Watch(ctx, key, options...) {
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		case e.Reset:
			fmt.Fprintf(s.err, "deimos: changes of %s are missing here, because the members no longer remember them: the state at index %d follows\n",
				oneLineText(cleanKey(key)), e.Index)
		}
		if err := do(e); err != nil {
			return err
		}
	}
	return nil
}

// errEnough ends a watch that has seen what it wants.
var errEnough = errors.New("enough was seen")

func watchCommand(env []string) *cobra.Command {
	var (
		f    watchFlags
		once bool
	)
	c := &cobra.Command{
		Use:   "watch KEY",
		Short: "Print the changes of a key as they come",
		Long:  "Print the changes of a key as they come, one line each." + watchHelp,
		Example: `  deimos watch /config --recursive
  deimos watch /config/db --from-index 12 -o json`,
		Args:              wants("KEY"),
		ValidArgsFunction: completeKeys(env),
	}
	f.register(c)
	c.Flags().BoolVar(&once, "once", false, "end after the first change")
	return clientCommand(env, c, func(ctx context.Context, s *session, args []string) error {
		err := f.each(ctx, s, args[0], func(e client.WatchEvent) error {
			if err := s.printEvent(e); err != nil {
				return err
			}
			if once && !e.Reset {
				return errEnough
			}
			return nil
		})
		if errors.Is(err, errEnough) {
			return nil
		}
		return err
	})
}

func (s *session) printEvent(e client.WatchEvent) error {
	if s.output == formatJSON {
		return s.printJSON(event{Event: e.Event, Index: e.Index, Reset: e.Reset})
	}
	return s.print(func(w io.Writer) error {
		if !e.Reset {
			writeEvent(w, verb(e.Action), e.Node)
			return nil
		}
		fmt.Fprintln(w, "RESET")
		for _, n := range stateFiles(e) {
			writeEvent(w, "GET", n)
		}
		return nil
	})
}

// stateFiles returns the files of the state that a Reset carries.
func stateFiles(e client.WatchEvent) []*deimos.Node {
	if e.Node == nil {
		return nil
	}
	var files []*deimos.Node
	for _, n := range flatten(nil, []*deimos.Node{e.Node}) {
		if !n.Dir {
			files = append(files, n)
		}
	}
	return files
}

func writeEvent(w io.Writer, what string, n *deimos.Node) {
	fmt.Fprintf(w, "%s %s", what, shownKey(n))
	if n.Value != nil {
		fmt.Fprintf(w, " %s", oneLineText(*n.Value))
	}
	fmt.Fprintln(w)
}

// verb writes an action in capitals, compareAndSwap as COMPARE-AND-SWAP.
func verb(a deimos.Action) string {
	var b strings.Builder
	for _, r := range string(a) {
		if unicode.IsUpper(r) {
			b.WriteByte('-')
		}
		b.WriteRune(unicode.ToUpper(r))
	}
	return b.String()
}
