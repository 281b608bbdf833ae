package discovery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// The errors of [SRV] that a caller may want to tell apart.
var (
	// ErrNoRecords tells that the domain has no SRV records for a cluster.
	ErrNoRecords = errors.New("discovery: no SRV records")
	// ErrNotInRecords tells that the records do not name this member.
	ErrNotInRecords = errors.New("discovery: no SRV record names this member")
	// ErrBadRecords tells that no cluster can be made with the records.
	ErrBadRecords = errors.New("discovery: bad SRV records")
)

// Resolver asks the DNS. [*net.Resolver] is one.
type Resolver interface {
	LookupSRV(ctx context.Context, service, proto, name string) (cname string, records []*net.SRV, err error)
	LookupHost(ctx context.Context, host string) (addresses []string, err error)
}

// SRVConfig says which records to read and who asks.
type SRVConfig struct {
	// Domain is where the records are. Required.
	Domain string
	// ServiceName, with a '-' before it, is put behind the names of the services,
	// so that one domain can hold several clusters. Empty: nothing is.
	ServiceName string
	// PeerURLs are the advertised peer URLs of this process, by which it is found
	// among the records; each has host and port. Empty: the process does not want
	// to be a member, and the result is Full.
	PeerURLs []string
	// Resolver answers the questions. Nil: [net.DefaultResolver].
	Resolver Resolver
	// Log gets a line for every failed attempt. Nil: discarded.
	Log *slog.Logger
}

// SRV returns the first members that the SRV records of a domain name. With
// the domain example.com these are the records of
//
//	_deimos-server-ssl._tcp.example.com   members with https peer URLs
//	_deimos-server._tcp.example.com       members with http peer URLs
//
// together, and if there is none of either, those of _etcd-server-ssl and
// _etcd-server in the same way.
//
// Each record is one member with one peer URL, made of the record's target and
// port. All members have to come to the same list, because the ids of members
// and cluster are derived from it, and one member cannot know the names that
// the others were given. So names come from the records alone: the target in
// lower case without the dot at its end, followed by ":port" where the target
// has more than one record. The name and the URL of [Result.Self] are therefore
// what this process has to use, whatever it was told otherwise; the ids are 0.
//
// This process is the record with the host and port of one of its peer URLs,
// or else the one whose target has an address in common with the host of a peer
// URL with the same port. None, and more than one, is an error, and so is a
// peer URL whose scheme is not the record's.
//
// A look-up that fails, other than by the answer that there are no such
// records, is never taken for an empty one. If the failure may pass, it is
// tried again after 1, 2, 4 and at most 30 seconds, until ctx ends.
func SRV(ctx context.Context, cfg SRVConfig) (Result, error) {
	if strings.Trim(cfg.Domain, ".") == "" || strings.ContainsAny(cfg.Domain, "/:@ ") {
		return Result{}, fmt.Errorf("discovery: %q is not a domain", cfg.Domain)
	}
	own, err := places(cfg.PeerURLs)
	if err != nil {
		return Result{}, err
	}
	l := &lookup{SRVConfig: cfg}
	if l.Resolver == nil {
		l.Resolver = net.DefaultResolver
	}
	if l.Log == nil {
		l.Log = slog.New(slog.DiscardHandler)
	}
	records, err := l.records(ctx)
	if err != nil {
		return Result{}, err
	}
	result := Result{Members: registrations(records), Full: true}
	if len(own) == 0 {
		return result, nil
	}
	i, err := l.find(ctx, own, records)
	if err != nil {
		return Result{}, err
	}
	result.Self, result.Full = result.Members[i], false
	return result, nil
}

// place is where a member is: an SRV record, or a peer URL.
type place struct {
	scheme string
	host   string // lower case, no dot at its end
	port   uint16
}

func (p place) address() string { return net.JoinHostPort(p.host, strconv.Itoa(int(p.port))) }
func (p place) url() string     { return p.scheme + "://" + p.address() }

// places takes peer URLs apart.
func places(urls []string) ([]place, error) {
	var out []place
	for _, text := range urls {
		if err := checkPeerURL(text); err != nil {
			return nil, fmt.Errorf("discovery: peer URL %q: %w", text, err)
		}
		u, err := url.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("discovery: peer URL %q: %w", text, err)
		}
		port, err := strconv.ParseUint(u.Port(), 10, 16)
		if err != nil {
			return nil, fmt.Errorf("discovery: peer URL %q: %w", text, err)
		}
		out = append(out, place{u.Scheme, hostName(u.Hostname()), uint16(port)})
	}
	return out, nil
}

func hostName(host string) string { return strings.ToLower(strings.TrimSuffix(host, ".")) }

// lookup is one call of SRV.
type lookup struct {
	SRVConfig
}

// records returns what the domain has, sorted and without doubles.
func (l *lookup) records(ctx context.Context) ([]place, error) {
	suffix := ""
	if l.ServiceName != "" {
		suffix = "-" + l.ServiceName
	}
	var asked []string
	for _, product := range []string{"deimos", "etcd"} {
		var found []place
		for _, s := range []struct{ service, scheme string }{
			{product + "-server-ssl" + suffix, "https"},
			{product + "-server" + suffix, "http"},
		} {
			asked = append(asked, "_"+s.service+"._tcp."+l.Domain)
			records, err := l.service(ctx, s.service)
			if err != nil {
				return nil, err
			}
			for _, r := range records {
				found = append(found, place{s.scheme, hostName(r.Target), r.Port})
			}
		}
		if len(found) > 0 {
			return checkRecords(found, l.Domain)
		}
	}
	return nil, fmt.Errorf("%w: asked for %s", ErrNoRecords, strings.Join(asked, ", "))
}

