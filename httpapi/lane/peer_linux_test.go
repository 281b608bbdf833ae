package lane

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"pgregory.net/rapid"
)

// peer is a client, and what it has to see.
type peer struct {
	t     *rapid.T
	world *world
	nc    *net.TCPConn
	out   io.Writer // nc, or TLS on it, from which in reads too
	in    *bufio.Reader
	asked []*script // what was not answered whole, in order
	body  io.Reader // of the answer to the first of them, of which got bytes were read
	got   int
	rest  string // of the last request, that is to be sent
	// last tells that it sends no more requests, half that it has closed its side, and
	// lost that it has gone, or has seen the end.
	last, half, lost bool
	// other tells that net/http may have the connection, which does not see that a
	// client goes while more requests wait; loose that it may end at any time.
	other, loose bool
	must         *script // that has its answer all the same
	sent, ending bool    // anything; the streams end without the test
}

func (p *peer) send(text string) {
	p.sent = p.sent || text != ""
	_ = p.nc.SetWriteDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(p.out, text); errors.Is(err, os.ErrDeadlineExceeded) {
		p.t.Fatalf("sending = %v, want the server to read", err)
	}
}

func (p *peer) ask(s *script) {
	head := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: h\r\n", s.method, s.path)
	if p.world.IntN(20) == 0 {
		head, p.last = head+"Connection: close\r\n", true
	}
	if s.body != "" {
		head += fmt.Sprintf("Content-Length: %d\r\n", len(s.body))
	}
	head += "\r\n"
	text, cut := head+s.body, 0
	switch way := p.world.IntN(8); {
	case s.kind == "plain":
	case way == 0: // mostly in the head, which takes the connection to net/http
		cut = p.world.IntN(len(text))
	case way < 3:
		cut = len(head) + p.world.IntN(len(s.body)+1)
	}
	p.asked = append(p.asked, s)
	waiting := 0
	for _, s := range p.asked {
		waiting += len(s.body) + 100
	}
	p.other = p.other || cut > 0 && cut < len(head) || waiting > bufferBytes
	if p.rest = text[cut:]; cut == 0 {
		cut, p.rest = len(text), ""
	}
	p.send(text[:cut])
}

func (p *peer) sendRest() {
	p.send(p.rest)
	p.rest = ""
}

func (p *peer) closeHalf() {
	p.sendRest()
	_ = p.nc.CloseWrite() // reset by the server, if it fails
	p.half, p.last = true, true
	for _, s := range p.asked {
		p.loose = p.loose || s.kind == "stream"
	}
}

func (p *peer) leave() {
	_ = p.nc.Close() // nobody looks at it any more
	p.lost, p.asked = true, nil
}

// ready reports whether something has to come.
func (p *peer) ready() bool {
	if p.lost || len(p.asked) == 0 || len(p.asked) == 1 && p.rest != "" {
		return false
	}
	s := p.asked[0]
	return s.released || s.kind != "paused" && s.kind != "slow" && (s.kind != "stream" || !s.slowly)
}

// take reads what has to come, and checks it. Where the connection may end it may
// have ended, after a part of that. A panic ends it, and where the server has not
// read all, that is by a reset, which takes answers with it that are on their way.
func (p *peer) take() {
	s, mayEnd := p.asked[0], p.loose && p.asked[0] != p.must
	for i, s := range p.asked {
		dies := s.kind == "panic" || s.cut
		mayEnd = mayEnd || dies && (i == 0 || i < len(p.asked)-1 || s.body != "")
	}
	err := p.read(s)
	if err == nil {
		return
	}
	if !mayEnd || errors.Is(err, os.ErrDeadlineExceeded) {
		p.t.Fatalf("answer to %s (%s) after %d bytes of %d = %v", s.path, s.kind, p.got, len(s.text), err)
	}
	p.leave()
}

func (p *peer) read(s *script) error {
	_ = p.nc.SetReadDeadline(time.Now().Add(patience))
	if p.body == nil {
		resp, err := http.ReadResponse(p.in, &http.Request{Method: s.method})
		if err != nil {
			return err
		}
		p.body, p.got = resp.Body, 0
	}
	want := s.text[p.got:]
	if s.method == http.MethodHead {
		want = ""
	}
	got := make([]byte, len(want))
	n, err := io.ReadFull(p.body, got)
	if p.got += n; string(got[:n]) != want[:n] {
		p.t.Fatalf("answer to %s (%s) = ….%.60q, want ….%.60q", s.path, s.kind, got[:n], want[:n])
	}
	if err != nil || s.kind == "stream" && !s.over && !s.cut && !p.ending {
		return err
	}
	switch more, err := io.ReadAll(p.body); {
	case err != nil:
		return err
	case len(more) > 0 || s.cut && !p.loose || s.kind == "panic":
		p.t.Fatalf("answer to %s (%s) goes on with %.60q, want no more, and no good end after a panic", s.path, s.kind, more)
	}
	p.body, p.asked = nil, p.asked[1:]
	return nil
}

// drain reads all that is still to come. ends tells that the server has to end the
// connection afterwards.
func (p *peer) drain(ends bool) {
	for !p.lost && len(p.asked) > 0 {
		p.take()
	}
	if !p.lost && ends {
		_ = p.nc.SetReadDeadline(time.Now().Add(patience))
		if b, err := p.in.ReadByte(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			p.t.Fatalf("after the last answer = %q, %v, want the connection's end", b, err)
		}
	}
	p.leave()
}

// act does one of ten things, and returns what was asked for.
func (p *peer) act(what int) (asked []*script) {
	w := p.world
	switch {
	case what < 4 && !p.last && len(p.asked) < 30: // a request, or some, or more than a turn answers
		n, kinds := 1+w.IntN(3), []string{"quick", "paused", "slow", "stream", "stream"}
		switch w.IntN(12) {
		case 0:
			n, kinds = 25, []string{"plain"}
		case 1:
			kinds = []string{"panic"}
		}
		for ; n > 0 && !p.last && p.rest == ""; n-- {
			s := w.newScript(p, kinds...)
			asked = append(asked, s)
			p.ask(s)
		}
	case what < 5:
		p.sendRest()
	case what < 9 && p.ready():
		p.take()
	case what == 9 && w.IntN(4) == 0:
		p.closeHalf()
	case what == 9 && w.IntN(3) == 0:
		_ = p.nc.SetLinger(0) // it fails on a connection that was reset already
		p.leave()
	case what == 9 && w.IntN(2) == 0:
		p.leave()
	}
	return asked
}
