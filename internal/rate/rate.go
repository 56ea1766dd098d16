// Package rate keeps work to a number of bytes a second.
package rate

import (
	"context"
	"sync"
	"time"
)

// A Limiter shares out a number of bytes a second among all who take from it, goroutines at once.
type Limiter struct {
	rate int64

	mu   sync.Mutex
	free time.Time // when the bytes taken so far will have had their time
}

// New returns a Limiter of rate bytes a second, from 1 on.
func New(rate int64) *Limiter { return &Limiter{rate: rate} }

// Portion is how much to take at a time, so that the flow is even and a cancelled wait short: what
// comes in a tenth of a second, but not less than 512 bytes.
func (l *Limiter) Portion() int64 { return max(l.rate/10, 512) }

// Take waits until n more bytes are due, or for the end of ctx, whose error it returns.
func (l *Limiter) Take(ctx context.Context, n int) error {
	l.mu.Lock()
	now := time.Now()
	if l.free.Before(now) {
		l.free = now // what was not used is lost: there are no bursts
	}
	l.free = l.free.Add(time.Duration(float64(n) / float64(l.rate) * float64(time.Second)))
	wait := l.free.Sub(now)
	l.mu.Unlock()
	return Wait(ctx, wait)
}

// Wait waits for d, or for the end of ctx, whose error it returns.
func Wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
