package discovery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// fakeDNS answers from tables: services by "service.domain", hosts by name.
// What fails is taken from failures first, one a question.
type fakeDNS struct {
	services map[string][]*net.SRV
	hosts    map[string][]string
	failures []error
	asked    []string
}

func (d *fakeDNS) fail(question string) error {
	d.asked = append(d.asked, question)
	if len(d.failures) == 0 {
		return nil
	}
	err := d.failures[0]
	d.failures = d.failures[1:]
	return err
}

func (d *fakeDNS) LookupSRV(_ context.Context, service, proto, name string) (string, []*net.SRV, error) {
	if err := d.fail("_" + service + "._" + proto + "." + name); err != nil {
		return "", nil, err
	}
	records, ok := d.services[service]
	if !ok {
		return "", nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
	}
	out := make([]*net.SRV, 0, len(records))
	for _, r := range records {
		c := *r
		out = append(out, &c)
	}
	return "", out, nil
}

func (d *fakeDNS) LookupHost(_ context.Context, host string) ([]string, error) {
	if err := d.fail(host); err != nil {
		return nil, err
	}
	addresses, ok := d.hosts[host]
	if !ok {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return addresses, nil
}

func srv(targets ...string) []*net.SRV {
	var out []*net.SRV
	for _, text := range targets {
		host, port, err := net.SplitHostPort(text)
		if err != nil {
			panic(err)
		}
		r := &net.SRV{Target: host}
		if _, err := fmt.Sscan(port, &r.Port); err != nil {
			panic(err)
		}
		out = append(out, r)
	}
	return out
}

func TestAllMembersReadTheSameListFromTheRecords(t *testing.T) {
	services := map[string][]*net.SRV{
		"deimos-server-ssl": srv("N2.example.com.:7001", "n1.example.com.:7001"),
		"deimos-server":     srv("n3.example.com.:7002", "n3.example.com.:7001", "n3.example.com.:7002"),
		"etcd-server":       srv("old.example.com.:2380"),
	}
	want := []Registration{
		{Name: "n1.example.com", PeerURLs: []string{"https://n1.example.com:7001"}},
		{Name: "n2.example.com", PeerURLs: []string{"https://n2.example.com:7001"}},
		{Name: "n3.example.com:7001", PeerURLs: []string{"http://n3.example.com:7001"}},
		{Name: "n3.example.com:7002", PeerURLs: []string{"http://n3.example.com:7002"}},
	}
	hosts := map[string][]string{"n1.example.com": {"10.0.0.1", "fd00::1"}, "10.0.0.1": {"10.0.0.1"}, "n2.example.com": {"10.0.0.2"}}
	for _, tt := range []struct {
		name string
		urls []string
		self int // -1: no member
	}{
		{"by name", []string{"https://n1.example.com:7001"}, 0},
		{"by name in capitals", []string{"https://N1.Example.com.:7001"}, 0},
		{"by one of two URLs", []string{"https://other:9", "https://n2.example.com:7001"}, 1},
		{"by address", []string{"https://10.0.0.1:7001"}, 0},
		{"by port", []string{"http://n3.example.com:7002"}, 3},
		{"observer", nil, -1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := SRV(t.Context(), SRVConfig{Domain: "example.com", PeerURLs: tt.urls, Resolver: &fakeDNS{services: services, hosts: hosts}})
			if err != nil {
				t.Fatalf("SRV = %v, want nil", err)
			}
			if !reflect.DeepEqual(got.Members, want) {
				t.Errorf("members = %v, want %v", got.Members, want)
			}
			if got.Full != (tt.self < 0) {
				t.Errorf("Full = %v, want %v", got.Full, tt.self < 0)
			}
			if tt.self >= 0 && !reflect.DeepEqual(got.Self, want[tt.self]) {
				t.Errorf("Self = %v, want %v", got.Self, want[tt.self])
			}
		})
	}
}

func TestRecordsOfEtcdAreTheLastResort(t *testing.T) {
	dns := &fakeDNS{services: map[string][]*net.SRV{"etcd-server-blue": srv("n1.:2380"), "deimos-server-blue": srv(".:0")}}
	got, err := SRV(t.Context(), SRVConfig{Domain: "d", ServiceName: "blue", PeerURLs: []string{"http://n1:2380"}, Resolver: dns})
	if want := (Registration{Name: "n1", PeerURLs: []string{"http://n1:2380"}}); err != nil || !reflect.DeepEqual(got.Self, want) {
		t.Errorf("SRV = %v, %v, want %v", got, err, want)
	}
	want := []string{"_deimos-server-ssl-blue._tcp.d", "_deimos-server-blue._tcp.d", "_etcd-server-ssl-blue._tcp.d", "_etcd-server-blue._tcp.d"}
	if !reflect.DeepEqual(dns.asked, want) {
		t.Errorf("asked for %v, want %v", dns.asked, want)
	}
}

