package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/client"
	"github.com/marsevilspirit/deimos/daemon"
)

// leaderWait is how long a list of members waits for one that leads.
const leaderWait = 2 * time.Second

func membersCommand(env []string) *cobra.Command {
	c := &cobra.Command{
		Use:   "members",
		Short: "List and change the members of the cluster",
		Long: `List and change the members of the cluster. A MEMBER is the id or the name of
one.`,
		Args: noSuchCommand,
		RunE: needsCommand,
	}
	c.AddCommand(membersListCommand(env), membersAddCommand(env), membersPromoteCommand(env),
		membersRemoveCommand(env), membersUpdateCommand(env), membersLeadCommand(env))
	return c
}

// memberOutput is a member as --output json shows it, as the API does but for
// the leader.
type memberOutput struct {
	ID         string   `json:"id"`
	Name       string   `json:"name"`
	Role       string   `json:"role"`
	PeerURLs   []string `json:"peerURLs"`
	ClientURLs []string `json:"clientURLs"`
}

// The roles of members.
const (
	roleLeader  = "leader"
	roleVoter   = "voter"
	roleLearner = "learner"
)

func outputOf(m deimos.Member, leader uint64) memberOutput {
	role := roleVoter
	switch {
	case m.IsLearner:
		role = roleLearner
	case m.ID == leader:
		role = roleLeader
	}
	return memberOutput{deimos.FormatID(m.ID), m.Name, role, m.PeerURLs, m.ClientURLs}
}

func membersListCommand(env []string) *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List the members",
		Long: `List the members as the endpoint knows them: id, name, role (leader, voter or
learner), peer URLs and client URLs. One without a name has not started yet.
Without a leader the list has none.`,
		Example: "  deimos members list -o table",
		Args:    noArguments,
	}
	return clientCommand(env, c, func(ctx context.Context, s *session, _ []string) error {
		members, err := s.Members(ctx)
		if err != nil {
			return err
		}
		leader, err := s.leader(ctx)
		if err != nil {
			return err
		}
		all := []memberOutput{}
		for _, m := range members {
			all = append(all, outputOf(m, leader.ID))
		}
		if s.output == formatJSON {
			return s.printJSON(all)
		}
		var rows [][]string
		for _, m := range all {
			rows = append(rows, []string{m.ID, orElse(oneLineText(m.Name), "-"), m.Role,
				orElse(strings.Join(m.PeerURLs, ","), "-"), orElse(strings.Join(m.ClientURLs, ","), "-")})
		}
		return s.printRows([]string{"ID", "NAME", "ROLE", "PEER URLS", "CLIENT URLS"}, rows)
	})
}

// leader returns who leads, nobody if there is no leader before long.
func (s *session) leader(ctx context.Context) (deimos.Member, error) {
	short, cancel := context.WithTimeout(ctx, leaderWait)
	defer cancel()
	leader, err := s.Leader(short)
	if errors.Is(err, deimos.ErrLeaderElection) || ctx.Err() == nil && short.Err() != nil {
		return deimos.Member{}, nil
	}
	return leader, err
}

func membersAddCommand(env []string) *cobra.Command {
	var learner bool
	c := &cobra.Command{
		Use:   "add PEER_URL...",
		Short: "Add a member that is to be started at these peer URLs",
		Long: `Add a member that is to be started at these peer URLs. It joins as a learner,
which receives the log and does not vote, and is promoted when it has caught up.
Start it with --initial-cluster-state existing.`,
		Example: "  deimos members add http://10.0.0.4:7001",
		Args:    needsURLs(0),
	}
	c.Flags().BoolVar(&learner, "learner", false, "it stays a learner until deimos members promote")
	return clientCommand(env, c, func(ctx context.Context, s *session, args []string) error {
		m, err := s.AddMember(ctx, args, learner)
		if err != nil {
			return refusal(err, strings.Join(args, ","))
		}
		return s.printMember("added: start it now with --initial-cluster-state existing", m)
	})
}

// needsURLs wants at least one URL behind the arguments before it.
func needsURLs(before int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) <= before {
			return daemon.Usagef("%s needs %s, see %s --help", c.CommandPath(), strings.Join(strings.Fields(c.Use)[1+len(args):], " "), c.CommandPath())
		}
		return nil
	}
}

