package main

import (
	"errors"
	"slices"

	"github.com/spf13/cobra"

	"github.com/marsevilspirit/deimos/daemon"
)

const logHelp = `Look at the log of a member that does not run, and recover one that is damaged.

A member whose log or snapshots are damaged does not start, and changes nothing:
it ends with exit code 65. In a cluster of several members the others have what
it has lost: remove it and add it again with an empty data directory. Only where
nobody else has it, in a cluster of one member, is recovering the way.`

const logFootHelp = `

Exit codes: 0 done, or nothing is damaged; 2 wrong use, or consent is missing;
65 damaged, or damaged beyond recovery; 73 a process uses the data directory, or
it holds no member; 74 the disk failed.`

func logCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "log",
		Short: "Inspect and recover the log of a member that does not run",
		Long:  logHelp,
		Args:  noSuchCommand,
		RunE:  needsCommand,
	}
	c.AddCommand(logInspectCommand(), logRecoverCommand())
	return c
}

// offline is one run of a command about a data directory.
type offline struct {
	session
	dataDir string
}

// offlineCommand completes a command about the data directory of a member that
// does not run: with the flags for that, and with run, which has the directory
// to itself until it returns.
func offlineCommand(c *cobra.Command, formats []string, run func(s *offline, dir *daemon.Offline) error) *cobra.Command {
	s := &offline{}
	s.formats = formats
	f := c.Flags()
	f.SortFlags = false
	f.StringVar(&s.dataDir, "data-dir", "", "`DIR` of the member, as it is started with; required")
	f.StringVarP(&s.output, "output", "o", formats[0], "`FORMAT` of the output: "+alternatives(formats))
	complete(c, "output", formats...)
	c.Long += logFootHelp
	c.Args = noArguments
	c.RunE = func(c *cobra.Command, _ []string) error {
		s.out, s.err = c.OutOrStdout(), c.ErrOrStderr()
		if s.dataDir == "" {
			return daemon.Usagef("%s needs --data-dir", c.CommandPath())
		}
		if !slices.Contains(formats, s.output) {
			return daemon.Usagef("--output: invalid value %q: it must be %s", s.output, alternatives(formats))
		}
		dir, err := daemon.OpenOffline(s.dataDir)
		if err != nil {
			return err
		}
		return errors.Join(run(s, dir), dir.Close())
	}
	return c
}

func logInspectCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "inspect --data-dir DIR",
		Short: "Read all of a log and tell whether it is damaged",
		Long: `Read all of the log and the snapshots of a member, tell whether they are damaged,
and if so what can be recovered. Nothing is changed.

A log is clean, or torn: a crash has cut the last batch short, which was never
acknowledged and is cut off at the next start. Anything else is damage.`,
		Example: "  deimos log inspect --data-dir node1.deimos -o table",
	}
	return offlineCommand(c, []string{formatPlain, formatTable, formatJSON}, func(s *offline, dir *daemon.Offline) error {
		replacing, err := dir.Replacing()
		if err != nil {
			return err
		}
		if replacing {
			return &daemon.DataDirError{Dir: s.dataDir, Err: errors.New(
				"a recovery was cut short: start the member, or run deimos log recover, to finish it")}
		}
		r, err := dir.Inspect()
		if err != nil {
			return err
		}
		if s.output == formatJSON {
			err = s.printJSON(logOutputOf(r))
		} else {
			err = s.printRows([]string{"WHAT", "NAME", "STATE"}, logRows(r))
		}
		if err != nil {
			return err
		}
		return r.Err()
	})
}

func logRecoverCommand() *cobra.Command {
	var acceptLoss, forceNewCluster bool
	c := &cobra.Command{
		Use:   "recover --data-dir DIR",
		Short: "Recover what precedes the damage of a log",
		Long: `Recover what can be read of a damaged log: the newest snapshot that is sound, and
the entries that follow it up to the damage. Without --accept-loss it only tells
what would be recovered and what would be lost.

Entries behind the damage are lost, whether or not they were acknowledged. Nothing
is deleted: the old log and the old snapshots are kept in DIR/replaced-1. The
store index goes up by 1,000,000, so that no client sees an index twice. After a
crash on the way, run it again.

In a cluster with other members that vote do not recover a log: they have what
it has lost. Remove this member and add it again with an empty data directory.
Only if most of them are lost for ever, --force-new-cluster makes this member the
only one of a new cluster.`,
		Example: `  deimos log recover --data-dir node1.deimos
  deimos log recover --data-dir node1.deimos --accept-loss`,
	}
	c.Flags().BoolVar(&acceptLoss, "accept-loss", false, "recover, and lose what cannot be recovered")
	c.Flags().BoolVar(&forceNewCluster, "force-new-cluster", false, "make a new cluster of this member, when most others are lost for ever")
	return offlineCommand(c, []string{formatPlain, formatJSON}, func(s *offline, dir *daemon.Offline) error {
		if replacing, err := dir.Replacing(); replacing || err != nil {
			return s.finish(dir, err)
		}
		r, err := dir.Inspect()
		if err != nil {
			return err
		}
		out := recoverOutput{logOutput: logOutputOf(r)}
		if r.Recovery == nil {
			return errors.Join(s.printRecovery(out), r.Err())
		}
		if err := s.printPlan(r); err != nil {
			return err
		}
		if may := r.Recovery.OnlyVoter() || forceNewCluster; may && !acceptLoss {
			return errors.Join(s.printRecovery(out), daemon.Usagef("nothing was changed: give --accept-loss to recover this and lose the rest"))
		}
		if out.KeptIn, err = dir.Recover(r, forceNewCluster); err != nil {
			return err
		}
		return s.printRecovery(out)
	})
}

// finish ends a recovery that was cut short; err is that of looking for one.
func (s *offline) finish(dir *daemon.Offline, err error) error {
	if err != nil {
		return err
	}
	kept, err := dir.Finish()
	if err != nil {
		return err
	}
	return s.printRecovery(recoverOutput{logOutput: logOutput{DataDir: s.dataDir}, KeptIn: kept})
}
