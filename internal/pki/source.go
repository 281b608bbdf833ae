package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// The usual values of [Options.Port].
const (
	PortClient = "client"
	PortPeer   = "peer"
)

const (
	// ReloadInterval is how long at least passes between two looks at the files
	// of a [Source]. A replaced file counts for every handshake that begins this
	// long after it was replaced.
	ReloadInterval = 250 * time.Millisecond

	// ExpiryWarning is how long before its end a certificate is warned about.
	ExpiryWarning = 7 * 24 * time.Hour

	// expiryWarningInterval is the time between two such warnings.
	expiryWarningInterval = 24 * time.Hour
)

// Files names the certificates of one port. All files are PEM.
type Files struct {
	// Cert holds the certificate that is presented to the other side, followed
	// by the intermediate ones, and Key its private key. Both or none; a server
	// needs them.
	Cert, Key string
	// CA holds the certificates, at least one, of which one must have signed the
	// certificate of the other side. A server then demands a certificate from
	// every client. Empty: a server asks for none, and a client trusts the
	// authorities of the operating system.
	CA string
	// AllowedNames, if there are any, are the only ones that the other side may
	// have: its certificate must carry one of them, in whatever case, as a DNS
	// name or as its common name. A wildcard in a certificate stands for nothing
	// but itself. It needs CA.
	AllowedNames []string
	// Unverified lets a client take any certificate for the right one, its name
	// included: the connection is encrypted and nothing is proved. Only
	// [SelfSigned] has a reason to set it. It excludes CA.
	Unverified bool
}

// Options are what a [Source] and an [ErrorLog] need besides files.
type Options struct {
	// Port is the label of metrics and log lines, PortClient or PortPeer.
	Port string
	// MinVersion is the oldest version of TLS that is spoken, for instance
	// [tls.VersionTLS13]. 0: TLS 1.3 on PortPeer, else TLS 1.2, and nothing
	// older than that is accepted.
	MinVersion uint16
	// Log receives what an operator may act on. Nil: discarded.
	Log *slog.Logger
	// Metrics is where the metrics are registered; several sources may share
	// one. Nil: nowhere.
	Metrics prometheus.Registerer

	now func() time.Time // nil: time.Now
}

