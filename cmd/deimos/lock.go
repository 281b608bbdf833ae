package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/marsevilspirit/deimos/client/election"
	"github.com/marsevilspirit/deimos/client/lock"
	"github.com/marsevilspirit/deimos/daemon"
)

// envToken is what a command gets its fencing token in.
const envToken = envPrefix + "TOKEN"

const holdHelp = `

When the lease cannot be renewed, the command gets TERM when a fifth of --ttl is
left, and KILL when a tenth is: before anybody else can have it. The fencing
token, which is greater than those of all holders before, is in DEIMOS_TOKEN:
give it to what the command changes. Signals are passed on, to the children of
the command as well unless the input is a terminal; further INT and TERM are, too,
while the command runs. KILL is for all that the command has started, and on Linux
so is the end of this program when it is killed itself.

The exit code is that of the command, 128 and the signal that has ended it, 75 if
the lease was lost, or 127 if the command cannot be started.`

// lease is what a command runs under: a lock or a term.
type lease interface {
	Token() uint64
	Done() <-chan struct{}
	Err() error
}

// hold runs a command while a lease lasts. release ends the lease.
func (s *session) hold(ctx context.Context, what string, l lease, ttl time.Duration, release func(context.Context) error, argv []string) error {
	ran := s.runUnder(ctx, l, ttl, argv)
	// The request to end is for the command; giving back what is held comes after.
	releaseCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.timeout)
	defer cancel()
	switch err := release(releaseCtx); {
	case errors.Is(err, lock.ErrLost):
		return &childError{code: exitLost, text: fmt.Sprintf("%s was lost, and the command was stopped", what)}
	case err != nil:
		fmt.Fprintf(s.err, "deimos: %s could not be given back and ends with its TTL: %s\n", what, oneLine(trimPackage(err)))
	}
	return ran
}

func (s *session) runUnder(ctx context.Context, l lease, ttl time.Duration, argv []string) error {
	if l.Err() != nil || ctx.Err() != nil {
		return context.Cause(ctx) // lost is what release says
	}
	p, err := s.startChild(ctx, argv, envToken+"="+strconv.FormatUint(l.Token(), 10))
	if err != nil {
		return err
	}
	supervise(ctx, p, l.Done(), ttl/10)
	return p.exit()
}

// noLife is the answer to a --ttl of what is over at once.
func noLife(usual, least time.Duration) error {
	return daemon.Usagef("--ttl: a lease has to live: give it %v or more, and %v at least", usual, least)
}

// log returns a log on the standard error.
func (s *session) log(level slog.Level) *slog.Logger { return newLogger(level, formatText, s.err) }

func lockCommand(env []string) *cobra.Command {
	var (
		ttl   time.Duration
		owner string
	)
	c := &cobra.Command{
		Use:   "lock NAME [flags] -- COMMAND...",
		Short: "Run a command while holding a lock",
		Long: `Run a command while holding a lock. Those who wait for it get it in the order in
which they came.` + holdHelp,
		Example: "  deimos lock backup --ttl 30s -- ./backup.sh",
		Args:    wantsCommand("NAME"),
	}
	c.Flags().DurationVar(&ttl, "ttl", lock.DefaultTTL, "how long the lock outlives a holder that has died")
	c.Flags().StringVar(&owner, "value", "", "`TEXT` that tells others who holds the lock (default host name and process)")
	return formattedCommand(env, c, []string{formatPlain}, func(ctx context.Context, s *session, args []string) error {
		own, argv, err := splitCommand(c, args, "NAME")
		if err != nil {
			return err
		}
		if ttl <= 0 {
			return noLife(lock.DefaultTTL, lock.TTLMin)
		}
		l, err := lock.Acquire(ctx, s.Client, own[0], lock.Options{TTL: ttl, Owner: owner, Logger: s.log(slog.LevelInfo)})
		if err != nil {
			return err
		}
		return s.hold(ctx, "the lock "+own[0], l, ttl, l.Release, argv)
	})
}

func electCommand(env []string) *cobra.Command {
	var (
		ttl   time.Duration
		value string
	)
	c := &cobra.Command{
		Use:   "elect NAME [flags] -- COMMAND...",
		Short: "Run a command while leading",
		Long: `Run a command while being the elected leader. Candidates lead in the order in
which they came.` + holdHelp,
		Example: "  deimos elect mail --value http://10.0.0.9:8080 -- ./mailer",
		Args:    wantsCommand("NAME"),
	}
	c.Flags().DurationVar(&ttl, "ttl", election.DefaultTTL, "how long a term outlives a leader that has died")
	c.Flags().StringVar(&value, "value", "", "`TEXT` that tells others of the leader, its address for instance")
	return formattedCommand(env, c, []string{formatPlain}, func(ctx context.Context, s *session, args []string) error {
		own, argv, err := splitCommand(c, args, "NAME")
		if err != nil {
			return err
		}
		if ttl <= 0 {
			return noLife(election.DefaultTTL, election.TTLMin)
		}
		e, err := election.New(s.Client, own[0], election.Options{TTL: ttl, Logger: s.log(slog.LevelInfo)})
		if err != nil {
			return err
		}
		term, err := e.Campaign(ctx, value)
		if err != nil {
			return err
		}
		return s.hold(ctx, "the term as leader of "+own[0], term, ttl, term.Resign, argv)
	})
}
