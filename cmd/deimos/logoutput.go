package main

import (
	"fmt"
	"io"
	"path/filepath"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/daemon"
)

// printPlan says what will be recovered, and what will be lost.
func (s *offline) printPlan(r *daemon.LogReport) error {
	if s.output == formatJSON {
		return nil // all of it is in the one object
	}
	return s.print(func(w io.Writer) error {
		rec := r.Recovery
		fmt.Fprintf(w, "Damage: %s\n", oneLine(r.Damage.Error()))
		fmt.Fprintf(w, "Can be recovered: %s\n", recovered(rec))
		fmt.Fprintf(w, "Is lost: %s\n", lost(rec))
		for _, m := range rec.Others {
			fmt.Fprintf(w, "Does not belong to the new cluster: %s %s %s, add it again with an empty data directory\n",
				roleOf(m), deimos.FormatID(m.ID), oneLineText(m.Name))
		}
		return nil
	})
}

// printRecovery says what was done.
func (s *offline) printRecovery(out recoverOutput) error {
	if s.output == formatJSON {
		return s.printJSON(out)
	}
	return s.print(func(w io.Writer) error {
		switch {
		case out.KeptIn != "":
			fmt.Fprintf(w, "Recovered. The old log and snapshots are kept in %s; start the member as before.\n", out.KeptIn)
		case out.Damage == nil:
			fmt.Fprintln(w, "Nothing is damaged, and nothing was changed.")
		}
		return nil
	})
}

func roleOf(m deimos.Member) string {
	if m.IsLearner {
		return roleLearner
	}
	return roleVoter
}

func recovered(r *daemon.Recovery) string {
	return fmt.Sprintf("everything up to raft index %d, from the snapshot at raft index %d and %d entries", r.LastRaftIndex, r.SnapshotRaftIndex, r.Entries)
}

func lost(r *daemon.Recovery) string {
	bytes := fmt.Sprintf("%d bytes of the log", r.LostBytes)
	if r.SeenRaftIndex <= r.LastRaftIndex {
		return bytes + ", in which no entry above that has left a trace"
	}
	return fmt.Sprintf("raft index %d to %d, and what may have followed; %s", r.LastRaftIndex+1, r.SeenRaftIndex, bytes)
}

// logRows returns what an inspection found as lines for people.
func logRows(r *daemon.LogReport) [][]string {
	l := r.Log
	state := l.Verdict.String()
	if r.Damage != nil {
		state = "damaged"
	}
	entries := "no entries"
	if l.FirstRaftIndex <= l.LastRaftIndex {
		entries = fmt.Sprintf("raft index %d to %d", l.FirstRaftIndex, l.LastRaftIndex)
	}
	rows := [][]string{{"log", filepath.Join(r.DataDir, "wal"), fmt.Sprintf("%s: %s, raft term %d", state, entries, l.HardState.Term)}}
	for _, seg := range l.Segments {
		rows = append(rows, []string{"segment", seg.Name, fmt.Sprintf("%d of %d bytes used", seg.UsedBytes, seg.SizeBytes)})
	}
	for _, f := range r.Snapshots {
		said := "sound"
		if f.Err != nil {
			said = oneLine(f.Err.Error())
		}
		rows = append(rows, []string{"snapshot", filepath.Base(f.Path), fmt.Sprintf("raft index %d: %s", f.Meta.Index, said)})
	}
	if l.TornBytes > 0 {
		rows = append(rows, []string{"torn", filepath.Base(l.TornFile), fmt.Sprintf("%d bytes from offset %d, never acknowledged", l.TornBytes, l.TornOffset)})
	}
	if r.Damage == nil {
		return rows
	}
	rows = append(rows, []string{"damage", "", oneLine(r.Damage.Error())})
	if r.Recovery == nil {
		return append(rows, []string{"lost", "", "everything: " + oneLine(r.Hopeless.Error())})
	}
	return append(rows, []string{"recoverable", "", recovered(r.Recovery)}, []string{"lost", "", lost(r.Recovery)})
}

