package transport

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// runNo is a run that is easy to tell from others.
func runNo(n int) string { return fmt.Sprintf("%032x", n) }

// streamRetry is how long rafthttp waits before it opens a stream anew.
const streamRetry = 100 * time.Millisecond

// Goal: a process in the place of another one is let in at once when that has
// ended for certain, after a while when nothing can be heard of it, and never
// while it is alive. Method: run 1 holds the member, run 2 wants it.
func TestProcessTakesThePlaceOnlyOfOneThatHasEnded(t *testing.T) {
	nobody, nothing := sighting{sure: true}, sighting{}
	at := func(run int) sighting {
		return sighting{runs: map[string]string{runNo(run): "http://a:1"}, sure: true}
	}
	for _, tt := range []struct {
		name string
		// silent is for how long the holder has been silent, open what it has open.
		silent time.Duration
		open   int32
		asked  sighting
		// beats is for how long bytes of a stream still come, closes when the
		// connections end, returns whether it opens them anew when they are broken.
		beats, closes time.Duration
		returns       bool
		posts         bool // it opens a request now and then

		want     outcome
		after    time.Duration
		breaking bool
	}{
		{name: "it answers", open: 4, asked: at(1), want: refuted},
		{name: "it answers, though nothing is open", silent: time.Hour, asked: at(1), want: refuted},
		{name: "restarted in place", asked: at(2), want: won},
		{name: "a third process in its place", asked: at(3), want: won},
		{name: "ended, and nobody in its place", asked: nobody, want: won},
		{name: "its connections end a little later", open: 4, asked: at(2), closes: 300 * time.Millisecond, want: won, after: 300 * time.Millisecond},
		{
			name: "what it sent before it ended is read late", open: 4, asked: at(2),
			beats: time.Second, closes: 1200 * time.Millisecond, want: won, after: 1200 * time.Millisecond,
		},
		{name: "its host has been away for long", silent: time.Hour, asked: nothing, want: won},
		{name: "its host is away, and nothing is open", asked: nothing, want: won, after: runSilence, breaking: true},
		{name: "its host lost power", open: 4, asked: nothing, want: won, after: runSilence, breaking: true},
		{
			name: "its host lost power long ago, but a connection is left", silent: time.Hour, open: 2, asked: nobody,
			want: won, after: 2 * runReturn, breaking: true,
		},
		{name: "alive at another URL", silent: time.Hour, open: 2, asked: nobody, returns: true, want: refuted, after: runReturn + streamRetry, breaking: true},
		{name: "alive at another URL, and heard", open: 2, asked: at(2), posts: true, want: refuted, after: runReturn + time.Second},
		{name: "alive, but too slow to answer", open: 4, asked: nothing, beats: time.Hour, want: undecided, after: contestMax},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				holder := newTenure(runNo(1), "http://a:1")
				<-time.After(tt.silent)
				holder.open.Store(tt.open)
				broken := false
				j := jury{
					run: runNo(2), holder: holder,
					ask: func(context.Context) sighting { return tt.asked },
					disconnect: func() {
						broken = true
						holder.open.Store(0)
						if tt.returns {
							go every(ctx, streamRetry, streamRetry, holder.opened)
						}
					},
				}
				began := time.Now()
				if tt.beats > 0 {
					go every(ctx, tt.beats, time.Second, holder.hear)
				}
				if tt.posts {
					go every(ctx, time.Hour, time.Second, holder.opened)
				}
				if tt.closes > 0 {
					go every(ctx, tt.closes, tt.closes, func() { holder.open.Store(0) })
				}
				got, found := j.decide(ctx)
				if took := time.Since(began); got != tt.want || found != nil || took < tt.after || took > tt.after+4*contestPace {
					t.Errorf("decide() = %v, %v after %v, want %v, nil after %v", got, found, took, tt.want, tt.after)
				}
				if broken != tt.breaking {
					t.Errorf("connections were broken: %t, want %t", broken, tt.breaking)
				}
			})
		})
	}
}

// every calls f again and again for some time.
func every(ctx context.Context, most, pause time.Duration, f func()) {
	end := time.Now().Add(most)
	for !time.Now().Add(pause).After(end) {
		select {
		case <-time.After(pause):
			f()
		case <-ctx.Done():
			return
		}
	}
}

// Goal: a member that has just started and knows nobody takes the process at the
// URLs of a member for the first one.
func TestProcessAtTheURLsOfItsMemberComesFirst(t *testing.T) {
	for _, tt := range []struct {
		name  string
		runs  map[string]string
		sure  bool
		want  outcome
		found string
	}{
		{"nobody", nil, true, won, ""},
		{"no answer", nil, false, won, ""},
		{"itself", map[string]string{runNo(2): "http://a:1"}, true, won, ""},
		{"another one", map[string]string{runNo(1): "http://a:1"}, true, refuted, runNo(1)},
		{"another one, and no answer at a second URL", map[string]string{runNo(1): "http://a:1"}, false, refuted, runNo(1)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			j := jury{run: runNo(2), ask: func(context.Context) sighting { return sighting{tt.runs, tt.sure} }}
			got, found := j.decide(t.Context())
			if got != tt.want || (found == nil) != (tt.found == "") || found != nil && (found.run != tt.found || found.place != "http://a:1") {
				t.Errorf("decide() = %v, %+v, want %v, %q", got, found, tt.want, tt.found)
			}
		})
	}
}

func TestContestOfATransportThatStopsDecidesNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	j := jury{run: runNo(2), holder: newTenure(runNo(1), ""), ask: func(context.Context) sighting {
		cancel()
		return sighting{sure: true}
	}}
	if got, _ := j.decide(ctx); got != undecided {
		t.Errorf("decide() = %v, want %v", got, undecided)
	}
}

// Goal: all requests of one process wait for one contest, and what it says of
// another process does not count.
func TestContestsAreHeldOnceForAProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r runs
		_, c, fresh := r.claim(2, runNo(1))
		if _, same, again := r.claim(2, runNo(1)); !fresh || again || same != c {
			t.Errorf("claim() = %p, %t, want the contest %p that is under way", same, again, c)
		}
		first := newTenure(runNo(1), "http://a:1")
		if ended := r.finish(2, c, won, first); ended != nil || r.of(2) != first {
			t.Errorf("finish() = %v, the tenure is %v, want nil, %v", ended, r.of(2), first)
		}
		if holder, c, _ := r.claim(2, runNo(1)); holder != first || c != nil {
			t.Errorf("claim() of who speaks = %v, %v, want %v and no contest", holder, c, first)
		}
		_, c, _ = r.claim(2, runNo(2))
		r.finish(2, c, refuted, nil)
		if _, _, fresh := r.claim(2, runNo(2)); fresh {
			t.Error("claim() right after it was refuted = a new contest, want the old one")
		}
		_, c, fresh = r.claim(2, runNo(3))
		if !fresh {
			t.Error("claim() of another process = the old contest, want a new one")
		}
		r.forget(2)
		if r.finish(2, c, won, newTenure(runNo(3), "")); r.of(2) != nil {
			t.Errorf("tenure of a member that was forgotten = %v, want nil", r.of(2))
		}
		_, c, _ = r.claim(2, runNo(4))
		r.finish(2, c, refuted, nil)
		<-time.After(contestKept)
		if _, _, fresh := r.claim(2, runNo(4)); !fresh {
			t.Error("claim() some time after it was refuted = the old contest, want a new one")
		}
	})
}
