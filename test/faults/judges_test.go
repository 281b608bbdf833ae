package faults

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos"
)

// scene is a made-up run, at whole milliseconds.
type scene struct {
	ops    []*op
	events []*event
	// cleared tells that a watcher was told that history is gone.
	cleared int
}

// sceneKey is the register of all scenes.
const sceneKey = "/r/0.0"

// wrote adds an acknowledged set and its event.
func (s *scene) wrote(call, ret, index int64, value string) *op {
	o := &op{
		Kind: kindSet, Key: sceneKey, Value: value, Call: call * 1e6, Return: ret * 1e6, Outcome: acked,
		Index: uint64(index), Status: 200, Whole: true, Got: &node{sceneKey, value, uint64(index), uint64(index)},
	}
	e := &event{Index: o.Index, Action: deimos.ActionSet, Node: *o.Got, At: o.Return}
	if n := len(s.events); n > 0 && s.events[n-1].Node.Key == sceneKey {
		before := s.events[n-1].Node
		o.Prev, e.Prev = &before, &before
	}
	s.ops, s.events = append(s.ops, o), append(s.events, e)
	return o
}

// saw adds a read that found a value, or no key if it is empty.
func (s *scene) saw(call, ret, index int64, value string, modified uint64) *op {
	o := &op{Kind: kindRead, Key: sceneKey, Call: call * 1e6, Return: ret * 1e6, Outcome: acked, Index: uint64(index), Status: 200, Whole: true}
	if value == "" {
		o.Outcome, o.Status, o.Whole = refused, 404, false
	} else {
		o.Got = &node{sceneKey, value, modified, modified}
	}
	s.ops = append(s.ops, o)
	return o
}

// mortal adds a key with a life of a second and its end.
func (s *scene) mortal(call, end, index int64) {
	value := fmt.Sprintf("t%d", index)
	n := node{"/t/1", value, uint64(index), uint64(index)}
	s.ops = append(s.ops, &op{
		Kind: kindSet, Key: n.Key, Value: value, TTL: 1, Call: call * 1e6, Return: (call + 1) * 1e6,
		Outcome: acked, Index: n.Modified, Whole: true, Got: &n, Term: 1,
	})
	gone := node{n.Key, "", uint64(index + 1), uint64(index)}
	s.events = append(s.events,
		&event{Index: n.Modified, Action: deimos.ActionSet, Node: n, At: (call + 1) * 1e6},
		&event{Index: gone.Modified, Action: deimos.ActionExpire, Node: gone, Prev: &n, At: end * 1e6})
}

// verdicts are the judges that object to a scene.
func (s *scene) verdicts(t *testing.T) (judges, texts []string) {
	heard := &events{byIndex: map[uint64]*event{}, cleared: s.cleared}
	end := uint64(1)
	for _, e := range s.events {
		heard.byIndex[e.Index] = e
		end = max(end, e.Index)
	}
	newEvidence(t.TempDir(), s.ops, heard, end, func(judge, format string, args ...any) {
		judges, texts = append(judges, judge), append(texts, fmt.Sprintf(format, args...))
	}).judge()
	slices.Sort(judges)
	return slices.Compact(judges), texts
}

// good is a scene to which nobody objects: three writes, reads of all of them,
// and a key that ends in time.
func good() *scene {
	s := &scene{}
	s.wrote(10, 20, 2, "a")
	s.saw(21, 22, 2, "a", 2)
	s.wrote(30, 40, 3, "b")
	s.saw(41, 42, 3, "b", 3)
	s.mortal(50, 1100, 4)
	return s
}

func TestJudgesFindWhatIsWrong(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func() *scene
		want string // the judges that object, "" for none
	}{
		{"nothing", good, ""},
		{"a read of an older value", func() *scene {
			s := good()
			s.saw(45, 46, 3, "a", 2)
			return s
		}, "linearizability read"},
		{"a read at an older index", func() *scene {
			s := good()
			s.saw(45, 46, 2, "a", 2)
			return s
		}, "linearizability stale"},
		{"a read of a key that is gone without a reason", func() *scene {
			s := good()
			s.saw(45, 46, 3, "", 0)
			return s
		}, "linearizability read"},
		{"an acknowledged write without an event", func() *scene {
			s := good()
			o := s.wrote(1200, 1201, 6, "lost")
			s.events = slices.DeleteFunc(s.events, func(e *event) bool { return e.Node.Value == "lost" })
			o.Prev = &node{sceneKey, "b", 3, 3} // the end of the other key comes before
			return s
		}, "lost write"},
		{"an acknowledged write whose event has another value", func() *scene {
			s := good()
			s.ops[2].Value = "other"
			s.ops[2].Got.Value = "other"
			return s
		}, "chain linearizability lost write"},
		{"an index that two writes were told", func() *scene {
			s := good()
			again := *s.ops[2]
			s.ops = append(s.ops, &again)
			return s
		}, "linearizability lost write"},
		{"a value that was written twice", func() *scene {
			s := good()
			again := *s.events[1]
			again.Index, again.Node.Modified, again.Prev, again.At = 6, 6, &s.events[1].Node, 2000e6
			s.events = append(s.events, &again)
			return s
		}, "once"},
		{"a refused write that took effect", func() *scene {
			s := good()
			s.ops[2].Outcome = nothing
			return s
		}, "answer linearizability"},
		{"an event before its request", func() *scene {
			s := good()
			s.events[1].At = 29e6
			return s
		}, "chain stale"},
		{"an event that does not follow from the ones before it", func() *scene {
			s := good()
			s.events[1].Prev = nil
			return s
		}, "chain"},
		{"an event that nobody was told of", func() *scene {
			s := good()
			s.events = slices.Delete(s.events, 0, 1)
			return s
		}, "watch"},
		{"an event in history that was cleared", func() *scene {
			s := good()
			s.events = slices.Delete(s.events, 0, 1)
			s.cleared = 1
			return s
		}, ""},
		{"a key that ends early", func() *scene {
			s := good()
			s.events[3].At = 1049e6
			return s
		}, "ttl"},
		{"a key that ends late although writes go on", func() *scene {
			s := good()
			s.events[3].At = 4100e6
			for i := range uint64(40) { // so that time without writes is no excuse
				key, at := fmt.Sprintf("/o/%d", i), int64(100+i*100)*1e6
				n := node{key, key, 6 + i, 6 + i}
				s.ops = append(s.ops, &op{
					Kind: kindSet, Key: key, Value: key, Call: at - 1e6, Return: at,
					Outcome: acked, Index: 6 + i, Whole: true, Got: &n, Term: 1,
				})
				s.events = append(s.events, &event{Index: 6 + i, Action: deimos.ActionSet, Node: n, At: at})
			}
			return s
		}, "ttl"},
		{"a key that ends late because there was no leader", func() *scene {
			s := good()
			s.events[3].At = 4100e6
			s.wrote(4000, 4200, 6, "c").Prev = &node{sceneKey, "b", 3, 3}
			s.events[4].Prev = &node{sceneKey, "b", 3, 3}
			return s
		}, ""},
		{"no traffic", func() *scene { return &scene{} }, "void"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			judges, texts := tt.make().verdicts(t)
			if got := strings.Join(judges, " "); got != tt.want {
				t.Errorf("the judges that object = %q, want %q:\n%s", got, tt.want, strings.Join(texts, "\n"))
			}
		})
	}
}

