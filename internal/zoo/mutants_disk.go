package main

// ackMutants acknowledge what is not durable.
func ackMutants() []mutant {
	const unsynced = `	if len(batch) > 0 || !raft.IsEmptyHardState(hs) {
		if err := n.cfg.Log.Append(hs, batch); err != nil {`
	early := func(types string) []edit {
		return []edit{{"raftnode/appendloop.go", unsynced, `	for i := range items[:count] {
		var early []raftpb.Message
		for _, r := range items[i].message.Responses {
			if ` + types + ` {
				early = append(early, r)
			}
		}
		n.respond(early)
	}
` + unsynced}}
	}
	return []mutant{
		{
			id: "M1", name: "answer the client before the entry is fsynced",
			why:      "an only member confirms to itself what a crash takes away again",
			edits:    early("r.To == n.cfg.ID"),
			catchers: by("raftnode", "TestNothingIsAcknowledgedBeforeItIsDurable"), short: true,
		},
		{
			id: "M2", name: "send an append answer before its entries are durable",
			why:      "the leader counts a copy that a crash takes away",
			edits:    early("r.Type == raftpb.MsgAppResp"),
			catchers: by("raftnode", "TestNothingIsAcknowledgedBeforeItIsDurable"),
		},
		{
			id: "M3", name: "send a vote before term and vote are durable",
			why:      "a member votes twice in a term, for two leaders",
			edits:    early("r.Type == raftpb.MsgVoteResp"),
			catchers: by("raftnode", "TestNothingIsAcknowledgedBeforeItIsDurable"),
		},
		{
			id: "M4", name: "drop the error of a log append and go on",
			why: "everything after it is acknowledged and on no disk",
			edits: []edit{{"raftnode/appendloop.go", `		if err := n.cfg.Log.Append(hs, batch); err != nil {
			return 0, fmt.Errorf("raftnode: append %d entries: %w", len(batch), err)
		}`, `		if err := n.cfg.Log.Append(hs, batch); err != nil {
			n.logger.Error("append failed", "error", err)
		}`}},
			catchers: by("raftnode", "TestAFailedAppendEndsTheNodeAndAcknowledgesNothing"), short: true,
		},
	}
}

