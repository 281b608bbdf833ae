package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos/internal/proctest"
)

// hostile is where strangers want members to call.
const hostile = "http://127.9.0.1:7001"

var strangers atomic.Uint32

// hostileIP is where the next stranger calls from: an address of its own, so
// that it is judged by what it sends. One that fails often is not listened to.
func hostileIP() net.IP {
	n := strangers.Add(1)
	return net.IPv4(127, 9, byte(n>>8), byte(n))
}

// call sends bytes to a peer port from an address of its own, and returns the
// answer without its body; nil when there is none.
func call(t testing.TB, address string, request []byte) *http.Response {
	t.Helper()
	conn := dialFrom(t, address)
	defer conn.Close()
	return exchangeOn(conn, request)
}

// exchangeOn does the same on a connection.
func exchangeOn(conn net.Conn, request []byte) *http.Response {
	go func() { _, _ = conn.Write(request) }() // it is refused before all of it is read
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return nil
	}
	_ = res.Body.Close()
	return res
}

func dialFrom(t testing.TB, address string) net.Conn {
	t.Helper()
	return dialAs(t, hostileIP(), address)
}

func dialAs(t testing.TB, ip net.IP, address string) net.Conn {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: ip}, Timeout: 5 * time.Second}
	conn, err := dialer.Dial("tcp", address)
	if err == nil {
		err = conn.SetDeadline(time.Now().Add(10 * time.Second))
	}
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// opening is a request to a peer port, as the package comment of transport
// describes it.
type opening struct {
	method, path string
	header       http.Header
	body         []byte
}

// signed adds a proof.
func (o opening) signed(secret string) opening {
	mac := func(key []byte, fields ...string) []byte {
		h := hmac.New(sha256.New, key)
		for _, f := range fields {
			h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(f))))
			io.WriteString(h, f)
		}
		return h.Sum(nil)
	}
	purpose := hmac.New(sha256.New, []byte(secret))
	io.WriteString(purpose, "deimos peer proof 2 request")
	fields := []string{"deimos peer proof 2", o.method, o.path}
	for _, key := range []string{"X-Etcd-Cluster-ID", "X-Server-From", "X-Raft-To", "X-Deimos-Incarnation", "X-Deimos-Expects",
		"X-Deimos-Run", "X-Deimos-Time", "X-Deimos-Nonce", "X-Deimos-Digest", "X-PeerURLs"} {
		fields = append(fields, o.header.Get(key))
	}
	o.header = o.header.Clone()
	o.header.Set("X-Deimos-Proof", hex.EncodeToString(mac(purpose.Sum(nil), fields...)))
	return o
}

// with returns a copy with another value of a header.
func (o opening) with(key, value string) opening {
	o.header = o.header.Clone()
	o.header.Set(key, value)
	return o
}

func (o opening) bytes() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: peer\r\nContent-Length: %d\r\n", o.method, o.path, len(o.body))
	_ = o.header.Write(&b) // a buffer takes everything
	b.WriteString("\r\n")
	b.Write(o.body)
	return b.Bytes()
}

// target is a member as a well informed stranger knows it.
type target struct {
	address                                         string
	cluster, self, other, incarnation, expects, run string
}

// newTarget finds out what a member tells everybody, and takes the incarnation
// of another one from it.
func newTarget(t testing.TB, n, other *node, address, otherAddress string) target {
	t.Helper()
	tell := func(address string) http.Header {
		res := call(t, address, []byte("GET /members HTTP/1.1\r\nHost: peer\r\n\r\n"))
		if res == nil {
			t.Fatalf("the peer port at %s does not answer", address)
		}
		return res.Header
	}
	h, o := tell(address), tell(otherAddress)
	x := target{
		address: address, cluster: h.Get("X-Etcd-Cluster-ID"), self: h.Get("X-Deimos-Member"), other: o.Get("X-Deimos-Member"),
		incarnation: o.Get("X-Deimos-Incarnation"), expects: h.Get("X-Deimos-Incarnation"), run: h.Get("X-Deimos-Run"),
	}
	if x.self != idOf(t, n, n.name) || x.other != idOf(t, n, other.name) || x.run == "" {
		t.Fatalf("void: the peer port tells %+v", x)
	}
	return x
}

