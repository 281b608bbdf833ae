package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/client"
)

// exportVersion is the version of the format that export writes.
const exportVersion = 1

// exportHead is the beginning of an exported document; the nodes follow, one on
// a line.
type exportHead struct {
	Version int    `json:"version"`
	Dir     string `json:"dir"`
}

// exportNode is one node of an exported document.
type exportNode struct {
	Key   string  `json:"key"`
	Value *string `json:"value,omitempty"`
	Dir   bool    `json:"dir,omitempty"`
	// TTL is the life that was left, in seconds; 0: none.
	TTL           int64  `json:"ttl,omitempty"`
	ModifiedIndex uint64 `json:"modifiedIndex,omitempty"`
	CreatedIndex  uint64 `json:"createdIndex,omitempty"`
}

func exportCommand(env []string) *cobra.Command {
	var local, indexes bool
	c := &cobra.Command{
		Use:   "export [DIR]",
		Short: "Write a directory and all that is in it as JSON",
		Long: `Write a directory and all that is in it as JSON, everything without an argument:
sorted by key, one node on a line, so that two exports can be compared with
diff. It is the state of one moment. Directories are in it if they are empty or
have a TTL. Hidden keys, those with an element that begins with an underscore,
are left out unless DIR is one.`,
		Example: `  deimos export >backup.json
  deimos export /config --indexes`,
		Args:              wants("[DIR]"),
		ValidArgsFunction: completeKeys(env),
	}
	c.Flags().BoolVar(&indexes, "indexes", false, "with the store indexes of nodes, which an import cannot keep")
	c.Flags().BoolVar(&local, "local", false, localHelp)
	return formattedCommand(env, c, []string{formatJSON}, func(ctx context.Context, s *session, args []string) error {
		dir := cleanKey(dirOf(args))
		r, err := s.Get(ctx, dir, readOptions(local, client.WithRecursive())...)
		if err != nil {
			return err
		}
		return s.print(func(w io.Writer) error { return writeExport(w, dir, exportNodes(r.Node, indexes)) })
	})
}

// exportNodes returns what an import needs to make the tree again.
func exportNodes(root *deimos.Node, indexes bool) []exportNode {
	var all []exportNode
	for _, n := range flatten(nil, []*deimos.Node{root}) {
		if n.Key == "/" || n.Dir && len(n.Nodes) > 0 && n.TTL == 0 {
			continue
		}
		e := exportNode{Key: n.Key, Value: n.Value, Dir: n.Dir, TTL: n.TTL}
		if n.Expiration != nil && n.TTL == 0 {
			continue // overdue
		}
		if indexes {
			e.ModifiedIndex, e.CreatedIndex = n.ModifiedIndex, n.CreatedIndex
		}
		all = append(all, e)
	}
	return all
}

func writeExport(w io.Writer, dir string, nodes []exportNode) error {
	name, err := json.Marshal(dir)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, `{"version": %d, "dir": %s, "nodes": [`, exportVersion, name)
	for i, n := range nodes {
		sep := ",\n"
		if i == 0 {
			sep = "\n"
		}
		fmt.Fprint(w, sep)
		line, err := marshal(n)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%s", line)
	}
	fmt.Fprint(w, "\n]}\n")
	return nil
}