// diskMutants are defects of the log on disk and of the data directory.
func diskMutants() []mutant {
	return []mutant{
		{
			id: "M5a", name: "retry a failed fsync and go on if it succeeds",
			why: "the kernel forgets the pages after the first failure; the second success means nothing",
			edits: []edit{{"wal/wal.go", `		return save()
	})
	if err != nil {
		return size, w.fail(ioError(doing, w.path(), err))
	}`, `		return save()
	})
	if err != nil {
		err = guard(w.log.Sync)
	}
	if err != nil {
		return size, ioError(doing, w.path(), err)
	}`}},
			catchers: by("wal", "TestFailedWriteOrSyncIsFinal"),
		},
		{
			id: "M5b", name: "a failed append does not keep later ones from succeeding",
			why:      "the log goes on behind a hole",
			edits:    []edit{{"wal/wal.go", "	if w.err == nil {\n		w.err = err\n	}\n	return w.err", "	return err"}},
			catchers: by("wal", "TestFailedWriteOrSyncIsFinal"),
		},
		{
			id: "W1a", name: "zeros are written in advance without looking at what is there",
			why:      "a wrong idea of the end of the log overwrites what was acknowledged",
			edits:    []edit{{"wal/prewrite.go", "		if !bytes.Equal(found, blank) {", "		if len(blank) > 0 && !bytes.Equal(found[:0], blank[:0]) {"}},
			catchers: by("wal", "TestPrewritingReplacesNothing"),
		},
		{
			id: "W1b", name: "a batch fails with what was to be written in advance",
			why:      "a member stops for something that only makes it faster",
			edits:    []edit{{"wal/prewrite.go", "		to = etcdwal.SegmentSizeBytes\n", "		w.err = err\n"}},
			catchers: by("wal", "TestPrewritingFails"),
		},
		{
			id: "M6", name: "trust the newest segment after exit 74 without rewriting it",
			why:      "pages that look fine in the page cache never reached the disk",
			edits:    []edit{{"wal/repair.go", "		err = r.ahead.take()", "		err = r.ahead.discard()"}},
			catchers: by("wal", "TestNewestSegmentIsNotTrustedAfterACrash"),
		},
		{
			id: "M7", name: "call the log package's repair on every read error",
			why:      "acknowledged entries behind the damage are cut off without a word",
			edits:    []edit{{"wal/inspect.go", "	case settled, s.records < segmentHead, seg.laterBatch(at):", "	case !newest, s.records < segmentHead:"}},
			catchers: by("wal", "TestDamagedMiddleIsRefused"), short: true,
		},
		{
			id: "M8", name: "take a zeroed length word as the end of the log",
			why: "everything behind it is overwritten",
			edits: []edit{{"wal/inspect.go", `		r, ok := seg.record(at)
		if !ok {
			return`, `		r, ok := seg.record(at)
		if !ok && at+frameBytes <= seg.end && binary.LittleEndian.Uint64(seg.bytes(at, frameBytes)) == 0 {
			break
		}
		if !ok {
			return`}, {"wal/inspect.go", `import (
	"bytes"
`, `import (
	"bytes"
	"encoding/binary"
`}},
			catchers: by("wal", "TestDamagedMiddleIsRefused"),
		},
		{
			id: "M9", name: "skip the directory fsync after renaming a snapshot",
			why: "the name is gone after a power loss, and the log was pruned for it",
			edits: []edit{{"snap/snap.go", `		return ioError("rename", s.path(from), err)
	}
	return s.syncDir()`, `		return ioError("rename", s.path(from), err)
	}
	return nil`}},
			catchers: by("snap", "TestSaveSurvivesPowerLossAtEveryStep"), short: true,
		},
		{
			id: "D3a", name: "recover a log out of the segments of two members",
			why:      "a member goes on from what it never had",
			edits:    []edit{{"wal/salvage.go", "		if !bytes.Equal(metadata, s.metadata) {", "		if len(s.metadata) == 0 && !bytes.Equal(metadata, s.metadata) {"}},
			catchers: by("wal", "TestSalvageOfAnotherMembersSegments"),
		},
		{
			id: "D3b", name: "recover a log from a snapshot that contradicts it",
			why: "entries are applied to a state that they do not belong to",
			edits: []edit{{"wal/salvage.go", "		fits := m.Index > s.last || m.Index >= s.base && s.agrees(m.Index, m.Term)",
				"		fits := true"}},
			catchers: by("wal", "TestSalvageKeepsWhatPrecedesTheDamage|TestSalvageRefusesWhatNobodyCanGoOnFrom"),
		},
		{
			id: "D3c", name: "recover a member of several as if it were the only one",
			why:      "it leads a cluster of its own beside the one that has what it lost",
			edits:    []edit{{"daemon/rebuild.go", "	case !r.Recovery.OnlyVoter() && !forceNewCluster:", "	case forceNewCluster && !forceNewCluster:"}},
			catchers: by("daemon", "TestADamagedMemberOfSeveralIsReplaced"),
		},
		{
			id: "D3d", name: "a member that was recovered gives indexes again",
			why:      "a client takes a new write for one that was lost, and its condition on it holds",
			edits:    []edit{{"daemon/rebuild.go", "	machine.Abandon(self, next.last.Index, forcedIndexSkip)", "	machine.Abandon(self, next.last.Index, 0)"}},
			catchers: by("daemon", "TestADamagedOnlyMemberIsRecovered"),
		},
		{
			id: "D3e", name: "a damaged marker of a clean stop counts for nothing",
			why:      "the log has lost its end since, and nobody notices",
			edits:    []edit{{"wal/inspect.go", "	if badMarker != nil {\n		return badMarker\n	}\n", ""}},
			catchers: by("wal", "TestDamagedMarkerIsDamageOfTheMarkerAlone"),
		},
		{
			id: "D7a", name: "do not open the log again without a next segment",
			why:      "the log ends with the segment, though space has long come back",
			edits:    []edit{{"wal/space.go", "	return w.reopen()\n", "	return nil\n"}},
			catchers: by("wal", "TestLogOutlivesAFailedPreallocation"),
		},
		{
			id: "D8a", name: "take a log that cannot be listed for a missing one",
			why: "a member whose log is whole is told to restore a copy, or begins anew beside it",
			edits: []edit{{"wal/open.go", `	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, ioError("list", dir, err)
	}
`, `	if err != nil {
		return false, nil
	}
`}},
			catchers: by("wal", "TestUnreadableDirectoryIsNotAMissingLog"),
		},
		{
			id: "M46a", name: "free-space check off",
			why:      "the log meets the end of the disk in the middle of a batch",
			edits:    []edit{{"server/server.go", "	if s.cfg.DiskLow() || ", "	if "}},
			catchers: by("server", "TestWritesAreRefusedWithoutDiskSpace"),
		},
		{
			id: "M46b", name: "a member takes writes on its own space, whatever that of a quorum",
			why:      "the others append them until their disks are full, and the quorum is gone",
			edits:    []edit{{"server/server.go", " || s.cfg.Node.WritesRefused() {\n", " {\n"}},
			catchers: by("server", "TestWritesAreRefusedWithoutDiskSpace"),
		},
		{
			id: "M46c", sim: true, name: "a member does not tell that its disk is full",
			why:      "the leader takes writes until the quorum has no space left",
			edits:    []edit{{"raftnode/space.go", "		m.Reject = c.space.low\n", "		m.Reject = false\n"}},
			catchers: by("raftnode", "TestWritesAreRefusedEverywhereWithoutAQuorumOfDisksWithRoom"),
		},
		{
			id: "M46d", sim: true, name: "the leader keeps to itself that writes are refused",
			why:      "the other members pass writes on to it until the quorum has no space left",
			edits:    []edit{{"raftnode/space.go", "		m.Reject = c.WritesRefused()\n", "		m.Reject = false\n"}},
			catchers: by("raftnode", "TestWritesAreRefusedWithinTwoHeartbeats"), short: true,
		},
		{
			id: "M46e", name: "a learner with room counts for the quorum of disks",
			why:      "writes are taken although every quorum has a full disk in it",
			edits:    []edit{{"raftnode/space.go", "		if p.Learner {\n			continue\n		}\n		voters++\n", "		voters++\n"}},
			catchers: by("raftnode", "TestWritesAreRefusedEverywhereWithoutAQuorumOfDisksWithRoom"),
		},
		{
			id: "M46f", name: "a silent voter counts as one with room",
			why:      "the one below the reserve appends every write until its disk is full",
			edits:    []edit{{"raftnode/space.go", "		if !p.Active {\n			continue\n		}\n		active++\n", "		active++\n"}},
			catchers: by("raftnode", "TestWritesAreRefusedEverywhereWithoutAQuorumOfDisksWithRoom"),
		},
		{
			id: "M46g", sim: true, name: "a full disk hands leadership to whoever has the most of the log",
			why:      "two full members pass it to and fro while a third has room",
			edits:    []edit{{"raftnode/space.go", "return p.Space == SpaceEnough })", "return true })"}},
			catchers: by("raftnode", "TestAFullDiskHandsLeadershipToAVoterWithRoom"),
		},
		{
			id: "M46h", name: "a leader refuses writes without waiting for all to tell about their disks",
			why:      "every election costs writes while one disk is full",
			edits:    []edit{{"raftnode/space.go", "enough+untold < quorum:", "enough < quorum:"}},
			catchers: by("raftnode", "TestALeaderWaitsForThoseWhoHaveNotToldYet"),
		},
		{
			id: "M47", name: "data directory not locked",
			why:      "two processes write one log",
			edits:    []edit{{"daemon/datadir.go", "		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)", "		_, err := f.Stat()"}},
			catchers: by("daemon", "TestASecondDaemonOnTheSameDirectoryIsRefused"),
		},
		{
			id: "F1a", name: "take a first snapshot without a log for a first start that was cut short",
			why:      "a member that has lost its log begins again, and gives indexes and votes a second time",
			edits:    []edit{{"daemon/firststart.go", "meta.Index > bootstrapIndex || !begun", "meta.Index > bootstrapIndex && (begun || !begun)"}},
			catchers: by("daemon", "TestADirectoryThatLostItsLogIsNotTakenForNew"),
		},
		{
			id: "F1b", name: "the mark of a first start stays after it",
			why:      "that this member has lost its log would go unnoticed for ever",
			edits:    []edit{{"daemon/recover.go", "	if err := dir.endFirstStart(); err != nil {", "	if err := error(nil); err != nil {"}},
			catchers: by("daemon", "TestAFirstStartThatWasCutShortBeginsAgain"),
		},
	}
}

