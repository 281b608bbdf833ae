package main

import (
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/marsevilspirit/deimos/daemon"
	"github.com/marsevilspirit/deimos/internal/pki"
)

func caShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "show FILE...",
		Short:   "Print what is in certificates",
		Long:    "Print what is in certificates: whose they are, for what, how long, and who issued them.",
		Example: "  deimos ca show deimos-ca/ca.crt deimos-ca/n1.crt",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return daemon.Usagef("%s needs a file with certificates", c.CommandPath())
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			return printTo(c.OutOrStdout(), func(w io.Writer) error { return show(w, args, time.Now()) })
		},
	}
}

// show prints the certificates of the files. The files before one that cannot
// be read are printed.
func show(w io.Writer, files []string, now time.Time) error {
	for _, file := range files {
		certs, err := pki.ReadCertificates(file)
		if err != nil {
			return err
		}
		for i, cert := range certs {
			heading := file
			if len(certs) > 1 {
				heading = fmt.Sprintf("%s, certificate %d of %d", file, i+1, len(certs))
			}
			fmt.Fprintln(w, heading)
			showCertificate(w, cert, now)
		}
	}
	return nil
}

func showCertificate(w io.Writer, c *x509.Certificate, now time.Time) {
	names := hosts(pki.Issued{Certificate: c})
	if len(names) == 0 {
		names = []string{"none"}
	}
	for _, line := range []struct{ label, text string }{
		// Quoted where a certificate may hold anything: it may be a stranger's.
		{"subject", fmt.Sprintf("%q", c.Subject.String())},
		{"issuer", fmt.Sprintf("%q", c.Issuer.String())},
		{"hosts", strings.Trim(fmt.Sprintf("%q", strings.Join(names, ", ")), `"`)},
		{"usage", usage(c)},
		{"valid", fmt.Sprintf("%s to %s, %s", c.NotBefore.UTC().Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339), validity(c, now))},
		{"serial", fmt.Sprintf("%x", c.SerialNumber)},
		{"sha-256", fmt.Sprintf("%x", sha256.Sum256(c.Raw))},
	} {
		fmt.Fprintf(w, "  %-8s %s\n", line.label, line.text)
	}
}

func usage(c *x509.Certificate) string {
	if c.IsCA {
		return "authority"
	}
	var uses []string
	for _, u := range c.ExtKeyUsage {
		switch u {
		case x509.ExtKeyUsageServerAuth:
			uses = append(uses, "server")
		case x509.ExtKeyUsageClientAuth:
			uses = append(uses, "client")
		default:
			uses = append(uses, fmt.Sprintf("other (%d)", u))
		}
	}
	if len(uses) == 0 {
		return "not restricted"
	}
	return strings.Join(uses, ", ")
}

func validity(c *x509.Certificate, now time.Time) string {
	switch {
	case now.Before(c.NotBefore):
		return "not valid yet"
	case now.After(c.NotAfter):
		return "expired"
	default:
		return fmt.Sprintf("%d days left", int(c.NotAfter.Sub(now)/day))
	}
}
