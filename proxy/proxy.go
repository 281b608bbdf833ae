package proxy

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Defaults of the optional fields of a [Config].
const (
	DefaultRefresh = 30 * time.Second
	DefaultTimeout = 5 * time.Second
)

// chainMax is how many proxies a request may pass.
const chainMax = 4

// headerProxy lists the runs of the proxies that a request has passed.
const headerProxy = "X-Deimos-Proxy"

// Config says everything that a [Proxy] needs to know.
type Config struct {
	// ReadOnly answers all methods but GET, HEAD and OPTIONS with 501.
	ReadOnly bool
	// Bootstrap is required: it returns client URLs of members, as those members
	// tell them that the proxy was configured with. It is called at the start
	// and whenever no known member answers, by one goroutine, with a context
	// that ends after some seconds or with the proxy.
	Bootstrap func(ctx context.Context) ([]string, error)
	// TLS is asked for the configuration of each connection to an https member,
	// so that certificates and authorities can change; what it returns is the
	// proxy's, and an empty ServerName stands for the host of the member's URL.
	// nil: verified against the roots of the system.
	TLS func() *tls.Config
	// Self lists the URLs at which the proxy itself can be reached. A member
	// that claims one of them is not used.
	Self []string
	// Refresh is the time between two looks at the member list; it is shorter
	// while no member answers or one has not published its client URLs.
	// 0: [DefaultRefresh].
	Refresh time.Duration
	// Timeout is the request timeout of the members. A member that takes two
	// seconds longer to begin an answer is given up; one that hangs is noticed
	// earlier, whatever the timeout. 0: [DefaultTimeout].
	Timeout time.Duration
	// Log gets changes of the member list and of its reachability.
	// nil: discard.
	Log *slog.Logger
	// Metrics takes the deimos_proxy_… metrics. nil: they are not registered.
	Metrics prometheus.Registerer
}

// limits are the times that bound what members and clients can cost. Tests
// shorten them.
type limits struct {
	dial       time.Duration // for a connection to a member
	handshake  time.Duration // for TLS on top of it
	head       time.Duration // from the end of a request to the answer's head
	memberIO   time.Duration // for one write to a member, or a silence inside an answer
	overdue    time.Duration // after which an answer is late; also between two probes of its member
	search     time.Duration // after which no further member is tried, but for the second try of a read
	probe      time.Duration // for an answer to a look at the member list or to a probe
	watchProbe time.Duration // between two probes of a member that has watches
	bootstrap  time.Duration // for one call of Bootstrap
	pauseMin   time.Duration // first pause of a member that failed
	pauseMax   time.Duration // longest pause of such a member
	lostMax    time.Duration // longest pause between searches for any member
	start      time.Duration // longest time between two looks while a member has yet to start
	urgent     time.Duration // shortest time between two looks that requests ask for
	bodyBase   time.Duration // for a client to send a body of no size
	bodyStep   time.Duration // added for every bodyStepBytes that have arrived
	write      time.Duration // for one write to a client
	watchClose time.Duration // for a member to end a long poll after its event
}

// Proxy is the [http.Handler] of a client port that forwards. It is safe for
// use by any number of goroutines; make one with [New].
type Proxy struct {
	readOnly  bool
	bootstrap func(ctx context.Context) ([]string, error)
	refresh   time.Duration
	log       *slog.Logger
	metrics   *metrics
	limits    limits
	// run tells this proxy from all others, in the header headerProxy.
	run       string
	transport *http.Transport
	members   *members
	watches   *watchTable
	sentry    *sentry
	calls     tracker

	startOnce, stopOnce sync.Once
	stop                chan struct{}
	// goroutines are the keeper of the member list, the upstream watches and the
	// probes.
	goroutines sync.WaitGroup
}

// New returns a proxy for cfg that knows no member until it is started. It
// fails when Bootstrap is missing, a time is negative, a URL of Self is
// malformed or a metric is registered already.
func New(cfg Config) (*Proxy, error) {
	return open(cfg, nil)
}

// defaultLimits returns the limits that go with a request timeout.
func defaultLimits(timeout time.Duration) limits {
	return limits{
		dial:       time.Second,
		handshake:  2 * time.Second,
		head:       timeout + 2*time.Second,
		memberIO:   10 * time.Second,
		overdue:    time.Second,
		search:     timeout,
		probe:      time.Second,
		watchProbe: 5 * time.Second,
		bootstrap:  5 * time.Second,
		pauseMin:   100 * time.Millisecond,
		pauseMax:   10 * time.Second,
		lostMax:    2 * time.Second,
		start:      2 * time.Second,
		urgent:     time.Second,
		bodyBase:   10 * time.Second,
		bodyStep:   time.Second,
		write:      10 * time.Second,
		watchClose: time.Second,
	}
}

