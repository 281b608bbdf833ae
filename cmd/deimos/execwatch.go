package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"

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

A value that the system does not allow in a variable, on Linux one of 128 KiB or
more and everywhere one with a NUL byte, is left out: DEIMOS_WATCH_VALUE is not
set, and DEIMOS_WATCH_VALUE_OMITTED is 1. deimos get prints it. When a command
cannot be started even so because of what has happened, that is said, and the
watch goes on; when it cannot be started at all, the exit code is 127.

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
		// What another watch says of its own event does not hold for this one.
		s.env = slices.DeleteFunc(slices.Clone(s.env), func(v string) bool { return strings.HasPrefix(v, envWatch) })
		return f.each(ctx, s, own[0], func(e client.WatchEvent) error {
			p, err := s.startForEvent(ctx, argv, own[0], e)
			switch {
			case err != nil && isDueTo(e, err):
				fmt.Fprintf(s.err, "deimos: for index %d %v\n", e.Index, err)
				return nil
			case err != nil:
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

// startForEvent starts the command for an event, without the value if the system
// does not allow that in a variable. How long one may be, and all together, is
// known to the system only.
func (s *session) startForEvent(ctx context.Context, argv []string, key string, e client.WatchEvent) (*child, error) {
	env, value := watchEnv(key, e)
	if !strings.Contains(value, "\x00") {
		p, err := s.startChild(ctx, argv, append(env, envWatch+"VALUE="+value)...)
		if !errors.Is(err, syscall.E2BIG) {
			return p, err
		}
	}
	return s.startChild(ctx, argv, append(env, envWatch+"VALUE_OMITTED=1")...)
}

// isDueTo reports whether it is because of the event that a command could not be
// started. The other arguments cannot be too long: this program has got them too.
// A server that is not Deimos may have keys with NUL bytes.
func isDueTo(e client.WatchEvent, err error) bool {
	return errors.Is(err, syscall.E2BIG) || e.Node != nil && strings.Contains(e.Node.Key, "\x00")
}

// watchEnv returns the variables that tell of an event but for the value.
func watchEnv(key string, e client.WatchEvent) (env []string, value string) {
	action, node := string(e.Action), e.Node
	if e.Reset {
		action = "reset"
	}
	if node == nil {
		node = &deimos.Node{Key: cleanKey(key)}
	}
	if node.Value != nil {
		value = *node.Value
	}
	return []string{
		envWatch + "ACTION=" + action,
		envWatch + "KEY=" + node.Key,
		envWatch + "INDEX=" + strconv.FormatUint(e.Index, 10),
	}, value
}
