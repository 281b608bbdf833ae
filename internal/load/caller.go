package load

import (
	"bytes"
	"math/rand/v2"
	"time"
)

// caller is what a connection says and how it takes the answers. It does no
// I/O: a driver moves the bytes. One goroutine at a time uses it.
type caller interface {
	// server is the endpoint to connect to.
	server() *endpoint
	// connected tells that there is a new connection.
	connected(now time.Duration)
	// next returns what to send, which counts until the next call, or when to ask
	// again, or that there is nothing any more. It is asked when there is a
	// connection on which nothing is awaited.
	next(now time.Duration) (out []byte, at time.Duration, v verdict)
	// receive takes bytes that have arrived. done tells that the answer is complete,
	// keep that the connection can be used for more.
	receive(data []byte, now time.Duration) (done, keep bool)
	// lost tells that the connection has ended, and why: an answer under way does
	// not come any more.
	lost(kind string, now time.Duration)
	// overdue tells whether the answer has been awaited for too long.
	overdue(now time.Duration) bool
}

// requester sends one request after the other.
type requester struct {
	run      *run
	at       *endpoint
	recorder *recorder
	put, get request
	hello    []byte // the first request on the first connection
	random   *rand.Rand
	answer   answer
	greeted  bool // the hello was answered

	waiting  bool // for an answer
	sort     sort
	number   int64
	due      time.Duration
	since    time.Duration // when it was sent
	sent     int
	received int
}

var valueField = []byte(`"value":"`)

func newRequester(r *run, e *endpoint, rec *recorder, number int) *requester {
	c := &requester{run: r, at: e, recorder: rec, random: rand.New(rand.NewPCG(r.cfg.Seed, uint64(number)))}
	query := "quorum=true"
	if r.cfg.Work == GetLocal {
		query = "quorum=false"
	}
	c.hello = newHello(e.host)
	c.put, c.get = newPut(&r.cfg, e.host), newGet(&r.cfg, e.host, query)
	// What comes before a value, with every byte of the key escaped at worst.
	c.answer.start = make([]byte, 0, 256+6*len(r.cfg.Keys.Prefix))
	return c
}

func (c *requester) server() *endpoint { return c.at }

func (c *requester) connected(time.Duration) {
	if c.greeted {
		c.recorder.reconnected()
	}
}

func (c *requester) next(now time.Duration) ([]byte, time.Duration, verdict) {
	if !c.greeted {
		c.answer.reset()
		c.since, c.waiting = now, true
		return c.hello, 0, send
	}
	number, due, v := c.run.plan.claim(now)
	if v != send {
		return nil, due, v
	}
	c.number, c.due, c.since, c.waiting = number, due, now, true
	c.received = 0
	c.answer.reset()
	var out []byte
	if c.sort = c.choose(); c.sort == reading {
		out = c.get.render(c.key())
	} else {
		out = c.put.render(c.key())
	}
	if f := c.run.fanout; f != nil {
		c.put.event.fill(c.put.text, int(number))
		f.written(number, due)
	}
	c.sent = len(out)
	return out, 0, send
}

// choose decides between a read and a write.
func (c *requester) choose() sort {
	switch share := c.run.cfg.Reads; {
	case share == 0:
		return writing
	case share == 1 || c.random.Float64() < share:
		return reading
	default:
		return writing
	}
}

func (c *requester) key() int {
	switch {
	case c.run.cfg.Work == Fill:
		return int(c.number)
	default:
		return c.random.IntN(c.run.cfg.Keys.Count)
	}
}

func (c *requester) receive(data []byte, now time.Duration) (done, keep bool) {
	used, done, err := c.answer.feed(data)
	c.received += used
	if done && !c.greeted {
		c.greeted, c.waiting = true, false
		c.run.arrived()
		return true, !c.answer.closing
	}
	switch {
	case err != nil || (done && used < len(data)): // or more than was asked for
		c.fail(Failure{Kind: KindMalformed}, now)
		return true, false
	case !done:
		return false, true
	}
	switch status := c.answer.status; {
	case status != 200 && status != 201:
		c.fail(Failure{Kind: KindStatus, Status: status, ErrorCode: c.answer.errorCode()}, now)
	case c.sort == reading && !bytes.Contains(c.answer.start, valueField):
		c.fail(Failure{Kind: KindNoValue}, now)
	default:
		c.waiting = false
		c.run.answered(now)
		if c.measured() {
			c.recorder.success(c.sort, now-c.due, c.sent, c.received)
		}
	}
	return true, !c.answer.closing
}

// measured tells whether the request counts.
func (c *requester) measured() bool { return c.due >= c.run.plan.from() }

func (c *requester) fail(f Failure, now time.Duration) {
	c.waiting = false
	if !c.greeted {
		c.recorder.failure(f, c.sort, 0)
		return
	}
	if f.Kind == KindStatus || f.Kind == KindNoValue {
		c.run.answered(now)
	}
	if c.run.fanout != nil {
		c.run.fanout.forget(c.number)
	}
	if c.measured() {
		c.recorder.failure(f, c.sort, now-c.due)
	}
}

func (c *requester) lost(kind string, now time.Duration) {
	switch {
	case c.waiting:
		c.fail(Failure{Kind: kind}, now)
	case kind == KindConnect:
		c.recorder.failure(Failure{Kind: kind}, c.sort, 0)
	}
}

func (c *requester) overdue(now time.Duration) bool {
	return c.waiting && now-c.since > c.run.cfg.Timeout
}
