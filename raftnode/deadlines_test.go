package raftnode

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestDeadlines(t *testing.T) {
	const length = 5 * time.Second
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var d deadlines
		began := time.Now()
		var ended []uint64
		var after []time.Duration
		d.init(&mu, func(x *waiter) {
			ended, after = append(ended, x.seq), append(after, time.Since(began))
		})
		all := []*waiter{{seq: 0}, {seq: 1}, {seq: 2}, {seq: 3}, {seq: 4}, {seq: 5}}
		do := func(f func()) {
			mu.Lock()
			defer mu.Unlock()
			f()
		}
		add := func(i int, in time.Duration) { do(func() { d.add(all[i], time.Now().Add(in)) }) }
		add(0, length)
		<-time.After(time.Second)
		add(1, length)
		add(2, length)
		add(3, time.Second)                       // before all others
		add(4, length-1)                          // in the middle
		do(func() { d.add(all[5], time.Time{}) }) // none
		do(func() { d.remove(all[2]); d.remove(all[2]); d.remove(all[5]) })
		<-time.After(time.Minute)
		synctest.Wait()
		if want := []uint64{3, 0, 4, 1}; !slices.Equal(ended, want) {
			t.Errorf("ended %v, want %v", ended, want)
		}
		if want := []time.Duration{2 * time.Second, length, length + time.Second - 1, length + time.Second}; !slices.Equal(after, want) {
			t.Errorf("ended after %v, want %v", after, want)
		}

		// All are of use again.
		began, ended, after = time.Now(), nil, nil
		add(1, length)
		add(0, length)
		do(func() { d.remove(all[1]) })
		<-time.After(time.Minute)
		synctest.Wait()
		if !slices.Equal(ended, []uint64{0}) || after[0] != length {
			t.Errorf("ended %v after %v, want [0] after %v", ended, after, length)
		}
		if d.first != nil || d.last != nil || d.armed {
			t.Errorf("deadlines = %+v, want none and no timer", &d)
		}
	})
}
