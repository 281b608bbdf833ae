package main

// requestMutants are defects of the client port.
func requestMutants() []mutant {
	return []mutant{
		{
			id: "M39a", name: "prevIndex dropped beside prevExist",
			why:      "a condition that was given does not count",
			edits:    []edit{{"httpapi/keys.go", "	case compare:\n		r.Op = deimos.OpCompareAndSwap\n		setCompare(r, o)\n	case o.exist == yes:\n		r.Op = deimos.OpUpdate\n", "	case o.exist == yes:\n		r.Op = deimos.OpUpdate\n	case compare:\n		r.Op = deimos.OpCompareAndSwap\n		setCompare(r, o)\n"}},
			catchers: by("httpapi", "TestRequestsBecomeOperations|TestTranscripts"),
		},
		{
			id: "M39b", name: "unknown prev… ignored",
			why:      "a misspelt condition makes a write unconditional",
			edits:    []edit{{"httpapi/options.go", "	if c.form.hasMisspelt {", "	if false {"}},
			catchers: by("httpapi", "TestEveryRejection"),
		},
		{
			id: "M40", name: "missing return after an error: two bodies",
			why:      "a client parses one answer and takes the other for that of its next request",
			edits:    []edit{{"httpapi/keys.go", "		c.notAllowed(\"HEAD,GET,PUT,POST,DELETE\")\n		return\n", "		c.notAllowed(\"HEAD,GET,PUT,POST,DELETE\")\n"}},
			catchers: by("httpapi", "TestOtherMethodsAreNotAllowedOnKeys|FuzzEveryAnswerIsWhole"),
		},
		{
			id: "M41", name: "body limit not applied to chunked bodies",
			why:      "one request takes as much memory as its client likes",
			edits:    []edit{{"httpapi/body.go", "		size = in.limit\n", "		in.limit *= 16\n		size = in.limit\n"}},
			catchers: by("httpapi", "TestBodyWithoutALengthIsBoundedToo"),
		},
		{
			id: "L1", name: "the lane does not know Transfer-Encoding",
			why:      "the chunks of a body are taken for the next request",
			edits:    []edit{{"httpapi/lane/parse.go", "		return is(name, \"transfer-encoding\")\n", "		return false\n"}},
			catchers: by("httpapi/lane", "TestWhatNetHTTPHasToJudge"), short: true,
		},
		{
			id: "L2", name: "the lane forgets a body that nobody read",
			why:      "a request comes out of the body of another",
			edits:    []edit{{"httpapi/lane/conn.go", "	c.start += buffered // a body that nobody wanted\n", "	_ = buffered\n"}},
			catchers: by("httpapi/lane", "TestBodyThatNobodyWantedIsSkipped"),
		},
		{
			id: "L2a", name: "a loop does not go on with what came while a call was paused",
			why:      "a client that sends two requests at once waits for ever",
			edits:    []edit{{"httpapi/lane/loop_linux.go", "		l.goOn(c)\n		l.serve(c)\n	case streams", "		l.goOn(c)\n	case streams"}},
			catchers: by("httpapi/lane", "TestRequestsOfALoopSentTogetherAreAnsweredInOrder"),
		},
		{
			id: "L2b", name: "a loop reads on while a call is paused",
			why:      "the answer to one request is sent for another",
			edits:    []edit{{"httpapi/lane/steps_linux.go", "	c.busy = true\n	c.requests++\n", "	c.requests++\n"}},
			catchers: by("httpapi/lane", "TestRequestsOfALoopSentTogetherAreAnsweredInOrder"),
		},
		{
			id: "L2f", name: "a stream is not told of what came while a slow reader was written to",
			why:      "a watcher that was slow for a moment waits for the next event to get the last one",
			edits:    []edit{{"httpapi/lane/loop_linux.go", "		c.streaming, c.answer.held = true, true\n", "		c.answer.held = true\n"}},
			catchers: by("httpapi/lane", "TestStreamOfASlowReaderInALoop"),
		},
		{
			id: "L2g", name: "all streams that have an event go on in one turn of their loop",
			why:      "a thousand watchers of a key keep every request waiting for milliseconds",
			edits:    []edit{{"httpapi/lane/loop_linux.go", "l.due[:min(len(l.due), streamsMax)]", "l.due[:len(l.due)]"}},
			catchers: by("httpapi/lane", "TestRequestsComeBetweenStreams"),
		},
		{
			id: "L2h", name: "a watch waits in its loop for the member to recover",
			why:      "after a restart one watch for each processor keeps everybody waiting, for ever without a quorum",
			edits:    []edit{{"httpapi/watch.go", "View(); ok {", "View(); ok || true {"}},
			catchers: by("httpapi", "TestWaitingForTheRecoveryKeepsNobodyWaiting"),
		},
		{
			id: "L2i", name: "a loop forgets what TLS has read for a goroutine",
			why:      "a client that sends a request behind a body waits for ever, sometimes",
			edits:    []edit{{"httpapi/lane/looped_linux.go", "		c.mayRead() // what has come", "		// what has come"}},
			catchers: by("httpapi/lane", "TestRequestThatWasReadWithABody"),
		},
		{
			id: "L2j", name: "a loop forgets the records that a slow reader has not taken",
			why:      "the rest of an answer comes with the next one, or never",
			edits:    []edit{{"httpapi/lane/looped_linux.go", "len(c.answer.out) > 0 || c.sealed != nil && len(c.sealed.out) > 0", "len(c.answer.out) > 0"}},
			catchers: by("httpapi/lane", "TestALoopDoesNotWaitForAReaderWithTLS"),
		},
		{
			id: "L2c", name: "a loop forgets the client's end",
			why:      "connections of clients that have gone are kept until they have been idle for long",
			edits:    []edit{{"httpapi/lane/steps_linux.go", "	c.more = c.hungUp || n == len(c.in) ||", "	c.more = n == len(c.in) ||"}},
			catchers: by("httpapi/lane", "TestTheEndOfAConnectionInALoop"),
		},
		{
			id: "L2d", name: "the write deadline of an answer stays on its connection",
			why:      "the answer to a write is never sent, and its client does not know the outcome",
			edits:    []edit{{"httpapi/lane/conn.go", "	_ = c.answer.setBound(time.Time{})", "	_ = c.answer.setBound"}},
			catchers: by("httpapi/lane", "TestDeadlineOfAnAnswerEndsWithIt"),
		},
		{
			id: "L2e", name: "connections that come back late outlive their server",
			why:      "a member does not stop before its time is over",
			edits:    []edit{{"httpapi/lane/steps_linux.go", "			case c.more, l.server.closing.Load(): //", "			case c.more: //"}},
			catchers: by("httpapi/lane", "TestShutdownFindsConnectionsThatComeBackLate"),
		},
		{
			id: "L3", name: "the two passes of a large listing read the clock twice",
			why:      "an answer is longer or shorter than its Content-Length",
			edits:    []edit{{"httpapi/listing.go", "	l.length, l.sending = 0, true\n", "	l.length, l.sending, l.clock.known = 0, true, false\n"}},
			catchers: by("httpapi", "TestLargeListingIsSentInParts"),
		},
	}
}

