package pki

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// nameMax is the longest common name that X.509 allows, in characters.
	nameMax = 64

	// hostMax and labelMax are the longest DNS name and the longest part of one.
	hostMax  = 253
	labelMax = 63
)

func (r *IssueRequest) check() error {
	if err := CheckName(r.Name); err != nil {
		return fmt.Errorf("pki: name %q: %w", r.Name, err)
	}
	for _, h := range r.Hosts {
		if err := CheckHost(h); err != nil {
			return fmt.Errorf("pki: issue %s: host %q: %w", r.Name, h, err)
		}
	}
	switch {
	case r.Usage != UsageMember && r.Usage != UsageClient:
		return fmt.Errorf("pki: issue %s: unknown usage %d", r.Name, r.Usage)
	case r.Usage == UsageMember && len(r.Hosts) == 0:
		return fmt.Errorf("pki: issue %s: a member needs a host that it is reached by", r.Name)
	case r.Validity < 0:
		return fmt.Errorf("pki: issue %s: validity %s is negative", r.Name, r.Validity)
	}
	return nil
}

// CheckName checks a name that a certificate is to be issued for, see
// [IssueRequest.Name]. The error does not repeat the name.
func CheckName(name string) error {
	switch {
	case name == "":
		return errors.New("it is empty")
	case len(name) > nameMax:
		return fmt.Errorf("it is longer than %d characters", nameMax)
	case strings.EqualFold(name, caName):
		return errors.New("the authority itself has it")
	case !isAlphanumeric(rune(name[0])):
		return errors.New("it does not begin with a letter or a digit")
	}
	for _, r := range name {
		if !isAlphanumeric(r) && !strings.ContainsRune("._-", r) {
			return fmt.Errorf("%q is none of letters, digits, dots, dashes and underscores", r)
		}
	}
	return nil
}

// checkCommonName checks the name of an authority, which is only read by
// people.
func checkCommonName(name string) error {
	switch {
	case name == "":
		return errors.New("pki: the name of an authority is empty")
	case !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl):
		return fmt.Errorf("pki: the name %q of an authority has characters that cannot be printed", name)
	case utf8.RuneCountInString(name) > nameMax:
		return fmt.Errorf("pki: the name %q of an authority is longer than %d characters", name, nameMax)
	}
	return nil
}

// CheckHost checks that a host is an IP address without a zone or a DNS name,
// either without a port. A wildcard may stand for the first part of a name. The
// error does not repeat the host.
func CheckHost(host string) error {
	if addr, err := netip.ParseAddr(host); err == nil {
		if addr.Zone() != "" {
			return errors.New("a certificate cannot hold the zone of an address")
		}
		return nil
	}
	switch {
	case host == "":
		return errors.New("it is empty")
	case strings.Contains(host, "://"):
		return errors.New("it is a URL, only the host is wanted")
	case strings.ContainsAny(host, ":[]"):
		return errors.New("it is neither a name nor an address, which are given without a port")
	case len(host) > hostMax:
		return fmt.Errorf("it is longer than %d characters", hostMax)
	}
	labels := strings.Split(strings.TrimPrefix(host, "*."), ".")
	for _, label := range labels {
		if !isLabel(label) {
			return fmt.Errorf("%q is not part of a DNS name", label)
		}
	}
	if strings.Trim(labels[len(labels)-1], "0123456789") == "" {
		return errors.New("it looks like an address but is none")
	}
	return nil
}

func isLabel(s string) bool {
	if s == "" || len(s) > labelMax || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return !isAlphanumeric(r) && r != '-' && r != '_' })
}

func isAlphanumeric(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
}

// setHosts puts hosts that were checked into a certificate, each once.
func setHosts(c *x509.Certificate, hosts []string) {
	seen := make(map[string]bool, len(hosts))
	for _, h := range hosts {
		addr, err := netip.ParseAddr(h)
		if err == nil {
			h = addr.Unmap().String()
		} else {
			h = strings.ToLower(h)
		}
		if seen[h] {
			continue
		}
		seen[h] = true
		if err == nil {
			c.IPAddresses = append(c.IPAddresses, slices.Clone(addr.Unmap().AsSlice()))
		} else {
			c.DNSNames = append(c.DNSNames, h)
		}
	}
}
