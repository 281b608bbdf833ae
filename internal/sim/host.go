package sim

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/server"
	"github.com/marsevilspirit/deimos/store"
)

// exit is why a process has ended.
type exit string

// The ends of a process. The ones after exitKilled need an operator.
const (
	exitNone     exit = ""
	exitKilled   exit = "killed"
	exitDisk     exit = "failed disk (74)"
	exitRemoved  exit = "removed (1)"
	exitDamaged  exit = "damaged log (65)"
	exitLostLog  exit = "rolled back log (65)"
	exitWiped    exit = "another incarnation (73)"
	exitUnneeded exit = "its addition failed"
)

// host is a machine of the cluster: a disk, a clock and at most one process. It
// stands for one member for ever.
type host struct {
	w    *world
	id   uint64
	name string
	disk *disk
	proc *process
	// former is the disk that the host has lost, for what it had confirmed.
	former *disk
	// first says that the member was there from the beginning.
	first bool
	// gone is why the member never comes back, exitNone if it does.
	gone exit
	// expected is the end that a fault has prepared; any other is a violation.
	expected exit
	// replaced says that the operator has taken the member out.
	replaced bool

	// isolated counts the faults that cut it off from everybody.
	isolated int
	paused   bool
	deferred []event
	clock    hostClock

	// arm is the site at which the process is to die, armed how many more times
	// it must pass it, and armedBy the fault that wants it, if one does.
	arm     string
	armed   int
	armedBy *fault
	// downFor is how long the host stays down after the armed site.
	downFor time.Duration

	syncDelay  time.Duration
	hungUntil  time.Duration
	failSync   func() // not nil: the next fsync fails, and this is told
	lowDisk    bool
	refusals   int
	applyDelay time.Duration
	// slowSyncs counts the fsyncs that its disk has kept waiting.
	slowSyncs int
	// shown is the newest store index that a local read was answered with.
	shown uint64
	boots int
}

// hostClock is monotonic time as the host measures it: it drifts and, with the
// machine itself, pauses.
type hostClock struct {
	at, reading time.Duration
	rate        float64
}

func (c *hostClock) now(at time.Duration) time.Duration {
	return c.reading + time.Duration(float64(at-c.at)*c.rate)
}

func (c *hostClock) setRate(at time.Duration, rate float64) {
	c.reading, c.at, c.rate = c.now(at), at, rate
}

func (w *world) newHost(first bool) *host {
	h := &host{w: w, first: first, id: w.rnd.Uint64() >> 1, name: fmt.Sprintf("m%d", len(w.hosts)+1), disk: &disk{}}
	h.clock.rate = 1
	h.clock.reading = between(w.rnd, 0, time.Hour)
	w.hosts = append(w.hosts, h)
	return h
}

func (w *world) host(id uint64) *host {
	for _, h := range w.hosts {
		if h.id == id {
			return h
		}
	}
	return nil
}

// makeMembers makes and starts the first members.
func (w *world) makeMembers() {
	for range w.plan.members {
		w.newHost(true)
	}
	for _, h := range w.hosts {
		w.after(between(w.rnd, 0, 200*time.Millisecond), h.boot)
	}
}

// firstMembers is the member list of the bootstrap configuration.
func (w *world) firstMembers() []deimos.Member {
	var members []deimos.Member
	for _, h := range w.hosts {
		if h.first {
			members = append(members, deimos.Member{ID: h.id, PeerURLs: []string{h.url()}})
		}
	}
	return members
}

func (h *host) url() string { return "http://" + h.name + ":7001" }

func (h *host) newIncarnation() (inc deimos.Incarnation) {
	for i := range inc {
		inc[i] = byte(h.w.rnd.Uint32())
	}
	return inc
}

