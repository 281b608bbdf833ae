package main

// timeMutants are defects of cluster time and of TTLs.
func timeMutants() []mutant {
	return []mutant{
		{
			id: "M28", sim: true, name: "expiry decided by the wall clock",
			why: "members expire different keys, and a clock that is set ends leases",
			edits: []edit{
				{"server/machine.go", "m.store.Expire(m.timeMS, int(c.Expire.Limit))", "m.store.Expire(time.Now().UnixMilli(), int(c.Expire.Limit))"},
				{"server/machine.go", "	\"sync/atomic\"\n", "	\"sync/atomic\"\n	\"time\"\n"},
			},
			catchers: by("server", "TestExpiryFollowsTheTimeOfTheEntry"),
		},
		{
			id: "M29", sim: true, name: "new leader starts cluster time from the newest stamp only",
			why:      "keys live for ever on an idle cluster whose leaders change",
			edits:    []edit{{"raftnode/clock.go", "func (c *clock) begin(mono time.Duration) { c.last = mono }", "func (c *clock) begin(mono time.Duration) { c.last, c.now = mono, c.floor }"}},
			catchers: by("raftnode", "TestANewLeaderGoesOnFromTheRunningTime"),
		},
		{
			id: "M30a", sim: true, name: "a leaderless gap counted into cluster time",
			why: "keys expire whose owners could not renew them",
			edits: []edit{
				{"raftnode/clock.go", "func (c *clock) begin(mono time.Duration) { c.last = mono }", "func (c *clock) begin(mono time.Duration) { c.count(mono) }"},
				{"raftnode/clock.go", "gap > 0 && gap <= c.gapMax {", "gap > 0 {"},
			},
			catchers: by("raftnode", "TestClusterTimeStandsStillWithoutALeader"),
		},
		{
			id: "M30b", sim: true, name: "a long pause of the leader itself counted into cluster time",
			why:      "another member may have led meanwhile, or nobody",
			edits:    []edit{{"raftnode/clock.go", "gap > 0 && gap <= c.gapMax {", "gap > 0 {"}},
			catchers: by("raftnode", "TestClock|TestClusterTimeStandsStillWithoutALeader"),
		},
		{
			id: "M31", sim: true, name: "expiry removes a key that was renewed after the expiry was proposed",
			why:      "a lease ends although it was renewed in time",
			edits:    []edit{{"store/store.go", "	if old != nil {\n		s.deadlines.remove(old)\n	}\n	s.deadlines.add(n)", "	s.deadlines.add(n)"}},
			catchers: by("store", "TestWritesReplaceDeadlines"),
		},
		{
			id: "M32a", name: "ttl multiplied into milliseconds without a range check",
			why:      "a long TTL overflows and the key is gone at once",
			edits:    []edit{{"store/deadlines.go", "	if ttlSeconds > (math.MaxInt64-nowMS)/1000 {\n		return math.MaxInt64\n	}\n", "	if ttlSeconds == math.MaxInt64 {\n		return math.MaxInt64\n	}\n"}},
			catchers: by("store", "TestDeadlinesNeverOverflow"),
		},
		{
			id: "M32b", name: "ttl accepted whatever its size",
			why:      "what the contract refuses is stored",
			edits:    []edit{{"httpapi/options.go", "	if !ok || ttl > deimos.TTLMaxSeconds {", "	if !ok {"}},
			catchers: by("httpapi", "TestEveryRejection"),
		},
		{
			id: "M43", sim: true, name: "map order decides the order of expiries",
			why: "members give the same index to different events",
			edits: []edit{{"store/deadlines.go", "		s.remove(n, kindExpire, nowMS)\n		expired++\n", `		due := map[*Node]bool{}
		s.deadlines.tree.Scan(func(n *Node) bool {
			due[n] = n.deadlineMS < nowMS
			return n.deadlineMS < nowMS
		})
		for other, is := range due {
			if is {
				n = other
				break
			}
		}
		s.remove(n, kindExpire, nowMS)
		expired++
`}},
			catchers: by("store", "TestNodesDueTogetherGoInTheOrderOfDeadlineAndKey"),
		},
		{
			id: "M42", name: "value limit of the local flag checked while applying",
			why:      "members with other flags have another state",
			edits:    []edit{{"store/apply.go", "	case len(r.Value) > AppliedValueMaxBytes:", "	case len(r.Value) > AppliedValueMaxBytes || int64(len(r.Value)) > s.history.bytesMax:"}},
			catchers: by("store", "TestLocalConfigurationDoesNotChangeTheState"),
		},
	}
}

