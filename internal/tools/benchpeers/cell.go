package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// cell is one piece of work, done by several contenders in turn.
type cell struct {
	// name is what -cells is matched with.
	name string
	// columns are the contenders: systems, or variants of the same work. The first
	// is what the others are compared with.
	columns []string
	// rows are the figures that each round gives for each column.
	rows []row
	// growth tells that the columns are variants.
	growth bool
	// open prepares the work. measure does it once for a column and returns a
	// figure for each row, or fewer; close is called in the end.
	open func(ctx context.Context) (measure measure, close func() error, err error)

	results map[string][][]float64 // by column, then by round, then by row
	notes   []string
}

type measure func(ctx context.Context, column string) ([]float64, error)

// row is one figure.
type row struct {
	name string
	unit unit
	// lower tells that less is better.
	lower bool
}

// once is open for work that has nothing to prepare.
func once(m measure) func(context.Context) (measure, func() error, error) {
	return func(context.Context) (measure, func() error, error) {
		return m, func() error { return nil }, nil
	}
}

// play does the work of a cell in all rounds.
func (b *bench) play(ctx context.Context, c *cell) (err error) {
	measure, closing, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closing()) }()
	c.results = map[string][][]float64{}
	for round := range b.rounds {
		for _, column := range c.columns {
			figures, err := measure(ctx, column)
			if err != nil {
				return fmt.Errorf("%s: %w", column, err)
			}
			c.results[column] = append(c.results[column], figures)
			var texts []string
			for i, f := range figures {
				texts = append(texts, c.rows[i].unit.format(f))
			}
			fmt.Fprintf(b.log, "%s, round %d of %d, %s: %s\n", c.name, round+1, b.rounds, column, strings.Join(texts, ", "))
		}
	}
	return nil
}

// figures returns those of a row and a column, by round. A round that has none
// for the row is left out.
func (c *cell) figures(column string, row int) []float64 {
	var all []float64
	for _, round := range c.results[column] {
		if row < len(round) {
			all = append(all, round[row])
		}
	}
	return all
}

// note says something that a reader of the figures has to know, once.
func (c *cell) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	for _, n := range c.notes {
		if n == text {
			return
		}
	}
	c.notes = append(c.notes, text)
}
