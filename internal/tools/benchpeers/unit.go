package main

import (
	"fmt"
	"math"
	"strconv"
)

// unit says how a figure is written. Figures are in seconds, bytes, or a second.
type unit int

const (
	perSecond unit = iota
	duration
	size
)

func (u unit) format(v float64) string {
	switch u {
	case perSecond:
		return thousands(significant(v, 3)) + "/s"
	case duration:
		for _, scale := range []struct {
			factor float64
			name   string
		}{{1e6, "µs"}, {1e3, "ms"}} {
			if v*scale.factor < 999.5 {
				return plain(significant(v*scale.factor, 3)) + " " + scale.name
			}
		}
		return plain(significant(v, 3)) + " s"
	default:
		for _, scale := range []struct {
			factor float64
			name   string
		}{{1, "B"}, {1e3, "kB"}, {1e6, "MB"}} {
			if v/scale.factor < 999.5 {
				return plain(significant(v/scale.factor, 3)) + " " + scale.name
			}
		}
		return plain(significant(v/1e9, 3)) + " GB"
	}
}

// name is that of the unit in JSON.
func (u unit) name() string { return [...]string{"per_second", "seconds", "bytes"}[u] }

// significant rounds to so many digits.
func significant(v float64, digits int) float64 {
	if v == 0 || math.IsInf(v, 0) || math.IsNaN(v) {
		return v
	}
	scale := math.Pow(10, float64(digits)-math.Ceil(math.Log10(math.Abs(v))))
	return math.Round(v*scale) / scale
}

func plain(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

// thousands separates groups of digits.
func thousands(v float64) string {
	if v < 1000 {
		return plain(v)
	}
	text := fmt.Sprintf("%.0f", v)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
