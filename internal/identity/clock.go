package identity

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"yurt/internal/offline"
)

// Clock is the time that tokens are measured by. It is never earlier than what
// API servers have said it is, over restarts too, so that a clock which is set
// back, or begins in 1970, revives nothing. That the node's clock is ahead is
// not remembered: it may be wrong, and then it heals.
type Clock struct {
	book *offline.Book

	mu    sync.Mutex
	floor time.Time // the last word of an API server
	heard time.Time // when it was heard, by this process's monotonic clock
	kept  time.Time // the floor that is stored
	skew  time.Duration
}

const (
	floorKey = "time"
	// floorStep is by how much the floor must have risen to be stored again.
	floorStep = 10 * time.Minute
)

// OpenClock reads the floor from a book.
func OpenClock(book *offline.Book) *Clock {
	c := &Clock{book: book, heard: time.Now()}
	if answer, ok := book.Recall(floorKey); ok {
		if err := json.Unmarshal(answer.Body, &c.floor); err == nil {
			c.kept = c.floor
		}
	}
	return c
}

// Now is the later of the node's time and of what API servers have said, with
// the time that has passed since.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if floor := c.floor.Add(now.Sub(c.heard)); floor.After(now) {
		return floor
	}
	return now.Round(0)
}

// Skew is by how much the node's clock is ahead of what an API server has said
// last, or, if negative, behind.
func (c *Clock) Skew() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.skew
}

// Note takes the time from an API server's answer, and returns when it is durable
// if it is worth being stored.
func (c *Clock) Note(ctx context.Context, resp *http.Response) error {
	said, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		return nil //nolint:nilerr // none, or not one of HTTP's forms: it proves nothing
	}
	c.mu.Lock()
	now := time.Now()
	c.skew = now.Round(0).Sub(said)
	if said.After(c.floor.Add(now.Sub(c.heard))) {
		c.floor, c.heard = said, now
	}
	keep := c.floor.Sub(c.kept) >= floorStep
	if keep {
		c.kept = c.floor
	}
	floor := c.floor
	c.mu.Unlock()
	if !keep {
		return nil
	}
	body, err := json.Marshal(floor)
	if err == nil {
		err = c.book.Keep(ctx, floorKey, offline.Answer{At: now, Body: body})
	}
	if err != nil {
		return fmt.Errorf("store the time that the API server said: %w", err)
	}
	return nil
}