// service returns the records of one service; none is not an error.
func (l *lookup) service(ctx context.Context, service string) ([]*net.SRV, error) {
	what := "looking up _" + service + "._tcp." + l.Domain
	records, err := ask(ctx, l.Log, what, func(ctx context.Context) ([]*net.SRV, error) {
		_, records, err := l.Resolver.LookupSRV(ctx, service, "tcp", l.Domain)
		return records, err
	})
	if err != nil {
		return nil, err
	}
	// The root as the target says that there is decidedly no such service.
	return slices.DeleteFunc(records, func(r *net.SRV) bool { return hostName(r.Target) == "" }), nil
}

// ask repeats a question to the DNS until it is answered; that there is nothing
// of that name is the zero value.
func ask[T any](ctx context.Context, log *slog.Logger, what string, f func(context.Context) (T, error)) (T, error) {
	return retry(ctx, log, func(ctx context.Context) (T, error) {
		question, cancel := context.WithTimeout(ctx, requestTimeout)
		defer cancel()
		answer, err := f(question)
		if err == nil {
			return answer, nil
		}
		var none T
		var dns *net.DNSError
		known := errors.As(err, &dns)
		if known && dns.IsNotFound {
			return none, nil
		}
		err = fmt.Errorf("discovery: %s: %w", what, err)
		if ctx.Err() == nil && (!known || dns.IsTimeout || dns.IsTemporary) {
			return none, &temporaryError{err}
		}
		if ctx.Err() != nil && !errors.Is(err, ctx.Err()) {
			err = fmt.Errorf("%w: %w", err, ctx.Err())
		}
		return none, err
	})
}

// checkRecords sorts the records, drops doubles, and refuses those with which
// two members could not tell each other apart.
func checkRecords(records []place, domain string) ([]place, error) {
	slices.SortFunc(records, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.host, b.host), cmp.Compare(a.port, b.port), cmp.Compare(a.scheme, b.scheme))
	})
	records = slices.Compact(records)
	for i, r := range records {
		if err := checkPeerURL(r.url()); err != nil {
			return nil, fmt.Errorf("%w: %s in %s: %w", ErrBadRecords, r.address(), domain, err)
		}
		if i > 0 && r.address() == records[i-1].address() {
			return nil, fmt.Errorf("%w: %s in %s is listed both with and without TLS", ErrBadRecords, r.address(), domain)
		}
	}
	return records, nil
}

// registrations names the members; see [SRV] for the rule.
func registrations(records []place) []Registration {
	count := make(map[string]int)
	for _, r := range records {
		count[r.host]++
	}
	members := make([]Registration, 0, len(records))
	for _, r := range records {
		name := r.host
		if count[r.host] > 1 {
			name = r.address()
		}
		members = append(members, Registration{Name: name, PeerURLs: []string{r.url()}})
	}
	return members
}

// find returns which record is this process.
func (l *lookup) find(ctx context.Context, own, records []place) (int, error) {
	var found []int
	var scheme string // of the own URL that matches
	match := func(same func(o, r place) bool) {
		for i, r := range records {
			for _, o := range own {
				if o.port == r.port && same(o, r) && !slices.Contains(found, i) {
					found, scheme = append(found, i), o.scheme
				}
			}
		}
	}
	match(func(o, r place) bool { return o.host == r.host })
	if len(found) == 0 {
		addresses, err := l.addresses(ctx, own, records)
		if err != nil {
			return 0, err
		}
		match(func(o, r place) bool {
			return slices.ContainsFunc(addresses[o.host], func(a string) bool {
				return slices.Contains(addresses[r.host], a)
			})
		})
	}
	switch {
	case len(found) == 0:
		return 0, fmt.Errorf("%w: advertise-peer-urls is %s, %s has %s",
			ErrNotInRecords, joinPlaces(own), l.Domain, joinPlaces(records))
	case len(found) > 1:
		return 0, fmt.Errorf("%w: advertise-peer-urls %s matches both %s and %s in %s",
			ErrBadRecords, joinPlaces(own), records[found[0]].url(), records[found[1]].url(), l.Domain)
	case scheme != records[found[0]].scheme:
		return 0, fmt.Errorf("%w: advertise-peer-urls is %s, the record in %s means %s",
			ErrBadRecords, joinPlaces(own), l.Domain, records[found[0]].url())
	}
	return found[0], nil
}

// addresses looks up the hosts of the own URLs, and of the records whose port
// is that of one.
func (l *lookup) addresses(ctx context.Context, own, records []place) (map[string][]string, error) {
	hosts := make(map[string][]string)
	for _, p := range slices.Concat(own, records) {
		if _, done := hosts[p.host]; done || !slices.ContainsFunc(own, func(o place) bool { return o.port == p.port }) {
			continue
		}
		addresses, err := ask(ctx, l.Log, "looking up "+p.host, func(ctx context.Context) ([]string, error) {
			return l.Resolver.LookupHost(ctx, p.host)
		})
		if err != nil {
			return nil, err
		}
		hosts[p.host] = addresses
	}
	return hosts, nil
}

func joinPlaces(list []place) string {
	texts := make([]string, 0, len(list))
	for _, p := range list {
		texts = append(texts, p.url())
	}
	return strings.Join(texts, ", ")
}
