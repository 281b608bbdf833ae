package proxy

import (
	"bufio"
	"io"
	"strings"
	"testing"
)

func FuzzFrames(f *testing.F) {
	f.Add(event(6)+event(7), false)
	f.Add(string(heartbeat)+block(6)+block(7), true)
	f.Add("\n\n\r\n: x\n", true)
	f.Add("half", false)
	f.Fuzz(func(t *testing.T, s string, events bool) {
		r := frameReader{r: bufio.NewReaderSize(strings.NewReader(s), 16), events: events}
		var all strings.Builder
		for {
			frame, err := r.next()
			if err != nil {
				rest := s[all.Len():]
				if err == io.EOF && rest != "" || err != io.EOF && rest == "" {
					t.Fatalf("next() = %v with %q left", err, rest)
				}
				return
			}
			if len(frame) == 0 || frame[len(frame)-1] != '\n' {
				t.Fatalf("next() = %q, want a whole frame", frame)
			}
			frameIndex(frame, events)
			all.Write(frame)
			if !strings.HasPrefix(s, all.String()) {
				t.Fatalf("frames = %q, want those of %q", all.String(), s)
			}
		}
	})
}
