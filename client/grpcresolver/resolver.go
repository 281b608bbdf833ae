// Package grpcresolver lets gRPC clients find services in the registry of a
// Deimos cluster:
//
//	conn, err := grpc.NewClient("deimos:///Hello",
//		grpc.WithResolvers(grpcresolver.NewBuilder(c)), ...)
//
// The addresses are those of the instances that package registry finds. While
// no member answers gRPC keeps the addresses that were known last; a service
// without instances has none, and calls fail until there is one.
//
// It is a module of its own, so that package client stays free of gRPC. A
// resolver owns one goroutine and a view of the registry, and gRPC closes it with
// the connection. The client is the caller's: close it after the connection.
package grpcresolver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/resolver"

	"github.com/marsevilspirit/deimos/client"
	"github.com/marsevilspirit/deimos/client/registry"
)

// Scheme is that of the targets: deimos:///service.
const Scheme = "deimos"

// discoverTimeout is how long a resolver waits for a first answer before it
// tells gRPC why there is none, and tries again.
const discoverTimeout = 5 * time.Second

// builder makes the resolvers of one cluster.
type builder struct {
	c    *client.Client
	opts []registry.Option
}

// NewBuilder returns what resolves targets like deimos:///service with a
// client, for [google.golang.org/grpc.WithResolvers]. The options are those of
// [registry.Discover]. Instances on other networks than tcp, tcp4 and tcp6 are left
// out.
func NewBuilder(c *client.Client, opts ...registry.Option) resolver.Builder {
	return &builder{c: c, opts: opts}
}

// Scheme implements [resolver.Builder].
func (b *builder) Scheme() string { return Scheme }

// Build implements [resolver.Builder]. It does not wait for the cluster.
func (b *builder) Build(target resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	service := target.Endpoint()
	if target.URL.Host != "" || service == "" || strings.Contains(service, "/") {
		return nil, fmt.Errorf("grpcresolver: target %q is not like %s:///service", target.URL.String(), Scheme)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &watcher{builder: b, service: service, cc: cc, cancel: cancel}
	r.running.Go(func() { r.run(ctx) })
	return r, nil
}

// watcher follows one service for one connection.
type watcher struct {
	*builder
	service string
	cc      resolver.ClientConn
	cancel  context.CancelFunc
	running sync.WaitGroup
}

// ResolveNow implements [resolver.Resolver]. There is nothing to do: what the
// cluster knows comes by itself.
func (r *watcher) ResolveNow(resolver.ResolveNowOptions) {}

// Close implements [resolver.Resolver].
func (r *watcher) Close() {
	r.cancel()
	r.running.Wait()
}

// run hands on the addresses until ctx ends.
func (r *watcher) run(ctx context.Context) {
	view := r.discover(ctx)
	if view == nil {
		return
	}
	defer view.Close()
	for instances := range view.States(ctx) {
		// The error asks to resolve again, which would change nothing.
		_ = r.cc.UpdateState(resolver.State{Addresses: addresses(instances)})
	}
}

// discover returns a view, or nil when there will never be one.
func (r *watcher) discover(ctx context.Context) *registry.View {
	for ctx.Err() == nil {
		view, err := r.try(ctx)
		if err == nil {
			return view
		}
		if errors.Is(err, client.ErrInvalidArgument) || errors.Is(err, client.ErrClosed) {
			return nil
		}
	}
	return nil
}

// try tries to get a view for the discoverTimeout, and takes that long unless it
// succeeds or ctx ends.
func (r *watcher) try(ctx context.Context) (*registry.View, error) {
	ctx, cancel := context.WithTimeout(ctx, discoverTimeout)
	defer cancel()
	view, err := registry.Discover(ctx, r.c, r.service, r.opts...)
	if err != nil {
		r.cc.ReportError(err) // nothing, once gRPC has closed the resolver
		<-ctx.Done()
	}
	return view, err
}

// addresses returns those that gRPC can connect to.
func addresses(instances []registry.Instance) []resolver.Address {
	var list []resolver.Address
	for _, in := range instances {
		switch in.Network {
		case "tcp", "tcp4", "tcp6":
			list = append(list, resolver.Address{Addr: in.Addr})
		}
	}
	return list
}
