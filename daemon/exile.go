package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/transport"
)

// This file is about members that the others do not, or no longer, take for
// one of them.

// RemovedError says that the member was removed from the cluster. It stops, and
// never comes back under the same id.
type RemovedError struct {
	ID      uint64
	Name    string
	DataDir string
	// clientURL and peerURLs are for the commands in the text.
	clientURL string
	peerURLs  []string
}

// Error implements the error interface.
func (e *RemovedError) Error() string {
	return fmt.Sprintf("member %s (%q) was removed from the cluster; to let it in again, move its data directory %s away, "+
		"run %s and start it with --initial-cluster-state existing", deimos.FormatID(e.ID), e.Name, e.DataDir, addCommand(e.clientURL, e.peerURLs))
}

// isSound reports whether a member that was found to be of another cluster than
// its peers is the one that is right: it has had a leader, so those who count
// for the quorum are of its cluster, and the others were started wrongly.
func (d *Daemon) isSound(err error) bool {
	var foreign *transport.ForeignError
	return errors.As(err, &foreign) && d.node.Status().LeaderChanges > 0
}

// explain turns what a transport says of this member into what an operator is
// told.
func (d *Daemon) explain(err error) error {
	id := d.storage.identity
	var wiped *transport.WipedError
	var twin *transport.TwinError
	var foreign *transport.ForeignError
	switch {
	case errors.Is(err, transport.ErrRemoved):
		return d.removed()
	case errors.As(err, &wiped):
		return &DataDirError{Dir: d.cfg.DataDir, Err: fmt.Errorf(
			"it has the incarnation %s, but the cluster knows member %s (%q) with the incarnation %s, whose directory is lost: %s",
			wiped.Mine, deimos.FormatID(id.MemberID), d.cfg.Name, wiped.Theirs,
			replaceCommands(d.otherClientURL(), id.MemberID, d.cfg.URLs.AdvertisePeer))}
	case errors.As(err, &twin):
		return &DataDirError{Dir: d.cfg.DataDir, Err: fmt.Errorf(
			"member %s (%q) runs already in another process (at %q, as member %s says), stop one of them: this data directory is a copy",
			deimos.FormatID(id.MemberID), d.cfg.Name, twin.Place, deimos.FormatID(twin.By))}
	case errors.As(err, &foreign):
		return &DataDirError{Dir: d.cfg.DataDir, Err: fmt.Errorf(
			"it belongs to cluster %s, and the members that were found, such as the one at %s, belong to cluster %s: "+
				"choose another --data-dir, or correct --bootstrap-config; a member that was added to a running cluster has to be started with "+
				"an empty data directory and --initial-cluster-state existing", deimos.FormatID(foreign.Mine), foreign.URL, deimos.FormatID(foreign.Theirs))}
	default:
		return err
	}
}

// checkMembership looks at a new member list for this member: it stops when it
// was removed, and when the cluster knows it with another data directory. The
// others may need a moment to hear of a removal from a leader that was removed,
// and whoever asked for it gets an answer.
func (d *Daemon) checkMembership([]deimos.Member) {
	id := d.storage.identity
	known := d.machine.IncarnationOf(id.MemberID)
	var err error
	switch {
	case d.machine.IsRemoved(id.MemberID):
		err = transport.ErrRemoved
	case !known.IsZero() && known != id.Incarnation:
		err = &transport.WipedError{Member: id.MemberID, Mine: id.Incarnation, Theirs: known}
	default:
		return
	}
	d.afterElection(func() { d.fail(d.explain(err)) })
}

func (d *Daemon) removed() error {
	id := d.storage.identity.MemberID
	return &RemovedError{
		ID: id, Name: d.cfg.Name, DataDir: d.cfg.DataDir,
		clientURL: clientURL(d.machine.Members(), id), peerURLs: d.cfg.URLs.AdvertisePeer,
	}
}

// otherClientURL returns a client URL of another member. One that has just
// begun does not know any, so it asks.
func (d *Daemon) otherClientURL() string {
	members := d.machine.Members()
	client := transport.NewClient(transport.ClientConfig{Secret: d.secured.secret, TLS: d.secured.peer.dial()})
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if info, err := askOnce(ctx, client.Members, &d.cfg); err == nil {
		members = info.Members
	}
	return clientURL(members, d.storage.identity.MemberID)
}

// clientURL returns a client URL of a member other than self, or a placeholder.
func clientURL(members []deimos.Member, self uint64) string {
	for _, m := range members {
		if m.ID != self && len(m.ClientURLs) > 0 {
			return m.ClientURLs[0]
		}
	}
	return "http://<client URL of a running member>"
}

func addCommand(clientURL string, peerURLs []string) string {
	body, err := json.Marshal(struct {
		PeerURLs []string `json:"peerURLs"`
	}{peerURLs})
	if err != nil {
		body = []byte(strings.Join(peerURLs, ",")) // strings can always be encoded
	}
	return fmt.Sprintf("`curl -X POST -H 'Content-Type: application/json' -d '%s' %s/members`", body, clientURL)
}

func replaceCommands(clientURL string, id uint64, peerURLs []string) string {
	return fmt.Sprintf("replace the member with `curl -X DELETE %s/members/%s` and %s, then start it with an empty data directory, "+
		"--initial-cluster-state existing and --bootstrap-config", clientURL, deimos.FormatID(id), addCommand(clientURL, peerURLs))
}