// opening is a request in the name of the other member, without a proof.
func (x target) opening(method, path string, body []byte) opening {
	sum := sha256.Sum256(body)
	o := opening{method, path, http.Header{}, body}
	nonce := make([]byte, 16)
	for i := range nonce {
		nonce[i] = byte(rand.Uint32())
	}
	for key, value := range map[string]string{
		"X-Etcd-Cluster-ID": x.cluster, "X-Server-From": x.other, "X-Raft-To": x.self,
		"X-Deimos-Incarnation": x.incarnation, "X-Deimos-Expects": x.expects, "X-Deimos-Run": x.run,
		"X-Deimos-Time": strconv.FormatInt(time.Now().UnixMilli(), 10), "X-Deimos-Nonce": hex.EncodeToString(nonce),
		"X-Deimos-Digest":  hex.EncodeToString(sum[:]),
		"X-Server-Version": "3.6.0", "X-Min-Cluster-Version": "3.0.0", "X-PeerURLs": hostile,
	} {
		o.header.Set(key, value)
	}
	return o
}

// message is a raft message from the other member, with a term that would
// end every leadership.
func (x target) message(kind byte) []byte {
	from, _ := strconv.ParseUint(x.other, 16, 64)
	to, _ := strconv.ParseUint(x.self, 16, 64)
	b := binary.AppendUvarint([]byte{0x08, kind, 0x10}, to)
	b = binary.AppendUvarint(append(b, 0x18), from)
	return binary.AppendUvarint(append(b, 0x20), 1<<40)
}

// forged are requests that would do harm if they were believed.
func (x target) forged() []opening {
	snapshot := x.message(7)
	head := binary.BigEndian.AppendUint64(nil, uint64(len(snapshot)))
	return []opening{
		x.opening("POST", "/raft", x.message(3)),
		x.opening("POST", "/raft", x.message(5)),
		x.opening("POST", "/raft", x.message(8)),
		x.opening("POST", "/raft/snapshot", append(append(head, snapshot...), make([]byte, 4096)...)),
		x.opening("POST", "/raft/snapshot", bytes.Repeat([]byte{0xff}, 4096)),
		x.opening("GET", "/raft/stream/message/"+x.other, nil),
		x.opening("GET", "/raft/stream/msgapp/"+x.other, nil),
		x.opening("GET", "/raft/probing", nil),
		x.opening("POST", "/deimos/call", []byte("anything")),
		x.opening("GET", "/members", nil),
		x.opening("POST", "/members", []byte(`{"peerURLs":["`+hostile+`"]}`)),
		x.opening("DELETE", "/members/"+x.other, nil),
		x.opening("PUT", "/keys/stranger", []byte("value=1")),
	}
}

// wantRefused fails the test when a request was let in, or when it was not
// looked at, for then the test proves nothing.
func wantRefused(t testing.TB, what string, res *http.Response) {
	t.Helper()
	if res != nil && res.StatusCode == http.StatusTooManyRequests {
		t.Errorf("void: %s was not looked at", what)
	}
	if res != nil && (res.StatusCode < 400 || res.StatusCode == http.StatusInternalServerError) {
		t.Errorf("%s = %d, want it refused", what, res.StatusCode)
	}
}

// recorder forwards to a peer port and keeps what the callers send.
type recorder struct {
	mu    sync.Mutex
	calls []*output
}

// record listens, and forwards to an address until the test ends.
func record(t testing.TB, address string) (*recorder, string) {
	t.Helper()
	r := &recorder{}
	l, err := net.Listen("tcp", proctest.FreeAddress(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer in.Close()
				out, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
				if err != nil {
					return
				}
				join(ctx, in, r.keep(out))
			})
		}
	})
	t.Cleanup(func() {
		cancel()
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
	})
	return r, l.Addr().String()
}

// keep returns the connection with its output kept.
func (r *recorder) keep(c net.Conn) net.Conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	kept := &output{}
	r.calls = append(r.calls, kept)
	return keptConn{c, kept}
}

func (r *recorder) all() []*output {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.calls)
}

type keptConn struct {
	net.Conn
	kept *output
}

func (c keptConn) Write(p []byte) (int, error) {
	_, _ = c.kept.Write(p) // it takes everything
	return c.Conn.Write(p)
}
