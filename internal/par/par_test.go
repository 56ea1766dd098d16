package par

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestEach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now, most, done atomic.Int32
		err := Each(t.Context(), 3, make([]int, 20), func(context.Context, int) error {
			most.Store(max(most.Load(), now.Add(1)))
			time.Sleep(time.Second)
			now.Add(-1)
			done.Add(1)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if done.Load() != 20 || most.Load() != 3 {
			t.Errorf("did %d, at most %d at once; want 20 and 3", done.Load(), most.Load())
		}
	})
}

func TestEachFails(t *testing.T) {
	fault := errors.New("fault")
	begun := 0
	err := Each(t.Context(), 1, []int{1, 2, 3, 4}, func(_ context.Context, i int) error {
		begun++
		if i == 2 {
			return fault
		}
		return nil
	})
	if !errors.Is(err, fault) {
		t.Errorf("got %v, want the fault", err)
	}
	if begun > 3 {
		t.Errorf("%d were begun after the fault", begun)
	}
}

func TestEachCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := Each(ctx, 2, []int{1, 2}, func(context.Context, int) error {
		t.Error("begun")
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want canceled", err)
	}
}
