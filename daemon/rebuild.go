package daemon

import (
	"errors"
	"log/slog"

	"go.etcd.io/raft/v3/raftpb"
)

// Recover makes a new log and a new snapshot of what a report of Inspect says
// can be recovered, and puts them in the place of the old ones, which it keeps in
// the directory that it returns. The member goes on alone, with a store index
// that no client has seen. Where the cluster had other members, it is another
// cluster from now on; if one of them has a vote, and so may have what is lost,
// that is done only if forceNewCluster says so.
//
// A crash on the way leaves the old log, or a new one that [Offline.Finish] or
// the next start puts in its place.
func (o *Offline) Recover(r *LogReport, forceNewCluster bool) (kept string, err error) {
	switch {
	case r.Damage == nil:
		return "", errors.New("nothing is damaged, so there is nothing to recover")
	case r.Recovery == nil:
		return "", r.Err()
	case !r.Recovery.OnlyVoter() && !forceNewCluster:
		return "", Usagef("member %q is not the only one of its cluster that votes, and the others have what is lost: %s; if most of them "+
			"are lost for ever, give --force-new-cluster as well", r.Recovery.Self.Name, r.Replace())
	}
	s, machine, self := r.Recovery.salvaged, r.Recovery.machine, r.Recovery.Self
	next := replacement{machine: machine, identity: s.Identity, term: s.Term, newCluster: len(r.Recovery.Others) > 0}
	if next.newCluster {
		next.identity = newIdentity(randomNumber()>>1, self.ID)
	}
	next.last = raftpb.SnapshotMetadata{Index: s.Snapshot.Index, Term: s.Snapshot.Term}
	if n := len(s.Entries); n > 0 {
		next.last.Index, next.last.Term = s.Entries[n-1].Index, s.Entries[n-1].Term
	}
	machine.Abandon(self, next.last.Index, forcedIndexSkip)
	if err := next.build(&Config{Log: slog.New(slog.DiscardHandler)}, o.dir); err != nil {
		return "", err
	}
	return o.Finish()
}

// Finish puts the new log of a recovery that was cut short in the place of the
// old one, and returns where that is kept.
func (o *Offline) Finish() (kept string, err error) {
	if kept, err = unusedName(o.dir.path); err != nil {
		return "", err
	}
	return kept, finishForced(o.dir)
}
