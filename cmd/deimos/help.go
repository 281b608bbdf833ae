package main

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

const helpHead = `Usage: deimos [--flag value | --flag=value | -flag value] ...
       deimos COMMAND ...

deimos runs one member of a clustered, consistent key-value store with an HTTP
API at /keys. Without flags it runs a cluster of one on localhost. With --proxy
it forwards requests to the members instead. Its commands are clients of a
cluster (get, put, watch, lock, members and more), make certificates and measure
members: see deimos help.

A setting is taken from the command line, else from the environment, else from
the configuration file, else it has its default. Lists are separated by commas.
`

const helpFoot = `
  --version
        print the version and exit
  --help, -h
        print this text and exit

Exit codes: 0 normal end, 1 failure while running, 2 wrong use, 65 damaged data,
73 data directory locked or unusable, 74 I/O failure on the data directory.
`

// helpWidth is the length of line that usage texts are wrapped to.
const helpWidth = 80

// printHelp writes all options by section, with their defaults and variables.
func printHelp(w io.Writer) error {
	out := bufio.NewWriter(w)
	fmt.Fprint(out, helpHead)
	section := ""
	for _, o := range new(settings).options() {
		if o.section != section {
			section = o.section
			fmt.Fprintf(out, "\n%s:\n", section)
		}
		writeOption(out, o)
	}
	fmt.Fprint(out, helpFoot)
	if err := out.Flush(); err != nil {
		return fmt.Errorf("print help: %w", err)
	}
	return nil
}

func writeOption(w *bufio.Writer, o *option) {
	kind := " " + o.value.Type()
	if o.value.Type() == kindBool {
		kind = ""
	}
	fmt.Fprintf(w, "  --%s%s\n", o.name, kind)
	for _, line := range wrap(o.usage, helpWidth-8) {
		fmt.Fprintln(w, "        "+line)
	}
	fallback := o.fallback
	if fallback == "" {
		fallback = "none"
	}
	alias := ""
	if o.alias != "" {
		alias = "; alias: --" + o.alias
	}
	fmt.Fprintf(w, "        default: %s; env: %s%s\n", fallback, envName(o.name), alias)
}

// wrap breaks text between words into lines of at most width bytes where words
// allow it.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		switch {
		case line == "":
			line = word
		case len(line)+1+len(word) > width:
			lines = append(lines, line)
			line = word
		default:
			line += " " + word
		}
	}
	return append(lines, line)
}
