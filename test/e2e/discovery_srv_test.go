package e2e

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// The record types that the tests need.
const (
	typeA   = 1
	typeSRV = 33
)

// nameServer answers questions about the members of one domain. Programs ask it
// when /etc/resolv.conf is the file resolv.
type nameServer struct {
	conn   net.PacketConn
	resolv string
	// records are the answers, by name and type; a name that is in no key does
	// not exist.
	records map[string]map[uint16][][]byte
}

// startNameServer starts a name server that the programs of this test can be
// made to ask, or skips the test.
func startNameServer(t testing.TB) *nameServer {
	t.Helper()
	if out, err := exec.Command("unshare", "--mount", "mount", "--bind", os.DevNull, "/etc/resolv.conf").CombinedOutput(); err != nil {
		t.Skipf("no process can be given a resolv.conf of its own, which takes the rights of root: %v %s", err, out)
	}
	host := fmt.Sprintf("127.%d.%d.53", 64+os.Getpid()%64, os.Getpid()/64%250)
	conn, err := net.ListenPacket("udp", host+":53")
	if err != nil {
		t.Skipf("no name server can be started, which takes the rights of root: %v", err)
	}
	s := &nameServer{conn: conn, resolv: filepath.Join(t.TempDir(), "resolv.conf"), records: map[string]map[uint16][][]byte{}}
	if err := os.WriteFile(s.resolv, []byte("nameserver "+host+"\noptions timeout:1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return s
}

// add adds a record; all are added before serve.
func (s *nameServer) add(name string, kind uint16, data []byte) {
	if s.records[name] == nil {
		s.records[name] = map[uint16][][]byte{}
	}
	s.records[name][kind] = append(s.records[name][kind], data)
}

// addMember adds the records of a member at a loopback port.
func (s *nameServer) addMember(t testing.TB, service, host string, at *node) {
	t.Helper()
	u, err := url.Parse(at.peer)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	if s.records[host] == nil {
		s.add(host, typeA, []byte{127, 0, 0, 1})
	}
	data := binary.BigEndian.AppendUint16([]byte{0, 0, 0, 0}, uint16(port)) // priority, weight
	for label := range strings.SplitSeq(host, ".") {
		data = append(append(data, byte(len(label))), label...)
	}
	s.add(service, typeSRV, append(data, 0))
}

// serve answers until the test ends.
func (s *nameServer) serve(t testing.TB) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		question := make([]byte, 1500)
		for {
			n, from, err := s.conn.ReadFrom(question)
			if err != nil {
				return
			}
			if answer := s.answer(question[:n]); answer != nil {
				_, _ = s.conn.WriteTo(answer, from) // who does not get it asks again
			}
		}
	}()
	t.Cleanup(func() {
		if err := s.conn.Close(); err != nil {
			t.Error(err)
		}
		<-done
	})
}

// answer returns the answer to a message with one question, nil to others.
func (s *nameServer) answer(m []byte) []byte {
	const headBytes = 12
	if len(m) < headBytes || binary.BigEndian.Uint16(m[4:]) != 1 {
		return nil
	}
	var labels []string
	at := headBytes
	for at < len(m) && m[at] != 0 {
		end := at + 1 + int(m[at])
		if end > len(m) {
			return nil
		}
		labels, at = append(labels, strings.ToLower(string(m[at+1:end]))), end
	}
	if at+5 > len(m) {
		return nil
	}
	kind, end := binary.BigEndian.Uint16(m[at+1:]), at+5
	known := s.records[strings.Join(labels, ".")]
	flags := uint16(0x8580) // an answer with authority, as asked
	if known == nil {
		flags |= 3 // no such name
	}
	out := binary.BigEndian.AppendUint16(append([]byte(nil), m[:2]...), flags)
	for _, count := range []int{1, len(known[kind]), 0, 0} {
		out = binary.BigEndian.AppendUint16(out, uint16(count))
	}
	out = append(out, m[headBytes:end]...)
	for _, data := range known[kind] {
		out = append(out, 0xc0, headBytes) // the name of the question
		for _, v := range []uint16{kind, 1, 0, 60, uint16(len(data))} {
			out = binary.BigEndian.AppendUint16(out, v)
		}
		out = append(out, data...)
	}
	return out
}

// start starts a node that asks this name server.
func (s *nameServer) start(t testing.TB, n *node) {
	t.Helper()
	n.run = startCommand(t, "GODEBUG=netdns=go", "unshare", append([]string{
		"--mount", "sh", "-c", `mount --bind "$0" /etc/resolv.conf && exec "$@"`, s.resolv, program}, n.args...)...)
}

func TestDiscoveryBySRVRecords(t *testing.T) {
	t.Parallel()
	s := startNameServer(t)
	secret := writeSecret(t, newSecret())
	flags := []string{"--discovery-srv", "cluster.test", "--discovery-srv-name", "one", "--peer-secret-file", secret}
	c := &cluster{}
	for i := range 3 {
		n := newNode(t, "default", flags...)
		host := fmt.Sprintf("n%d.cluster.test", i+1)
		if i > 0 { // the first one is found by its address
			n.args = append(n.args, "--advertise-peer-urls", strings.Replace(n.peer, "127.0.0.1", host, 1))
		}
		s.addMember(t, "_deimos-server-one._tcp.cluster.test", host, n)
		c.nodes = append(c.nodes, n)
	}
	both := newNode(t, "both", "--discovery-srv", "bad.test", "--peer-secret-file", secret)
	s.addMember(t, "_deimos-server._tcp.bad.test", "n1.cluster.test", both)
	s.addMember(t, "_deimos-server-ssl._tcp.bad.test", "n1.cluster.test", both)
	s.serve(t)

	for _, n := range c.nodes {
		s.start(t, n)
	}
	for _, n := range c.nodes {
		n.waitReady(t)
	}
	wantOneCluster(t, c)
	for i := range c.nodes {
		idOf(t, c.nodes[0], fmt.Sprintf("n%d.cluster.test", i+1)) // their names are those of the records
	}
	load := startLoad(t, 2, c.others(nil)...)
	load.waitAcks(t, 50)

	p := newProxy(t, "on", nil)
	p.args = append([]string{"--proxy", "on", "--listen-client-urls", p.client, "--advertise-client-urls", p.client}, flags...)
	s.start(t, p)
	p.waitReady(t)
	if got, want := clusterID(t, p), clusterID(t, c.nodes[0]); got != want {
		t.Errorf("the proxy answers for the cluster %q, want %q", got, want)
	}

	stranger := newNode(t, "stranger", flags...)
	s.start(t, stranger)
	wantStop(t, stranger, 1, stranger.peer, "n3.cluster.test")
	s.start(t, both)
	wantStop(t, both, 1, "both with and without TLS")
	nowhere := newNode(t, "nowhere", "--discovery-srv", "nowhere.test", "--peer-secret-file", secret)
	s.start(t, nowhere)
	wantStop(t, nowhere, 1, "_deimos-server-ssl._tcp.nowhere.test", "_deimos-server._tcp.nowhere.test")

	// A member that has started knows its cluster, also under the old flags.
	killed := c.nodes[1]
	killed.kill(t)
	s.start(t, killed)
	killed.waitReady(t)
	load.waitAcks(t, load.acks()+50)
	load.stop(t)
	c.wantAgreement(t)
}
