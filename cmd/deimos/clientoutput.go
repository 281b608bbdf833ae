package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/client"
)

// print lets write produce output on the standard output.
func (s *session) print(write func(io.Writer) error) error { return printTo(s.out, write) }

// printJSON writes v on one line.
func (s *session) printJSON(v any) error {
	return s.print(func(w io.Writer) error { return encodeLine(w, v) })
}

// marshal is json.Marshal that leaves &, < and > as they are.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	if err := encodeLine(&b, v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

func encodeLine(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(v)
}

// printRows writes aligned columns, with a line of titles if a table is asked
// for.
func (s *session) printRows(titles []string, rows [][]string) error {
	return s.print(func(w io.Writer) error {
		out := bufio.NewWriter(w)
		aligned := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
		if s.output == formatTable {
			rows = append([][]string{titles}, rows...)
		}
		for _, row := range rows {
			fmt.Fprintln(aligned, strings.Join(row, "\t"))
		}
		if err := aligned.Flush(); err != nil {
			return err
		}
		return out.Flush()
	})
}

// event is how --output json shows an answer or an event: as the API does, with
// the store index.
type event struct {
	deimos.Event
	Index uint64 `json:"index"`
	Reset bool   `json:"reset,omitempty"`
}

// printWrite says what a write did.
func (s *session) printWrite(done string, r *client.Response) error {
	switch s.output {
	case formatJSON:
		return s.printJSON(event{Event: r.Event, Index: r.Index})
	case formatTable:
		return s.printNodes([]*deimos.Node{r.Node})
	default:
		return s.print(func(w io.Writer) error {
			fmt.Fprintf(w, "%s %s at index %d\n", shownKey(r.Node), done, r.Index)
			return nil
		})
	}
}

// printNodes writes one line for each node, what is in a directory aside.
func (s *session) printNodes(nodes []*deimos.Node) error {
	var rows [][]string
	for _, n := range nodes {
		value, ttl := "", "-"
		if n.Value != nil {
			value = oneLineText(*n.Value)
		}
		if n.TTL > 0 || n.Expiration != nil {
			ttl = fmt.Sprintf("%ds", n.TTL)
		}
		rows = append(rows, []string{shownKey(n), ttl, strconv.FormatUint(n.CreatedIndex, 10), strconv.FormatUint(n.ModifiedIndex, 10), value})
	}
	return s.printRows([]string{"KEY", "TTL", "CREATED", "MODIFIED", "VALUE"}, rows)
}

// shownKey returns the key of a node on one line, that of a directory with a
// slash at its end.
func shownKey(n *deimos.Node) string {
	key := oneLineText(n.Key)
	if n.Dir && n.Key != "/" {
		key += "/"
	}
	return key
}

// oneLineText quotes text that would not stay on its line, or that would move
// the cursor of a terminal.
func oneLineText(text string) string {
	if strings.HasPrefix(text, `"`) || strings.ContainsFunc(text, func(r rune) bool { return !strconv.IsPrint(r) }) {
		return strconv.Quote(text)
	}
	return text
}
