package replica

import (
	"context"
	"sync/atomic"
	"time"
)

// refresh is a consistent list that is being taken in for all who wait for it.
type refresh struct {
	done  chan struct{} // closed at its end; then the others are set
	began time.Time
	err   error
	// keeping: it waits for the disk, and not for the cloud.
	keeping atomic.Bool
}

// Refresh returns when what the replica holds is not older than the moment
// since: a consistent list that was begun after it has been committed. The list
// goes on when ctx ends, for the next who asks: over a slow link it would
// otherwise be begun again and again, and never come to its end. There is one
// at a time; who comes too late for it waits, and begins the next. If it is the
// disk that takes longer than ctx, the error is ErrNotKept.
func (c *Collection) Refresh(ctx context.Context, since time.Time) error {
	defer c.await()()
	for {
		r := c.refreshing(since)
		select {
		case <-r.done:
		case <-ctx.Done():
			if r.keeping.Load() {
				return ErrNotKept
			}
			return context.Cause(ctx)
		}
		if !r.began.Before(since) {
			return r.err
		}
	}
}

// refreshing returns the list that is being taken in, or begins one.
func (c *Collection) refreshing(since time.Time) *refresh {
	c.mu.Lock()
	r := c.refresh
	if r != nil {
		c.mu.Unlock()
		return r
	}
	r = &refresh{done: make(chan struct{})}
	c.refresh = r
	c.mu.Unlock()
	c.set.start(func(ctx context.Context) {
		r.began, r.err = c.takeRefresh(ctx, r, since)
		c.mu.Lock()
		c.refresh = nil
		c.mu.Unlock()
		close(r.done)
	})
	return r
}

// takeRefresh lists the collection, unless that has just been done. While the
// list comes the feed's watch goes on; if it has overtaken the list at its end,
// the list has nothing to add.
func (c *Collection) takeRefresh(ctx context.Context, r *refresh, since time.Time) (began time.Time, err error) {
	before, err := c.standing(ctx, r)
	switch {
	case err != nil:
		return time.Now(), err
	case before.listed.After(since):
		return before.listed, nil
	}
	began = time.Now()
	in, err := c.fetch(ctx, consistent, func() {})
	if err != nil {
		return began, err
	}
	defer in.stage.Abort()
	if err := c.feeding.lock(ctx); err != nil {
		return began, err
	}
	defer c.feeding.unlock()
	r.keeping.Store(true)
	if err := c.landed(ctx); err != nil {
		return began, err
	}
	switch now := c.table.Revision(); {
	case c.epoch != before.epoch:
		return began, errAnew
	case before.revision <= in.revision && in.revision < now:
		if _, err := c.whole(); err != nil {
			return began, err
		}
		c.noteListed(began)
		return began, nil
	}
	return began, c.swap(ctx, in)
}

// standing is where a collection stood at some moment.
type standing struct {
	revision uint64
	epoch    int
	listed   time.Time
}

// standing returns where the collection stands; no commit is under way then.
func (c *Collection) standing(ctx context.Context, r *refresh) (standing, error) {
	if err := c.feeding.lock(ctx); err != nil {
		return standing{}, err
	}
	defer c.feeding.unlock()
	r.keeping.Store(true)
	defer r.keeping.Store(false)
	if err := c.landed(ctx); err != nil {
		return standing{}, err
	}
	return standing{c.table.Revision(), c.epoch, c.listed}, nil
}