// processMutants are defects of the life of a member.
func processMutants() []mutant {
	return []mutant{
		{
			id: "M48", name: "idle tick writes an entry",
			why:      "an idle cluster wears out its disks",
			edits:    []edit{{"server/duties.go", "		for s.due() {\n", "		for once := true; once || s.due(); once = false {\n"}},
			catchers: by("server", "TestAnIdleServerProposesNothing"), short: true,
		},
		{
			id: "M49", name: "no leadership hand-over on SIGTERM",
			why:      "each restart of a leader costs an election timeout",
			edits:    []edit{{"daemon/daemon.go", "	d.handOver(ctx)\n", ""}},
			catchers: by("daemon", "TestAStoppedLeaderHasASuccessorAtOnce"),
		},
	}
}

// foundMutants are defects that were once in this project.
func foundMutants() []mutant {
	return []mutant{
		{
			id: "F1", name: "a follower counts its own cluster time instead of the leader's",
			why:      "it leads with another time, and TTLs end early",
			edits:    []edit{{"raftnode/core.go", "				c.clock.adopt(timeMS)\n", "				_ = timeMS\n"}},
			catchers: by("raftnode", "TestFollowersTakeOverTheTimeOfALeaderWhoIsBehind"),
		},
		{
			id: "F2", name: "local reads and watches served before the log is replayed after a start",
			why:      "a client sees an older state than it saw before the restart",
			edits:    []edit{{"server/server.go", "	if cfg.Recovered == 0 {\n", "	if cfg.Recovered == 0 || true {\n"}},
			catchers: by("server", "TestLocalReadsAndWatchesWaitForWhatWasSeenBeforeARestart"),
		},
		{
			id: "F3", name: "forwarded proposals dropped during a hand-over",
			why:      "writes time out although a leader is there",
			edits:    []edit{{"raftnode/core.go", "		c.forward(m.Entries)\n		return nil\n", "		c.stampEntries(m.Entries)\n		return c.step(m)\n"}},
			catchers: by("raftnode", "TestForwardedProposalsWaitForTheLeaderOfAHandOver"),
		},
		{
			id: "F3b", name: "forwarded proposals wait for ever",
			why:      "a write that was answered as lost takes effect over newer ones when the leader's disk works again",
			edits:    []edit{{"raftnode/proposals.go", "Deadline: c.now + c.cfg.ElectionTimeout, forwarded", "forwarded"}},
			catchers: by("raftnode", "TestNothingThatWaitedForAHungDiskIsProposedAfterwards"),
		},
		{
			id: "F3c", name: "proposals that were given up stay in the queue",
			why:      "the same, for writes at the leader itself",
			edits:    []edit{{"raftnode/loop.go", "		core.Withdraw(n.doubts[0].upTo)\n", ""}},
			catchers: by("raftnode", "TestNothingThatWaitedForAHungDiskIsProposedAfterwards"),
		},
		{
			id: "F4", name: "a snapshot that does not know the learner is sent to it",
			why:      "raft does not restore it, and the learner never catches up",
			edits:    []edit{{"raftnode/loop.go", "	if !knows(&meta.ConfState, m.To) {\n", "	if false {\n"}},
			catchers: by("raftnode", "TestALearnerGetsASnapshotThatKnowsIt"),
		},
		{
			id: "F5", name: "a forced new cluster keeps the old incarnation",
			why:      "the survivor takes itself for a wiped member and stops",
			edits:    []edit{{"server/members.go", "	m.incarnation = deimos.Incarnation{} // the new cluster begins with a new directory\n", ""}},
			catchers: by("server", "TestAMachineThatIsLeftAlone"),
		},
		{
			id: "F6", name: "attributes of another incarnation accepted",
			why:      "a wiped member takes the place of the one that has voted",
			edits:    []edit{{"server/members.go", "	case !m.incarnation.IsZero() && m.incarnation != attributes.incarnation:", "	case false:"}},
			catchers: by("server", "TestAMemberKeepsItsIncarnation"),
		},
		{
			id: "F7", name: "a configuration change takes effect before its commit index is durable",
			why:      "after a restart the member waits for a quorum of members that were removed",
			edits:    []edit{{"raftnode/applyloop.go", "	if saved, err := a.saveCommit(e.Index); err != nil || !saved {\n		return err\n	}\n", ""}},
			catchers: by("raftnode", "TestAConfigurationChangeIsDurablyCommittedBeforeItTakesEffect"),
		},
		{
			id: "F7b", name: "the commit index that is saved for a configuration change is what the append loop has heard of",
			why:      "it may hear of the change's only after the change has taken effect; after a restart the member waits for a quorum of members that were removed",
			edits:    []edit{{"wal/wal.go", "	w.state.Commit = max(w.state.Commit, raftIndex)\n	commit := w.begin().Commit", "	commit := w.begin().Commit"}},
			catchers: by("wal", "TestSaveCommitMakesTheCommitIndexDurable"),
		},
		{
			id: "F8", name: "a commit index that is to be saved is only remembered",
			why:      "after a restart the member waits for a quorum of members that were removed",
			edits:    []edit{{"wal/wal.go", "	if commit <= w.savedCommit {\n		return nil\n	}\n", "	if commit > 0 {\n		return nil\n	}\n"}},
			catchers: by("wal", "TestSaveCommitMakesTheCommitIndexDurable"),
		},
		{
			id: "F9", name: "a snapshot that was put off is forgotten",
			why:      "the log grows by all that lies between two snapshots, on a disk that was full",
			edits:    []edit{{"raftnode/snapshotter.go", "		n.applies.put(applyItem{putOff: &shot.meta})\n", ""}},
			catchers: by("raftnode", "TestASnapshotThatWasPutOffIsTriedAgainSoon"),
		},
		{
			id: "F10", name: "a member that has never started is promoted",
			why:      "a voter without a data directory counts for the quorum",
			edits:    []edit{{"server/members.go", "		case old.incarnation.IsZero(): // it has not started\n			return nil, &deimos.MemberError{Reason: deimos.MemberNotCaughtUp, ID: cc.NodeID}\n", ""}},
			catchers: by("server", "TestConfigurationChanges"),
		},
		{
			id: "F11", name: "a second signal ends a program whose command cleans up",
			why:      "the command is killed half way, and the lock stays until its TTL is over",
			edits:    []edit{{"cmd/deimos/child.go", "	later.passTo(p.signals)\n", ""}},
			catchers: by("cmd/deimos", "TestASecondSignalIsForTheCommandToo"),
		},
		{
			id: "F12", name: "a value that no variable holds ends the watch",
			why:      "one write ends the exec-watch of everybody",
			edits:    []edit{{"cmd/deimos/execwatch.go", "		if !errors.Is(err, syscall.E2BIG) {\n			return p, err\n		}\n", "		return p, err\n"}},
			catchers: by("cmd/deimos", "TestExecWatchGoesOnAfterAValueThatNoVariableHolds"),
		},
		{
			id: "F13", name: "what a command has started outlives a deimos lock that is killed",
			why:      "it works on beside the next holder of the lock",
			edits:    []edit{{"cmd/deimos/guard_linux.go", "		case killing && left:\n			g.killChildren()\n", "		case killing && left && !g.ended:\n			_ = syscall.Kill(g.pid, syscall.SIGKILL)\n"}},
			catchers: by("cmd/deimos", "TestAllThatTheCommandHasStartedDiesWithTheProgram"),
		},
		{
			id: "F14", name: "a command outlives its guard with what it has started",
			why:      "nobody ends it any more when the lease is lost",
			edits:    []edit{{"cmd/deimos/child_linux.go", "		_ = syscall.Kill(-p.pid, syscall.SIGKILL) // it fails when nobody is left\n", ""}},
			catchers: by("cmd/deimos", "TestTheCommandEndsWithItsGuard"),
		},
		{
			id: "F15", name: "a proxy goes on with a replay at a member that is behind",
			why:      "a client takes signs of life for the word that there were no events, and misses them",
			edits:    []edit{{"proxy/flight.go", "f.owes(at) && index < f.promised:", "f.owes(at) && index == 0:"}},
			catchers: by("proxy", "TestMemberThatIsBehindDoesNotGoOnWithAReplay"),
		},
		{
			id: "F16", name: "a watch of the Go client takes any answer for that of a member that has its cluster",
			why:      "an observer hears nothing for as long as its member is cut off, and does not know it",
			edits:    []edit{{"client/inquiry.go", "a.judge(true) != final {", "a == nil {"}},
			catchers: by("client", "TestWatchLeavesAnEndpointThatIsCutOff"),
		},
	}
}

// notYet returns the numbers of the specification that have no mutant.
func notYet() []waiting { return nil }
