package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/marsevilspirit/deimos/client"
	"github.com/marsevilspirit/deimos/client/lock"
)

// contenderVariable makes the test binary a contender for locks: it holds a job.
const contenderVariable = "E2E_CONTENDER"

// lockTTL is that of the locks of contenders.
const lockTTL = 2 * time.Second

// job is what a contender process does until it gets SIGTERM.
type job struct {
	Endpoints []string
	Resource  string   // base URL of what the locks guard
	Locks     []string // to be taken again and again
	Seed      uint64
}

// turn is the time in which a contender believed that it held a lock. Times are
// nanoseconds of the machine's monotonic clock, the same for all processes.
type turn struct {
	Lock  string
	Token uint64
	// Start and End are the first and the last moment at which the lock said that
	// it was held; 0 if it never did.
	Start, End int64
	Lost       bool
	// Writes were accepted by the resource, Refused were not, because somebody
	// with a greater token had been there.
	Writes, Refused int
	// Failure is what must not happen.
	Failure string `json:",omitempty"`
}

// clock reads the monotonic clock of the machine.
func clock() int64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		panic(err)
	}
	return now.Nano()
}

// contend is the main function of a contender. It writes each of its turns as a
// line of JSON to its standard output.
func contend(text string) int {
	var j job
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	c, err := client.New(client.Config{Endpoints: j.Endpoints, RequestTimeout: 5 * time.Second})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	defer c.Close()
	var out sync.Mutex
	var all sync.WaitGroup
	for i, name := range j.Locks {
		p := &contender{c: c, job: j, lock: name, random: rand.New(rand.NewPCG(j.Seed, uint64(i)))}
		all.Go(func() {
			for ctx.Err() == nil {
				t := p.turn(ctx)
				if t == nil {
					continue
				}
				line, err := json.Marshal(t)
				if err != nil {
					panic(err)
				}
				out.Lock()
				fmt.Printf("%s\n", line)
				out.Unlock()
			}
		})
	}
	all.Wait()
	return 0
}

// contender contends for one lock.
type contender struct {
	c      *client.Client
	job    job
	lock   string
	random *rand.Rand
}

// turn waits for the lock, holds it for a random time, and tells about it. It is
// nil if there was none.
func (p *contender) turn(ctx context.Context) *turn {
	l, err := lock.Acquire(ctx, p.c, p.lock, lock.Options{TTL: lockTTL, Owner: strconv.Itoa(os.Getpid())})
	switch {
	case err != nil && (ctx.Err() != nil || errors.Is(err, client.ErrNoEndpoint)):
		return nil
	case err != nil:
		return &turn{Lock: p.lock, Failure: "acquire: " + err.Error()}
	}
	t := &turn{Lock: p.lock, Token: l.Token()}
	work := time.Duration(p.random.IntN(200)) * time.Millisecond
	if p.random.IntN(4) == 0 {
		work *= 15 // the TTL and more
	}
	// The last look comes after the work, also when a stop was in between.
	for i, until := 0, time.Now().Add(work); ; i++ {
		at := clock()
		if l.Err() != nil {
			break
		}
		if t.End = at; t.Start == 0 {
			t.Start = at
		}
		if !time.Now().Before(until) {
			break
		}
		if i%5 == 0 {
			p.write(ctx, l, t)
		}
		select {
		case <-l.Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
	if l.Err() != nil {
		// What a holder does that does not look: the resource has to notice.
		p.write(ctx, l, t)
	}
	err = l.Release(context.WithoutCancel(ctx))
	t.Lost = errors.Is(err, lock.ErrLost)
	return t
}

// write writes to the resource with the token of the lock.
func (p *contender) write(ctx context.Context, l *lock.Lock, t *turn) {
	url := p.job.Resource + "/" + p.lock + "?token=" + strconv.FormatUint(l.Token(), 10)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, nil)
	if err != nil {
		panic(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		t.Writes++
		return
	}
	t.Refused++
	if l.Err() == nil {
		t.Failure = fmt.Sprintf("token %d was refused while the lock was held", l.Token())
	}
}
