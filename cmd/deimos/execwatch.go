package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/client"
)

// envWatch begins the variables that tell a command of an event.
const envWatch = envPrefix + "WATCH_"

func execWatchCommand(env []string) *cobra.Command {
	var f watchFlags
	c := &cobra.Command{
		Use:   "exec-watch KEY [flags] -- COMMAND...",
		Short: "Run a command for each change of a key",
		Long: `Run a command for each change of a key, one after the other. It finds what has
happened in DEIMOS_WATCH_ACTION (set, create, update, delete, expire,
compareAndSwap, compareAndDelete), DEIMOS_WATCH_KEY, DEIMOS_WATCH_VALUE and
DEIMOS_WATCH_INDEX. That a command fails is said on the standard error, and the
watch goes on.

When the members no longer remember what came since, the action is reset, the key
is the watched one, and the value is that of it now, if it has one: read what is
there.`,
		Example: `  deimos exec-watch /config --recursive -- sh -c 'echo "$DEIMOS_WATCH_KEY changed"'`,
		Args:    wantsCommand("KEY"),
	}
	f.register(c)
	return formattedCommand(env, c, []string{formatPlain}, func(ctx context.Context, s *session, args []string) error {
		own, argv, err := splitCommand(c, args, "KEY")
		if err != nil {
			return err
		}
		return f.each(ctx, s, own[0], func(e client.WatchEvent) error {
			p, err := s.startChild(ctx, argv, watchEnv(own[0], e)...)
			if err != nil {
				return err
			}
			supervise(ctx, p, nil, 0)
			if err := p.exit(); err != nil && ctx.Err() == nil {
				fmt.Fprintf(s.err, "deimos: the command for index %d has failed: exit code %d\n", e.Index, exitCode(err))
			}
			return nil
		})
	})
}

// watchEnv returns the variables that tell of an event.
func watchEnv(key string, e client.WatchEvent) []string {
	action, node := string(e.Action), e.Node
	if e.Reset {
		action = "reset"
	}
	if node == nil {
		node = &deimos.Node{Key: cleanKey(key)}
	}
	value := ""
	if node.Value != nil {
		value = *node.Value
	}
	return []string{
		envWatch + "ACTION=" + action,
		envWatch + "KEY=" + node.Key,
		envWatch + "VALUE=" + value,
		envWatch + "INDEX=" + strconv.FormatUint(e.Index, 10),
	}
}
