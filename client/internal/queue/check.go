package queue

import (
	"fmt"
	"log/slog"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/client"
)

const (
	// DefaultTTL stands for a TTL of 0.
	DefaultTTL = 15 * time.Second
	// TTLMin is the shortest TTL. A lease of less is over before it can be renewed.
	TTLMin = 2 * time.Second
	// NameMaxBytes is how long the name of a line may be.
	NameMaxBytes = 255
	// OwnerMaxBytes is how long the text about a contender may be. It is part of
	// each condition.
	OwnerMaxBytes = 512
)

// argumentError is a sentence about what a caller has given.
type argumentError string

func (e argumentError) Error() string { return string(e) }

func (e argumentError) Is(target error) bool { return target == client.ErrInvalidArgument }

func invalidf(format string, args ...any) error { return argumentError(fmt.Sprintf(format, args...)) }

// Dir returns the line of that name below a directory. An error is
// [client.ErrInvalidArgument].
func Dir(under, name string) (string, error) {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	switch {
	case len(name) > NameMaxBytes:
		return "", invalidf("the name has %d bytes, may have at most %d", len(name), NameMaxBytes)
	case name == "", strings.Trim(name, letters+"-_.") != "", !strings.Contains(letters, name[:1]):
		return "", invalidf("the name is %q; make it of letters, digits, '-', '_' and '.', a letter or digit first", name)
	}
	return under + "/_queue/" + name, nil
}

// Check returns the configuration with its defaults filled in. An error is
// [client.ErrInvalidArgument].
func (c Config) Check() (Config, error) {
	if c.TTL == 0 {
		c.TTL = DefaultTTL
	}
	switch {
	case c.TTL < TTLMin:
		return Config{}, invalidf("the TTL is %v, must be at least %v", c.TTL, TTLMin)
	case c.TTL > deimos.TTLMaxSeconds*time.Second:
		return Config{}, invalidf("the TTL is %v, must be at most %d s", c.TTL, deimos.TTLMaxSeconds)
	case len(c.Owner) > OwnerMaxBytes:
		return Config{}, invalidf("the text for others has %d bytes, may have at most %d", len(c.Owner), OwnerMaxBytes)
	case !utf8.ValidString(c.Owner):
		return Config{}, invalidf("the text for others is %q, must be valid UTF-8", c.Owner)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c, nil
}