func TestRequestsWithoutAnAnswerMayOrMayNotHaveHappened(t *testing.T) {
	silent := func(k kind, value string) *op {
		return &op{Kind: k, Key: sceneKey, Value: value, Outcome: unknown}
	}
	held := register{"a", 2}
	for _, tt := range []struct {
		name string
		from register
		o    *op
		want []register
	}{
		{"a set", held, silent(kindSet, "b"), []register{held, {"b", 0}}},
		{"a delete", held, silent(kindDelete, ""), []register{held, {}}},
		{"a create of a key that is there", held, silent(kindCreate, "b"), []register{held}},
		{"an update of a key that is not", register{}, silent(kindUpdate, "b"), []register{{}}},
		{"a swap of another value", held, &op{Kind: kindSwap, PrevValue: "x", Value: "b", Outcome: unknown}, []register{held}},
		{"a swap by an index that is not known", register{"a", 0}, &op{Kind: kindSwapIndex, PrevIndex: 2, Value: "b", Outcome: unknown}, []register{{"a", 0}, {"b", 0}}},
		{"a swap that was refused tells the index", register{"a", 0}, &op{Kind: kindSwapIndex, PrevIndex: 2, Outcome: refused, Status: 412, Cause: "[2 != 7]"}, []register{{"a", 7}}},
		{"a create that was refused without reason", register{}, &op{Kind: kindCreate, Outcome: refused, Status: 412}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.from.step(tt.o); !slices.Equal(got, tt.want) {
				t.Errorf("step(%v) from %+v = %+v, want %+v", describe(tt.o), tt.from, got, tt.want)
			}
		})
	}
}

func TestProvingNothingIsVoid(t *testing.T) {
	enough := func() (*history, *events, map[string]*tally) {
		return &history{good: 2000, working: 5 * time.Second, locals: 1}, &events{watches: 1, heard: 1}, map[string]*tally{"kill": {1, 1}}
	}
	for _, tt := range []struct {
		name string
		make func(h *history, e *events, f map[string]*tally)
		want string
	}{
		{"enough of everything", func(*history, *events, map[string]*tally) {}, ""},
		{"few answers a second", func(h *history, _ *events, _ map[string]*tally) { h.good = 900 }, "180 a second"},
		{"few answers in all", func(h *history, _ *events, _ map[string]*tally) { h.good, h.working = 100, time.Second/4 }, "100 good answers in all"},
		{"no watch", func(_ *history, e *events, _ map[string]*tally) { e.watches = 0 }, "0 watches"},
		{"a fault that was not observed", func(_ *history, _ *events, f map[string]*tally) { f["cut"] = &tally{Injected: 3} }, `"cut" was injected 3 times and never observed`},
		{"no fault", func(_ *history, _ *events, f map[string]*tally) { clear(f) }, "no fault happened"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h, e, f := enough()
			tt.make(h, e, f)
			c := &cluster{setup: setup{Duration: 8 * time.Second}, faults: f}
			c.judgeVoid(h, e)
			if got := fmt.Sprint(c.violations); (c.broken > 0) != (tt.want != "") || !strings.Contains(got, tt.want) {
				t.Errorf("violations = %v, want %q", got, tt.want)
			}
		})
	}
}

func TestPlansFollowFromTheirSeed(t *testing.T) {
	s := setupOf(7, 3, 8*time.Second)
	if a, b := fmt.Sprint(s.plan()), fmt.Sprint(setupOf(7, 3, 8*time.Second).plan()); a != b {
		t.Errorf("the plan of seed 7 = %s and %s, want the same", a, b)
	}
	if a, b := fmt.Sprint(s.plan()), fmt.Sprint(setupOf(8, 3, 8*time.Second).plan()); a == b {
		t.Error("the plans of seeds 7 and 8 are the same")
	}
	seen := map[faultKind]bool{}
	for _, f := range setupOf(7, 3, time.Minute).plan() {
		seen[f.Kind] = true
	}
	for _, k := range many {
		if !seen[k] {
			t.Errorf("a plan of a minute has no %q", k)
		}
	}
}
