package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/client/registry"
	"github.com/marsevilspirit/deimos/daemon"
)

// servicesDirHelp is the usage of the flag for where services are.
const servicesDirHelp = "directory of all services, a `KEY`"

func registerCommand(env []string) *cobra.Command {
	in := registry.Instance{}
	var dir string
	c := &cobra.Command{
		Use:   "register SERVICE HOST:PORT [flags] [-- COMMAND...]",
		Short: "Keep a service registered",
		Long: `Keep an instance of a service registered until the command line is ended, or
while a command runs. The entry is removed then; if this program dies, the
entry goes when its TTL is over. When the cluster was away for longer than that,
the instance is registered again.

It ends with exit code 75 when somebody else registers the same address: the
entry is theirs. The command gets TERM then, and KILL after a tenth of --ttl.
Otherwise the exit code is that of the command. Signals are passed on to it, and on
Linux it is killed with all that it has started when this program is killed.`,
		Example: `  deimos register web 10.0.0.9:8080 --metadata zone=a
  deimos register web 10.0.0.9:8080 -- ./web --port 8080`,
		Args: func(c *cobra.Command, args []string) error {
			if at := c.ArgsLenAtDash(); at >= 0 {
				return wantsCommand("SERVICE", "HOST:PORT")(c, args)
			}
			return wants("SERVICE", "HOST:PORT")(c, args)
		},
		ValidArgsFunction: completeServices(env),
	}
	c.Flags().StringVar(&in.Metadata, "metadata", "", "`TEXT` that others are told of the instance")
	c.Flags().StringVar(&in.Network, "network", registry.DefaultNetwork, "`NAME` of the network, tcp or udp for instance")
	c.Flags().DurationVar(&in.TTL, "ttl", registry.DefaultTTL, "how long the entry outlives this program")
	c.Flags().StringVar(&dir, "dir", registry.DefaultPrefix, servicesDirHelp)
	return formattedCommand(env, c, []string{formatPlain}, func(ctx context.Context, s *session, args []string) error {
		if in.TTL <= 0 {
			return noLife(registry.DefaultTTL, registry.TTLMin)
		}
		in.Service, in.Addr = args[0], args[1]
		first, stop := context.WithTimeout(ctx, s.timeout)
		defer stop()
		r, err := registry.Register(first, s.Client, in, registry.WithPrefix(dir), registry.WithLogger(s.log(slog.LevelWarn)))
		if err != nil {
			return err
		}
		ran := s.runRegistered(ctx, r, args[2:])
		replaced := r.State() == registry.Replaced
		closeCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.timeout)
		defer cancel()
		if err := r.Close(closeCtx); err != nil && !replaced {
			fmt.Fprintf(s.err, "deimos: the entry could not be removed and ends with its TTL: %s\n", oneLine(trimPackage(err)))
		}
		if replaced {
			text := fmt.Sprintf("%s of %s was registered by somebody else, whose entry it is now", r.Instance(), in.Service)
			return &childError{code: exitLost, text: text}
		}
		return ran
	})
}

// runRegistered waits for the end of a command, or without one for the request
// to end. Either is over when the registration is.
func (s *session) runRegistered(ctx context.Context, r *registry.Registration, argv []string) error {
	if len(argv) == 0 {
		select {
		case <-ctx.Done():
		case <-r.Done():
		}
		return nil
	}
	p, err := s.startChild(ctx, argv)
	if err != nil {
		return err
	}
	supervise(ctx, p, r.Done(), r.Instance().TTL/10)
	return p.exit()
}

// serviceOutput is an instance as --output json shows it.
type serviceOutput struct {
	Service  string `json:"service"`
	Network  string `json:"network"`
	Addr     string `json:"addr"`
	Metadata string `json:"metadata,omitempty"`
}

