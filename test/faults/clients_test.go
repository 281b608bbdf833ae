package faults

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// dial opens a connection to the client port of a member, with a small receive
// buffer, and ends it with the test.
func dial(t testing.TB, m *member) net.Conn {
	t.Helper()
	d := net.Dialer{Timeout: 5 * time.Second, Control: func(_, _ string, raw syscall.RawConn) error {
		var set error
		err := raw.Control(func(fd uintptr) {
			set = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096)
		})
		return errors.Join(err, set)
	}}
	conn, err := d.DialContext(t.Context(), "tcp", strings.TrimPrefix(m.client, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// lines returns an error while a file holds no such text.
func lines(path, text string) error {
	read, err := os.ReadFile(path)
	if err == nil && !strings.Contains(string(read), text) {
		err = errNotYet
	}
	return err
}

// request sends a request without a body and returns the status line of the
// answer, or an error when there is none in time.
func request(conn net.Conn, path string, most time.Duration) (string, error) {
	if err := conn.SetDeadline(time.Now().Add(most)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: deimos\r\n\r\n", path); err != nil {
		return "", err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.Status, err
}

// cpuTime is what a process has used so far.
func cpuTime(t testing.TB, pid int) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(after)
	var ticks int
	for _, f := range fields[11:13] { // utime and stime
		n, err := strconv.Atoi(f)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// TestClientsThatTakeAllFilesPauseAccepting: every member may open 256 files.
// Clients take all the connections that the leader has for them. It waits
// without spinning, leads on, for its peers have connections of their own, and
// accepts again when clients leave.
func TestClientsThatTakeAllFilesPauseAccepting(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := newCluster(t, setup{Seed: *seedFlag, Size: 3, wrap: []string{"sh", "-c", `ulimit -n 256 && exec "$0" "$@"`}})
	leader, err := waitLeader(ctx, c.inside())
	if err != nil {
		t.Fatal(err)
	}
	var others []*member
	for _, m := range c.inside() {
		if m != leader {
			others = append(others, m)
		}
	}
	term := leaderChanges(t, others[0])
	probe.CloseIdleConnections()

	var held []net.Conn
	full := false
	for range 256 {
		conn := dial(t, leader)
		held = append(held, conn)
		if _, err := request(conn, "/version", 500*time.Millisecond); err != nil {
			full = true
			break
		}
	}
	if !full || len(held) < 20 {
		t.Fatalf("void: %d connections were accepted (the next one was not: %v), want a pause between 20 and 256", len(held), full)
	}
	p, _ := leader.process()
	used := cpuTime(t, p.cmd.Process.Pid)
	letPass(ctx, time.Second)
	if used = cpuTime(t, p.cmd.Process.Pid) - used; used > 500*time.Millisecond {
		c.violate("files", "%s used %v of a second of processor time while it did not accept", leader.name, used)
	}
	l := startLedger(ctx, c, 0, 2, others...)
	l.waitMore(t, 100, readyMax)
	l.end()
	if now := leaderChanges(t, others[0]); now != term {
		c.violate("files", "the leader changed %v times while clients held all its connections", now-term)
	}
	if !leader.running() {
		c.violate("files", "%s has ended", leader.name)
	}
	for _, conn := range held {
		conn.Close()
	}
	if status, err := request(dial(t, leader), "/version", 5*time.Second); err != nil || !strings.HasPrefix(status, "200") {
		c.violate("files", "a request after the clients left = %q, %v, want 200", status, err)
	}
	t.Logf("%d connections were accepted before the pause, %v of processor time in a second of it", len(held)-1, used)
	l.wantAll(ctx, leader)
	c.agree(ctx)
	c.verdict(t)
}

// TestUnfinishedRequestsAreEndedAndCostOthersNothing: hundreds of connections
// send half a head and are silent, some send a body byte by byte. The heads are
// given up after 5 s, the bodies are told so with 408, and no other request
// fails meanwhile.
func TestUnfinishedRequestsAreEndedAndCostOthersNothing(t *testing.T) {
	t.Parallel()
	const heads, bodies = 600, 20
	ctx := t.Context()
	c := newCluster(t, setup{Seed: *seedFlag, Size: 1})
	m := c.members[0]
	l := startLedger(ctx, c, 0, 2, m)
	defer l.end()
	l.waitMore(t, 20, readyMax)

	began := time.Now()
	ended := make(chan time.Duration, heads)
	statuses := make(chan string, bodies)
	for range heads {
		conn := dial(t, m)
		if _, err := io.WriteString(conn, "PUT /keys/slow HTTP/1.1\r\nHost: deimos\r\nX-"); err != nil {
			t.Fatal(err)
		}
		go func() {
			_, _ = io.Copy(io.Discard, conn) // to its end, however it comes
			ended <- time.Since(began)
		}()
	}
	for range bodies {
		conn := dial(t, m)
		if _, err := io.WriteString(conn, "PUT /keys/slow HTTP/1.1\r\nHost: deimos\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 1000\r\n\r\nvalue="); err != nil {
			t.Fatal(err)
		}
		go drip(ctx, conn)
		go func() {
			line, _ := bufio.NewReader(conn).ReadString('\n') // "" is no status
			statuses <- strings.TrimSpace(line)
		}()
	}
	var last time.Duration
	for range heads {
		last = max(last, <-ended)
	}
	if last > 8*time.Second {
		c.violate("slow clients", "the last unfinished head was given up after %v, want 5 s", last)
	}
	if took := time.Since(began); took < 4*time.Second {
		t.Errorf("void: all heads were given up after %v already", took)
	}
	for range bodies {
		if status := <-statuses; !strings.Contains(status, " 408 ") {
			c.violate("slow clients", "the answer to a body that trickles = %q, want 408", status)
		}
	}
	if took := time.Since(began); took > 20*time.Second {
		c.violate("slow clients", "the trickling bodies were answered after %v, want about 10 s", took)
	}
	l.end()
	if l.count() < 100 || len(l.fails) > 0 {
		c.violate("slow clients", "%d writes beside the slow clients succeeded, and these failed: %v", l.count(), l.fails)
	}
	l.wantAll(ctx, m)
	t.Logf("%d heads were given up within %v, %d writes beside them", heads, last, l.count())
	c.verdict(t)
}

// drip sends a byte every 100 ms until the connection or ctx ends.
func drip(ctx context.Context, conn net.Conn) {
	for letPass(ctx, 100*time.Millisecond) {
		if _, err := conn.Write([]byte("x")); err != nil {
			return
		}
	}
}

// TestAWatcherThatReadsTooSlowlyIsEndedAndResumes: a watcher that reads nothing
// is ended behind a whole line, when too much waits for it, and misses nothing
// when it resumes behind the last one.
func TestAWatcherThatReadsTooSlowlyIsEndedAndResumes(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := newCluster(t, setup{Seed: *seedFlag, Size: 1})
	m := c.members[0]
	conn := dial(t, m)
	if _, err := io.WriteString(conn, "GET /keys/w?wait=true&recursive=true&stream=true&waitIndex=2 HTTP/1.1\r\nHost: deimos\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	watching := func(want string) error {
		got, err := m.metric(ctx, "deimos_store_watchers")
		if err == nil && got != want {
			err = fmt.Errorf("faults: %s watchers, want %s", got, want)
		}
		return err
	}
	if err := within(ctx, readyMax, func(context.Context) error { return watching("1") }); err != nil {
		t.Fatal(err)
	}

	// It is enough when the store has given the watcher up: nothing more is kept
	// for it, and nobody waited.
	client := newHTTP()
	defer client.CloseIdleConnections()
	value := strings.Repeat("0123456789abcdef", 2048)
	var written uint64
	for written < 2000 {
		o := &op{Kind: kindSet, Key: "/w/" + strconv.FormatUint(written%50, 10), Value: value}
		if o.do(ctx, client, m.client, c.since); o.Outcome != acked {
			t.Fatalf("write %d = %v", written, o)
		}
		if written = o.Index; written%50 == 0 && watching("0") == nil {
			break
		}
	}
	if written >= 2000 {
		t.Fatalf("void: the watcher was never too slow, at index %d", written)
	}
	last := readSlow(t, c, conn, 1)
	if last == 1 || last >= written {
		c.violate("watch", "the slow watcher was told up to index %d of %d", last, written)
	}
	resumed := dial(t, m)
	if _, err := fmt.Fprintf(resumed, "GET /keys/w?wait=true&recursive=true&stream=true&waitIndex=%d HTTP/1.1\r\nHost: deimos\r\n\r\n", last+1); err != nil {
		t.Fatal(err)
	}
	for at := last; at < written; {
		at = readSlow(t, c, resumed, at, written)
		if at < written {
			c.violate("watch", "the resumed watch ended at index %d of %d", at, written)
			break
		}
	}
	t.Logf("the watch was ended behind index %d of %d, with values of %d bytes", last, written, len(value))
	c.verdict(t)
}

// readSlow reads a watch, whose events have no gap behind an index, to its
// ordinary end or to one of the indexes given, and returns the last one.
func readSlow(t testing.TB, c *cluster, conn net.Conn, last uint64, upTo ...uint64) uint64 {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(exitMax)); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("the answer to a watch = %+v, %v", resp, err)
	}
	body := bufio.NewReader(resp.Body) // not closed: that would read on until the stream ends
	for {
		line, err := body.ReadString('\n')
		if err != nil {
			if !errors.Is(err, io.EOF) || line != "" {
				c.violate("watch", "the watch ended with %v within the line %.100q, want an ordinary end behind a whole line", err, line)
			}
			return last
		}
		e, err := eventOf(line)
		if err != nil || e.Index != last+1 {
			c.violate("watch", "%.100q (%v) came behind index %d", line, err, last)
			return last
		}
		if last = e.Index; len(upTo) > 0 && last == upTo[0] {
			return last
		}
	}
}
