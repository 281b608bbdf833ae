package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/marsevilspirit/deimos/daemon"
	"github.com/marsevilspirit/deimos/internal/pki"
)

const (
	defaultCADir   = "deimos-ca"
	defaultCAName  = "Deimos CA"
	defaultCAHosts = "localhost,127.0.0.1,::1"

	day = 24 * time.Hour

	// daysMax keeps the end of a certificate within the four digits that a year
	// has in it.
	daysMax = 36500
)

const caHelp = `A certificate authority in a directory, enough to let the members of a cluster
and their clients prove themselves to each other. A cluster of three with a
client, on one machine:

  deimos ca create
  deimos ca issue n1 n2 n3
  deimos ca issue --client alice

and then each member with its own certificate, n1 for instance with

  deimos --name n1 \
    --cert-file deimos-ca/n1.crt --key-file deimos-ca/n1.key --ca-file deimos-ca/ca.crt \
    --peer-cert-file deimos-ca/n1.crt --peer-key-file deimos-ca/n1.key --peer-ca-file deimos-ca/ca.crt \
    ...

Whoever can read ca.key can make a certificate that every member trusts. It is
only needed for issuing: keep it away from the machines that run members.`

func caCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "ca",
		Short: "Make certificates for the members of a cluster and their clients",
		Long:  caHelp,
		Args:  noSuchCommand,
		RunE:  needsCommand,
	}
	c.AddCommand(caCreateCommand(), caIssueCommand(), caShowCommand())
	return c
}

func caCreateCommand() *cobra.Command {
	var (
		dir, name string
		days      int
	)
	c := &cobra.Command{
		Use:   "create",
		Short: "Create a certificate authority",
		Long: `Create a certificate authority: a new key in DIR/ca.key and its certificate in
DIR/ca.crt. The directory is made if it is missing. An authority that is there
already is never overwritten.`,
		Example: "  deimos ca create --dir deimos-ca --name \"Example CA\"",
		Args:    noArguments,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkDays(days); err != nil {
				return err
			}
			ca, err := pki.CreateCA(dir, name, time.Duration(days)*day)
			if err != nil {
				return err
			}
			return printTo(c.OutOrStdout(), func(w io.Writer) error {
				fmt.Fprintf(w, "Created the authority %q, valid until %s:\n", name, date(ca.Certificate().NotAfter))
				fmt.Fprintf(w, "  %s  for every member and client\n", ca.CertFile())
				fmt.Fprintf(w, "  %s  secret, only needed for issuing\n", filepath.Join(dir, "ca.key"))
				fmt.Fprintf(w, "Next, a certificate for each member:\n  deimos ca issue n1 n2 n3%s\n", dirFlag(dir))
				return nil
			})
		},
	}
	c.Flags().StringVar(&dir, "dir", defaultCADir, "`DIR` of the authority")
	c.Flags().StringVar(&name, "name", defaultCAName, "`NAME` of the authority, for people to read")
	c.Flags().IntVar(&days, "days", int(pki.DefaultCAValidity/day), "`DAYS` that the authority is valid")
	return c
}

// issueOptions are the flags of deimos ca issue.
type issueOptions struct {
	dir, out string
	hosts    []string
	client   bool
	days     int
}

func caIssueCommand() *cobra.Command {
	var o issueOptions
	c := &cobra.Command{
		Use:   "issue NAME[=HOST,...]...",
		Short: "Issue certificates, each with a new key",
		Long: `Issue certificates, each with a new key: OUT/NAME.crt and OUT/NAME.key. Files
that are there already are never overwritten.

The certificate of a member is for both of its ports and for calling the other
members. It is valid for the hosts of --host and for those behind its NAME=,
which must cover every host in the URLs that the member advertises. With --client
the certificate is for calling the client port only, and has no hosts.

To renew a certificate, issue it into another directory with --out and move the
two files over the old ones. A running member uses them for the connections that
follow; a warning that the files did not belong together, from the moment
between the two moves, means nothing.`,
		Example: `  deimos ca issue n1=10.0.0.1 n2=10.0.0.2 n3=n3.example.com
  deimos ca issue --client alice`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return daemon.Usagef("%s needs a name to issue a certificate for", c.CommandPath())
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			requests, err := o.requests(args, c.Flags().Changed("host"))
			if err != nil {
				return err
			}
			return printTo(c.OutOrStdout(), func(w io.Writer) error { return issue(c.Context(), w, o, requests) })
		},
	}
	c.Flags().StringVar(&o.dir, "dir", defaultCADir, "`DIR` of the authority")
	c.Flags().StringVar(&o.out, "out", "", "`DIR` of the new files (default that of the authority)")
	c.Flags().StringSliceVar(&o.hosts, "host", strings.Split(defaultCAHosts, ","), "hosts of every member named here, a `LIST`")
	c.Flags().BoolVar(&o.client, "client", false, "for clients instead of members")
	c.Flags().IntVar(&o.days, "days", int(pki.DefaultValidity/day), "`DAYS` that the certificates are valid")
	return c
}