func membersPromoteCommand(env []string) *cobra.Command {
	c := memberCommand(env, "promote MEMBER", "Make a voter of a learner that has caught up")
	return clientCommand(env, c, func(ctx context.Context, s *session, args []string) error {
		id, err := s.memberID(ctx, args[0])
		if err != nil {
			return err
		}
		m, err := s.PromoteMember(ctx, id)
		if err != nil {
			return refusal(err, args[0])
		}
		return s.printMember("promoted", m)
	})
}

func membersRemoveCommand(env []string) *cobra.Command {
	c := memberCommand(env, "remove MEMBER", "Remove a member for ever")
	return clientCommand(env, c, func(ctx context.Context, s *session, args []string) error {
		id, err := s.memberID(ctx, args[0])
		if err != nil {
			return err
		}
		if err := s.RemoveMember(ctx, id); err != nil {
			return refusal(err, args[0])
		}
		return s.printMember("removed", deimos.Member{ID: id})
	})
}

func membersUpdateCommand(env []string) *cobra.Command {
	c := memberCommand(env, "update MEMBER PEER_URL...", "Replace the peer URLs of a member")
	c.Args = needsURLs(1)
	return clientCommand(env, c, func(ctx context.Context, s *session, args []string) error {
		id, err := s.memberID(ctx, args[0])
		if err != nil {
			return err
		}
		if err := s.UpdateMember(ctx, id, args[1:]); err != nil {
			return refusal(err, args[0])
		}
		return s.printMember("updated", deimos.Member{ID: id, PeerURLs: args[1:]})
	})
}

func membersLeadCommand(env []string) *cobra.Command {
	c := memberCommand(env, "lead MEMBER", "Hand leadership over to a member")
	return clientCommand(env, c, func(ctx context.Context, s *session, args []string) error {
		id, err := s.memberID(ctx, args[0])
		if err != nil {
			return err
		}
		m, err := s.MoveLeader(ctx, id)
		if err != nil {
			return refusal(err, args[0])
		}
		return s.printMember("leads", m)
	})
}

// memberCommand is a command about one member.
func memberCommand(env []string, use, short string) *cobra.Command {
	return &cobra.Command{
		Use:               use,
		Short:             short,
		Example:           "  deimos members " + strings.ReplaceAll(strings.ReplaceAll(use, "MEMBER", "n4"), "PEER_URL...", "http://10.0.0.5:7001"),
		Args:              wants("MEMBER"),
		ValidArgsFunction: completeMembers(env),
	}
}

// printMember says what was done about a member.
func (s *session) printMember(done string, m deimos.Member) error {
	if s.output == formatJSON {
		return s.printJSON(struct {
			ID       string   `json:"id"`
			Name     string   `json:"name,omitempty"`
			PeerURLs []string `json:"peerURLs,omitempty"`
		}{deimos.FormatID(m.ID), m.Name, m.PeerURLs})
	}
	return s.print(func(w io.Writer) error {
		fmt.Fprintf(w, "member %s %s\n", deimos.FormatID(m.ID), done)
		return nil
	})
}

// memberID returns the id of the member with a name or an id. An id need not be
// in the list: the answer about one that was removed is worth having.
func (s *session) memberID(ctx context.Context, given string) (uint64, error) {
	members, err := s.Members(ctx)
	if err != nil {
		return 0, err
	}
	var found []uint64
	for _, m := range members {
		if m.Name == given {
			found = append(found, m.ID)
		}
	}
	id, err := strconv.ParseUint(given, 16, 64)
	switch {
	case len(found) == 1 && (err != nil || id == found[0]):
		return found[0], nil
	case len(found) == 0 && err == nil:
		return id, nil
	case len(found) == 0:
		return 0, &noMemberError{given}
	case len(found) == 1 && !knownID(members, id):
		return found[0], nil
	default:
		return 0, daemon.Usagef("%q means more than one member: give an id of deimos members list", given)
	}
}

func knownID(members []deimos.Member, id uint64) bool {
	for _, m := range members {
		if m.ID == id {
			return true
		}
	}
	return false
}

// noMemberError says that no member has the name or the id.
type noMemberError struct{ given string }

func (e *noMemberError) Error() string {
	return fmt.Sprintf("there is no member %q: see deimos members list", e.given)
}

// refusal puts the answer of the members API into words.
func refusal(err error, given string) error {
	var status *client.StatusError
	if !errors.As(err, &status) || errors.Is(err, deimos.ErrLeaderElection) {
		return err
	}
	if status.Status == http.StatusNotFound {
		return &noMemberError{given}
	}
	return fmt.Errorf("member %s: %s", oneLineText(given), orElse(status.Message, http.StatusText(status.Status)))
}
