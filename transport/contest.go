package transport

import (
	"context"
	"errors"
	"net/http"
	"syscall"
	"time"

	"github.com/marsevilspirit/deimos"
)

const (
	// askRunTimeout bounds the question which process is at the URLs of a member.
	askRunTimeout = 2 * time.Second
	// runReturn is how long a process has to open its streams anew after they
	// were broken. It tries ten times a second.
	runReturn = 2 * time.Second
	// contestPace is how often a contest looks at what has come meanwhile.
	contestPace = 50 * time.Millisecond
	// contestMax ends a contest without an outcome.
	contestMax = 15 * time.Second
	// contestWait is how long a request waits for the outcome. It is less than a
	// sender waits for an answer.
	contestWait = 3 * time.Second
	// contestKept is how long an outcome counts for the same process.
	contestKept = time.Second
)

// contest is about whether a process may speak for a member in the place of the
// one that does.
type contest struct {
	run  string // of the process that claims it
	done chan struct{}
	// outcome and ended are set before done is closed.
	outcome outcome
	ended   time.Time
}

type outcome uint8

const (
	// undecided is when it is not known whether the holder has ended.
	undecided outcome = iota
	// refuted is when the holder is there beyond doubt.
	refuted
	// won is when the holder has ended, or there is none.
	won
)

// counts reports whether the contest is under way, or has an outcome that counts
// for a process. The caller holds the lock of runs.
func (c *contest) counts(run string) bool {
	select {
	case <-c.done:
		return c.run == run && c.outcome == refuted && time.Since(c.ended) < contestKept
	default:
		return true
	}
}

// holder returns who speaks for a member once it is decided whether the process
// with the given run may, which is at a place. If it may, that is its own tenure.
// false: it is not decided yet, and the process has to try again.
func (t *HTTP) holder(ctx context.Context, id uint64, run, place string) (*tenure, bool) {
	timeout := time.NewTimer(contestWait)
	defer timeout.Stop()
	for {
		holder, c, fresh := t.runs.claim(id, run)
		if c == nil {
			return holder, true
		}
		if fresh {
			t.wg.Go(func() { t.contest(id, c, holder, place) })
		}
		select {
		case <-c.done:
		case <-ctx.Done():
			return holder, false
		case <-timeout.C:
			return holder, false
		}
		switch {
		case c.run != run || c.outcome == won:
			// The next look says who speaks.
		case c.outcome == refuted:
			return t.runs.of(id), true
		default:
			return holder, false
		}
	}
}

// contest decides one contest. It ends early when the transport stops.
func (t *HTTP) contest(id uint64, c *contest, holder *tenure, place string) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	t.wg.Go(func() {
		select {
		case <-t.stop:
			cancel()
		case <-ctx.Done():
		}
	})
	j := jury{
		run: c.run, holder: holder,
		ask: func(ctx context.Context) sighting { return t.lookAround(ctx, id) },
		disconnect: func() {
			t.conns.kill(id, holder.run)
		},
	}
	o, found := j.decide(ctx)
	next := found
	if o == won {
		next = newTenure(c.run, place)
	}
	ended := t.runs.finish(id, c, o, next)
	if ended == nil {
		return
	}
	t.conns.kill(id, ended.run)
	t.log.Debug("another process speaks for a member now", "member", deimos.FormatID(id), "place", place, "place before", ended.place)
}

// sighting is what was found at the URLs of a member.
type sighting struct {
	// runs are those of the processes that answered as the member, with the URL.
	runs map[string]string
	// sure is when there was an answer from each URL, or certainly nobody there:
	// who is not among runs is not there.
	sure bool
}

// jury decides whether a process has ended. Nothing but the time, the tenure of
// the process and the two functions counts.
type jury struct {
	run string // of the process that claims the member
	// holder is who speaks for the member, nil when it is not known.
	holder *tenure
	// ask finds out who is at the URLs of the member.
	ask func(context.Context) sighting
	// disconnect breaks what the holder has opened, so that it opens it again if
	// it is alive.
	disconnect func()
}

// decide returns the outcome, and for refuted without a holder who was found to
// be one.
func (j *jury) decide(ctx context.Context) (outcome, *tenure) {
	asked := j.ask(ctx)
	if ctx.Err() != nil {
		return undecided, nil
	}
	if j.holder == nil {
		return j.first(asked)
	}
	if _, ok := asked.runs[j.holder.run]; ok {
		j.holder.hear()
		return refuted, nil
	}
	return j.watch(ctx, asked.sure), nil
}

// first decides when nothing is known: who is at the URLs of the member comes
// before who is elsewhere.
func (j *jury) first(asked sighting) (outcome, *tenure) {
	if _, ok := asked.runs[j.run]; !ok {
		for run, url := range asked.runs {
			return refuted, newTenure(run, url)
		}
	}
	return won, nil
}

// watch decides about a holder that was not found at the URLs. sure tells that it
// is not there; it can be elsewhere.
func (j *jury) watch(ctx context.Context, sure bool) outcome {
	ticker := time.NewTicker(contestPace)
	defer ticker.Stop()
	began := time.Now()
	var broken time.Time // when its connections were broken
	for time.Since(began) < contestMax {
		silence := j.holder.silentFor()
		switch {
		case j.holder.openedAfter(began.Add(runReturn)):
			return refuted
		case !broken.IsZero():
			if time.Since(broken) >= runReturn && silence >= runSilence {
				return won
			}
		case j.holder.open.Load() == 0 && (sure || silence >= runSilence):
			return won
		case time.Since(began) >= runReturn && silence >= runReturn:
			broken = time.Now()
			j.disconnect()
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return undecided
		}
	}
	return undecided
}

// lookAround asks at all URLs of a member which process is there, in the name of
// nobody, as anybody can.
func (t *HTTP) lookAround(ctx context.Context, id uint64) sighting {
	ctx, cancel := context.WithTimeout(ctx, askRunTimeout)
	defer cancel()
	urls := t.known.Load().urls(id)
	type answered struct {
		url, run string
		sure     bool
	}
	answers := make(chan answered, len(urls))
	for _, url := range urls {
		go func() {
			run, sure := t.askRun(ctx, id, url)
			answers <- answered{url, run, sure}
		}()
	}
	s := sighting{runs: make(map[string]string), sure: len(urls) > 0}
	for range urls {
		a := <-answers
		s.sure = s.sure && a.sure
		if a.run != "" {
			s.runs[a.run] = a.url
		}
	}
	return s
}

// askRun returns the run of the process that answers at a URL as a member, ""
// when none does, and whether that is certain.
func (t *HTTP) askRun(ctx context.Context, id uint64, url string) (run string, sure bool) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url+membersPath, nil)
	if err != nil {
		return "", false
	}
	resp, a, err := t.asker.do(t.clients.calls, r, id, nil)
	if err != nil {
		return "", errors.Is(err, syscall.ECONNREFUSED)
	}
	_ = resp.Body.Close() // the header says it all
	if known := t.incarnationOf(id); a.cluster != t.cfg.ClusterID || a.member != id || !known.IsZero() && a.incarnation != known {
		return "", true
	}
	return a.run, true
}
