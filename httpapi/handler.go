package httpapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/httpapi/lane"
	"github.com/marsevilspirit/deimos/store"
)

// Defaults of the optional fields of a [Config].
const (
	DefaultTimeout       = 5 * time.Second
	DefaultWatchTimeout  = 5 * time.Minute
	DefaultValueMaxBytes = 1 << 20
)

// targetMaxBytes is the longest request target that is looked at: room for a
// key of the longest size with every byte escaped, and its parameters.
const targetMaxBytes = 16 << 10

// Keys is the key space as the handler sees it. All methods are called from
// many goroutines at once.
type Keys interface {
	// Write proposes r, which the backend may keep. done is told once, by any
	// goroutine and by the deadline at the latest: the event when it is durable and
	// applied on this member, or a *deimos.Error. It does not block.
	Write(deadline time.Time, r *deimos.Request, done func(*store.Event, error))
	// Read tells done, in the same way, a published state that reflects every write
	// that was acknowledged before the call.
	Read(deadline time.Time, done func(store.View, error))
	// CurrentView returns what Read would tell, if that needs nobody else. It does
	// not block; where ok is false, Read has to be called.
	CurrentView() (v store.View, ok bool)
	// View returns what this member has applied. It does not block; ok is false
	// for a moment after a start.
	View() (v store.View, ok bool)
	// AwaitView waits until View has something to return. Its errors are
	// *deimos.Error, and it fails only while the member stops or when ctx ends.
	AwaitView(ctx context.Context) (store.View, error)
	// Watch registers a watcher on this member; the handler closes it. It is called
	// once View has something to return, and does not block then. Its errors are
	// *deimos.Error.
	Watch(key string, recursive bool, fromIndex uint64) (*store.Watcher, error)
	// ClusterTimeMS is this member's estimate of the cluster time now, in
	// milliseconds. It does not block.
	ClusterTimeMS() int64
}

// MemberList is what a member knows of its cluster without asking anybody. All
// methods are called from many goroutines at once and do not block.
type MemberList interface {
	// Status is asked once for each answer of the keys API.
	Status() Status
	// Members lists the configured members in any order; the handler changes
	// nothing in it.
	Members() []deimos.Member
}

// Cluster is the member and its cluster as the handler sees them. All methods
// are called from many goroutines at once.
type Cluster interface {
	MemberList
	// Leader is the id of the member that leads as far as this one knows, 0 for
	// none. It does not block.
	Leader() uint64
	// ChangeMembers makes a change of the member list, or of who leads it, and
	// returns once it is applied on this member. The member returned is the one
	// that was added, updated or promoted, as it is then; what is returned for
	// the other operations is not looked at. The peer URLs of the change are
	// checked, in canonical form, sorted and without duplicates; the backend
	// may keep them. Its errors are *deimos.MemberError for what the member
	// list forbids and *deimos.Error for the rest: code 301 when there is no
	// leader and nothing was proposed, code 300 with one of the causes of the
	// root package, where both time-outs leave open whether the change happens.
	ChangeMembers(ctx context.Context, change deimos.MemberChange) (deimos.Member, error)
	// Ready makes one read-index round and waits until this member has applied
	// what it covers. When that fails before ctx ends, the error is
	// [ErrBehind] (the round completed and is not applied yet), [ErrStopping],
	// or anything else for no leader or no quorum.
	Ready(ctx context.Context) error
}

// Backend is what a [Handler] serves.
type Backend interface {
	Keys
	Cluster
	Stats
}

// Status is what the headers of an answer tell of a member.
type Status struct {
	ClusterID uint64
	// RaftIndex is the last raft index that this member has applied.
	RaftIndex uint64
	// RaftTerm is this member's current raft term.
	RaftTerm uint64
}

// Errors by which Ready says why a member is not ready.
var (
	ErrBehind   = errors.New("httpapi: the member is behind")
	ErrStopping = errors.New("httpapi: the member is stopping")
)

// Config says everything that a [Handler] needs to know.
type Config struct {
	// Backend is required.
	Backend Backend
	// Log gets panics and answers that could not be sent. nil: discard.
	Log *slog.Logger
	// Version is what /version calls the version of Deimos.
	Version string
	// Timeout bounds writes, linearizable reads and changes of the member list,
	// counted from the moment the whole request has arrived. 0: [DefaultTimeout].
	Timeout time.Duration
	// WatchTimeout ends long polls and JSON streams. 0: [DefaultWatchTimeout].
	WatchTimeout time.Duration
	// ValueMaxBytes limits a decoded value; the limit of the encoded body
	// follows from it. 0: [DefaultValueMaxBytes].
	ValueMaxBytes int
	// CORS lists the origins (scheme://host, with or without :port) whose pages
	// may use the API; "*" stands for all. Empty: none.
	CORS []string
	// Now is the wall clock behind the expiration field, for display only.
	// nil: time.Now.
	Now func() time.Time
	// Registerer takes the deimos_http_… metrics. nil: they are not registered.
	Registerer prometheus.Registerer
	// Gatherer is what /metrics shows. nil: prometheus.DefaultGatherer.
	Gatherer prometheus.Gatherer
}

