package main

import (
	"fmt"
	"io"
	"path"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/client"
	"github.com/marsevilspirit/deimos/daemon"
)

// valueMaxBytes bounds what is read for one value. Members take less unless
// they are told otherwise, and say so.
const valueMaxBytes = 64 << 20

// checkKey refuses what no member would take for a key.
func checkKey(key string) error {
	clean := cleanKey(key)
	switch {
	case key == "":
		return daemon.Usagef("the key is empty; the root is /")
	case !utf8.ValidString(key):
		return daemon.Usagef("the key %q is not valid UTF-8", key)
	case len(clean) > deimos.KeyMaxBytes:
		return daemon.Usagef("the key %.20q... has %d bytes, at most %d are possible", key, len(clean), deimos.KeyMaxBytes)
	case strings.Count(clean, "/") > deimos.KeyMaxLevels:
		return daemon.Usagef("the key %.20q... has %d levels, at most %d are possible", key, strings.Count(clean, "/"), deimos.KeyMaxLevels)
	}
	return nil
}

// cleanKey brings a key into the form that members give it.
func cleanKey(key string) string { return path.Clean("/" + key) }

// valueOf returns the value that an argument means: "-" is all of the input,
// with the newline at its end if there is one.
func (s *session) valueOf(arg string) (string, error) {
	if arg != "-" {
		return checkValue(arg, "the value")
	}
	text, err := io.ReadAll(io.LimitReader(s.in, valueMaxBytes+1))
	if err != nil {
		return "", fmt.Errorf("read the value from the input: %w", err)
	}
	if len(text) > valueMaxBytes {
		return "", daemon.Usagef("the input has more than %d bytes, too many for a value", valueMaxBytes)
	}
	return checkValue(string(text), "the input")
}

func checkValue(text, what string) (string, error) {
	if !utf8.ValidString(text) {
		return "", daemon.Usagef("%s is not valid UTF-8, which values have to be: encode it, as base64 for instance", what)
	}
	return text, nil
}

// ttlFlag is a flag for a life, and whether it was given.
type ttlFlag struct {
	c   *cobra.Command
	ttl time.Duration
}

func (t *ttlFlag) register(c *cobra.Command) {
	t.c = c
	c.Flags().DurationVar(&t.ttl, "ttl", 0, "life after which the key is removed, as 30s or 5m (default for ever)")
}

// given returns the life as a list of options, empty without one.
func (t *ttlFlag) given() ([]ttlOption, error) {
	if !t.c.Flags().Changed("ttl") {
		return nil, nil
	}
	if t.ttl <= 0 || t.ttl/time.Second > deimos.TTLMaxSeconds {
		return nil, daemon.Usagef("--ttl: invalid value %s: it must be above 0 and at most %ds", t.ttl, deimos.TTLMaxSeconds)
	}
	return []ttlOption{client.WithTTL(t.ttl)}, nil
}

// ttlOption is what [client.WithTTL] returns.
type ttlOption interface {
	client.SetOption
	client.CreateOption
	client.SwapOption
}

// as gives options the type that a call takes.
func as[To any, From any](options []From) []To {
	var to []To
	for _, o := range options {
		to = append(to, any(o).(To))
	}
	return to
}

// conditionFlags are the flags of conditional writes.
type conditionFlags struct {
	c         *cobra.Command
	prevValue string
	prevIndex uint64
}

func (f *conditionFlags) register(c *cobra.Command) {
	f.c = c
	c.Flags().StringVar(&f.prevValue, "prev-value", "", "only if the value is `VALUE`")
	c.Flags().Uint64Var(&f.prevIndex, "prev-index", 0, "only if the key was last changed at `INDEX`")
}

// given returns the conditions, none without flags.
func (f *conditionFlags) given() ([]client.Condition, error) {
	var all []client.Condition
	if f.c.Flags().Changed("prev-value") {
		if f.prevValue == "" {
			return nil, daemon.Usagef("--prev-value: an empty value cannot be compared: use --prev-index")
		}
		all = append(all, client.WithPrevValue(f.prevValue))
	}
	if f.c.Flags().Changed("prev-index") {
		if f.prevIndex == 0 {
			return nil, daemon.Usagef("--prev-index: no key has index 0; deimos create wants a key not to exist")
		}
		all = append(all, client.WithPrevIndex(f.prevIndex))
	}
	return all, nil
}
