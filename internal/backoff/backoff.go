// Package backoff spaces repeated attempts with full jitter: each wait is drawn
// uniformly between zero and a ceiling that doubles with every failure up to a
// cap. Ten thousand nodes whose link returns in the same second therefore come
// back spread over the ceiling, not in step.
//
// A Backoff guarantees that a wait never exceeds its cap and that it ends early
// with its context. It never decides whether to try again; the caller does.
package backoff

import (
	"context"
	"math/rand/v2"
	"time"
)

// Backoff is the state of one retry loop. The zero value of Base and Cap is not
// useful. It belongs to one goroutine.
type Backoff struct {
	Base time.Duration // ceiling of the first wait
	Cap  time.Duration // ceiling of every later one

	failures int
}

// Next returns the next wait, in [0, min(Cap, Base·2ⁿ)] after n failures.
func (b *Backoff) Next() time.Duration {
	ceiling := b.Base
	for i := 0; i < b.failures && ceiling < b.Cap; i++ {
		ceiling *= 2
	}
	b.failures++
	return rand.N(min(ceiling, b.Cap) + 1)
}

// Reset forgets the failures, after a success.
func (b *Backoff) Reset() { b.failures = 0 }

// Wait sleeps for Next or until ctx ends, and returns ctx's error if it did.
func (b *Backoff) Wait(ctx context.Context) error { return Sleep(ctx, b.Next()) }

// Sleep waits for d or until ctx ends, and returns ctx's error if it did.
func Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
