package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"unicode"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/client"
	"github.com/marsevilspirit/deimos/daemon"
)

// The formats of deimos config show besides formatJSON.
const (
	formatYAML = "yaml"
	formatEnv  = "env"
)

func configCommand(env []string) *cobra.Command {
	c := &cobra.Command{
		Use:   "config",
		Short: "Show a directory as a configuration file, or apply one",
		Long: `Show a directory as a configuration file, or apply one. A directory of the tree
is a map of the file, and a file of the tree one value.`,
		Args: noSuchCommand,
		RunE: needsCommand,
	}
	c.AddCommand(configShowCommand(env), configApplyCommand(env))
	return c
}

func configShowCommand(env []string) *cobra.Command {
	var local bool
	c := &cobra.Command{
		Use:   "show DIR",
		Short: "Print a directory as YAML, JSON or variables",
		Long: `Print a directory as YAML, JSON or variables for a shell (env): /app/db/host in
/app is DB_HOST there.`,
		Example: `  deimos config show /app
  eval "$(deimos config show /app -o env)"`,
		Args:              wants("DIR"),
		ValidArgsFunction: completeKeys(env),
	}
	c.Flags().BoolVar(&local, "local", false, localHelp)
	formats := []string{formatYAML, formatJSON, formatEnv}
	return formattedCommand(env, c, formats, func(ctx context.Context, s *session, args []string) error {
		r, err := s.List(ctx, args[0], readOptions(local, client.WithRecursive())...)
		if err != nil {
			return err
		}
		switch s.output {
		case formatJSON:
			return s.printJSON(mapOf(r.Node))
		case formatEnv:
			return s.printVariables(r.Node)
		}
		return s.print(func(w io.Writer) error {
			encoder := yaml.NewEncoder(w)
			encoder.SetIndent(2)
			if err := encoder.Encode(mapOf(r.Node)); err != nil {
				return err
			}
			return encoder.Close()
		})
	})
}

// mapOf returns what is in a directory as nested maps.
func mapOf(dir *deimos.Node) map[string]any {
	m := map[string]any{}
	for _, n := range dir.Nodes {
		if n.Dir {
			m[path.Base(n.Key)] = mapOf(n)
		} else {
			m[path.Base(n.Key)] = *n.Value
		}
	}
	return m
}

// printVariables writes lines that a shell can read.
func (s *session) printVariables(dir *deimos.Node) error {
	from := map[string]string{}
	var lines []string
	for _, n := range flatten(nil, dir.Nodes) {
		if n.Dir {
			continue
		}
		name := variableName(strings.TrimPrefix(n.Key, strings.TrimSuffix(dir.Key, "/")+"/"))
		if other := from[name]; other != "" {
			return fmt.Errorf("%s and %s are both the variable %s: rename one of them", oneLineText(other), oneLineText(n.Key), name)
		}
		from[name] = n.Key
		lines = append(lines, name+"='"+strings.ReplaceAll(*n.Value, "'", `'\''`)+"'")
	}
	return s.print(func(w io.Writer) error {
		for _, line := range lines {
			fmt.Fprintln(w, line)
		}
		return nil
	})
}

// variableName makes a name that every shell takes.
func variableName(key string) string {
	name := strings.Map(func(r rune) rune {
		if r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			return '_'
		}
		return unicode.ToUpper(r)
	}, key)
	if unicode.IsDigit(rune(name[0])) {
		name = "_" + name
	}
	return name
}

func configApplyCommand(env []string) *cobra.Command {
	var prune, dryRun bool
	c := &cobra.Command{
		Use:   "apply DIR FILE",
		Short: "Write the values of a YAML or JSON file",
		Long: `Write the values of a YAML or JSON file (- is the input) below a directory, and
print what has changed: + for a new key, ~ for a changed one, - for a removed one.
Only what differs is written, each key on the condition that nobody has changed
it meanwhile (exit code 4). Keys that the file does not have stay, unless --prune
is given.

An empty file is wrong use (exit code 2), because it mostly comes from a program
that has failed; an empty map is written {}, and empties DIR with --prune.`,
		Example:           "  deimos config apply /app app.yaml --dry-run",
		Args:              wants("DIR", "FILE"),
		ValidArgsFunction: completeKeys(env),
	}
	c.Flags().BoolVar(&prune, "prune", false, "remove the keys that the file does not have")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "print what would change, and write nothing")
	return formattedCommand(env, c, []string{formatPlain}, func(ctx context.Context, s *session, args []string) error {
		want, err := s.readTree(cleanKey(args[0]), args[1])
		if err != nil {
			return err
		}
		changes, err := s.difference(ctx, args[0], want, prune)
		if err != nil {
			return err
		}
		for _, change := range changes {
			if !dryRun {
				if err := s.apply(ctx, change); err != nil {
					return err
				}
			}
			if err := s.print(func(w io.Writer) error {
				fmt.Fprintln(w, change)
				return nil
			}); err != nil {
				return err
			}
		}
		return nil
	})
}

