package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/client"
)

const clusterHelp = "all members by their client URLs, instead of --endpoints"

// targets returns the endpoints that a command is about.
func (s *session) targets(ctx context.Context, cluster bool) ([]string, error) {
	if !cluster {
		return s.Endpoints(), nil
	}
	members, err := s.Members(ctx)
	if err != nil {
		return nil, err
	}
	var urls []string
	for _, m := range members {
		urls = append(urls, m.ClientURLs...)
	}
	slices.Sort(urls)
	return slices.Compact(urls), nil
}

// healthOutput is the health of one endpoint.
type healthOutput struct {
	Endpoint string `json:"endpoint"`
	Healthy  bool   `json:"healthy"`
	// TookMS is the time to the answer in milliseconds.
	TookMS float64 `json:"tookMS"`
	Error  string  `json:"error,omitempty"`
}

// errUnhealthy makes the exit code of deimos health 1.
var errUnhealthy = errors.New("unhealthy")

func healthCommand(env []string) *cobra.Command {
	var cluster bool
	c := &cobra.Command{
		Use:   "health",
		Short: "Tell whether members serve reads and writes",
		Long: `Tell for each endpoint whether it reaches a quorum, so that it serves writes and
linearizable reads. The exit code is 0 only if all do, and 3 if none answers.`,
		Example: `  deimos health
  deimos health --cluster -o table`,
		Args: noArguments,
	}
	c.Flags().BoolVar(&cluster, "cluster", false, clusterHelp)
	return clientCommand(env, c, func(ctx context.Context, s *session, _ []string) error {
		endpoints, err := s.targets(ctx, cluster)
		if err != nil {
			return err
		}
		var all []healthOutput
		var rows [][]string
		var failed []error
		for _, endpoint := range endpoints {
			start := time.Now()
			healthy, err := s.Health(ctx, endpoint)
			took := time.Since(start)
			h := healthOutput{Endpoint: endpoint, Healthy: healthy, TookMS: float64(took.Microseconds()) / 1000}
			said := "healthy"
			switch {
			case err != nil:
				h.Error = reason(err)
				said = "no answer: " + h.Error
				failed = append(failed, err)
			case !healthy:
				said = "unhealthy: it reaches no quorum"
				failed = append(failed, errUnhealthy)
			}
			all = append(all, h)
			rows = append(rows, []string{endpoint, took.Round(time.Millisecond / 10).String(), said})
		}
		if s.output == formatJSON {
			err = s.printJSON(all)
		} else {
			err = s.printRows([]string{"ENDPOINT", "TOOK", "HEALTH"}, rows)
		}
		switch {
		case err != nil:
			return err
		case len(failed) == 0:
			return nil
		}
		text := fmt.Sprintf("%d of %d endpoints are not healthy", len(failed), len(endpoints))
		if len(failed) == len(endpoints) && !slices.ContainsFunc(failed, func(err error) bool { return !errors.Is(err, client.ErrNoEndpoint) }) {
			return &silentEndpointsError{text + ": none answers, " + advice("--endpoints", failed...)}
		}
		return errors.New(text)
	})
}

// reason says on one line why one endpoint has no answer.
func reason(err error) string {
	if e, ok := errors.AsType[*client.NoEndpointError](err); ok && len(e.Failures) == 1 {
		err = e.Failures[0].Err
	}
	return oneLine(trimPackage(err))
}

// silentEndpointsError is no connection to any endpoint, in the words of a
// command that has listed them.
type silentEndpointsError struct{ text string }

func (e *silentEndpointsError) Error() string { return e.text }

func (e *silentEndpointsError) Is(target error) bool { return target == client.ErrNoEndpoint }

// statusOutput is the state of one endpoint.
type statusOutput struct {
	Endpoint  string `json:"endpoint"`
	ID        string `json:"id,omitempty"`
	Name      string `json:"name,omitempty"`
	Version   string `json:"version,omitempty"`
	State     string `json:"state,omitempty"`
	Leader    string `json:"leader,omitempty"`
	Cluster   string `json:"cluster,omitempty"`
	Index     uint64 `json:"index,omitempty"`
	RaftIndex uint64 `json:"raftIndex,omitempty"`
	RaftTerm  uint64 `json:"raftTerm,omitempty"`
	Error     string `json:"error,omitempty"`
}

func statusCommand(env []string) *cobra.Command {
	var cluster bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Tell how far members are and who leads them",
		Long: `Tell for each endpoint its id, name, version, state and leader, and how far it
is: store index, raft index and raft term. What a proxy says is that of the
member behind it.`,
		Example: "  deimos status --cluster -o table",
		Args:    noArguments,
	}
	c.Flags().BoolVar(&cluster, "cluster", false, clusterHelp)
	return clientCommand(env, c, func(ctx context.Context, s *session, _ []string) error {
		endpoints, err := s.targets(ctx, cluster)
		if err != nil {
			return err
		}
		var all []statusOutput
		var rows [][]string
		var failed []error
		for _, endpoint := range endpoints {
			o, err := s.statusOf(ctx, endpoint)
			if err != nil {
				o.Error = reason(err)
				failed = append(failed, err)
			}
			all = append(all, o)
			rows = append(rows, []string{o.Endpoint, orElse(o.ID, "-"), orElse(oneLineText(o.Name), "-"), orElse(o.Version, "-"),
				orElse(o.State, "-"), orElse(o.Leader, "-"), known(o.Index), known(o.RaftIndex), known(o.RaftTerm), o.Error})
		}
		if s.output == formatJSON {
			err = s.printJSON(all)
		} else {
			err = s.printRows([]string{"ENDPOINT", "ID", "NAME", "VERSION", "STATE", "LEADER", "INDEX", "RAFT INDEX", "RAFT TERM", "ERROR"}, rows)
		}
		if err == nil && len(failed) > 0 {
			err = fmt.Errorf("%d of %d endpoints have no status", len(failed), len(endpoints))
			if len(failed) == len(endpoints) && errors.Is(failed[0], client.ErrNoEndpoint) {
				err = &silentEndpointsError{err.Error() + ": " + advice("--endpoints", failed...)}
			}
		}
		return err
	})
}

// known shows a number that is above 0 if it is known.
func known(n uint64) string {
	if n == 0 {
		return "-"
	}
	return strconv.FormatUint(n, 10)
}

// statusOf asks one endpoint, with a client that has no other.
func (s *session) statusOf(ctx context.Context, endpoint string) (statusOutput, error) {
	o := statusOutput{Endpoint: endpoint}
	self, err := s.SelfStats(ctx, endpoint)
	if err != nil {
		return o, err
	}
	o.ID, o.Name, o.Leader = self.ID, self.Name, self.LeaderInfo.Leader
	o.State = strings.ToLower(strings.TrimPrefix(self.State, "State"))
	version, err := s.Version(ctx, endpoint)
	if err != nil {
		return o, err
	}
	o.Version = orElse(version.Deimos, "etcd "+version.EtcdServer)
	one, err := s.clientOf(endpoint, s.prefix)
	if err != nil {
		return o, err
	}
	defer closeClient(one)
	r, err := one.Get(ctx, "/", client.WithLocalRead())
	if err != nil {
		return o, err
	}
	o.Cluster = deimos.FormatID(r.ClusterID)
	o.Index, o.RaftIndex, o.RaftTerm = r.Index, r.RaftIndex, r.RaftTerm
	return o, nil
}
