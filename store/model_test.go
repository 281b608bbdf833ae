package store

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/marsevilspirit/deimos"
)

// model is the tree as a map from key to node, written down rule by rule from
// the contract and with no thought of speed.
type model struct {
	nodes map[string]modelNode
	index uint64
}

type modelNode struct {
	value             string
	dir               bool
	deadlineMS        int64
	modified, created uint64
}

func (n modelNode) text(key string) string {
	return nodeText(&Node{key: key, value: n.value, dir: n.dir, deadlineMS: n.deadlineMS, modifiedIndex: n.modified, createdIndex: n.created})
}

func (m *model) fail(code deimos.Code, cause string) string {
	return fmt.Sprintf("%d %s at %d", code, cause, m.index)
}

// above returns the keys strictly above key, from the top, without the root.
func above(key string) []string {
	var keys []string
	elements := strings.Split(key, "/")
	for i := 2; i < len(elements); i++ {
		keys = append(keys, strings.Join(elements[:i], "/"))
	}
	return keys
}

// apply returns what outcomeText should say.
func (m *model) apply(r *deimos.Request, nowMS int64) string {
	key := r.Key
	if r.Op == deimos.OpCreateInOrder {
		key = strings.TrimSuffix(key, "/") + fmt.Sprintf("/%020d", m.index+1)
	} else if key == "/" {
		if r.Op == deimos.OpCompareAndDelete {
			return m.fail(102, "/")
		}
		return m.fail(107, "/")
	}
	makes := r.Op == deimos.OpCreateInOrder || r.Op == deimos.OpCreate || r.Op == deimos.OpSet && !r.Refresh
	for _, p := range above(key) {
		n, ok := m.nodes[p]
		if ok && !n.dir {
			return m.fail(104, p)
		}
		if !ok && !makes {
			return m.fail(100, p)
		}
	}
	old, exists := m.nodes[key]
	if !exists && !makes {
		return m.fail(100, key)
	}
	if failure := m.check(r, key, old, exists); failure != "" {
		return failure
	}
	if r.Op == deimos.OpDelete {
		return m.remove(key, "delete")
	}
	if r.Op == deimos.OpCompareAndDelete {
		return m.remove(key, "compareAndDelete")
	}
	return m.put(r, key, old, exists, nowMS)
}

func (m *model) check(r *deimos.Request, key string, old modelNode, exists bool) string {
	refresh := r.Refresh
	var compare []string
	if r.HasPrevValue && r.PrevValue != old.value {
		compare = append(compare, fmt.Sprintf("[%s != %s]", r.PrevValue, old.value))
	}
	if r.PrevIndex > 0 && r.PrevIndex != old.modified {
		compare = append(compare, fmt.Sprintf("[%d != %d]", r.PrevIndex, old.modified))
	}
	children := false
	for k := range m.nodes {
		children = children || strings.HasPrefix(k, key+"/")
	}
	switch r.Op {
	case deimos.OpSet:
		if old.dir {
			return m.fail(102, key)
		}
	case deimos.OpCreate, deimos.OpCreateInOrder:
		if exists {
			return m.fail(105, key)
		}
	case deimos.OpUpdate:
		if !old.dir && r.Dir && !refresh {
			return m.fail(104, key)
		}
		if old.dir && r.Value != "" && !refresh {
			return m.fail(102, key)
		}
	case deimos.OpCompareAndSwap, deimos.OpCompareAndDelete:
		if old.dir {
			return m.fail(102, key)
		}
		if r.Op == deimos.OpCompareAndSwap && r.Dir && !refresh {
			return m.fail(104, key)
		}
		if len(compare) > 0 {
			return m.fail(101, strings.Join(compare, " "))
		}
	case deimos.OpDelete:
		if old.dir && !r.Dir && !r.Recursive {
			return m.fail(102, key)
		}
		if old.dir && !r.Recursive && children {
			return m.fail(108, key)
		}
	}
	return ""
}

func (m *model) put(r *deimos.Request, key string, old modelNode, exists bool, nowMS int64) string {
	m.index++
	for _, p := range above(key) {
		if _, ok := m.nodes[p]; !ok {
			m.nodes[p] = modelNode{dir: true, modified: m.index, created: m.index}
		}
	}
	n := modelNode{value: r.Value, dir: r.Dir, modified: m.index, created: m.index}
	continues := r.Op == deimos.OpUpdate || r.Op == deimos.OpCompareAndSwap
	refreshed := exists && r.Refresh
	if continues || refreshed {
		n.dir = old.dir
	}
	if continues {
		n.created = old.created
	}
	if refreshed {
		n.value = old.value
	}
	if n.dir {
		n.value = ""
	}
	if r.HasTTL {
		n.deadlineMS = nowMS + 1000*r.TTLSeconds
	}
	m.nodes[key] = n
	action := map[deimos.Op]string{
		deimos.OpSet: "set", deimos.OpCreate: "create", deimos.OpCreateInOrder: "create",
		deimos.OpUpdate: "update", deimos.OpCompareAndSwap: "compareAndSwap",
	}[r.Op]
	text := action + " " + n.text(key)
	if exists {
		text += " prev " + old.text(key)
	}
	if refreshed {
		text += " refresh"
	}
	return text
}

