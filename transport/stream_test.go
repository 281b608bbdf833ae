package transport

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"go.etcd.io/raft/v3/raftpb"
)

func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// entriesFrame is a frame of the msgapp stream with entries of any bytes.
func entriesFrame(entries ...[]byte) []byte {
	frame := append([]byte{frameEntries}, number(uint64(len(entries)))...)
	for _, e := range entries {
		frame = append(append(frame, number(uint64(len(e)))...), e...)
	}
	return append(frame, number(7)...)
}

func entryBytes(t testing.TB, data string) []byte {
	t.Helper()
	b, err := (&raftpb.Entry{Term: 1, Index: 2, Data: []byte(data)}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func messageFrame(t testing.TB, m raftpb.Message) []byte {
	return append([]byte{frameMessage}, framed(t, m)...)
}

func TestStreamHandsOnSoundFramesOnly(t *testing.T) {
	sound := entriesFrame(entryBytes(t, "a"), entryBytes(t, strings.Repeat("b", 3<<20)))
	link := []byte{frameLink}
	beat := framed(t, heartbeat(2, 1, 1))
	for _, tt := range []struct {
		name   string
		msgapp bool
		sound  []byte // handed on
		bad    []byte // after it
		want   error
	}{
		{"nothing", true, nil, nil, io.EOF},
		{"link heartbeats", true, append(link, link...), nil, io.EOF},
		{"entries", true, append(sound, link...), nil, io.EOF},
		{"no entries", true, entriesFrame(), nil, io.EOF},
		{"message", true, append(messageFrame(t, appendMessage(2, 1, 1, "x")), sound...), nil, io.EOF},
		{"unknown kind", true, sound, []byte{3}, errFrame},
		{"html", true, nil, []byte("<!DOCTYPE html>"), errFrame},
		{"too many entries", true, sound, append([]byte{frameEntries}, number(entriesMax+1)...), errFrame},
		{"endless entries", true, nil, append([]byte{frameEntries}, number(1<<63)...), errFrame},
		{"huge entry", true, entriesFrame(entryBytes(t, "a"))[:9], number(messageMaxBytes + 1), errFrame},
		{"entry that does not decode", true, entriesFrame()[:1:1], append(append(number(1), number(2)...), 0xff, 0xff), errFrame},
		{"half an entry", true, link, sound[:1<<20], io.ErrUnexpectedEOF},
		{"huge message", true, nil, append([]byte{frameMessage}, number(messageMaxBytes+1)...), errFrame},
		{"message that does not decode", true, nil, append([]byte{frameMessage}, append(number(2), 0xff, 0xff)...), errFrame},
		{"messages", false, append(beat, beat...), nil, io.EOF},
		{"huge plain message", false, beat, number(messageMaxBytes + 1), errFrame},
		{"half a plain message", false, beat, beat[:len(beat)-1], io.ErrUnexpectedEOF},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, way := range []struct {
				name string
				read func(io.Reader) io.Reader
			}{
				{"at once", func(r io.Reader) io.Reader { return r }},
				{"in halves", iotest.HalfReader},
			} {
				in := bytes.NewReader(append(slices.Clone(tt.sound), tt.bad...))
				s := newStream(io.NopCloser(way.read(in)), tt.msgapp)
				got, err := io.ReadAll(s)
				if err == nil {
					err = io.EOF
				}
				if !errors.Is(err, tt.want) {
					t.Errorf("%s: error = %v, want %v", way.name, err, tt.want)
				}
				// The head of a frame whose rest is bad may have been handed on.
				whole := append(slices.Clone(tt.sound), tt.bad...)
				if !bytes.HasPrefix(whole, got) || tt.bad == nil && len(got) != len(tt.sound) {
					t.Errorf("%s: %d bytes were handed on, want the %d sound ones", way.name, len(got), len(tt.sound))
				}
			}
		})
	}
}

// Goal: a member speaks for itself only, also on a stream.
func TestStreamSpeaksForItsSenderOnly(t *testing.T) {
	typed := func(kind raftpb.MessageType, from uint64) raftpb.Message {
		return raftpb.Message{Type: kind, From: from, To: 1}
	}
	for _, tt := range []struct {
		name string
		m    raftpb.Message
		ok   bool
	}{
		{"its own", heartbeat(2, 1, 1), true},
		{"of another", heartbeat(3, 1, 1), false},
		{"a vote of another", typed(raftpb.MsgVoteResp, 3), false},
		{"a term of nobody", typed(raftpb.MsgApp, 0), false},
		{"a proposal that it passes on", typed(raftpb.MsgProp, 3), true},
		{"a proposal of nobody", typed(raftpb.MsgProp, 0), false},
		{"a read that it passes on", typed(raftpb.MsgReadIndex, 3), true},
		{"a hand-over of another", typed(raftpb.MsgTransferLeader, 3), false},
		{"the heartbeat of the link", raftpb.Message{Type: raftpb.MsgHeartbeat}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, msgapp := range []bool{false, true} {
				in := framed(t, tt.m)
				if msgapp {
					in = messageFrame(t, tt.m)
				}
				refused := 0
				s := newStream(io.NopCloser(bytes.NewReader(in)), msgapp)
				s.sender, s.onRefused = 2, func(error) { refused++ }
				_, err := io.ReadAll(s)
				if (err == nil) != tt.ok || (refused == 0) != tt.ok {
					t.Errorf("msgapp %t: error = %v, refused %d times, want it taken: %t", msgapp, err, refused, tt.ok)
				}
			}
		})
	}
}