// snapshotMutants are defects of snapshots.
func snapshotMutants() []mutant {
	return []mutant{
		{
			id: "M10", name: "write a snapshot in place",
			why:      "a crash leaves half a snapshot under the name of a whole one",
			edits:    []edit{{"snap/snap.go", "	temp := name + fsx.TempSuffix", "	temp := name"}},
			catchers: by("snap", "TestSaveFailsAtEveryStep|TestSaveSurvivesPowerLossAtEveryStep"),
		},
		{
			id: "M11a", name: "a snapshot counts without having been read back",
			why: "the log is pruned for a snapshot that the disk has mangled",
			edits: []edit{{"snap/snap.go", `		err = s.check(s.path(temp), meta, false)
		var damage *DamageError`, `		var damage *DamageError`}},
			catchers: by("snap", "TestReadBackThatDiffersFailsTheSave"),
		},
		{
			id: "M11b", name: "prune the log before the snapshot is saved",
			why: "when the snapshot fails, the state is nowhere",
			edits: []edit{{"raftnode/snapshotter.go", `	began := time.Now()
`, `	began := time.Now()
	if err := n.cfg.Log.Release(shot.meta.Index); err != nil {
		return err
	}
`}},
			catchers: by("raftnode", "TestTheLogIsReleasedForSavedSnapshotsOnly"),
		},
		{
			id: "M12a", name: "load a snapshot without checking its checksum",
			why: "a flipped bit becomes the state of the cluster",
			edits: []edit{{"snap/file.go", `		return d.damage(start, "a chunk does not match its checksum")
`, `		d.crc = binary.LittleEndian.Uint32(b[n:])
`}, {"snap/file.go", "	case binary.LittleEndian.Uint32(b[12:]) != crc32.Update(d.crc, castagnoli, b[:12]):", "	case false:"}},
			catchers: by("snap", "TestEveryChangedByteIsNoticed"), short: true,
		},
		{
			id: "M12b", name: "go on from a snapshot below one that has replaced the log",
			why:      "entries that no leader ever committed are applied as if they had been",
			edits:    []edit{{"wal/inspect.go", "		usable := m.Index >= s.base && (m.Index != s.base || s.baseTerm == 0 || m.Term == s.baseTerm)", "		usable := true"}},
			catchers: append(by("wal", "TestReceivedSnapshotReplacesTheLog"), by("internal/sim", "TestDiskRecoversWhatTheLogDoes")...),
		},
		{
			id: "M13a", sim: true, name: "leave deadlines out of the snapshot",
			why:      "keys live for ever on the member that restores it",
			edits:    []edit{{"store/snapshot.go", "			DeadlineMs:    n.deadlineMS,\n", ""}},
			catchers: by("store", "TestRestoreBringsEverythingBack"), short: true,
		},
		{
			id: "M13b", name: "leave the cluster time out of the snapshot",
			why:      "a member that restores it expires keys by another time than the others",
			edits:    []edit{{"server/machine.go", "		TimeMS:   m.timeMS,\n", ""}},
			catchers: by("server", "TestASnapshotHoldsEverything"),
		},
		{
			id: "M14a", name: "leave removed ids out of the snapshot",
			why:      "a removed member is let in again",
			edits:    []edit{{"server/machine.go", "		Removed:  slices.Sorted(maps.Keys(members.removed)),\n", ""}, {"server/machine.go", "	\"maps\"\n	\"slices\"\n", ""}},
			catchers: by("server", "TestASnapshotHoldsEverything"),
		},
		{
			id: "M14b", sim: true, name: "leave learners out of the snapshot",
			why:      "a member that restores it does not know who only learns",
			edits:    []edit{{"server/command.go", "IsLearner: m.IsLearner", "IsLearner: false"}},
			catchers: by("server", "TestASnapshotKnowsWhoLearnsAndWithWhichDirectory"),
		},
		{
			id: "M14c", name: "leave incarnations out of the snapshot",
			why:      "a member that restores it lets a wiped one in",
			edits:    []edit{{"server/command.go", "		p.Incarnation = m.incarnation[:]\n", "		p.Incarnation = nil\n"}},
			catchers: by("server", "TestASnapshotKnowsWhoLearnsAndWithWhichDirectory"),
		},
		{
			id: "M15", name: "snapshot labelled one index too low: one entry applied twice",
			why: "the members differ",
			edits: []edit{{"raftnode/applyloop.go", "	a.n.shots <- capture{meta: a.at, write: a.n.cfg.Machine.Capture()} // we alone fill it",
				"	low := a.at\n	low.Index--\n	a.n.shots <- capture{meta: low, write: a.n.cfg.Machine.Capture()}"}},
			catchers: by("raftnode", "TestARestartedMemberHasEverythingItAcknowledged"),
		},
	}
}