// open is New with other limits than the default ones.
func open(cfg Config, change func(*limits)) (*Proxy, error) {
	if cfg.Bootstrap == nil {
		return nil, errors.New("proxy: config: Bootstrap is missing")
	}
	if cfg.Refresh < 0 || cfg.Timeout < 0 {
		return nil, fmt.Errorf("proxy: config: a negative time: refresh %v, timeout %v", cfg.Refresh, cfg.Timeout)
	}
	if cfg.Refresh == 0 {
		cfg.Refresh = DefaultRefresh
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	l := defaultLimits(cfg.Timeout)
	if change != nil {
		change(&l)
	}
	members, err := newMembers(cfg.Self, &l, cfg.Log)
	if err != nil {
		return nil, err
	}
	p := &Proxy{
		readOnly:  cfg.ReadOnly,
		bootstrap: cfg.Bootstrap,
		refresh:   cfg.Refresh,
		log:       cfg.Log,
		run:       rand.Text()[:16],
		members:   members,
		stop:      make(chan struct{}),
		limits:    l,
	}
	p.watches, p.sentry = newWatchTable(p), newSentry(p)
	p.transport = newTransport(cfg.TLS, &p.limits)
	if p.metrics, err = newMetrics(cfg.Metrics, p.members); err != nil {
		return nil, err
	}
	return p, nil
}

// Start begins to look for members and returns at once; until one is known,
// requests are answered 503. It may be called once, by the goroutine that will
// call Close.
func (p *Proxy) Start() {
	p.startOnce.Do(func() {
		ctx, cancel := context.WithCancel(context.Background())
		p.goroutines.Go(func() {
			<-p.stop
			cancel()
		})
		p.goroutines.Go(func() { p.keepMembers(ctx) })
	})
}

// Close ends the watches after a whole event, refuses further requests with
// 503 and waits for the running ones. If ctx ends first, it breaks their
// connections to members and returns an error that wraps the one of ctx. All
// goroutines of the proxy have ended when it returns, except those of requests
// that it did not wait for. It may be called more than once.
func (p *Proxy) Close(ctx context.Context) error {
	p.calls.stop()
	p.stopOnce.Do(func() { close(p.stop) })
	p.watches.close()
	var err error
	select {
	case <-p.calls.idle():
	case <-ctx.Done():
		err = fmt.Errorf("proxy: waiting for running requests: %w", ctx.Err())
		p.calls.cancel()
	}
	p.sentry.close()
	p.goroutines.Wait()
	p.transport.CloseIdleConnections()
	return err
}

// ServeHTTP answers one request.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	defer cancel()
	c := &call{p: p, w: w, r: r, rc: http.NewResponseController(w)}
	defer c.finish()
	if r.ContentLength != 0 {
		// This bounds how long net/http reads in a body that nobody wanted.
		c.deadlineSet(c.rc.SetReadDeadline(time.Now().Add(p.limits.bodyBase)))
	}
	done, ok := p.calls.begin(cancel)
	if !ok {
		c.fail(errStopping)
		return
	}
	defer done()
	defer context.AfterFunc(r.Context(), func() {
		if c.gone() {
			cancel()
		}
	})()
	c.serve(ctx)
}

// tracker knows the running requests, so that Close can wait for them or break
// them. The zero value is ready.
type tracker struct {
	mu       sync.Mutex
	stopping bool
	running  map[*context.CancelFunc]struct{}
	drained  chan struct{} // made by stop, closed when nothing runs
}

// begin registers a request unless the tracker was stopped. done ends it.
func (t *tracker) begin(cancel context.CancelFunc) (done func(), ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopping {
		return nil, false
	}
	if t.running == nil {
		t.running = make(map[*context.CancelFunc]struct{})
	}
	key := &cancel
	t.running[key] = struct{}{}
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.running, key)
		if t.stopping && len(t.running) == 0 {
			close(t.drained)
		}
	}, true
}

// stop refuses further requests.
func (t *tracker) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopping {
		return
	}
	t.stopping = true
	t.drained = make(chan struct{})
	if len(t.running) == 0 {
		close(t.drained)
	}
}

// idle is closed when a stopped tracker has no running request left.
func (t *tracker) idle() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.drained
}

// cancel breaks all running requests.
func (t *tracker) cancel() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for cancel := range t.running {
		(*cancel)()
	}
}
