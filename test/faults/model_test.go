package faults

import (
	"fmt"
	"math"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// register is the state of one key in the model. An empty value stands for no
// key. An index of 0 is not known: a write whose client never heard of it was
// the last.
type register struct {
	value string
	index uint64
}

func (r register) exists() bool { return r.value != "" }

// foundRE finds the real value in the cause of a failed comparison.
var foundRE = regexp.MustCompile(`^\[.* != (.*)\]$`)

// holds says whether the condition of an op holds; may says that it is not
// known, because the index is not.
func (r register) holds(o *op) (yes, may bool) {
	switch o.Kind {
	case kindCreate:
		return !r.exists(), false
	case kindUpdate, kindDelete:
		return r.exists(), false
	case kindSwap, kindDeleteIf:
		return r.exists() && r.value == o.PrevValue, false
	case kindSwapIndex:
		if r.exists() && r.index == 0 {
			return false, true
		}
		return r.exists() && r.index == o.PrevIndex, false
	default:
		return true, false
	}
}

// after is the state that a successful op leaves.
func (r register) after(o *op, index uint64) register {
	if o.Kind.removes() {
		return register{}
	}
	return register{o.Value, index}
}

// step returns the states in which an op may leave a register, none if what its
// client heard cannot be.
func (r register) step(o *op) []register {
	if o.Kind == kindRead {
		return r.read(o)
	}
	yes, may := r.holds(o)
	switch o.Outcome {
	case unknown:
		states := []register{r}
		if yes || may {
			states = append(states, r.after(o, 0))
		}
		return states
	case refused:
		return r.refuse(o, yes)
	}
	if !yes && !may {
		return nil
	}
	if o.Whole && (o.Prev != nil) != r.exists() {
		return nil
	}
	if o.Whole && r.exists() && (o.Prev.Value != r.value || r.index != 0 && o.Prev.Modified != r.index) {
		return nil
	}
	return []register{r.after(o, o.Index)}
}

// read judges an answer to a read, which tells an index that was not known.
func (r register) read(o *op) []register {
	switch {
	case o.Outcome == refused && !r.exists():
		return []register{r}
	case o.Outcome == refused || o.Got.Value != r.value || r.index != 0 && r.index != o.Got.Modified:
		return nil
	}
	return []register{{r.value, o.Got.Modified}}
}

// refuse judges an answer that says that a condition did not hold.
func (r register) refuse(o *op, yes bool) []register {
	if yes || (o.Status == 404) == r.exists() {
		return nil
	}
	found := foundRE.FindStringSubmatch(o.Cause)
	switch {
	case found == nil:
	case o.Kind == kindSwapIndex:
		index, err := strconv.ParseUint(found[1], 10, 64)
		if err != nil || r.index != 0 && r.index != index {
			return nil
		}
		return []register{{r.value, index}}
	case found[1] != r.value:
		return nil
	}
	return []register{r}
}

// isRegister reports whether porcupine judges an op.
func (o *op) isRegister() bool { return strings.HasPrefix(o.Key, "/r/") }

func newModel() porcupine.Model {
	nondeterministic := porcupine.NondeterministicModel{
		Init: func() []any { return []any{register{}} },
		Step: func(state, input, _ any) []any {
			var states []any
			for _, s := range state.(register).step(input.(*op)) {
				states = append(states, s)
			}
			return states
		},
		Equal:             func(a, b any) bool { return a == b },
		DescribeOperation: func(input, _ any) string { return describe(input.(*op)) },
	}
	return nondeterministic.ToModel()
}

func describe(o *op) string {
	text := string(o.Kind)
	for _, s := range []string{o.Value, o.PrevValue} {
		if s != "" {
			text += " " + s
		}
	}
	if o.PrevIndex != 0 {
		text += fmt.Sprintf(" if %d", o.PrevIndex)
	}
	text += " → " + string(o.Outcome)
	if o.Got != nil {
		text += fmt.Sprintf(" %s@%d", o.Got.Value, o.Got.Modified)
	}
	return text
}

// forPorcupine sorts the ops of registers by key. Left out are those that had
// no effect: reads without an answer, requests that were not proposed, and
// writes without an answer whose value never came up although the watchers
// missed nothing. The effect of one whose value did come up is known.
func (v *evidence) forPorcupine() map[string][]porcupine.Operation {
	byKey := map[string][]porcupine.Operation{}
	for i, o := range v.ops {
		if !o.isRegister() || o.Outcome == nothing || o.Outcome == odd || o.Kind == kindRead && o.Outcome == unknown {
			continue
		}
		p := porcupine.Operation{ClientId: o.Client, Input: o, Call: o.Call, Return: o.Return}
		if o.Outcome == unknown {
			p.ClientId, p.Return = 1000+i, math.MaxInt64
			switch e := v.byValue[o.Value]; {
			case o.Value == "":
			case e != nil:
				happened := *o
				happened.Outcome, happened.Index = acked, e.Index
				p.Input, p.Return = &happened, max(e.At, o.Call)
			case v.complete():
				continue
			}
		}
		byKey[o.Key] = append(byKey[o.Key], p)
	}
	return byKey
}

// porcupineMax is how long the judgement of one key may take.
const porcupineMax = 10 * time.Second

// judgeLinearizability asks porcupine about each register. The picture of a
// history that is wrong goes to a file.
func (v *evidence) judgeLinearizability() {
	model, byKey := newModel(), v.forPorcupine()
	for key, ops := range byKey {
		result, info := porcupine.CheckOperationsVerbose(model, ops, porcupineMax)
		if result == porcupine.Ok {
			v.judged++
			continue
		}
		if result == porcupine.Unknown {
			v.undecided++
			v.bad("void", "the history of %s (%d requests) is too hard to judge", key, len(ops))
			continue
		}
		path := filepath.Join(v.dir, "porcupine"+strings.ReplaceAll(key, "/", "-")+".html")
		err := porcupine.VisualizePath(model, info, path)
		v.bad("linearizability", "the history of %s (%d requests) has no order that explains it; its picture is %s (%v)", key, len(ops), path, err)
	}
	if len(byKey) == 0 {
		v.bad("void", "no register was used")
	}
}

// newEvidence prepares what the judges look at: all requests, ordered by when
// they began, and all events up to end.
func newEvidence(dir string, ops []*op, heard *events, end uint64, bad func(judge, format string, args ...any)) *evidence {
	slices.SortFunc(ops, func(a, b *op) int { return int(a.Call - b.Call) })
	v := &evidence{dir: dir, ops: ops, events: heard, end: end, bad: bad, byValue: map[string]*event{}, writer: map[string]*op{}}
	v.missed, v.firstMissed = heard.missing(end)
	for _, e := range heard.byIndex {
		if !e.Action.Removes() {
			if other := v.byValue[e.Node.Value]; other != nil {
				bad("once", "the value %s was written twice, at index %d and %d", e.Node.Value, other.Index, e.Index)
			}
			v.byValue[e.Node.Value] = e
		}
	}
	for _, o := range ops {
		if o.Value != "" {
			v.writer[o.Value] = o
		}
	}
	return v
}

// evidence is what the judges look at after a run.
type evidence struct {
	dir    string
	ops    []*op
	events *events
	end    uint64 // the last store index
	bad    func(judge, format string, args ...any)

	byValue map[string]*event
	writer  map[string]*op
	// missed counts the indexes that no watcher has heard of.
	missed      int
	firstMissed uint64

	judged, undecided int
	latest            time.Duration // the latest end of a key beyond its life
}

// complete reports whether the events are all there were.
func (v *evidence) complete() bool { return v.missed == 0 }
