package rate

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// All who take keep to the rate together, and time in which nobody took anything is not made up for.
func TestTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(1000)
		time.Sleep(time.Hour)
		begun := time.Now()
		done := make(chan error)
		for range 4 {
			go func() {
				for range 10 {
					if err := l.Take(t.Context(), 500); err != nil {
						done <- err
						return
					}
				}
				done <- nil
			}()
		}
		for range 4 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if took, want := time.Since(begun), 20*time.Second; took != want {
			t.Errorf("took %s, want %s", took, want)
		}
	})
}

// A wait ends with its context.
func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begun := time.Now()
		err := New(1).Take(ctx, 1000)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) != time.Second {
			t.Errorf("got %v after %s, want the end of the context after 1s", err, time.Since(begun))
		}
	})
}