func (m *model) remove(key, action string) string {
	m.index++
	old := m.nodes[key]
	maps.DeleteFunc(m.nodes, func(k string, _ modelNode) bool { return k == key || strings.HasPrefix(k, key+"/") })
	gone := modelNode{dir: old.dir, modified: m.index, created: old.created}
	return action + " " + gone.text(key) + " prev " + old.text(key)
}

func (m *model) expire(nowMS int64, limit int) []string {
	var texts []string
	for len(texts) < limit {
		var due string
		for key, n := range m.nodes {
			if n.deadlineMS == 0 || n.deadlineMS >= nowMS {
				continue
			}
			best := m.nodes[due]
			if due == "" || n.deadlineMS < best.deadlineMS || n.deadlineMS == best.deadlineMS && key < due {
				due = key
			}
		}
		if due == "" {
			break
		}
		texts = append(texts, m.remove(due, "expire"))
	}
	return texts
}

// sorted returns the keys in tree order.
func (m *model) sorted() []string {
	return slices.SortedFunc(maps.Keys(m.nodes), func(a, b string) int {
		return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/"))
	})
}

func (m *model) treeText() string {
	var b strings.Builder
	for _, key := range m.sorted() {
		fmt.Fprintln(&b, m.nodes[key].text(key))
	}
	return b.String()
}

// visible returns what a listing of dir holds.
func (m *model) visible(dir string, deep bool) []string {
	var keys []string
	for _, key := range m.sorted() {
		below, ok := strings.CutPrefix(key, strings.TrimSuffix(dir, "/")+"/")
		if ok && !strings.Contains("/"+below, "/_") && (deep || !strings.Contains(below, "/")) {
			keys = append(keys, key)
		}
	}
	return keys
}

func (m *model) nextDeadline() int64 {
	var next int64
	for _, n := range m.nodes {
		if n.deadlineMS != 0 && (next == 0 || n.deadlineMS < next) {
			next = n.deadlineMS
		}
	}
	return next
}

var (
	drawElement = rapid.SampledFrom([]string{"a", "a-", "b", "_h", "a_", "00000000000000000009"})
	drawKey     = rapid.Custom(func(t *rapid.T) string {
		return "/" + strings.Join(rapid.SliceOfN(drawElement, 0, 4).Draw(t, "elements"), "/")
	})
	drawValue   = rapid.SampledFrom([]string{"", "1", "2"})
	drawRequest = rapid.Custom(func(t *rapid.T) *deimos.Request {
		r := &deimos.Request{
			Op:           deimos.Op(rapid.IntRange(int(deimos.OpSet), int(deimos.OpCompareAndDelete)).Draw(t, "op")),
			Key:          drawKey.Draw(t, "key"),
			Value:        drawValue.Draw(t, "value"),
			Dir:          rapid.IntRange(0, 3).Draw(t, "dir") == 0,
			Recursive:    rapid.IntRange(0, 3).Draw(t, "recursive") == 0,
			HasTTL:       rapid.Bool().Draw(t, "hasTTL"),
			TTLSeconds:   rapid.Int64Range(0, 5).Draw(t, "ttl"),
			HasPrevValue: rapid.Bool().Draw(t, "hasPrevValue"),
			PrevValue:    drawValue.Draw(t, "prevValue"),
		}
		if r.Op <= deimos.OpCompareAndSwap && r.Op != deimos.OpCreate {
			r.Refresh = rapid.IntRange(0, 4).Draw(t, "refresh") == 0
		}
		if rapid.IntRange(0, 3).Draw(t, "hasPrevIndex") == 0 {
			r.PrevIndex = rapid.Uint64Range(0, 8).Draw(t, "prevIndex")
		}
		return r
	})
)

func TestStoreAgreesWithTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := New(Config{})
		m := &model{nodes: map[string]modelNode{}, index: 1}
		nowMS := int64(1000)
		t.Repeat(map[string]func(*rapid.T){
			"apply": func(t *rapid.T) {
				r := drawRequest.Draw(t, "request")
				nowMS += rapid.Int64Range(0, 500).Draw(t, "pass")
				e, err := s.Apply(r, nowMS)
				if got, want := outcomeText(e, err), m.apply(r, nowMS); got != want {
					t.Fatalf("Apply(%+v) = %s, want %s", *r, got, want)
				}
			},
			"expire": func(t *rapid.T) {
				nowMS += rapid.Int64Range(0, 2000).Draw(t, "pass")
				limit := rapid.IntRange(0, 3).Draw(t, "limit")
				if got, want := expireAll(s, nowMS, limit), m.expire(nowMS, limit); !slices.Equal(got, want) {
					t.Fatalf("Expire(%d, %d) made\n%q, want\n%q", nowMS, limit, got, want)
				}
			},
			"restore": func(t *rapid.T) {
				s.Publish(1)
				var body bytes.Buffer
				if _, err := s.View().WriteTo(&body); err != nil {
					t.Fatal(err)
				}
				if rapid.Bool().Draw(t, "fresh") {
					s = New(Config{})
				}
				if err := s.Restore(2, &body); err != nil {
					t.Fatal(err)
				}
			},
			"": func(t *rapid.T) {
				s.Publish(3)
				checkAgainstModel(t, s.View(), m)
			},
		})
	})
}

