package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/marsevilspirit/deimos/daemon"
)

func manCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "man DIR",
		Short: "Write the manual pages",
		Long: `Write the manual pages, deimos.1 and one for each command, into a directory,
which is made if it is missing. Pages that are there already are overwritten.`,
		Example: "  deimos man ~/.local/share/man/man1",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 1 {
				return daemon.Usagef("%s needs one DIR to write to", c.CommandPath())
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return err
			}
			root, err := manRoot()
			if err != nil {
				return err
			}
			header := &doc.GenManHeader{Section: "1", Source: "Deimos " + versionString(), Manual: "Deimos"}
			if err := doc.GenManTree(root, header, args[0]); err != nil {
				return fmt.Errorf("write the manual pages: %w", err)
			}
			pages, err := filepath.Glob(filepath.Join(args[0], "deimos*.1"))
			if err != nil {
				return err
			}
			return printTo(c.OutOrStdout(), func(w io.Writer) error {
				fmt.Fprintf(w, "Wrote %d pages; read them with man %s\n", len(pages), filepath.Join(args[0], "deimos.1"))
				return nil
			})
		},
	}
}

// manRoot returns the tree of commands as the pages show it: without anything
// of the environment, and with the flags of a member in the first one.
func manRoot() (*cobra.Command, error) {
	root := newRoot(nil)
	root.DisableAutoGenTag = true
	var help bytes.Buffer
	if err := printHelp(&help); err != nil {
		return nil, err
	}
	var text strings.Builder
	for line := range strings.Lines(help.String()) {
		text.WriteString("    " + line) // as it is
	}
	root.Long = text.String()
	return root, nil
}