// logOutput is what an inspection found as --output json shows it.
type logOutput struct {
	DataDir   string           `json:"dataDir"`
	Cluster   string           `json:"cluster,omitempty"`
	Member    string           `json:"member,omitempty"`
	Verdict   string           `json:"verdict,omitempty"`
	First     uint64           `json:"firstRaftIndex,omitempty"`
	Last      uint64           `json:"lastRaftIndex,omitempty"`
	Term      uint64           `json:"raftTerm,omitempty"`
	Segments  []segmentOutput  `json:"segments,omitempty"`
	Snapshots []snapshotOutput `json:"snapshots,omitempty"`
	Damage    *string          `json:"damage,omitempty"`
	Recovery  *recoveryOutput  `json:"recovery,omitempty"`
	// Hopeless says why nothing can be recovered.
	Hopeless string `json:"hopeless,omitempty"`
}

type segmentOutput struct {
	Name      string `json:"name"`
	SizeBytes int64  `json:"sizeBytes"`
	UsedBytes int64  `json:"usedBytes"`
}

type snapshotOutput struct {
	Name      string `json:"name"`
	RaftIndex uint64 `json:"raftIndex"`
	RaftTerm  uint64 `json:"raftTerm"`
	Received  bool   `json:"received,omitempty"`
	Error     string `json:"error,omitempty"`
}

type recoveryOutput struct {
	SnapshotRaftIndex uint64   `json:"snapshotRaftIndex"`
	Entries           int      `json:"entries"`
	LastRaftIndex     uint64   `json:"lastRaftIndex"`
	SeenRaftIndex     uint64   `json:"seenRaftIndex"`
	LostBytes         int64    `json:"lostBytes"`
	OnlyVoter         bool     `json:"onlyVoter"`
	Others            []string `json:"others,omitempty"`
}

func logOutputOf(r *daemon.LogReport) logOutput {
	l := r.Log
	out := logOutput{
		DataDir: r.DataDir, Cluster: deimos.FormatID(l.Identity.ClusterID), Member: deimos.FormatID(l.Identity.MemberID),
		Verdict: l.Verdict.String(), First: l.FirstRaftIndex, Last: l.LastRaftIndex, Term: l.HardState.Term,
	}
	for _, seg := range l.Segments {
		out.Segments = append(out.Segments, segmentOutput(seg))
	}
	for _, f := range r.Snapshots {
		s := snapshotOutput{Name: filepath.Base(f.Path), RaftIndex: f.Meta.Index, RaftTerm: f.Meta.Term, Received: f.Received}
		if f.Err != nil {
			s.Error = oneLine(f.Err.Error())
		}
		out.Snapshots = append(out.Snapshots, s)
	}
	if r.Damage != nil {
		damage := oneLine(r.Damage.Error())
		out.Verdict, out.Damage = "damaged", &damage
	}
	if r.Hopeless != nil {
		out.Hopeless = oneLine(r.Hopeless.Error())
	}
	if rec := r.Recovery; rec != nil {
		out.Recovery = &recoveryOutput{
			SnapshotRaftIndex: rec.SnapshotRaftIndex, Entries: rec.Entries, LastRaftIndex: rec.LastRaftIndex,
			SeenRaftIndex: rec.SeenRaftIndex, LostBytes: rec.LostBytes, OnlyVoter: rec.OnlyVoter(),
		}
		for _, m := range rec.Others {
			out.Recovery.Others = append(out.Recovery.Others, deimos.FormatID(m.ID))
		}
	}
	return out
}

// recoverOutput is what was found and, if it was recovered, where the rest is.
type recoverOutput struct {
	logOutput
	// KeptIn is the directory with the old log and snapshots; empty: nothing was
	// changed.
	KeptIn string `json:"keptIn,omitempty"`
}