// Handler is the [http.Handler] of the client port. It is safe for use by any
// number of goroutines; make one with [New].
type Handler struct {
	backend       Backend
	log           *slog.Logger
	timeout       time.Duration
	watchTimeout  time.Duration
	valueMaxBytes int
	cors          cors
	now           func() time.Time
	limits        limits
	metrics       *metrics
	metricsPage   http.Handler
	version       []byte
	encodings     encodings
	// status holds the header texts of the last seen cluster id and term.
	status atomic.Pointer[statusText]
	// getsSuccess and getsFail count the reads that have looked a key up. A
	// watch is no read.
	getsSuccess, getsFail atomic.Uint64

	calls sync.Pool
}

// limits are the times that guard the member against slow clients. Tests
// shorten them.
type limits struct {
	bodyBase  time.Duration // time to send a body of no size
	bodyStep  time.Duration // added for every bodyStepBytes that have arrived
	write     time.Duration // time for one write of a stream
	heartbeat time.Duration // between two comments of an event stream
	ready     time.Duration // time for a read-index round behind a health check
}

// New returns a handler for cfg. It fails when the backend is missing, a value
// is out of range, an origin is malformed or a metric is registered already.
func New(cfg Config) (*Handler, error) {
	if cfg.Backend == nil {
		return nil, errors.New("httpapi: config: Backend is missing")
	}
	if cfg.Timeout < 0 || cfg.WatchTimeout < 0 || cfg.ValueMaxBytes < 0 {
		return nil, fmt.Errorf("httpapi: config: a negative limit: timeout %v, watch timeout %v, value %d bytes",
			cfg.Timeout, cfg.WatchTimeout, cfg.ValueMaxBytes)
	}
	cors, err := newCORS(cfg.CORS)
	if err != nil {
		return nil, err
	}
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, err
	}
	h := &Handler{
		backend:       cfg.Backend,
		log:           cfg.Log,
		timeout:       cfg.Timeout,
		watchTimeout:  cfg.WatchTimeout,
		valueMaxBytes: cfg.ValueMaxBytes,
		cors:          cors,
		now:           cfg.Now,
		metrics:       m,
		version:       versionBody(cfg.Version),
		encodings:     encodings{bytesMax: encodingsBytes, countMax: encodingsCount},
		limits: limits{
			bodyBase:  10 * time.Second,
			bodyStep:  time.Second,
			write:     10 * time.Second,
			heartbeat: 15 * time.Second,
			ready:     time.Second,
		},
	}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	if h.timeout == 0 {
		h.timeout = DefaultTimeout
	}
	if h.watchTimeout == 0 {
		h.watchTimeout = DefaultWatchTimeout
	}
	if h.valueMaxBytes == 0 {
		h.valueMaxBytes = DefaultValueMaxBytes
	}
	if h.now == nil {
		h.now = time.Now
	}
	h.metricsPage = newMetricsPage(cfg.Gatherer, h.log)
	h.calls.New = func() any { return newCall(h, new(buffers)) }
	return h, nil
}

// IsEveryday tells whether the handler needs no other headers than Accept and
// Content-Type to answer requests for a path, not decoded. The metrics page
// compresses for who can read that.
func IsEveryday(path string) bool { return path != "/metrics" }

// ServeHTTP implements [http.Handler].
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := h.open(w, r)
	for {
		switch c.Next(false) {
		case lane.Paused:
			<-c.resumed
		case lane.Streaming:
			c.idle()
		default:
			return
		}
	}
}

// Open implements [lane.Handler].
func (h *Handler) Open(w http.ResponseWriter, r *http.Request, resume func()) lane.Call {
	c := h.open(w, r)
	c.resume = resume
	return c
}

func (h *Handler) open(w http.ResponseWriter, r *http.Request) *call {
	c := h.calls.Get().(*call)
	c.w, c.r, c.start = w, r, time.Now()
	return c
}

// bodyMaxBytes is the limit of a body as it is received: a value of the
// largest size with every byte escaped, and room for the other parameters.
func (h *Handler) bodyMaxBytes() int64 { return 3*int64(h.valueMaxBytes) + 65536 }
