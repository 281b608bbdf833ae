package sim

import (
	"time"

	"github.com/marsevilspirit/deimos"
)

func swapMember(f *fault) (func(), bool) {
	w := f.w
	voters, _ := w.voters()
	if voters == 0 || !w.admin.idle() || len(w.present()) > 12 {
		return nil, false
	}
	remove := func() {
		if h := w.anyHost(f.rnd); h.expected == exitNone {
			w.admin.remove(h, func(ok bool) { f.observed = f.observed || ok })
		}
	}
	if voters > 3 && chance(f.rnd, 0.4) {
		remove()
		return nil, true
	}
	h := w.admin.add(false, func(ok bool) { f.observed = f.observed || ok })
	if chance(f.rnd, 0.2) { // it dies at its first start
		h.arm, h.armed, h.downFor, h.armedBy = sites[len(sites)-1], 1, 200*time.Millisecond, nil
	}
	if voters > 2 {
		w.after(f.lasts+between(f.rnd, 0, 3*time.Second), func() {
			if n, _ := w.voters(); n > 3 && !w.healing {
				remove()
			}
		})
	}
	return nil, true
}

// learner adds one that stays a learner until it is promoted by hand.
func learner(f *fault) (func(), bool) {
	w := f.w
	if voters, _ := w.voters(); voters == 0 || !w.admin.idle() || len(w.present()) > 12 {
		return nil, false
	}
	h := w.admin.add(true, func(ok bool) { f.observed = f.observed || ok })
	return func() {
		switch f.rnd.IntN(3) {
		case 0:
			w.admin.want(&task{op: deimos.MemberPromote, host: h})
		case 1:
			w.admin.remove(h, nil)
		}
	}, true
}