func checkAgainstModel(t *rapid.T, v View, m *model) {
	if v.Index() != m.index || v.Len() != len(m.nodes) {
		t.Fatalf("index %d with %d nodes, want %d with %d", v.Index(), v.Len(), m.index, len(m.nodes))
	}
	if diff := cmp.Diff(m.treeText(), treeText(v)); diff != "" {
		t.Fatalf("tree differs (-model +store):\n%s", diff)
	}
	if got, _ := v.NextDeadline(); got != m.nextDeadline() {
		t.Fatalf("NextDeadline() = %d, want %d", got, m.nextDeadline())
	}
	for _, dir := range append(slices.Collect(maps.Keys(m.nodes)), "/") {
		n, err := v.Get(dir)
		if err != nil {
			t.Fatalf("Get(%s) = %v, want no error", dir, err)
		}
		if got, want := keys(v.Children(n)), m.visible(dir, false); !slices.Equal(got, want) {
			t.Fatalf("Children(%s) = %q, want %q", dir, got, want)
		}
		if got, want := keys(v.Descendants(n)), m.visible(dir, true); !slices.Equal(got, want) {
			t.Fatalf("Descendants(%s) = %q, want %q", dir, got, want)
		}
	}
}

// naiveMatch is section 11 of the contract, element by element.
func naiveMatch(e *Event, key string, recursive bool) bool {
	at, watched := elements(e.Node().Key()), elements(key)
	if e.Refresh() {
		return false
	}
	if slices.Equal(at, watched) {
		return true
	}
	if recursive && len(at) > len(watched) && slices.Equal(at[:len(watched)], watched) {
		return !slices.ContainsFunc(at[len(watched):], func(e string) bool { return strings.HasPrefix(e, "_") })
	}
	return e.Action().Removes() && e.Node().IsDir() && len(watched) > len(at) && slices.Equal(watched[:len(at)], at)
}

func elements(key string) []string {
	if key == "/" {
		return nil
	}
	return strings.Split(key, "/")[1:]
}

// Live and from history, a watch hands out exactly the events that match,
// whenever it began and from wherever.
func TestWatchesAgreeWithTheHistory(t *testing.T) {
	type watched struct {
		*Watcher
		key       string
		recursive bool
		from      uint64 // first index of interest
		got       []uint64
	}
	rapid.Check(t, func(t *rapid.T) {
		s := New(Config{})
		var all []*Event
		var watches []*watched
		nowMS := int64(1000)
		drain := func(w *watched) {
			for w.Ready() {
				e, err := w.Next(t.Context())
				if err != nil {
					t.Fatalf("Next() = %v, want no error", err)
				}
				w.got = append(w.got, e.Index())
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) {
				for _, r := range rapid.SliceOfN(drawRequest, 1, 8).Draw(t, "requests") {
					if e, err := s.Apply(r, nowMS); err == nil {
						all = append(all, e)
					}
				}
			},
			"expire": func(t *rapid.T) {
				nowMS += 1500
				from := len(s.batch)
				s.Expire(nowMS, 3)
				all = append(all, s.batch[from:]...)
			},
			"publish": func(*rapid.T) { s.Publish(1) },
			"watch": func(t *rapid.T) {
				w := &watched{key: drawKey.Draw(t, "key"), recursive: rapid.Bool().Draw(t, "recursive")}
				w.from = rapid.Uint64Range(0, s.View().Index()+5).Draw(t, "from")
				var err error
				if w.Watcher, err = s.Watch(w.key, w.recursive, w.from); err != nil {
					t.Fatalf("Watch() = %v, want no error", err)
				}
				if w.from == 0 {
					w.from = w.StartIndex() + 1
				}
				watches = append(watches, w)
			},
			"drain": func(t *rapid.T) {
				if len(watches) > 0 {
					drain(rapid.SampledFrom(watches).Draw(t, "watch"))
				}
			},
		})
		s.Publish(2)
		for _, w := range watches {
			drain(w)
			var want []uint64
			for _, e := range all {
				if e.Index() >= w.from && naiveMatch(e, w.key, w.recursive) {
					want = append(want, e.Index())
				}
			}
			if !slices.Equal(w.got, want) {
				t.Errorf("watch on %s recursive %t from %d, begun at %d: events %d, want %d", w.key, w.recursive, w.from, w.StartIndex(), w.got, want)
			}
			w.Close()
		}
		if n := s.Watchers() + len(s.hub.groups) + s.hub.ordered.Len(); n != 0 {
			t.Errorf("watchers and groups left = %d, want 0", n)
		}
	})
}
