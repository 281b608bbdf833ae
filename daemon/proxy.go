package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/marsevilspirit/deimos/httpapi"
	"github.com/marsevilspirit/deimos/proxy"
	"github.com/marsevilspirit/deimos/transport"
)

// Proxy is a running proxy: it answers clients by asking members, and keeps
// nothing. Its methods may be called from any goroutine.
type Proxy struct {
	cfg       Config
	log       *slog.Logger
	listeners []net.Listener
	server    *http.Server
	handler   *proxy.Proxy
	peers     *transport.Client

	wg       sync.WaitGroup
	ended    chan struct{} // closed when the proxy is being closed
	failed   chan error
	endOnce  sync.Once
	closeErr error
}

// openProxy starts a proxy to the members that a valid configuration names, and
// returns when it listens; it may not have found a member yet.
func openProxy(cfg Config) (*Proxy, error) {
	m := newMetrics()
	s, err := openSecurity(&cfg, m.registry)
	if err != nil {
		return nil, err
	}
	p := &Proxy{cfg: cfg, log: cfg.Log, ended: make(chan struct{}), failed: make(chan error, 1)}
	if p.listeners, err = listen("listen-client-urls", cfg.URLs.ListenClient); err != nil {
		return nil, err
	}
	p.peers = transport.NewClient(transport.ClientConfig{Secret: s.secret, TLS: s.peer.dial()})
	p.handler, err = proxy.New(proxy.Config{
		ReadOnly:  cfg.Proxy == ProxyReadonly,
		Bootstrap: p.askPeers,
		TLS:       s.client.dial(),
		Self:      ownURLs(&cfg),
		Timeout:   cfg.Timing.Request,
		Log:       cfg.Log,
		Metrics:   m.registry,
	})
	if err != nil {
		p.peers.Close()
		return nil, errors.Join(err, closeAll(p.listeners))
	}
	p.server = httpapi.Server(p.handler, s.client.errors)
	conns, err := boundClients(p.server, p.listeners, m.registry)
	if err != nil {
		p.peers.Close()
		return nil, errors.Join(err, closeAll(p.listeners))
	}
	for _, l := range p.listeners {
		l = s.client.listener(conns.Listener(l))
		p.wg.Go(func() {
			if err := p.server.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
				select {
				case p.failed <- fmt.Errorf("serve %s: %w", l.Addr(), err):
				default: // the first failure counts
				}
			}
		})
	}
	p.wg.Go(func() { s.client.watch(p.ended) })
	p.handler.Start()
	p.log.Info("proxy serves", "mode", cfg.Proxy, "client", addrs(p.listeners), "members", len(cfg.Bootstrap))
	return p, nil
}

// ownURLs returns the URLs that lead back to the proxy itself. The default of
// what is advertised does not count: it is what a member on this machine has.
func ownURLs(cfg *Config) []string {
	if slices.Equal(cfg.URLs.AdvertiseClient, strings.Split(DefaultClientURLs, ",")) {
		return cfg.URLs.ListenClient
	}
	return slices.Concat(cfg.URLs.ListenClient, cfg.URLs.AdvertiseClient)
}

// askPeers returns the client URLs of the members, as the first of the
// configured members to answer knows them.
func (p *Proxy) askPeers(ctx context.Context) ([]string, error) {
	info, err := askFirst(ctx, p.peers.Members, p.cfg.introducers())
	if err != nil {
		return nil, err
	}
	var urls []string
	for _, m := range info.Members {
		urls = append(urls, m.ClientURLs...)
	}
	return urls, nil
}

// Failed implements [Process].
func (p *Proxy) Failed() <-chan error { return p.failed }

// ClientAddrs returns the addresses (host:port) that answer clients.
func (p *Proxy) ClientAddrs() []string { return addrs(p.listeners) }

// Close implements [Process]: it stops accepting, ends the watches, and lets
// running requests finish within the request timeout (and ctx).
func (p *Proxy) Close(ctx context.Context) error {
	p.endOnce.Do(func() {
		close(p.ended)
		p.closeErr = p.close(ctx)
	})
	return p.closeErr
}

func (p *Proxy) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Timing.Request)
	defer cancel()
	drained := make(chan error, 1)
	go func() { drained <- p.server.Shutdown(ctx) }()
	if err := errors.Join(p.handler.Close(ctx), <-drained); err != nil {
		p.log.Warn("running requests were cut off", "error", err)
		_ = p.server.Close() // closes connections; what they say does not matter now
	}
	p.peers.Close()
	p.wg.Wait()
	p.log.Info("proxy stopped")
	return nil
}
