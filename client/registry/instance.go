package registry

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/client"
)

const (
	// DefaultPrefix is the directory of all services: that of Phobos.
	DefaultPrefix = "/phobos"
	// DefaultNetwork is the network of an instance that names none.
	DefaultNetwork = "tcp"
	// DefaultTTL is how long an instance stays registered after its program has
	// stopped refreshing it.
	DefaultTTL = 30 * time.Second
	// TTLMin is the shortest TTL. A registration that has it outlives a member that
	// hangs, but seldom the election of a leader.
	TTLMin = time.Second
)

// Instance is one place where a service can be reached.
type Instance struct {
	// Service is the name of the service, one element of a path. Required.
	Service string
	// Network is that of package net. Empty: DefaultNetwork.
	Network string
	// Addr is host:port, or [host]:port for IPv6; a port that is a number is at
	// most 65535. Required.
	Addr string
	// Metadata is the value of the key; it may be empty.
	Metadata string
	// TTL is how long the registration outlives its last refresh, in whole seconds;
	// it is rounded up. It is refreshed three times as often. It means nothing in a
	// [View], where it is 0. 0: DefaultTTL.
	TTL time.Duration
}

// String returns network@addr, which is the name of the instance in its
// service.
func (in Instance) String() string { return in.Network + "@" + in.Addr }

// check returns the instance with its defaults filled in.
func (in Instance) check() (Instance, error) {
	in.Network = cmp.Or(in.Network, DefaultNetwork)
	in.TTL = cmp.Or(in.TTL, DefaultTTL)
	if err := checkElement("Service", in.Service); err != nil {
		return in, err
	}
	if err := checkElement("Network", in.Network); err != nil {
		return in, err
	}
	host, port, err := net.SplitHostPort(in.Addr)
	_, portErr := strconv.ParseUint(port, 10, 16) // a port may be the name of one as well
	switch {
	case strings.Contains(in.Network, "@"):
		return in, invalid("Network %q has an @ in it", in.Network)
	case err != nil || host == "" || port == "":
		return in, invalid("Addr %q is not host:port", in.Addr)
	case errors.Is(portErr, strconv.ErrRange):
		return in, invalid("Addr %q has a port above 65535", in.Addr)
	case strings.Contains(in.Addr, "/") || !utf8.ValidString(in.Addr):
		return in, invalid("Addr %q cannot be part of a key", in.Addr)
	case !utf8.ValidString(in.Metadata):
		return in, invalid("Metadata is not valid UTF-8")
	case in.TTL < TTLMin:
		return in, invalid("TTL is %v, must be at least %v", in.TTL, TTLMin)
	case in.TTL > deimos.TTLMaxSeconds*time.Second:
		return in, invalid("TTL is %v, must be at most %d s", in.TTL, deimos.TTLMaxSeconds)
	}
	return in, nil
}

// checkElement checks what has to be one visible element of a path.
func checkElement(field, name string) error {
	switch {
	case name == "":
		return invalid("%s is empty", field)
	case strings.Contains(name, "/") || name == "." || name == ".." || !utf8.ValidString(name):
		return invalid("%s %q is not one element of a path", field, name)
	case strings.HasPrefix(name, "_"):
		return invalid("%s %q begins with _, which hides it", field, name)
	}
	return nil
}

// invalid makes an error that is [client.ErrInvalidArgument].
func invalid(format string, args ...any) error {
	return fmt.Errorf("registry: %s: %w", fmt.Sprintf(format, args...), client.ErrInvalidArgument)
}

// parse returns the instance that a file of the directory of a service
// describes, and false if it is something else.
func parse(service, name, value string) (Instance, bool) {
	network, addr, ok := strings.Cut(name, "@")
	if !ok || network == "" || addr == "" || strings.Contains(name, "/") {
		return Instance{}, false
	}
	return Instance{Service: service, Network: network, Addr: addr, Metadata: value}, true
}

// compare is the order of the instances of a service.
func compare(a, b Instance) int {
	return cmp.Or(cmp.Compare(a.Network, b.Network), cmp.Compare(a.Addr, b.Addr))
}

// ChangeKind is what has happened to an instance.
type ChangeKind int

// The kinds of changes.
const (
	Added ChangeKind = iota + 1
	Updated
	Removed
)

// String returns added, updated or removed.
func (k ChangeKind) String() string {
	switch k {
	case Added:
		return "added"
	case Updated:
		return "updated"
	case Removed:
		return "removed"
	default:
		return fmt.Sprintf("ChangeKind(%d)", int(k))
	}
}

// Change is a difference between two states of a service.
type Change struct {
	Kind ChangeKind
	// Instance is the one that was added, as it is now when it was updated, or as
	// it was when it was removed. Updates are of Metadata.
	Instance Instance
}

// diff returns what leads from one sorted list of instances to another: first
// what was removed, so that an address that moves is never there twice.
func diff(from, to []Instance) []Change {
	var changes []Change
	for _, in := range from {
		if _, ok := slices.BinarySearchFunc(to, in, compare); !ok {
			changes = append(changes, Change{Removed, in})
		}
	}
	for _, in := range to {
		switch i, ok := slices.BinarySearchFunc(from, in, compare); {
		case !ok:
			changes = append(changes, Change{Added, in})
		case from[i] != in:
			changes = append(changes, Change{Updated, in})
		}
	}
	return changes
}
