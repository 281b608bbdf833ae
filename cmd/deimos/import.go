package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/client"
	"github.com/marsevilspirit/deimos/daemon"
)

const (
	// importWriters is how many keys are written at once: members commit them
	// together.
	importWriters = 16
	// importTries is how often a write is made whose answer is lost; it does no
	// harm to happen twice.
	importTries = 5
	// progressPause is the time between two reports of progress.
	progressPause = time.Second
)

func importCommand(env []string) *cobra.Command {
	var (
		from   string
		dryRun bool
	)
	c := &cobra.Command{
		Use:   "import [FILE]",
		Short: "Write what was exported, or what another server has",
		Long: `Write the keys of a FILE that deimos export has made (- is the input), or with
--from those of another server with a v2 keys API: a Deimos or an etcd up to 3.5.

What is there already is left alone, so that an import that was interrupted goes
on when it is run again; a different value is replaced, and keys that the source
does not have stay. TTLs count from the import on, with the seconds that were
left. Hidden keys of another server come along only if the URL names them.`,
		Example: `  deimos import backup.json
  deimos import --from http://10.0.0.1:2379/v2/keys --dry-run
  deimos import --from http://10.0.0.1:2379/v2/keys/config`,
		Args: wants("[FILE]"),
	}
	c.Flags().StringVar(&from, "from", "", "`URL` of a directory of the keys API of another server")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "print what would be written, and write nothing")
	return formattedCommand(env, c, []string{formatPlain}, func(ctx context.Context, s *session, args []string) error {
		if (from == "") == (len(args) == 0) {
			return daemon.Usagef("deimos import needs a FILE or --from, and only one of them")
		}
		var dir string
		var nodes []exportNode
		var err error
		if from != "" {
			dir, nodes, err = s.readServer(ctx, from)
		} else {
			dir, nodes, err = s.readExport(args[0])
		}
		if err != nil {
			return err
		}
		missing, err := s.missing(ctx, dir, nodes)
		if err != nil {
			return err
		}
		if dryRun {
			return s.printPlan(missing, len(nodes))
		}
		return s.importNodes(ctx, missing, len(nodes))
	})
}

// readServer reads the tree at a URL like http://host:port/v2/keys/dir.
func (s *session) readServer(ctx context.Context, from string) (string, []exportNode, error) {
	u, err := url.Parse(from)
	if err != nil || u.Host == "" {
		return "", nil, daemon.Usagef("--from: %q is not a URL like http://10.0.0.1:2379/v2/keys", from)
	}
	prefix, dir, ok := "/v2/keys", "", false
	if dir, ok = strings.CutPrefix(u.Path, prefix); !ok {
		prefix = client.DefaultPrefix
		dir, ok = strings.CutPrefix(u.Path, prefix)
	}
	if !ok || dir != "" && dir[0] != '/' {
		return "", nil, daemon.Usagef("--from: the path of %q begins neither with /v2/keys nor with /keys", from)
	}
	source, err := s.clientOf(u.Scheme+"://"+u.Host, prefix)
	if err != nil {
		return "", nil, err
	}
	defer closeClient(source)
	dir = cleanKey(dir)
	r, err := source.Get(ctx, dir, client.WithRecursive())
	if err != nil {
		return "", nil, &explained{fmt.Sprintf("read %s: %v", from, explainFrom(s.command, "--from", err)), err}
	}
	return dir, exportNodes(r.Node, false), nil
}

// readExport reads a file that deimos export has written.
func (s *session) readExport(name string) (string, []exportNode, error) {
	in := s.in
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return "", nil, err
		}
		defer f.Close()
		in = f
	}
	var document struct {
		exportHead
		Nodes []exportNode `json:"nodes"`
	}
	decoder := json.NewDecoder(in)
	if err := decoder.Decode(&document); err != nil {
		return "", nil, fmt.Errorf("%s is not what deimos export writes: %v", name, err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return "", nil, fmt.Errorf("%s is not what deimos export writes: something follows the document", name)
	}
	if document.Version != exportVersion {
		return "", nil, fmt.Errorf("%s has version %d of the format, and this program reads version %d", name, document.Version, exportVersion)
	}
	for _, n := range document.Nodes {
		if err := checkKey(n.Key); err != nil {
			return "", nil, fmt.Errorf("%s: %w", name, err)
		}
		if n.Dir == (n.Value != nil) || n.TTL < 0 || n.TTL > deimos.TTLMaxSeconds || n.Key != cleanKey(n.Key) || n.Key == "/" {
			return "", nil, fmt.Errorf("%s: the node %q is neither a file with a value nor a directory, or its key or TTL is not possible", name, n.Key)
		}
	}
	return cleanKey(document.Dir), document.Nodes, nil
}