func servicesCommand(env []string) *cobra.Command {
	var (
		dir   string
		watch bool
	)
	c := &cobra.Command{
		Use:   "services [SERVICE]",
		Short: "List where services are",
		Long: `List all services, or the instances of one: network, address and metadata. With
--watch the instances that are there come as added, and then what changes, a line
for each: added, updated or removed.`,
		Example: `  deimos services
  deimos services web -o json
  deimos services web --watch`,
		Args:              wants("[SERVICE]"),
		ValidArgsFunction: completeServices(env),
	}
	c.Flags().BoolVar(&watch, "watch", false, "go on with what changes; needs a SERVICE")
	c.Flags().StringVar(&dir, "dir", registry.DefaultPrefix, servicesDirHelp)
	return clientCommand(env, c, func(ctx context.Context, s *session, args []string) error {
		switch {
		case len(args) == 0 && watch:
			return daemon.Usagef("--watch needs a SERVICE: one is watched at a time")
		case len(args) == 0:
			return s.listServices(ctx, dir)
		}
		first, stop := context.WithTimeout(ctx, s.timeout)
		defer stop()
		v, err := registry.Discover(first, s.Client, args[0], registry.WithPrefix(dir), registry.WithLogger(s.log(slog.LevelWarn)))
		if err != nil {
			return err
		}
		defer v.Close()
		if watch {
			return s.printChanges(ctx, v)
		}
		return s.printInstances(v.Instances())
	})
}

// serviceNames returns the names of all services, none without the directory.
func (s *session) serviceNames(ctx context.Context, dir string) ([]string, error) {
	r, err := s.List(ctx, dir)
	if errors.Is(err, deimos.ErrKeyNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, n := range r.Node.Nodes {
		if n.Dir {
			names = append(names, n.Key[len(r.Node.Key)+1:])
		}
	}
	return names, nil
}

func (s *session) listServices(ctx context.Context, dir string) error {
	names, err := s.serviceNames(ctx, dir)
	if err != nil {
		return err
	}
	if s.output == formatJSON {
		return s.printJSON(append([]string{}, names...))
	}
	var rows [][]string
	for _, name := range names {
		rows = append(rows, []string{oneLineText(name)})
	}
	return s.printRows([]string{"SERVICE"}, rows)
}

func (s *session) printInstances(all []registry.Instance) error {
	if s.output == formatJSON {
		shown := []serviceOutput{}
		for _, in := range all {
			shown = append(shown, serviceOutput{in.Service, in.Network, in.Addr, in.Metadata})
		}
		return s.printJSON(shown)
	}
	var rows [][]string
	for _, in := range all {
		rows = append(rows, []string{in.Network, oneLineText(in.Addr), oneLineText(in.Metadata)})
	}
	return s.printRows([]string{"NETWORK", "ADDRESS", "METADATA"}, rows)
}

// printChanges prints changes until the command is asked to end.
func (s *session) printChanges(ctx context.Context, v *registry.View) error {
	for change := range v.Changes(ctx) {
		in := change.Instance
		var err error
		if s.output == formatJSON {
			err = s.printJSON(struct {
				Change string `json:"change"`
				serviceOutput
			}{change.Kind.String(), serviceOutput{in.Service, in.Network, in.Addr, in.Metadata}})
		} else {
			err = s.print(func(w io.Writer) error {
				fmt.Fprintf(w, "%s %s %s", change.Kind, in.Network, oneLineText(in.Addr))
				if in.Metadata != "" {
					fmt.Fprintf(w, " %s", oneLineText(in.Metadata))
				}
				fmt.Fprintln(w)
				return nil
			})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// completeServices offers the names of services for the first argument.
func completeServices(env []string) cobra.CompletionFunc {
	return completeFirst(env, func(ctx context.Context, s *session, typed string) ([]string, error) {
		names, err := s.serviceNames(ctx, s.command.Flag("dir").Value.String())
		return slices.DeleteFunc(names, func(name string) bool {
			return !strings.HasPrefix(name, typed) || oneLineText(name) != name
		}), err
	})
}
