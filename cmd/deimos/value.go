package main

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/pflag"

	"github.com/marsevilspirit/deimos/daemon"
)

// The kinds of values, as --help shows them.
const (
	kindText      = "text"
	kindPath      = "path"
	kindBool      = "bool"
	kindNumber    = "number"
	kindDuration  = "duration"
	kindURLs      = "url list"
	kindBootstrap = "name=url list"
	kindOrigins   = "origin list"
	kindNames     = "name list"
	kindChoice    = "word"
)

// value is a pflag.Value that parses into a target. The parse function returns
// errMalformed where the value needs no explanation.
type value[T any] struct {
	target *T
	kind   string
	parse  func(text string) (T, error)
}

func into[T any](target *T, kind string, parse func(string) (T, error)) pflag.Value {
	return &value[T]{target, kind, parse}
}

func (v *value[T]) Set(text string) error {
	parsed, err := v.parse(text)
	if err != nil {
		return err
	}
	*v.target = parsed
	return nil
}

// String returns a form in which equal values are equal.
func (v *value[T]) String() string { return fmt.Sprint(*v.target) }

func (v *value[T]) Type() string { return v.kind }

func parseName(text string) (string, error) { return text, daemon.CheckName(text) }

// parseText accepts any text without control characters but the empty one.
func parseText(text string) (string, error) {
	if text == "" {
		return "", errors.New("must not be empty")
	}
	if strings.ContainsFunc(text, unicode.IsControl) {
		return "", errors.New("must not have control characters")
	}
	return text, nil
}

// parseOptional is parseText for options that an empty text switches off.
func parseOptional(text string) (string, error) {
	if text == "" {
		return "", nil
	}
	return parseText(text)
}

// optional accepts what check has nothing against, and the empty text.
func optional(check func(string) error) func(string) (string, error) {
	return func(text string) (string, error) {
		if text == "" {
			return "", nil
		}
		return text, check(text)
	}
}

func parseBool(text string) (bool, error) {
	b, err := strconv.ParseBool(text)
	if err != nil {
		return false, errNotBool
	}
	return b, nil
}

// errNotBool is the reason for refusing the value of a switch.
var errNotBool = errors.New("must be true or false")

// number accepts decimal integers from low to high; high may be 0 for no limit.
func number[T int | uint64](low, high uint64) func(string) (T, error) {
	return func(text string) (T, error) {
		n, err := strconv.ParseUint(text, 10, 63)
		if errors.Is(err, strconv.ErrSyntax) && !isNegative(text) {
			return 0, errors.New("must be a whole number")
		}
		switch {
		case high == 0 && n < low:
			return 0, fmt.Errorf("must be above %d", low-1)
		case high == 0 && err != nil:
			return 0, errors.New("is too large")
		case high != 0 && (err != nil || n < low || n > high):
			return 0, fmt.Errorf("must be %d … %d", low, high)
		}
		return T(n), nil
	}
}

func isNegative(text string) bool {
	_, err := strconv.ParseInt(text, 10, 64)
	return err == nil && strings.HasPrefix(text, "-")
}

// parseDuration accepts a duration above 0, with its unit.
func parseDuration(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil {
		if _, err := strconv.ParseFloat(text, 64); err == nil {
			return 0, errors.New("a unit is required, as in 5s or 500ms")
		}
		return 0, errMalformed
	}
	if d <= 0 {
		return 0, errors.New("must be above 0")
	}
	return d, nil
}

// parseMilliseconds is parseDuration where a bare integer is milliseconds.
func parseMilliseconds(text string) (time.Duration, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	switch {
	case err != nil:
		return parseDuration(text)
	case n <= 0:
		return 0, errors.New("must be above 0")
	case n > math.MaxInt64/int64(time.Millisecond):
		return 0, errors.New("is too large")
	}
	return time.Duration(n) * time.Millisecond, nil
}

// choice accepts one of a few words.
func choice(words ...string) func(string) (string, error) {
	return func(text string) (string, error) {
		if !slices.Contains(words, text) {
			return "", errors.New("must be " + strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1])
		}
		return text, nil
	}
}

func parseLevel(text string) (slog.Level, error) {
	if _, err := choice("debug", "info", "warn", "error")(text); err != nil {
		return 0, err
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(text)); err != nil {
		return 0, err
	}
	return level, nil
}

// items splits a comma-separated list; blanks round an item do not count.
func items(text string) []string {
	list := strings.Split(text, ",")
	for i := range list {
		list[i] = strings.TrimSpace(list[i])
	}
	return list
}

// parseURLs accepts URLs for listening, where port 0 picks a free one.
func parseURLs(text string) ([]string, error) {
	var urls []string
	for _, item := range items(text) {
		u, err := daemon.ParseURL(item)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(urls, u) {
			urls = append(urls, u)
		}
	}
	return urls, nil
}

// parseReachable accepts URLs at which others find the member.
func parseReachable(text string) ([]string, error) {
	urls, err := parseURLs(text)
	if slices.ContainsFunc(urls, func(u string) bool { return strings.HasSuffix(u, ":0") }) {
		return nil, errors.New("port 0 is for listening only")
	}
	return urls, err
}

// parseBootstrap reads a list of name=url, in which a repeated name collects
// URLs. The order of the names is that of their first appearance.
func parseBootstrap(text string) ([]daemon.BootstrapMember, error) {
	var members []daemon.BootstrapMember
	for _, item := range items(text) {
		name, text, ok := strings.Cut(item, "=")
		if !ok {
			return nil, errors.New("a member is written name=url")
		}
		// Where a cluster is joined, a member may not have a name yet.
		if err := daemon.CheckName(name); err != nil && name != "" {
			return nil, err
		}
		urls, err := parseReachable(text)
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(members, func(m daemon.BootstrapMember) bool { return m.Name == name })
		if i < 0 {
			i = len(members)
			members = append(members, daemon.BootstrapMember{Name: name})
		}
		if !slices.Contains(members[i].PeerURLs, urls[0]) {
			members[i].PeerURLs = append(members[i].PeerURLs, urls[0])
		}
	}
	return members, nil
}

// parseOrigins accepts a list of origins, "*" alone, or nothing.
func parseOrigins(text string) ([]string, error) {
	if text == "" {
		return nil, nil
	}
	var origins []string
	for _, item := range items(text) {
		origin, err := daemon.ParseOrigin(item)
		if err != nil {
			return nil, err
		}
		origins = append(origins, origin)
	}
	if len(origins) > 1 && slices.Contains(origins, "*") {
		return nil, errors.New("* stands alone or not at all")
	}
	return origins, nil
}

// parseCertNames accepts a list of names that certificates carry, or nothing.
func parseCertNames(text string) ([]string, error) {
	if text == "" {
		return nil, nil
	}
	names := items(text)
	for _, name := range names {
		if err := daemon.CheckCertName(name); err != nil {
			return nil, err
		}
	}
	return names, nil
}
