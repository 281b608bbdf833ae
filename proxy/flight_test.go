package proxy

import (
	"context"
	"testing"
)

func TestQueueOfAViewerIsBounded(t *testing.T) {
	for _, tt := range []struct {
		name        string
		size, taken int
	}{
		{"count", 10, queueMax},
		{"bytes", queueMaxBytes / 4, 4},
		{"one large event", 2 * queueMaxBytes, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := New(Config{Bootstrap: func(context.Context) ([]string, error) { return nil, nil }})
			if err != nil {
				t.Fatalf("New() = %v, want nil", err)
			}
			f := &flight{table: p.watches, spec: watchSpec{stream: true}, viewers: make(map[*viewer]struct{}), room: make(chan struct{}, 1)}
			v := f.join()
			for range tt.taken {
				if err := f.give(t.Context(), make([]byte, tt.size)); err != nil || v.ended {
					t.Fatalf("give() = %v, ended %t, want room", err, v.ended)
				}
			}
			if err := f.give(t.Context(), []byte("x")); err != nil || !v.ended {
				t.Fatalf("give() = %v, ended %t, want the end", err, v.ended)
			}
			if frames, ended := v.take(); len(frames) != tt.taken || !ended {
				t.Errorf("take() = %d frames, %t, want %d and the end", len(frames), ended, tt.taken)
			}
		})
	}
}
