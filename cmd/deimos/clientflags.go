package main

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/marsevilspirit/deimos/client"
	"github.com/marsevilspirit/deimos/daemon"
	"github.com/marsevilspirit/deimos/internal/pki"
)

// The variables that stand for the flags of the same name; that of --endpoints
// is envEndpoints.
const (
	envCACert = envPrefix + "CACERT"
	envCert   = envPrefix + "CERT"
	envKey    = envPrefix + "KEY"
)

// clientVariables mean nothing to a member, which need not warn of them.
var clientVariables = []string{envEndpoints, envCACert, envCert, envKey}

// The formats of --output; the third is formatJSON.
const (
	formatPlain = "plain"
	formatTable = "table"
)

const clientFootHelp = `

Exit codes: 0 done, 1 failed, 2 wrong use, 3 no connection to any endpoint, 4 the
key does not exist, exists already, or is not as a condition demands.`

// session is one run of a command that talks to a cluster: how to reach it, and
// the streams of the command.
type session struct {
	*client.Client

	endpoints string
	prefix    string
	timeout   time.Duration
	files     pki.Files // of TLS
	output    string
	formats   []string // of output

	command  *cobra.Command
	env      []string
	in       io.Reader
	out, err io.Writer
}

// clientCommand completes a command that talks to a cluster: with the flags for
// that, and with run, which has the client until it returns.
func clientCommand(env []string, c *cobra.Command, run func(ctx context.Context, s *session, args []string) error) *cobra.Command {
	return formattedCommand(env, c, []string{formatPlain, formatTable, formatJSON}, run)
}

// formattedCommand is clientCommand with other formats of --output. The first is
// the default.
func formattedCommand(env []string, c *cobra.Command, formats []string, run func(ctx context.Context, s *session, args []string) error) *cobra.Command {
	s := &session{env: env, formats: formats}
	s.register(c)
	if c.Long == "" {
		c.Long = c.Short + "."
	}
	c.Long += clientFootHelp
	c.RunE = func(c *cobra.Command, args []string) error {
		s.command = c
		s.in, s.out, s.err = c.InOrStdin(), c.OutOrStdout(), c.ErrOrStderr()
		if err := s.open(); err != nil {
			return err
		}
		defer closeClient(s.Client)
		return explain(c, run(c.Context(), s, args))
	}
	return c
}

func (s *session) register(c *cobra.Command) {
	f := c.Flags()
	f.SortFlags = false // the command's own come first
	if len(s.formats) > 1 {
		f.StringVarP(&s.output, "output", "o", s.formats[0], "`FORMAT` of the output: "+alternatives(s.formats))
		complete(c, "output", s.formats...)
	}
	f.StringVar(&s.endpoints, "endpoints", orElse(lookup(s.env, envEndpoints), client.DefaultEndpoint), "client `URLS` of members or proxies; env: "+envEndpoints)
	f.DurationVar(&s.timeout, "timeout", client.DefaultRequestTimeout, "how long a request may take")
	f.StringVar(&s.prefix, "prefix", client.DefaultPrefix, "`PATH` of the keys API: /v2/keys for etcd")
	registerTLS(f, s.env, &s.files)
}

// registerTLS adds the flags about TLS, whose defaults are in the environment.
func registerTLS(f *pflag.FlagSet, env []string, files *pki.Files) {
	f.StringVar(&files.CA, "cacert", lookup(env, envCACert), "`FILE` with the authorities of the members; env: "+envCACert)
	f.StringVar(&files.Cert, "cert", lookup(env, envCert), "`FILE` with the certificate to present; env: "+envCert)
	f.StringVar(&files.Key, "key", lookup(env, envKey), "`FILE` with the key of --cert; env: "+envKey)
	f.BoolVar(&files.Unverified, "insecure-skip-verify", false, "take any certificate of a member for the right one")
}

// open checks the flags and makes the client, which the caller closes.
func (s *session) open() error {
	if len(s.formats) > 1 && !slices.Contains(s.formats, s.output) {
		return daemon.Usagef("--output: invalid value %q: it must be %s", s.output, alternatives(s.formats))
	}
	if s.timeout <= 0 {
		return daemon.Usagef("--timeout: invalid value %s: it must be above 0", s.timeout)
	}
	var err error
	s.Client, err = s.clientOf(s.endpoints, s.prefix)
	return err
}

// clientOf makes a client of other endpoints, with the certificates and the
// timeout of the command.
func (s *session) clientOf(endpoints, prefix string) (*client.Client, error) {
	config, err := clientTLS(s.files)
	if err != nil {
		return nil, err
	}
	c, err := client.New(client.Config{
		Endpoints:      strings.Split(endpoints, ","),
		Prefix:         prefix,
		RequestTimeout: s.timeout,
		TLS:            config,
	})
	if errors.Is(err, client.ErrInvalidArgument) {
		flags := strings.NewReplacer("client: config: ", "", "Endpoints: ", "--endpoints: ", "Prefix ", "--prefix: ")
		return nil, daemon.Usagef("%s", flags.Replace(err.Error()))
	}
	return c, err
}

// closeClient closes a client that nobody uses any more, which cannot fail.
func closeClient(c *client.Client) { _ = c.Close() }

// clientTLS returns nil where nothing is said about TLS.
func clientTLS(files pki.Files) (*tls.Config, error) {
	switch {
	case files.Unverified && files.CA != "":
		return nil, daemon.Usagef("--insecure-skip-verify and --cacert exclude each other")
	case (files.Cert == "") != (files.Key == ""):
		return nil, daemon.Usagef("--cert and --key come together")
	case files.Cert == "" && files.CA == "" && !files.Unverified:
		return nil, nil
	}
	source, err := pki.Open(files, pki.Options{Port: pki.PortClient})
	if err != nil {
		return nil, daemon.Usagef("%v", err)
	}
	return source.ClientConfig(), nil
}

// alternatives joins words with commas and an or.
func alternatives(words []string) string {
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

func orElse(text, fallback string) string {
	if text == "" {
		return fallback
	}
	return text
}

// wants checks arguments that are named one by one; those in brackets may be
// missing.
func wants(names ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) > len(names) {
			return daemon.Usagef("%s: unexpected argument %q", c.CommandPath(), args[len(names)])
		}
		for _, name := range names[len(args):] {
			if !strings.HasPrefix(name, "[") {
				return daemon.Usagef("%s needs %s, see %s --help", c.CommandPath(), name, c.CommandPath())
			}
		}
		for i, arg := range args {
			if name := strings.Trim(names[i], "[]"); name == "KEY" || name == "DIR" {
				if err := checkKey(arg); err != nil {
					return err
				}
			}
		}
		return nil
	}
}
