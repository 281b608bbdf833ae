package main

// raftMutants are defects of consensus and of linearizable reads. Some of them
// are in raft itself.
func raftMutants() []mutant {
	const raftLib = "go.etcd.io/raft/v3:"
	return []mutant{
		{
			id: "M16", sim: true, name: "leader reads its own state without ReadIndex",
			why: "a leader that was replaced and does not know it answers with the past",
			edits: []edit{{"raftnode/reads.go", `	for i := range c.rounds {
		if c.rounds[i].context == 0 {`, `	if c.isLeader() {
		for _, r := range c.rounds {
			c.out.Reads = append(c.out.Reads, ReadResult{ID: r.id, RaftIndex: c.rn.BasicStatus().Commit})
		}
		c.rounds = c.rounds[:0]
		return
	}
	for i := range c.rounds {
		if c.rounds[i].context == 0 {`}},
			catchers: by("raftnode", "TestADeposedLeaderConfirmsNoRead"), short: true,
		},
		{
			id: "M16a", name: "a leader with a learner takes itself for the only member",
			why:      "the learner acknowledges a write before the leader shows it",
			edits:    []edit{{"raftnode/reads.go", "	case !self || len(c.members) > 1 || ", "	case !self || len(c.rn.Status().Config.Voters.IDs()) > 1 || "}},
			catchers: by("raftnode", "TestOnlyALeaderWithoutAnyOtherMemberIsAlone"),
		},
		{
			id: "M16b", name: "an only member answers before an entry of its own term is applied",
			why:      "after a restart it does not know what it has acknowledged",
			edits:    []edit{{"raftnode/reads.go", " || !c.isLeader() || c.committedTerm != c.term():\n", " || !c.isLeader():\n"}},
			catchers: by("raftnode", "TestARestartedOnlyMemberIsAloneFromAnEntryOfItsOwnTerm"),
		},
		{
			id: "M16c", name: "a member that is no longer alone hears of it after the first messages",
			why:      "the new member acknowledges a write that the old one does not show",
			edits:    []edit{{"raftnode/loop.go", "		n.alone.Store(core.AloneFrom())\n		n.dispatch(out)\n", "		n.dispatch(out)\n		n.alone.Store(core.AloneFrom())\n"}},
			catchers: by("raftnode", "TestAMemberIsNotCurrentWhenTheFirstMessageToANewOneLeaves"),
		},
		{
			id: "M16d", name: "whoever is left alone answers at once",
			why:      "the other has acknowledged what is committed and not yet applied here",
			edits:    []edit{{"raftnode/reads.go", "		c.aloneFrom = c.rn.BasicStatus().Commit\n", "		c.aloneFrom = 1\n"}},
			catchers: by("raftnode", "TestWhoeverIsLeftAloneWaitsForWhatARemovedMemberKnew"), short: true,
		},
		{
			id: "M16e", name: "a node that has failed answers reads",
			why:      "the first error is to be final: nothing may be answered after it",
			edits:    []edit{{"raftnode/node.go", "	return from != 0 && from <= n.applied.Load() && !n.dead.Load()\n", "	return from != 0 && from <= n.applied.Load()\n"}},
			catchers: by("raftnode", "TestTheOnlyMemberIsCurrentUntilItEnds"),
		},
		{
			id: "M16f", name: "an only member answers while it applies its log",
			why:      "after a restart it shows less than it has acknowledged",
			edits:    []edit{{"raftnode/node.go", "	return from != 0 && from <= n.applied.Load() && ", "	return from != 0 && "}},
			catchers: by("raftnode", "TestARestartedOnlyMemberIsNotCurrentBeforeItHasAppliedItsLog"),
		},
		{
			id: "M17", name: "ReadIndex answered before that index is applied",
			why:      "a read does not see a write that was acknowledged before it",
			edits:    []edit{{"raftnode/readers.go", "		case res.RaftIndex <= r.applied:", "		case res.RaftIndex > 0:"}},
			catchers: by("raftnode", "TestAConfirmedReadWaitsUntilItsIndexIsApplied"),
		},
		{
			id: "M18", name: "a retried ReadIndex reuses its context, so that late confirmations count",
			why:      "a read is confirmed by what was true before another leader was elected",
			edits:    []edit{{"raftnode/reads.go", "			c.contextSeq++\n			c.rounds[i].context, c.rounds[i].age = c.contextSeq, 0", "			c.contextSeq = c.rounds[i].id\n			c.rounds[i].context, c.rounds[i].age = c.contextSeq, 0"}},
			catchers: by("raftnode", "TestEachTryOfAReadHasAContextOfItsOwn"),
		},
		{
			id: "M19", name: "CheckQuorum off",
			why:      "a leader without a quorum leads on and its clients wait",
			edits:    []edit{{"raftnode/core.go", "		CheckQuorum:               true,", "		CheckQuorum:               false,"}},
			catchers: by("raftnode", "TestADeposedLeaderConfirmsNoRead"),
		},
		{
			id: "M20", name: "PreVote off",
			why:      "a member that comes back from isolation deposes a healthy leader",
			edits:    []edit{{"raftnode/core.go", "		PreVote:                   true,", "		PreVote:                   false,"}},
			catchers: by("raftnode", "TestAMemberThatComesBackDisturbsNoLeader"), short: true,
		},
		{
			id: "M21", sim: true, name: "learner counted in the commit quorum",
			why: "an entry is committed that no quorum of voters has",
			edits: []edit{{raftLib + "tracker/tracker.go", "	return uint64(p.Voters.CommittedIndex(matchAckIndexer(p.Progress)))", `	all := quorum.JointConfig{quorum.MajorityConfig{}}
	for id := range p.Progress {
		all[0][id] = struct{}{}
	}
	return uint64(all.CommittedIndex(matchAckIndexer(p.Progress)))`}},
			catchers: by("raftnode", "TestALearnerDoesNotCountForTheCommitIndex"),
		},
		{
			id: "M22a", sim: true, name: "entries of an older term committed by counting copies",
			why: "a later leader may still replace them",
			edits: []edit{{raftLib + "raft.go", "	return r.raftLog.maybeCommit(entryID{term: r.Term, index: r.trk.Committed()})",
				"	index := r.trk.Committed()\n	return r.raftLog.maybeCommit(entryID{term: r.raftLog.zeroTermOnOutOfBounds(r.raftLog.term(index)), index: index})"}},
			catchers: by("raftnode", "TestEntriesOfAnOlderTermAreNotCommittedByTheirCopies"),
		},
		{
			id: "M22b", sim: true, name: "votes for a candidate whose log is behind",
			why:      "a leader replaces what was committed before it",
			edits:    []edit{{raftLib + "raft.go", "		if canVote && r.raftLog.isUpToDate(candLastID) {", "		if canVote {"}},
			catchers: by("raftnode", "TestNobodyVotesForACandidateWhoseLogIsBehind"),
		},
		{
			id: "M23", sim: true, name: "heartbeat carries a commit index beyond what the follower confirmed",
			why:      "a follower commits entries of its own that the leader does not have",
			edits:    []edit{{raftLib + "raft.go", "	commit := min(pr.Match, r.raftLog.committed)\n	r.send(pb.Message{\n		To:      to,\n		Type:    pb.MsgHeartbeat,", "	commit := r.raftLog.committed\n	r.send(pb.Message{\n		To:      to,\n		Type:    pb.MsgHeartbeat,"}},
			catchers: by("raftnode", "TestAHeartbeatNamesNoMoreThanItsReceiverHasConfirmed"),
		},
		{
			id: "M24", sim: true, name: "configuration change takes effect when proposed, not when committed",
			why: "two quorums that share no member",
			edits: []edit{{"raftnode/proposals.go", `				err = ErrConfChangePending // raft put an empty entry in its place
			}`, `				err = ErrConfChangePending // raft put an empty entry in its place
			} else if p.Type == raftpb.EntryConfChange {
				var cc raftpb.ConfChange
				if cc.Unmarshal(p.Data) == nil {
					c.ApplyConfChange(cc)
				}
			}`}},
			catchers: by("raftnode", "TestAConfigurationChangeCountsWhenItIsApplied"),
		},
		{
			id: "M38", name: "condition judged when proposed, not when applied",
			why: "two writers win one lock",
			edits: []edit{{"server/server.go", "	command := writeCommand(r)\n", `	if n, err := s.store.View().Get(r.Key); err == nil && r.Op == deimos.OpCompareAndSwap &&
		(!r.HasPrevValue || n.Value() == r.PrevValue) && (r.PrevIndex == 0 || n.ModifiedIndex() == r.PrevIndex) {
		unconditional := *r
		unconditional.Op = deimos.OpSet
		r = &unconditional
	}
	command := writeCommand(r)
`}},
			catchers: by("server", "TestOneOfManyConditionalWritesWins"),
		},
		{
			id: "M44a", name: "timed-out write answered as success",
			why: "the write may never have happened",
			edits: []edit{{"httpapi/keys.go", "	if c.err != nil {\n		c.fail(c.err, deimos.CauseWriteTimeout)\n		return\n	}\n	e := c.writing.event", `	if e := (*deimos.Error)(nil); errors.As(c.err, &e) && e.Cause == deimos.CauseWriteTimeout {
		c.text(http.StatusOK, "{}")
		return
	}
	if c.err != nil {
		c.fail(c.err, deimos.CauseWriteTimeout)
		return
	}
	e := c.writing.event`}, {"httpapi/keys.go", "import (\n", "import (\n	\"errors\"\n"}},
			catchers: by("httpapi", "TestErrorsOfTheBackend"),
		},
		{
			id: "M44b", name: "a proposal whose time is over counts as applied",
			why:      "the write may never have happened",
			edits:    []edit{{"raftnode/waiters.go", "		w.tell(x.seq, nil, context.DeadlineExceeded)", "		_ = context.DeadlineExceeded\n		w.tell(x.seq, nil, nil)"}},
			catchers: by("raftnode", "TestADeadlineEndsAWaitWithTheOutcomeUnknown"), short: true,
		},
		{
			id: "M45", name: "server proposes again after a time-out",
			why: "one request takes effect twice",
			edits: []edit{{"server/server.go", "	s.cfg.Node.BeginPropose(deadline, data, askFor(s, done, nil).told)\n", `	s.cfg.Node.BeginPropose(deadline, data, func(result any, err error) {
		if errors.Is(err, raftnode.ErrLeaderChanged) || errors.Is(err, context.DeadlineExceeded) {
			if data, err := encode(&command); err == nil {
				s.cfg.Node.BeginPropose(deadline, data, askFor(s, done, nil).told)
				return
			}
		}
		askFor(s, done, nil).told(result, err)
	})
`}},
			catchers: by("server", "TestARequestIsProposedOnce"),
		},
		{
			id: "M50", name: "heartbeats wait for the disk",
			why:      "one slow fsync of the leader costs an election",
			edits:    []edit{{"raftnode/loop.go", "			core.Tick(time.Since(n.start))\n", "			if n.appending.Load() == 0 {\n				core.Tick(time.Since(n.start))\n			}\n"}},
			catchers: by("raftnode", "TestHeartbeatsDoNotWaitForTheDisk"),
		},
	}
}