// missing returns the nodes that are not as they should be, directories first.
func (s *session) missing(ctx context.Context, dir string, nodes []exportNode) ([]exportNode, error) {
	have := map[string]exportNode{}
	r, err := s.Get(ctx, dir, client.WithRecursive())
	switch {
	case errors.Is(err, deimos.ErrKeyNotFound):
	case err != nil:
		return nil, err
	default:
		for _, n := range flatten(nil, []*deimos.Node{r.Node}) {
			have[n.Key] = exportNode{Value: n.Value, Dir: n.Dir, TTL: n.TTL}
		}
	}
	var dirs, files []exportNode
	for _, n := range nodes {
		there, ok := have[n.Key]
		same := ok && there.Dir == n.Dir && (there.TTL > 0) == (n.TTL > 0) && (n.Dir || *there.Value == *n.Value)
		switch {
		case same:
		case n.Dir:
			dirs = append(dirs, n)
		default:
			files = append(files, n)
		}
	}
	return append(dirs, files...), nil
}

func (s *session) printPlan(missing []exportNode, all int) error {
	return s.print(func(w io.Writer) error {
		for _, n := range missing {
			what := "SET"
			if n.Dir {
				what = "MKDIR"
			}
			writeEvent(w, what, &deimos.Node{Key: n.Key, Value: n.Value, Dir: n.Dir})
		}
		fmt.Fprintf(w, "%d of %d nodes would be written, the others are there\n", len(missing), all)
		return nil
	})
}

// importNodes writes nodes, files several at once.
func (s *session) importNodes(ctx context.Context, missing []exportNode, all int) error {
	progress := &progress{w: s.err, all: len(missing), last: time.Now()}
	err := s.writeNodes(ctx, missing, progress)
	if err != nil {
		return &explained{fmt.Sprintf("%d of %d nodes are written, run it again for the rest: %v", progress.done, len(missing), explain(s.command, err)), err}
	}
	return s.print(func(w io.Writer) error {
		fmt.Fprintf(w, "%d of %d nodes written, the others were there\n", len(missing), all)
		return nil
	})
}

// writeNodes returns the first error, after the writes under way have ended.
func (s *session) writeNodes(ctx context.Context, nodes []exportNode, progress *progress) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	work := make(chan exportNode)
	var wg sync.WaitGroup
	write := func(n exportNode) {
		if err := s.writeNode(ctx, n); err != nil {
			stop(err)
			return
		}
		progress.add()
	}
	for range importWriters {
		wg.Go(func() {
			for n := range work {
				write(n)
			}
		})
	}
	for _, n := range nodes {
		if n.Dir { // one after the other: some are in others
			write(n)
			continue
		}
		select {
		case work <- n:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
	}
	close(work)
	wg.Wait()
	return context.Cause(ctx)
}

// writeNode writes one node, again if the answer is lost.
func (s *session) writeNode(ctx context.Context, n exportNode) error {
	var options []client.SetOption
	if n.TTL > 0 {
		options = append(options, client.WithTTL(time.Duration(n.TTL)*time.Second))
	}
	var err error
	for range importTries {
		if n.Dir {
			_, err = s.Update(ctx, n.Key, "", append(options, client.WithDir())...)
			if errors.Is(err, deimos.ErrKeyNotFound) {
				_, err = s.Set(ctx, n.Key, "", append(options, client.WithDir())...)
			}
		} else {
			_, err = s.Set(ctx, n.Key, *n.Value, append(options, client.WithNoValue())...)
		}
		if !errors.Is(err, client.ErrUnknownOutcome) || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", oneLineText(n.Key), err)
	}
	return nil
}

// progress tells on the standard error how far an import is. Any goroutine may
// add to it.
type progress struct {
	w   io.Writer
	all int

	mu   sync.Mutex
	done int
	last time.Time
}

func (p *progress) add() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done++
	if time.Since(p.last) >= progressPause {
		p.last = time.Now()
		fmt.Fprintf(p.w, "deimos: %d of %d nodes are written\n", p.done, p.all)
	}
}
