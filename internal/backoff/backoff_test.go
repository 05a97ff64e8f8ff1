package backoff

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestNextStaysBelowItsCeiling(t *testing.T) {
	b := Backoff{Base: 100 * time.Millisecond, Cap: time.Second}
	for n, milliseconds := range []int{100, 200, 400, 800, 1000, 1000, 1000} {
		ceiling := time.Duration(milliseconds) * time.Millisecond
		if got := b.Next(); got < 0 || got > ceiling {
			t.Errorf("wait %d = %v, want at most %v", n, got, ceiling)
		}
	}
	b.Reset()
	if got := b.Next(); got > 100*time.Millisecond {
		t.Errorf("wait after Reset = %v, want at most Base", got)
	}
}

// Full jitter means the whole interval is used: clients that failed together
// must not come back together.
func TestNextUsesTheWholeInterval(t *testing.T) {
	low, high := 0, 0
	for range 1000 {
		b := Backoff{Base: time.Second, Cap: time.Second}
		switch got := b.Next(); {
		case got < 250*time.Millisecond:
			low++
		case got > 750*time.Millisecond:
			high++
		}
	}
	if low < 150 || high < 150 {
		t.Errorf("of 1000 waits %d are in the first quarter and %d in the last, want about 250 each", low, high)
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if err := Sleep(ctx, time.Hour); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Sleep = %v, want the context's error", err)
		}
		if got := time.Since(start); got != time.Second {
			t.Errorf("Sleep took %v, want 1s", got)
		}
		if err := Sleep(t.Context(), time.Second); err != nil {
			t.Errorf("Sleep = %v, want nil", err)
		}
	})
}