// watchMutants are defects of watches.
func watchMutants() []mutant {
	return []mutant{
		{
			id: "M33", name: "full watcher buffer drops one event and keeps the stream",
			why:      "a watcher misses an event and is not told",
			edits:    []edit{{"store/watch.go", "	case full:\n		w.end = ErrSlowWatcher\n", "	case full:\n		return true\n"}},
			catchers: by("store", "TestSlowWatcherGetsWhatWasQueuedAndThenEnds"), short: true,
		},
		{
			id: "M34a", name: "watcher woken before the state that holds its write is published",
			why:      "who saw an event reads and does not see its effect",
			edits:    []edit{{"store/store.go", "	s.published.Store(s.freeze(raftIndex))\n	s.hub.deliver(s.batch)\n", "	s.hub.deliver(s.batch)\n	s.published.Store(s.freeze(raftIndex))\n"}},
			catchers: by("store", "TestAnEventIsReadableWhenItsWatcherWakes"),
		},
		{
			id: "M34b", sim: true, name: "proposer woken before the state that holds its write is published",
			why: "a write is acknowledged that a local read on the same member does not show",
			edits: []edit{
				{"server/machine.go", "	m.store.Publish(entries[len(entries)-1].Index)\n	return nil\n", "	return nil\n"},
				{"server/machine.go", "	for i := range entries {\n		e := &entries[i]\n		results[i] = nil\n", "	m.store.Publish(entries[0].Index - 1)\n	for i := range entries {\n		e := &entries[i]\n		results[i] = nil\n"},
			},
			catchers: by("server", "TestAWriteIsAppliedAndPublished"),
		},
		{
			id: "M35a", sim: true, name: "history replay starts one event late",
			why:      "a watcher that resumes misses an event",
			edits:    []edit{{"store/hub.go", "		events.firstIndex = max(events.firstIndex, fromIndex)", "		events.firstIndex = min(max(events.firstIndex, fromIndex+1), events.nextIndex)"}},
			catchers: by("store", "TestWatchersSeeWhatMatches|TestWatchesAgreeWithTheHistory"),
		},
		{
			id: "M35b", sim: true, name: "history replay repeats the last event",
			why:      "a watcher that resumes sees an event twice",
			edits:    []edit{{"store/hub.go", "		events.firstIndex = max(events.firstIndex, fromIndex)", "		events.firstIndex = max(events.firstIndex, min(fromIndex, st.index+1)-1)"}},
			catchers: by("store", "TestWatchersSeeWhatMatches|TestWatchesAgreeWithTheHistory"),
		},
		{
			id: "M35c", name: "registration and the scan of the history are two steps",
			why: "an event that is published between them reaches nobody",
			edits: []edit{
				{"store/hub.go", "	h.mu.Lock()\n	defer h.mu.Unlock()\n	if h.stopped {\n		return nil, ErrStopped\n	}\n	st := published.Load()\n", "	st := published.Load()\n	h.mu.Lock()\n	defer h.mu.Unlock()\n	if h.stopped {\n		return nil, ErrStopped\n	}\n"},
			},
			catchers: by("store", "TestRegistrationRacesWithPublication"),
		},
		{
			id: "M36", sim: true, name: "watches survive an installed snapshot without being ended",
			why:      "they never hear of what the snapshot skipped",
			edits:    []edit{{"store/snapshot.go", "	s.hub.endAll(func() { s.published.Store(s.freeze(raftIndex)) })", "	s.published.Store(s.freeze(raftIndex))"}},
			catchers: by("store", "TestWatchesEnd"),
		},
		{
			id: "M37", sim: true, name: "waitIndex below the history waits instead of 401",
			why:      "a watcher waits for ever for events that are gone",
			edits:    []edit{{"store/hub.go", "		if fromIndex < st.oldestIndex {", "		if fromIndex == 0 {"}},
			catchers: by("store", "TestClearedHistoryIsNamedInTheError"), short: true,
		},
	}
}

// treeMutants are defects of the sorted tree of keys.
func treeMutants() []mutant {
	return []mutant{
		{
			id: "M51a", name: "a page of the tree is changed although readers have it",
			why:      "a read sees half of a batch that is not published, or a key at the wrong place",
			edits:    []edit{{"store/tree.go", "	if p.stamp == t.stamp {", "	if p.stamp <= t.stamp {"}},
			catchers: by("store", "TestTreeIsASortedSet"), short: true,
		},
		{
			id: "M51b", name: "a search trusts the beginning of a key",
			why:      "a key that has more than eight bytes in common with another one is taken for it",
			edits:    []edit{{"store/page.go", "			c = compareKeys(rest, p.nodes[middle].key[len(p.prefix):])", "			return middle, true"}},
			catchers: by("store", "TestTreeIsASortedSet"),
		},
		{
			id: "M51c", name: "pages without a node stay in the tree",
			why:      "a listing ends, or the member does, at a directory that was removed",
			edits:    []edit{{"store/tree.go", "		t.fill(p, i+1)\n	}\n	t.fill(p, i)\n}\n\n// takeLast", "	}\n}\n\n// takeLast"}},
			catchers: by("store", "TestTreeLosesAnyRange|TestTreeIsASortedSet"),
		},
	}
}