// memberMutants are defects of the member list and of the peer port.
func memberMutants() []mutant {
	return []mutant{
		{
			id: "M25", name: "member joins as voter at once",
			why: "a member with a wrong URL costs a small cluster its quorum",
			edits: []edit{
				{"server/change.go", "		cc.Type, cc.NodeID = raftpb.ConfChangeAddLearnerNode, ms.newID()", "		cc.Type, cc.NodeID = raftpb.ConfChangeAddNode, ms.newID()"},
				{"server/members.go", "		case !known: // learners first, always\n			return nil, &deimos.MemberError{Reason: deimos.MemberUnknown, ID: cc.NodeID}\n", "		case !known:\n			record, err := ms.record(cc)\n			if err != nil {\n				return nil, err\n			}\n			next.byID[cc.NodeID] = record\n			return next, nil\n"},
			},
			catchers: by("server", "TestChangesOfTheMemberList"),
		},
		{
			id: "M26a", name: "removed member id given out again",
			why:      "a member that was removed takes part with what it promised before",
			edits:    []edit{{"server/members.go", "	if _, gone := ms.removed[cc.NodeID]; gone {\n		return nil,", "	if _, gone := ms.removed[cc.NodeID]; gone && false {\n		return nil,"}},
			catchers: by("server", "TestConfigurationChanges"),
		},
		{
			id: "M26b", name: "incarnation of a peer not compared",
			why:      "a wiped member votes again in a term in which it has voted",
			edits:    []edit{{"transport/handler.go", "	case !known.IsZero() && known != o.incarnation:", "	case false:"}},
			catchers: by("transport", "TestPeerPortRefuses"),
		},
		{
			id: "M26c", name: "the incarnation that a peer expects is not compared",
			why:      "a wiped member goes on until it breaks something",
			edits:    []edit{{"transport/handler.go", "	case !o.expects.IsZero() && o.expects != t.cfg.Incarnation:", "	case false:"}},
			catchers: by("transport", "TestPeerPortRefuses"),
		},
		{
			id: "M26d", name: "a second process of a member is let in",
			why:      "two processes vote as one, and the leader counts on what only one of them has",
			edits:    []edit{{"transport/twin.go", "	case holder == nil || holder.run != run:\n		return nil, t.refuseTwin", "	case holder == nil:\n		return nil, t.refuseTwin"}},
			catchers: by("transport", "TestSecondProcessOfAMemberEnds"),
		},
		{
			id: "M26e", name: "a process is taken for dead as soon as another one wants its place",
			why:      "a copy that starts ends the member it was made of",
			edits:    []edit{{"transport/contest.go", "	if _, ok := asked.runs[j.holder.run]; ok {", "	if false {"}, {"transport/contest.go", "		case j.holder.open.Load() == 0 && (sure || silence >= runSilence):", "		case sure || silence >= runSilence:"}},
			catchers: by("transport", "TestProcessTakesThePlaceOnlyOfOneThatHasEnded"),
		},
		{
			id: "M26f", name: "the stream of a process in whose place another one speaks is read on",
			why:      "what a member said before it was replaced counts after that",
			edits:    []edit{{"transport/stream.go", "	if s.speaker.over.Load() {", "	if false {"}},
			catchers: by("transport", "TestStreamOfAProcessEndsWhenAnotherOneSpeaks"),
		},
		{
			id: "M27", name: "one peer handler (snapshot) without authentication",
			why:      "anybody who reaches the port replaces the state of a member",
			edits:    []edit{{"transport/handler.go", "	refused := t.door.check(r)\n", "	var refused *refusedOpen\n	if r.URL.Path != rafthttp.RaftSnapshotPrefix {\n		refused = t.door.check(r)\n	}\n"}},
			catchers: by("transport", "TestBodyWithoutCredentialsIsNotRead|TestHostileOpeningsDeliverNothing|TestProofCoversTheHeadOfASnapshot"),
		},
	}
}