// readTree returns the values of a file by the keys that they have below dir.
func (s *session) readTree(dir, name string) (map[string]string, error) {
	in := s.in
	if name == "-" {
		name = "the input"
	} else {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	var document, surplus yaml.Node // JSON is YAML
	decoder := yaml.NewDecoder(in)
	switch err := decoder.Decode(&document); {
	case errors.Is(err, io.EOF):
		// Most likely what should have written it has failed, and to --prune an
		// empty map means that everything has to go.
		return nil, daemon.Usagef("%s is empty, and nothing was changed: an empty map is written {}", name)
	case err != nil:
		return nil, fmt.Errorf("%s is neither YAML nor JSON: %v", name, err)
	}
	if err := decoder.Decode(&surplus); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s has more than one document, and nothing was changed: apply them one by one", name)
	}
	if document.Content[0].Kind != yaml.MappingNode {
		return nil, fmt.Errorf("%s is no map of names and values", name)
	}
	values := map[string]string{}
	if err := addValues(values, dir, document.Content[0]); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return values, nil
}

// addValues adds what is below a node of a file.
func addValues(values map[string]string, key string, n *yaml.Node) error {
	switch {
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null":
		return fmt.Errorf(`line %d: %s has no value: write "" for an empty one`, n.Line, oneLineText(key))
	case n.Kind == yaml.ScalarNode:
		if _, ok := values[key]; ok {
			return fmt.Errorf("line %d: %s is there twice", n.Line, oneLineText(key))
		}
		values[key] = n.Value
		return nil
	case n.Kind != yaml.MappingNode:
		return fmt.Errorf("line %d: %s is a list or an alias: only maps and values can be keys", n.Line, oneLineText(key))
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name := n.Content[i].Value
		below := path.Join(key, name)
		if name == "" || name == "." || name == ".." || strings.Contains(name, "/") {
			return fmt.Errorf("line %d: %q cannot be the name of a key", n.Content[i].Line, name)
		}
		if err := checkKey(below); err != nil {
			return fmt.Errorf("line %d: %w", n.Content[i].Line, err)
		}
		if err := addValues(values, below, n.Content[i+1]); err != nil {
			return err
		}
	}
	return nil
}

// change is one key that a file wants to be different.
type change struct {
	key string
	// was is nil for a key that is new, and want for one that is to go.
	was  *deimos.Node
	want *string
}

// String shows a change as a line of a diff.
func (c change) String() string {
	switch {
	case c.was == nil:
		return fmt.Sprintf("+ %s %s", oneLineText(c.key), oneLineText(*c.want))
	case c.want == nil:
		return fmt.Sprintf("- %s %s", oneLineText(c.key), oneLineText(*c.was.Value))
	default:
		return fmt.Sprintf("~ %s %s -> %s", oneLineText(c.key), oneLineText(*c.was.Value), oneLineText(*c.want))
	}
}

// difference returns the changes that make the directory as the values want
// it, sorted by key.
func (s *session) difference(ctx context.Context, dir string, want map[string]string, prune bool) ([]change, error) {
	have := map[string]*deimos.Node{}
	r, err := s.List(ctx, dir, client.WithRecursive())
	switch {
	case errors.Is(err, deimos.ErrKeyNotFound):
	case err != nil:
		return nil, err
	default:
		for _, n := range flatten(nil, r.Node.Nodes) {
			if !n.Dir {
				have[n.Key] = n
			}
		}
	}
	var changes []change
	for key, value := range want {
		if was := have[key]; was == nil || *was.Value != value {
			changes = append(changes, change{key, was, &value})
		}
	}
	for key, was := range have {
		if _, ok := want[key]; prune && !ok {
			changes = append(changes, change{key: key, was: was})
		}
	}
	slices.SortFunc(changes, func(a, b change) int { return strings.Compare(a.key, b.key) })
	return changes, nil
}

// apply makes a change if nobody else has changed the key.
func (s *session) apply(ctx context.Context, c change) error {
	var err error
	switch {
	case c.was == nil:
		_, err = s.Create(ctx, c.key, *c.want)
	case c.want == nil:
		_, err = s.CompareAndDelete(ctx, c.key, client.WithPrevIndex(c.was.ModifiedIndex))
	default:
		_, err = s.CompareAndSwap(ctx, c.key, *c.want, client.WithPrevIndex(c.was.ModifiedIndex))
	}
	if errors.Is(err, deimos.ErrCompareFailed) || errors.Is(err, deimos.ErrKeyExists) || errors.Is(err, deimos.ErrKeyNotFound) {
		return &explained{fmt.Sprintf("%s was changed by somebody else meanwhile: look at it and apply again", oneLineText(c.key)), err}
	}
	return err
}