func TestFrameAtTheLimitIsTaken(t *testing.T) {
	m := raftpb.Message{Context: make([]byte, messageMaxBytes-100)}
	m.Context = make([]byte, messageMaxBytes-100+messageMaxBytes-m.Size())
	data := encode(t, m)
	if len(data) != messageMaxBytes {
		t.Fatalf("the message has %d bytes, want %d", len(data), messageMaxBytes)
	}
	s := newStream(io.NopCloser(io.MultiReader(bytes.NewReader(number(messageMaxBytes)), bytes.NewReader(data))), false)
	if n, err := io.Copy(io.Discard, s); n != messageMaxBytes+8 || err != nil {
		t.Errorf("Copy() = %d, %v, want %d", n, err, messageMaxBytes+8)
	}
	frame := append([]byte{frameEntries}, number(entriesMax)...)
	frame = append(append(frame, make([]byte, 8*entriesMax)...), number(7)...)
	s = newStream(io.NopCloser(bytes.NewReader(frame)), true)
	if n, err := io.Copy(io.Discard, s); n != int64(len(frame)) || err != nil {
		t.Errorf("Copy() = %d, %v, want %d", n, err, len(frame))
	}
}

func TestPromisedLengthTakesNoMemory(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 100 {
		s := newStream(io.NopCloser(bytes.NewReader(number(messageMaxBytes))), false)
		if _, err := io.ReadAll(s); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("ReadAll() = %v, want %v", err, io.ErrUnexpectedEOF)
		}
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 100*4<<20 {
		t.Errorf("100 promises of %d bytes took %d bytes", messageMaxBytes, got)
	}
}

// Goal: what a hostile peer sends on a stream costs its connection, not the
// process. The real rafthttp reads it.
func TestHostileStreamEndsOnlyItself(t *testing.T) {
	hostile := [][]byte{
		append([]byte{frameEntries}, number(1<<62)...),
		append([]byte{frameEntries}, number(1<<40)...),
		entriesFrame([]byte{0xff, 0xff}),
		append(append([]byte{frameEntries}, number(1)...), number(1<<62)...),
		append([]byte{frameMessage}, number(1<<62)...),
		append([]byte{frameMessage}, append(number(2), 0xff, 0xff)...),
		number(1 << 62),
		append(number(2), 0xff, 0xff),
	}
	turn := make(chan []byte)
	done := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(headerVersion, "3.6.16")
		select {
		case b := <-turn:
			_, _ = w.Write(b)
		case <-done:
		}
	}))
	defer srv.Close()
	r := newHTTPRig(t)
	r.urls[direction{1, 2}] = srv.URL
	a := r.start(t, 1, 2)
	for _, b := range hostile {
		turn <- b // each goes to one of the two streams, so
		turn <- b // twice to have it read by either kind, as a rule
	}
	close(done)
	r.stop(a)
	if got := a.recv.messages(); len(got) != 0 {
		t.Errorf("messages = %v, want none", got)
	}
}

// FuzzStream checks that what a stream hands on can be decoded in the way that
// rafthttp does it, without a panic and within the limits.
func FuzzStream(f *testing.F) {
	f.Add(true, entriesFrame(entryBytes(f, "a"), entryBytes(f, "b")))
	f.Add(true, messageFrame(f, appendMessage(2, 1, 1, "x")))
	f.Add(true, []byte{frameLink, frameLink, 9})
	f.Add(true, append([]byte{frameEntries}, number(1<<63)...))
	f.Add(true, entriesFrame([]byte{0xff}))
	f.Add(false, framed(f, heartbeat(2, 1, 1)))
	f.Add(false, number(1<<63))
	f.Fuzz(func(t *testing.T, msgapp bool, data []byte) {
		got, err := io.ReadAll(newStream(io.NopCloser(bytes.NewReader(data)), msgapp))
		if !bytes.HasPrefix(data, got) {
			t.Fatalf("handed on %x, want the start of %x", got, data)
		}
		if err == nil && len(got) != len(data) {
			t.Errorf("%d of %d bytes were handed on without an error", len(got), len(data))
		}
		decodeAsRafthttp(t, msgapp, bytes.NewReader(got))
	})
}

func decodeAsRafthttp(t *testing.T, msgapp bool, r *bytes.Reader) {
	t.Helper()
	sized := func(limit uint64) ([]byte, bool) {
		var head [8]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return nil, false
		}
		size := binary.BigEndian.Uint64(head[:])
		if size > limit {
			t.Fatalf("a length of %d was handed on, want at most %d", size, limit)
		}
		data := make([]byte, size)
		_, err := io.ReadFull(r, data)
		return data, err == nil
	}
	for {
		kind := byte(frameMessage)
		if msgapp {
			var err error
			if kind, err = r.ReadByte(); err != nil {
				return
			}
		}
		switch kind {
		case frameEntries:
			var count [8]byte
			if _, err := io.ReadFull(r, count[:]); err != nil {
				return
			}
			for range binary.BigEndian.Uint64(count[:]) {
				data, ok := sized(messageMaxBytes)
				if !ok {
					return
				}
				var e raftpb.Entry
				if err := e.Unmarshal(data); err != nil {
					t.Fatalf("an entry was handed on that does not decode: %v", err)
				}
			}
			if _, err := io.ReadFull(r, count[:]); err != nil {
				return
			}
		case frameMessage:
			data, ok := sized(messageMaxBytes)
			if !ok {
				return
			}
			var m raftpb.Message
			if err := m.Unmarshal(data); err != nil && msgapp {
				t.Fatalf("a message was handed on that does not decode: %v", err)
			}
		}
	}
}
