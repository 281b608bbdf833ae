package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/marsevilspirit/deimos/client"
	"github.com/marsevilspirit/deimos/daemon"
)

const valueHelp = `

VALUE is text in UTF-8. The value - means the input up to its end, as it is. A
value that begins with a dash comes behind two dashes, as in deimos put KEY -- -1.`

func putCommand(env []string) *cobra.Command {
	var (
		ttl   ttlFlag
		cond  conditionFlags
		exist bool
	)
	c := &cobra.Command{
		Use:   "put KEY VALUE",
		Short: "Write a key, whether or not it exists",
		Long: `Write a key, whether or not it exists; missing directories above it are made. A
key that is written without --ttl stays, also if it had one before.` + valueHelp,
		Example: `  deimos put /config/db 10.0.0.7:5432
  deimos put /config/db 10.0.0.8:5432 --prev-value 10.0.0.7:5432
  deimos put /services/web/n1 up --ttl 30s
  deimos put /config/tls.crt - <tls.crt`,
		Args:              wants("KEY", "VALUE"),
		ValidArgsFunction: completeKeys(env),
	}
	ttl.register(c)
	cond.register(c)
	c.Flags().BoolVar(&exist, "prev-exist", false, "only if the key exists; with =false, only if it does not")
	return clientCommand(env, c, func(ctx context.Context, s *session, args []string) error {
		options, err := ttl.given()
		if err != nil {
			return err
		}
		conditions, err := cond.given()
		if err != nil {
			return err
		}
		given := c.Flags().Changed("prev-exist")
		if given && !exist && len(conditions) > 0 {
			return daemon.Usagef("--prev-exist=false and --prev-value or --prev-index exclude each other: what does not exist has neither")
		}
		value, err := s.valueOf(args[1])
		if err != nil {
			return err
		}
		var r *client.Response
		done := "set"
		switch key := args[0]; {
		case len(conditions) > 0:
			more := append(as[client.SwapOption](options), as[client.SwapOption](conditions[1:])...)
			r, err = s.CompareAndSwap(ctx, key, value, conditions[0], more...)
		case given && exist:
			done = "updated"
			r, err = s.Update(ctx, key, value, as[client.SetOption](options)...)
		case given:
			done = "created"
			r, err = s.Create(ctx, key, value, as[client.CreateOption](options)...)
		default:
			r, err = s.Set(ctx, key, value, as[client.SetOption](options)...)
		}
		if err != nil {
			return err
		}
		return s.printWrite(done, r)
	})
}

func createCommand(env []string) *cobra.Command {
	var (
		ttl     ttlFlag
		inOrder bool
	)
	c := &cobra.Command{
		Use:   "create KEY VALUE",
		Short: "Write a key that does not exist",
		Long: `Write a key that does not exist; missing directories above it are made. With
--in-order KEY is a directory, in which the new key gets a name that sorts behind
all names given there before.` + valueHelp,
		Example: `  deimos create /locks/backup me --ttl 60s
  deimos create --in-order /queue job`,
		Args:              wants("KEY", "VALUE"),
		ValidArgsFunction: completeKeys(env),
	}
	ttl.register(c)
	c.Flags().BoolVar(&inOrder, "in-order", false, "in the directory KEY, under a name that is given")
	return clientCommand(env, c, func(ctx context.Context, s *session, args []string) error {
		options, err := ttl.given()
		if err != nil {
			return err
		}
		value, err := s.valueOf(args[1])
		if err != nil {
			return err
		}
		var r *client.Response
		if inOrder {
			r, err = s.CreateInOrder(ctx, args[0], value, as[client.SetOption](options)...)
		} else {
			r, err = s.Create(ctx, args[0], value, as[client.CreateOption](options)...)
		}
		if err != nil {
			return err
		}
		return s.printWrite("created", r)
	})
}

func updateCommand(env []string) *cobra.Command {
	var ttl ttlFlag
	c := &cobra.Command{
		Use:               "update KEY VALUE",
		Short:             "Write a key that exists",
		Long:              "Write a key that exists. Without --ttl it stays, also if it had one before." + valueHelp,
		Example:           "  deimos update /config/db 10.0.0.8:5432",
		Args:              wants("KEY", "VALUE"),
		ValidArgsFunction: completeKeys(env),
	}
	ttl.register(c)
	return clientCommand(env, c, func(ctx context.Context, s *session, args []string) error {
		options, err := ttl.given()
		if err != nil {
			return err
		}
		value, err := s.valueOf(args[1])
		if err != nil {
			return err
		}
		r, err := s.Update(ctx, args[0], value, as[client.SetOption](options)...)
		if err != nil {
			return err
		}
		return s.printWrite("updated", r)
	})
}

func mkdirCommand(env []string) *cobra.Command {
	var ttl ttlFlag
	c := &cobra.Command{
		Use:               "mkdir DIR",
		Short:             "Make a directory that does not exist",
		Long:              "Make a directory that does not exist, and those above it that are missing.",
		Example:           "  deimos mkdir /services/web --ttl 1h",
		Args:              wants("DIR"),
		ValidArgsFunction: completeKeys(env),
	}
	ttl.register(c)
	return clientCommand(env, c, func(ctx context.Context, s *session, args []string) error {
		options, err := ttl.given()
		if err != nil {
			return err
		}
		r, err := s.Mkdir(ctx, args[0], as[client.CreateOption](options)...)
		if err != nil {
			return err
		}
		return s.printWrite("created", r)
	})
}

func rmCommand(env []string) *cobra.Command {
	var (
		cond           conditionFlags
		dir, recursive bool
	)
	c := &cobra.Command{
		Use:   "rm KEY",
		Short: "Remove a key",
		Example: `  deimos rm /config/db
  deimos rm /config/db --prev-index 12
  deimos rm /services/web --recursive`,
		Args:              wants("KEY"),
		ValidArgsFunction: completeKeys(env),
	}
	c.Flags().BoolVar(&dir, "dir", false, "also an empty directory")
	c.Flags().BoolVar(&recursive, "recursive", false, "also a directory, with all that is in it")
	cond.register(c)
	return clientCommand(env, c, func(ctx context.Context, s *session, args []string) error {
		conditions, err := cond.given()
		if err != nil {
			return err
		}
		var r *client.Response
		switch {
		case len(conditions) > 0 && (dir || recursive):
			return daemon.Usagef("conditions are for files: leave out --dir and --recursive")
		case len(conditions) > 0:
			r, err = s.CompareAndDelete(ctx, args[0], conditions[0], conditions[1:]...)
		default:
			var options []client.DeleteOption
			if dir {
				options = append(options, client.WithDir())
			}
			if recursive {
				options = append(options, client.WithRecursive())
			}
			r, err = s.Delete(ctx, args[0], options...)
		}
		if err != nil {
			return err
		}
		return s.printWrite("removed", r)
	})
}