// withDefaults fills the fields that were left out.
func (o Options) withDefaults() Options {
	if o.MinVersion == 0 {
		o.MinVersion = o.floor()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.now == nil {
		o.now = time.Now
	}
	return o
}

func (o Options) floor() uint16 {
	if o.Port == PortPeer {
		return tls.VersionTLS13
	}
	return tls.VersionTLS12
}

// Source is the certificates of one port, kept up to date with their files. A
// handshake looks at the files, at most once per ReloadInterval, and then uses
// what they hold. Content that cannot be used leaves the old certificates in
// place, is logged once and counted in deimos_tls_reload_failures_total. The
// pair and the CA are followed independently of each other.
//
// Its methods may be called from any goroutine. It needs no closing.
type Source struct {
	files   Files
	opts    Options
	metrics *metrics
	current atomic.Pointer[material] // never nil, never changed once stored

	mu       sync.Mutex // held by the one handshake that looks at the files
	looked   time.Time
	pairSeen [2]fingerprint // the newest content, usable or not
	caSeen   fingerprint
	warned   time.Time // when the end of the certificate was last warned about
}

// material is what the files hold at one time.
type material struct {
	pair  *tls.Certificate // nil: none
	roots *x509.CertPool   // nil: none
	// server is the configuration of the handshakes of a server.
	server *tls.Config
}

// Open loads the certificates that f names and checks them: the files can be
// read, certificate and key belong together, and the CA holds a certificate.
// The error is one sentence that names the file. A certificate that is not
// valid now or not for long and a key that everybody may read are warned about.
func Open(f Files, o Options) (*Source, error) {
	o = o.withDefaults()
	switch {
	case (f.Cert == "") != (f.Key == ""):
		return nil, fmt.Errorf("pki: certificate file %q and key file %q: one needs the other", f.Cert, f.Key)
	case f.CA == "" && len(f.AllowedNames) > 0:
		return nil, errors.New("pki: allowed names need a CA that the certificates are verified with")
	case f.CA != "" && f.Unverified:
		return nil, fmt.Errorf("pki: CA file %s: certificates cannot be both verified and not", f.CA)
	case o.MinVersion < o.floor():
		return nil, fmt.Errorf("pki: %s is older than %s, the oldest version for the %s port",
			tls.VersionName(o.MinVersion), tls.VersionName(o.floor()), o.Port)
	}
	m, err := newMetrics(o.Metrics)
	if err != nil {
		return nil, err
	}
	s := &Source{files: f, opts: o, metrics: m}
	now := o.now()
	next, problems := s.load(&material{}, now)
	if len(problems) > 0 {
		return nil, problems[0]
	}
	s.use(next, now)
	m.reloadFailures.WithLabelValues(o.Port) // shown from the start, as 0
	return s, nil
}

// Refresh looks at the files as a handshake does. Without handshakes, as on a
// peer port whose connections stay up, nobody would learn that a certificate is
// about to expire or that a new one cannot be used.
func (s *Source) Refresh() { s.latest() }

// latest returns the newest usable certificates. A handshake that finds
// another one looking at the files does not wait for it.
func (s *Source) latest() *material {
	if s.mu.TryLock() {
		defer s.mu.Unlock()
		s.follow(s.opts.now())
	}
	return s.current.Load()
}

// follow looks at the files unless that happened a moment ago.
func (s *Source) follow(now time.Time) {
	if d := now.Sub(s.looked); d >= 0 && d < ReloadInterval {
		return
	}
	old := s.current.Load()
	next, problems := s.load(old, now)
	for _, err := range problems {
		s.metrics.reloadFailures.WithLabelValues(s.opts.Port).Inc()
		s.opts.Log.Warn("a changed certificate cannot be used, the old one stays", "port", s.opts.Port, "error", err)
	}
	if next != nil {
		s.use(next, now)
		s.opts.Log.Info("certificates reloaded", "port", s.opts.Port)
	}
	s.warnOfExpiry(now)
}

// load reads the files and returns what they hold, or nil if nothing is newer
// than old. What cannot be used is taken from old and is a problem, once.
func (s *Source) load(old *material, now time.Time) (*material, []error) {
	s.looked = now
	next, changed := *old, false
	var problems []error

	if s.files.Cert != "" {
		cert, key := readFile(s.files.Cert), readFile(s.files.Key)
		if seen := [2]fingerprint{cert.fingerprint(), key.fingerprint()}; seen != s.pairSeen {
			s.pairSeen = seen
			pair, err := parsePair(cert, key)
			if err != nil {
				problems = append(problems, err)
			} else {
				next.pair, changed = pair, true
			}
		}
	}
	if s.files.CA != "" {
		ca := readFile(s.files.CA)
		if seen := ca.fingerprint(); seen != s.caSeen {
			s.caSeen = seen
			roots, err := parseRoots(ca)
			if err != nil {
				problems = append(problems, err)
			} else {
				next.roots, changed = roots, true
			}
		}
	}
	if !changed && old.server != nil {
		return nil, problems
	}
	next.server = s.serverConfig(&next)
	return &next, problems
}

// use makes m count from the next handshake on.
func (s *Source) use(m *material, now time.Time) {
	old := s.current.Swap(m)
	if m.pair == nil || old != nil && old.pair == m.pair {
		return
	}
	s.metrics.expiry.WithLabelValues(s.opts.Port).Set(float64(m.pair.Leaf.NotAfter.Unix()))
	s.warned = time.Time{}
	s.warnOfExpiry(now)
	s.warnOfKeyMode()
	if from := m.pair.Leaf.NotBefore; now.Before(from) {
		s.opts.Log.Warn("the certificate is not valid yet", "port", s.opts.Port, "file", s.files.Cert, "from", from)
	}
}

func (s *Source) warnOfExpiry(now time.Time) {
	m := s.current.Load()
	if m.pair == nil || !s.warned.IsZero() && now.Sub(s.warned) < expiryWarningInterval {
		return
	}
	end := m.pair.Leaf.NotAfter
	switch {
	case now.After(end):
		s.opts.Log.Warn("the certificate has expired", "port", s.opts.Port, "file", s.files.Cert, "expired", end)
	case end.Sub(now) < ExpiryWarning:
		s.opts.Log.Warn("the certificate expires soon", "port", s.opts.Port, "file", s.files.Cert, "expires", end)
	default:
		return
	}
	s.warned = now
}