func TestSRVRefusesWhatMembersCouldReadDifferently(t *testing.T) {
	plain := func(targets ...string) map[string][]*net.SRV {
		return map[string][]*net.SRV{"deimos-server": srv(targets...)}
	}
	for _, tt := range []struct {
		name string
		dns  fakeDNS
		urls []string
		want error
		text string
	}{
		{"no records", fakeDNS{}, nil, ErrNoRecords, "_deimos-server-ssl._tcp.d, _deimos-server._tcp.d, _etcd-server-ssl._tcp.d, _etcd-server._tcp.d"},
		{"port 0", fakeDNS{services: plain("n1.:0")}, nil, ErrBadRecords, "n1:0"},
		{"both schemes", fakeDNS{services: map[string][]*net.SRV{"deimos-server": srv("n1.:1"), "deimos-server-ssl": srv("n1.:1")}}, nil, ErrBadRecords, "n1:1 in d is listed both"},
		{"look-up broken", fakeDNS{services: plain("n1.:1"), failures: []error{&net.DNSError{Err: "malformed", Name: "d"}}}, nil, nil, "_deimos-server-ssl._tcp.d: lookup d: malformed"},
		{"not this one", fakeDNS{services: plain("n1.:1", "n2.:2")}, []string{"http://n3:1"}, ErrNotInRecords, "advertise-peer-urls is http://n3:1, d has http://n1:1, http://n2:2"},
		{"other port", fakeDNS{services: plain("n1.:1")}, []string{"http://n1:2"}, ErrNotInRecords, ""},
		{"other scheme", fakeDNS{services: plain("n1.:1")}, []string{"https://n1:1"}, ErrBadRecords, "advertise-peer-urls is https://n1:1, the record in d means http://n1:1"},
		{"two by name", fakeDNS{services: plain("n1.:1", "n2.:1")}, []string{"http://n1:1", "http://n2:1"}, ErrBadRecords, "matches both http://n1:1 and http://n2:1"},
		{"two by address", fakeDNS{services: plain("n1.:1", "n2.:1"), hosts: map[string][]string{"n1": {"10.0.0.1"}, "n2": {"10.0.0.1"}, "h": {"10.0.0.1"}}}, []string{"http://h:1"}, ErrBadRecords, "matches both"},
		{"host look-up broken", fakeDNS{services: plain("n1.:1"), failures: []error{nil, nil, &net.DNSError{Err: "malformed", Name: "h"}}}, []string{"http://h:1"}, nil, "looking up h: lookup h: malformed"},
		{"bad peer URL", fakeDNS{}, []string{"h:1"}, nil, `peer URL "h:1"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := SRV(t.Context(), SRVConfig{Domain: "d", PeerURLs: tt.urls, Resolver: &tt.dns})
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("SRV = %v, want %v with %q", err, tt.want, tt.text)
			}
			if len(r.Members) > 0 {
				t.Errorf("members with an error = %v, want none", r.Members)
			}
		})
	}
	for _, domain := range []string{"", ".", "http://d", "d:53", "a b"} {
		if _, err := SRV(t.Context(), SRVConfig{Domain: domain, Resolver: &fakeDNS{}}); err == nil || !strings.Contains(err.Error(), "not a domain") {
			t.Errorf("SRV of domain %q = %v, want an error", domain, err)
		}
	}
}

func TestAFailedLookUpIsRepeatedAndNeverTakenForNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		dns := &fakeDNS{
			services: map[string][]*net.SRV{"deimos-server-ssl": srv("n1.:1"), "etcd-server": srv("n9.:1")},
			failures: []error{
				&net.DNSError{Err: "server misbehaving", IsTemporary: true},
				&net.DNSError{Err: "i/o timeout", IsTimeout: true},
				errors.New("connection refused"),
			},
		}
		start := time.Now()
		r, err := SRV(t.Context(), SRVConfig{Domain: "d", Resolver: dns, Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil || len(r.Members) != 1 || r.Members[0].Name != "n1" {
			t.Errorf("SRV = %v, %v, want n1", r, err)
		}
		if got := time.Since(start); got != 7*time.Second {
			t.Errorf("SRV took %s, want 7s", got)
		}
		if got := strings.Count(log.String(), "level=WARN"); got != 3 {
			t.Errorf("%d warnings, want 3", got)
		}
	})
}

func TestTheEndOfTheContextEndsSRVAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dns := &fakeDNS{failures: make([]error, 100)}
		for i := range dns.failures {
			dns.failures[i] = &net.DNSError{Err: "server misbehaving", IsTemporary: true}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		start := time.Now()
		_, err := SRV(ctx, SRVConfig{Domain: "d", Resolver: dns})
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "server misbehaving") {
			t.Errorf("SRV = %v, want %v with the last failure", err, context.DeadlineExceeded)
		}
		if got := time.Since(start); got != 10*time.Second {
			t.Errorf("SRV took %s, want 10s", got)
		}
	})
}
