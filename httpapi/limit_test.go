package httpapi

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestTimeLimits(t *testing.T) {
	const length = 5 * time.Second
	synctest.Test(t, func(t *testing.T) {
		l := timeLimits{length: length}
		began := time.Now()
		var a, b, c, d timeLimit
		l.begin(&a)
		time.Sleep(time.Second)
		l.begin(&b)
		time.Sleep(time.Second)
		l.begin(&c)
		l.begin(&d)
		l.end(&c) // from the middle
		if at, ok := b.Deadline(); !ok || at.Sub(began) != length+time.Second {
			t.Errorf("Deadline() = %v after the beginning, %v, want %v", at.Sub(began), ok, length+time.Second)
		}
		for _, tt := range []struct {
			limit *timeLimit
			want  time.Duration
		}{{&a, length}, {&b, length + time.Second}, {&d, length + 2*time.Second}} {
			if err := tt.limit.Err(); err != nil {
				t.Errorf("Err() before the time is up = %v, want nil", err)
			}
			<-tt.limit.Done()
			if took := time.Since(began); took != tt.want || !errors.Is(tt.limit.Err(), context.DeadlineExceeded) {
				t.Errorf("limit ended after %v with %v, want %v with %v", took, tt.limit.Err(), tt.want, context.DeadlineExceeded)
			}
			l.end(tt.limit) // as its request does then
		}
		if c.Err() != nil {
			t.Errorf("Err() of a limit that was ended in time = %v, want nil", c.Err())
		}

		// All are of use again, the one that was ended and the one that was exceeded.
		time.Sleep(time.Minute)
		began = time.Now()
		l.begin(&c)
		l.begin(&a)
		l.end(&c)
		if a.Err() != nil || c.Err() != nil {
			t.Errorf("Err() of limits that are used again = %v, %v, want nil", a.Err(), c.Err())
		}
		<-a.Done()
		if took := time.Since(began); took != length {
			t.Errorf("limit ended after %v, want %v", took, length)
		}
		if l.first != nil || l.last != nil || l.armed {
			t.Errorf("limits = %+v, want none and no timer", &l)
		}
	})
}

// TestTimeLimitsUnderLoad lets many requests begin and end, some of them late.
func TestTimeLimitsUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := timeLimits{length: 100 * time.Millisecond}
		var all sync.WaitGroup
		for i := range 50 {
			all.Go(func() {
				var x timeLimit
				for round := range 50 {
					l.begin(&x)
					work := time.Duration((i*7+round*13)%150)*time.Millisecond + time.Microsecond
					began := time.Now()
					select {
					case <-time.After(work):
						if work > l.length {
							t.Errorf("work of %v was not interrupted at %v", work, l.length)
						}
					case <-x.Done():
						if took := time.Since(began); took != l.length || work < l.length {
							t.Errorf("work of %v was interrupted after %v, want %v", work, took, l.length)
						}
					}
					l.end(&x)
				}
			})
		}
		all.Wait()
	})
}
