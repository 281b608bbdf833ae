package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/raftnode"
)

// Config says what [NewHTTP] needs to know.
type Config struct {
	// ClusterID and MemberID are required and not 0.
	ClusterID, MemberID uint64
	// Name is the member's name, for statistics only.
	Name string
	// PeerURLs are the URLs of this member, which peers that do not know it yet
	// are told. At least one, each http or https with host and port and nothing
	// else.
	PeerURLs []string
	// SnapDir is an existing directory. A received snapshot becomes the file
	// %016x.snap.db in it, named by its raft index, complete and durable before
	// its message is processed. Unfinished files of an earlier run (tmp and
	// digits) are removed.
	SnapDir string
	// Receiver gets what arrives. Required.
	Receiver raftnode.Receiver
	// IsRemoved tells whether a member id was removed from the cluster for
	// ever. It may be called from any goroutine. nil: no id is.
	IsRemoved func(id uint64) bool
	// Incarnation is that of this member's data directory. Required, not zero.
	Incarnation deimos.Incarnation
	// IncarnationOf returns what the log says of a member's incarnation, zero
	// for a member that has not started or is unknown. It may be called from
	// any goroutine and must not wait. nil: always zero.
	IncarnationOf func(id uint64) deimos.Incarnation
	// Secret is what the members prove to each other that they know. nil: none;
	// whoever reaches the peer port is believed.
	Secret *Secret
	// TLS is asked for the configuration of each connection to an https URL, so
	// that certificates and authorities can change; what it returns is the
	// transport's. nil: the roots of the system and TLS 1.3. The owner of the
	// listeners does the serving side.
	TLS func() *tls.Config
	// Answer answers the calls of members, each on a goroutine of its own, at
	// most 64 at one time. ctx ends when the caller is gone and at Stop, which
	// waits for Answer to return. At most 64 KiB travel either way. nil: calls
	// are answered with 404.
	Answer func(ctx context.Context, from uint64, request []byte) []byte
	// Members answers GET /members as on the client port, at most 4 MiB, also
	// to those that are no members but know the secret. nil: 404.
	Members http.Handler
	// RaftIndex returns the raft index that this member has applied, which goes
	// with the list of members. It is called before Members, on the goroutine of
	// a request, and must not wait. nil: 0.
	RaftIndex func() uint64
	// Incarnations returns those of the members in the list, which go with it,
	// so that who is vouched for cannot come with another data directory. At
	// most 1024 are told. It is called like RaftIndex, and what it returns is
	// only read. nil: none.
	Incarnations func() map[uint64]deimos.Incarnation
	// Introducers are peer URLs from the operator's configuration. Whoever is
	// there is asked about unknown senders beside the peers, which may all have
	// been replaced while this member was away. Those of this member are
	// skipped. nil: none.
	Introducers []string
	// Log gets one line when a peer becomes unreachable, one when it is back,
	// and two per snapshot; the rest is at Debug. nil: discard.
	Log *slog.Logger
	// DialTimeout bounds one attempt to connect. 0: 2 s.
	DialTimeout time.Duration
	// Metrics gets the deimos_peer_ metrics. nil: none.
	Metrics prometheus.Registerer
}

// checkConfig refuses what is wrong and fills in what may be left out.
func checkConfig(cfg *Config) error {
	if cfg.ClusterID == 0 || cfg.MemberID == 0 {
		return fmt.Errorf("transport: cluster id %x and member id %x must not be 0", cfg.ClusterID, cfg.MemberID)
	}
	if cfg.Incarnation.IsZero() {
		return errors.New("transport: the incarnation of this member must not be zero")
	}
	if cfg.Receiver == nil {
		return errors.New("transport: no receiver")
	}
	if err := checkURLs(cfg.PeerURLs); err != nil {
		return fmt.Errorf("transport: peer URLs of this member: %w", err)
	}
	for _, url := range cfg.Introducers {
		if err := checkURL(url); err != nil {
			return fmt.Errorf("transport: introducers: %w", err)
		}
	}
	cfg.Introducers = slices.DeleteFunc(slices.Clone(cfg.Introducers), func(url string) bool {
		return slices.Contains(cfg.PeerURLs, url)
	})
	info, err := os.Stat(cfg.SnapDir)
	if err != nil {
		return fmt.Errorf("transport: snapshot directory: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("transport: snapshot directory %s is not a directory", cfg.SnapDir)
	}
	if cfg.IsRemoved == nil {
		cfg.IsRemoved = func(uint64) bool { return false }
	}
	if cfg.IncarnationOf == nil {
		cfg.IncarnationOf = func(uint64) deimos.Incarnation { return deimos.Incarnation{} }
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.DialTimeout <= 0 {
		cfg.DialTimeout = dialTimeoutDefault
	}
	return nil
}