// boot starts a process on the host, if there is none.
func (h *host) boot() {
	if h.proc != nil || h.gone != exitNone {
		return
	}
	h.boots++
	st := store.New(store.Config{HistoryEvents: h.w.options.historyEvents})
	machine := server.NewMachine(st, h.bootMembers(), nil)
	if !h.disk.exists {
		if !h.createDisk(machine) {
			return
		}
	}
	rec, err := h.disk.recover()
	if err != nil {
		h.refuse(err)
		return
	}
	timeMS := int64(1)
	if rec.body != nil {
		if timeMS, err = machine.Restore(rec.snapshot.Index, bytes.NewReader(rec.body)); err != nil {
			h.w.fail("restart", "member %x cannot restore the snapshot at raft index %d: %v", h.id, rec.snapshot.Index, err)
		}
	}
	h.w.tracer.mix(h.id, rec.snapshot.Index, uint64(len(rec.entries)), rec.hs.Term)
	h.w.tracer.logf("member %x starts: snapshot %d, %d entries, term %d, commit %d", h.id, rec.snapshot.Index, len(rec.entries), rec.hs.Term, rec.hs.Commit)
	if machine.IsRemoved(h.id) {
		h.end(exitRemoved)
		return
	}
	h.proc = newProcess(h, machine, rec, timeMS)
	h.proc.start()
}

func (h *host) bootMembers() []deimos.Member {
	if h.first && h.expected != exitWiped {
		return h.w.firstMembers()
	}
	return nil
}

// createDisk makes the data directory: the first snapshot, then the log. It
// reports false when the host died meanwhile.
func (h *host) createDisk(machine *server.Machine) bool {
	inc := h.newIncarnation()
	if !h.first || h.expected == exitWiped {
		h.disk.create(inc, raftpb.SnapshotMetadata{}, raftpb.HardState{})
		return true
	}
	if h.dies("boot: before the first snapshot") {
		return false
	}
	meta := raftpb.SnapshotMetadata{Index: 1, Term: 1}
	for _, m := range h.w.firstMembers() {
		meta.ConfState.Voters = append(meta.ConfState.Voters, m.ID)
	}
	var body bytes.Buffer
	if err := machine.Capture()(&body); err != nil {
		h.w.fail("capture", "first state: %v", err)
	}
	h.disk.addFile(snapFile{meta: meta, data: body.Bytes(), named: true, sum: hashBytes(fnvOffset, body.Bytes())})
	if h.dies("boot: before the log is made") {
		return false
	}
	h.disk.create(inc, meta, raftpb.HardState{Term: 1, Commit: 1})
	return !h.dies("boot: after the log is made")
}

// refuse handles a start that the disk does not allow.
func (h *host) refuse(err error) {
	if h.expected == exitDamaged && errors.Is(err, errDamaged) {
		h.w.tracer.logf("member %x does not start: %v", h.id, err)
		h.w.row("D2a")
		h.end(exitDamaged)
		return
	}
	h.w.fail("restart", "member %x does not start unaided: %v", h.id, err)
}

// end marks the member as one that never comes back.
func (h *host) end(why exit) {
	h.gone = why
	h.w.tracer.mix(h.id, hashString(fnvOffset, string(why)))
	h.w.tracer.logf("member %x is gone: %s", h.id, why)
}

// dies reports whether the host has just died at an armed site.
func (h *host) dies(site string) bool {
	if h.arm != site {
		return false
	}
	if h.armed--; h.armed > 0 {
		return false
	}
	h.arm = ""
	h.w.tracer.logf("member %x dies at site %q", h.id, site)
	h.w.row("R2")
	if h.armedBy != nil {
		h.armedBy.seen()
	}
	h.crash()
	h.w.after(h.downFor, h.boot)
	return true
}

// crash ends the process without a warning, and drops what is not durable.
func (h *host) crash() {
	if p := h.proc; p != nil {
		p.die(exitKilled)
	}
	h.resume()
	h.disk.crash(chance(h.w.rnd, 0.4), func() bool { return chance(h.w.rnd, 0.5) })
}

func (h *host) pause() {
	if h.proc != nil {
		h.paused = true
	}
}

// resume lets a paused process go on with all that has piled up.
func (h *host) resume() {
	if !h.paused {
		return
	}
	h.paused = false
	for _, e := range h.deferred {
		h.w.schedule(0, e.p, e.fn)
	}
	h.deferred = nil
}

// up reports whether a process runs.
func (h *host) up() bool { return h.proc != nil && !h.paused }

// confirmed reports whether an entry is durable on the host's disk, or was on
// the one that it has lost.
func (h *host) confirmed(raftIndex, term uint64) bool {
	return h.disk.exists && h.disk.holds(raftIndex, term) || h.former != nil && h.former.holds(raftIndex, term)
}
