package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// report collects the figures of all cells.
type report struct {
	path    string   // without the ending
	Machine machine  `json:"machine"`
	Begun   string   `json:"begun"`
	Rounds  int      `json:"rounds"`
	Seconds float64  `json:"seconds"`
	Figures []figure `json:"figures"`
	Notes   []string `json:"notes"`
}

// machine is what the figures depend on.
type machine struct {
	Processor  string `json:"processor"`
	Processors int    `json:"processors"`
	Memory     string `json:"memory"`
	Kernel     string `json:"kernel"`
	Load       string `json:"load_average"` // before
	Deimos     string `json:"deimos"`
	Etcd       string `json:"etcd"`
	Go         string `json:"go"`
}

// figure compares one contender with the first one of its cell.
type figure struct {
	Cell     string    `json:"cell"`
	Work     string    `json:"work"`
	Unit     string    `json:"unit"`
	Column   string    `json:"column"`
	Growth   bool      `json:"growth"`
	Values   []float64 `json:"values"` // by round
	Median   spread    `json:"value"`
	Compared string    `json:"compared_with,omitempty"`
	Ratio    *spread   `json:"ratio,omitempty"` // above 1: in favour of the first; growth: of this one
	unit     unit
}

// spread is the middle and the ends of some figures.
type spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

func spreadOf(values []float64) spread {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	s := spread{sorted[middle], sorted[0], sorted[len(sorted)-1]}
	if len(sorted)%2 == 0 {
		s.Median = (sorted[middle-1] + sorted[middle]) / 2
	}
	return s
}

// format writes the middle, and the ends where there are several figures.
func (s spread) format(one func(float64) string) string {
	if s.Min == s.Max {
		return one(s.Median)
	}
	return fmt.Sprintf("%s (%s – %s)", one(s.Median), one(s.Min), one(s.Max))
}

func newReport(b *bench) (*report, error) {
	now := time.Now()
	r := &report{path: filepath.Join(b.out, now.Format("20060102-150405")), Begun: now.Format(time.RFC3339), Rounds: b.rounds,
		Seconds: b.measure.Seconds(), Notes: []string{}, Figures: []figure{}}
	r.Machine = machine{
		Processor: lineOf("/proc/cpuinfo", "model name"), Processors: runtime.NumCPU(), Memory: lineOf("/proc/meminfo", "MemTotal"),
		Kernel: firstLine(exec.Command("uname", "-sr")), Load: lineOf("/proc/loadavg", ""), Go: runtime.Version(),
		Deimos: firstLine(exec.Command(b.deimos, "--version")), Etcd: firstLine(exec.Command(b.etcd, "--version")),
	}
	return r, nil
}

// lineOf returns what a file says behind a name.
func lineOf(file, name string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			return strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(rest), ":"))
		}
	}
	return "unknown"
}

func firstLine(cmd *exec.Cmd) string {
	out, err := cmd.Output()
	if err != nil {
		return "unknown"
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}

// add takes the figures of a cell.
func (r *report) add(c *cell) {
	for i, row := range c.rows {
		base := c.figures(c.columns[0], i)
		for _, column := range c.columns {
			values := c.figures(column, i)
			if len(values) == 0 {
				continue
			}
			f := figure{Cell: c.name, Work: row.name, Unit: row.unit.name(), Column: column, Growth: c.growth, Values: values,
				Median: spreadOf(values), unit: row.unit}
			if column != c.columns[0] {
				ratios := ratiosOf(base, values, row.lower != c.growth)
				f.Compared, f.Ratio = c.columns[0], &ratios
			}
			r.Figures = append(r.Figures, f)
		}
	}
	r.Notes = append(r.Notes, c.notes...)
}

// ratiosOf divides the figures of each round, the second by the first if
// inverse.
func ratiosOf(first, second []float64, inverse bool) spread {
	var ratios []float64
	for i := range min(len(first), len(second)) {
		a, b := first[i], second[i]
		if inverse {
			a, b = b, a
		}
		ratios = append(ratios, a/b)
	}
	return spreadOf(ratios)
}

// failed tells that a cell has not been done.
func (r *report) failed(c *cell, err error) {
	r.Notes = append(r.Notes, fmt.Sprintf("%s was not done to the end: %v", c.name, err))
}

// save writes both files.
func (r *report) save() error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(r.path+".json", append(text, '\n'), 0o644); err != nil {
		return err
	}
	return os.WriteFile(r.path+".md", []byte(r.markdown()), 0o644)
}

func (r *report) markdown() string {
	var text strings.Builder
	m := &r.Machine
	fmt.Fprintf(&text, "%d processors (%s), memory %s, %s; %s (%s); %s.\n", m.Processors, m.Processor, m.Memory, m.Kernel, m.Deimos, m.Go, m.Etcd)
	fmt.Fprintf(&text, "Rounds: %d, of %v s each measurement, from %s on; load average before: %s.\n", r.Rounds, r.Seconds, r.Begun, m.Load)
	text.WriteString("A figure is the median of the rounds, with the smallest and the largest; a ratio is taken within a round first.\n")
	r.peers(&text)
	r.growth(&text)
	if len(r.Notes) > 0 {
		text.WriteString("\nNotes:\n\n")
	}
	for _, n := range r.Notes {
		fmt.Fprintf(&text, "* %s\n", n)
	}
	return text.String()
}

// peers writes the table of systems. Ratios above 1 are in favour of Deimos.
func (r *report) peers(text *strings.Builder) {
	var base *figure
	head := "\nA ratio above 1 is in favour of Deimos.\n\n| work | Deimos | compared with | | ratio |\n|---|---|---|---|---|\n"
	for i := range r.Figures {
		f := &r.Figures[i]
		switch {
		case f.Growth:
		case f.Ratio == nil:
			base = f
		default:
			text.WriteString(head)
			head = ""
			work, value := "", ""
			if base != nil {
				work, value = base.Work, base.Median.format(base.unit.format)
			}
			fmt.Fprintf(text, "| %s | %s | %s | %s | %s |\n", work, value, f.Column, f.Median.format(f.unit.format), f.Ratio.format(ratio))
			base = nil // it is written once
		}
	}
}

// growth writes the table of variants.
func (r *report) growth(text *strings.Builder) {
	head := "\nHow the cost of Deimos grows, compared with the first line of each work:\n\n| work | | | ratio |\n|---|---|---|---|\n"
	for _, f := range r.Figures {
		if !f.Growth {
			continue
		}
		text.WriteString(head)
		head = ""
		compared := ""
		if f.Ratio != nil {
			compared = f.Ratio.format(ratio)
		}
		fmt.Fprintf(text, "| %s | %s | %s | %s |\n", f.Work, f.Column, f.Median.format(f.unit.format), compared)
	}
}

func ratio(v float64) string { return fmt.Sprintf("%.2f", v) }
