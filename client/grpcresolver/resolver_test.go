package grpcresolver_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/marsevilspirit/deimos/client"
	"github.com/marsevilspirit/deimos/client/grpcresolver"
	"github.com/marsevilspirit/deimos/client/registry"
	"github.com/marsevilspirit/deimos/internal/clustertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open returns a client of servers.
func open(t *testing.T, urls ...string) *client.Client {
	t.Helper()
	c, err := client.New(client.Config{Endpoints: urls})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// serve runs a health service, registers it as Hello, and returns its address.
func serve(t *testing.T, c *client.Client) (*registry.Registration, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	healthpb.RegisterHealthServer(s, health.NewServer())
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	r, err := registry.Register(t.Context(), c, registry.Instance{Service: "Hello", Addr: l.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = r.Close(ctx) // the cluster may be gone
	})
	return r, l.Addr().String()
}

// dial returns a connection that takes the instances in turn.
func dial(t *testing.T, c *client.Client, target string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(target,
		grpc.WithResolvers(grpcresolver.NewBuilder(c)),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// check calls the health service and returns who answered.
func check(ctx context.Context, conn *grpc.ClientConn) (string, error) {
	var p peer.Peer
	_, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{}, grpc.Peer(&p))
	if err != nil {
		return "", err
	}
	return p.Addr.String(), nil
}

// reaches waits until the calls reach exactly these servers.
func reaches(t *testing.T, conn *grpc.ClientConn, want ...string) {
	t.Helper()
	clustertest.Eventually(t, fmt.Sprintf("answers of %v", want), func() bool {
		seen := make(map[string]bool)
		for range 4 * len(want) {
			addr, err := check(t.Context(), conn)
			if err != nil {
				return false
			}
			seen[addr] = true
		}
		for _, addr := range want {
			if !seen[addr] {
				return false
			}
		}
		return len(seen) == len(want)
	})
}

func TestCallsReachTheInstancesOfAService(t *testing.T) {
	c := open(t, clustertest.New(t, 1).URLs()...)
	_, a := serve(t, c)
	conn := dial(t, c, "deimos:///Hello")
	reaches(t, conn, a)
	second, b := serve(t, c)
	reaches(t, conn, a, b)
	quic, err := registry.Register(t.Context(), c, registry.Instance{Service: "Hello", Network: "udp", Addr: "127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	reaches(t, conn, a, b) // and nobody tries the third
	if err := quic.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := second.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	reaches(t, conn, a)
}

func TestAddressesStayWhileNoMemberAnswers(t *testing.T) {
	cluster := clustertest.New(t, 1)
	c := open(t, cluster.URLs()...)
	_, a := serve(t, c)
	conn := dial(t, c, "deimos:///Hello")
	reaches(t, conn, a)
	cluster.Member(0).Kill()
	conn.ResetConnectBackoff()
	reaches(t, conn, a)
}

func TestCallsSayWhyThereIsNoAddress(t *testing.T) {
	c := open(t, clustertest.New(t, 1).URLs()...)
	if _, err := check(t.Context(), dial(t, c, "deimos:///Hello")); status.Code(err) != codes.Unavailable {
		t.Errorf("call of a service without instances: %v, want Unavailable", err)
	}
	alone := open(t, "http://"+clustertest.FreeAddress(t))
	_, err := check(t.Context(), dial(t, alone, "deimos:///Hello"))
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "no endpoint answers") {
		t.Errorf("call without members: %v, want Unavailable and the reason", err)
	}
	_, err = check(t.Context(), dial(t, c, "deimos:///_hidden"))
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "begins with _") {
		t.Errorf("call of a hidden service: %v, want Unavailable and the reason", err)
	}
}

func TestTargetsThatMakeNoSense(t *testing.T) {
	c := open(t)
	for _, target := range []string{"deimos:///", "deimos://host/Hello", "deimos:///a/b"} {
		conn, err := grpc.NewClient(target, grpc.WithResolvers(grpcresolver.NewBuilder(c)),
			grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err == nil {
			_, err = check(t.Context(), conn)
			conn.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "is not like deimos:///service") {
			t.Errorf("target %s: %v, want an error that shows a good one", target, err)
		}
	}
}