// requests checks the command line before anything is written.
func (o *issueOptions) requests(args []string, hostGiven bool) ([]pki.IssueRequest, error) {
	if err := checkDays(o.days); err != nil {
		return nil, err
	}
	if o.client && hostGiven {
		return nil, daemon.Usagef("--client and --host: clients have no hosts")
	}
	var requests []pki.IssueRequest
	for _, arg := range args {
		r := pki.IssueRequest{Validity: time.Duration(o.days) * day, Dir: o.out, Usage: pki.UsageClient}
		name, own, hasHosts := strings.Cut(arg, "=")
		r.Name = name
		if err := pki.CheckName(name); err != nil {
			return nil, daemon.Usagef("name %q: %v", name, err)
		}
		if slices.ContainsFunc(requests, func(other pki.IssueRequest) bool { return other.Name == name }) {
			return nil, daemon.Usagef("the name %q is given twice", name)
		}
		if !o.client {
			r.Usage, r.Hosts = pki.UsageMember, slices.Clone(o.hosts)
		}
		if hasHosts {
			if o.client {
				return nil, daemon.Usagef("--client and %q: clients have no hosts", arg)
			}
			r.Hosts = append(r.Hosts, strings.Split(own, ",")...)
		}
		for _, host := range r.Hosts {
			if err := pki.CheckHost(host); err != nil {
				return nil, daemon.Usagef("%s: host %q: %v", name, host, err)
			}
		}
		if !o.client && len(r.Hosts) == 0 {
			return nil, daemon.Usagef("%s: a member needs a host that it is reached by, see --host", name)
		}
		requests = append(requests, r)
	}
	return requests, nil
}

// issue writes the certificates and says so. Those that were written before an
// error stay, and are in the output.
func issue(ctx context.Context, w io.Writer, o issueOptions, requests []pki.IssueRequest) error {
	ca, err := pki.OpenCA(o.dir)
	if err != nil {
		return err
	}
	var first pki.Issued
	for i, r := range requests {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("ca issue %s: %w", r.Name, err)
		}
		issued, err := ca.Issue(r)
		if err != nil {
			return err
		}
		if i == 0 {
			first = issued
		}
		fmt.Fprintf(w, "Issued %s, valid until %s", r.Name, date(issued.Certificate.NotAfter))
		if len(r.Hosts) > 0 {
			fmt.Fprintf(w, " for %s", strings.Join(hosts(issued), ", "))
		}
		fmt.Fprintf(w, ":\n  %s\n  %s  secret\n", issued.CertFile, issued.KeyFile)
	}
	if o.client {
		fmt.Fprintf(w, "Next, as the client:\n  curl --cacert %s --cert %s --key %s https://localhost:4001/v2/keys/\n",
			ca.CertFile(), first.CertFile, first.KeyFile)
		return nil
	}
	fmt.Fprintf(w, "Next, start each member with its own files and %s, and with https in its URLs, for instance\n"+
		"  deimos --name %s \\\n    --cert-file %s --key-file %s --ca-file %s \\\n"+
		"    --peer-cert-file %[3]s --peer-key-file %[4]s --peer-ca-file %[5]s ...\n",
		ca.CertFile(), requests[0].Name, first.CertFile, first.KeyFile, ca.CertFile())
	return nil
}

func hosts(issued pki.Issued) []string {
	names := slices.Clone(issued.Certificate.DNSNames)
	for _, ip := range issued.Certificate.IPAddresses {
		names = append(names, ip.String())
	}
	return names
}

func checkDays(days int) error {
	if days < 1 || days > daysMax {
		return daemon.Usagef("--days: invalid value %d: it is not between 1 and %d", days, daysMax)
	}
	return nil
}

func noArguments(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return daemon.Usagef("%s: unexpected argument %q", c.CommandPath(), args[0])
	}
	return nil
}

// dirFlag is what a command line needs to find the authority.
func dirFlag(dir string) string {
	if dir == defaultCADir {
		return ""
	}
	return " --dir " + dir
}

// printTo lets write produce output for w. What was produced before an error
// of write is printed as well.
func printTo(w io.Writer, write func(io.Writer) error) error {
	out := bufio.NewWriter(w)
	err := write(out)
	if flushErr := out.Flush(); flushErr != nil && err == nil {
		return fmt.Errorf("print the outcome: %w", flushErr)
	}
	return err
}

func date(t time.Time) string { return t.UTC().Format(time.DateOnly) }
