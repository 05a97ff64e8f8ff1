package replica

import (
	"context"
	"slices"
	"sync"
	"time"

	"yurt/internal/upstream"
)

const (
	// glances is how many feeds may wait for a short answer at a time: the
	// opening of a watch, or the list of one name. A hub that returns with fifty
	// collections so has no more than this outstanding, and an API server that
	// is slow because thousands return slows each of them down. One at a time
	// would make a node with a round trip of 2 s wait for minutes.
	glances = 8

	// turnPatience is how long an answer may stand still before others need not
	// wait for it any more: one API that hangs must not hold up the rest.
	turnPatience = 5 * time.Second
)

const (
	// When the link returns it often does for many nodes, and an API server
	// suffers from all collections of all nodes within a second. So each feed
	// draws its time from a part of the outage: who has been without news for
	// minutes does not suffer from half a minute more. client-go takes a minute.
	// What the node runs it wants to know sooner.
	returnSoon = time.Second // at least
	returnPart = 8
	returnLate = 30 * time.Second
	podsPart   = 100
	podsLate   = 5 * time.Second
)

// returnSpread is the time over which the feeds of this collection, on all nodes,
// ask again after an outage.
func returnSpread(k Key, outage time.Duration) time.Duration {
	part, late := outage/returnPart, returnLate
	if k.Identity.IsNode() && k.Resource.Resource == "pods" {
		part, late = outage/podsPart, podsLate
	}
	return min(max(part, returnSoon), late)
}

// awaitLink waits for the link. After an outage it waits for a time of its own,
// unless a client waits for this collection.
func (f *follower) awaitLink(ctx context.Context) error {
	before := f.set.up.Link()
	if err := f.set.up.WaitUp(ctx); err != nil {
		return err
	}
	if before.State != upstream.Down {
		return nil
	}
	f.retry.Reset()
	f.returning = returnSpread(f.Key, time.Since(before.Since))
	pause, cancel := context.WithTimeout(ctx, f.set.spread(f.returning))
	defer cancel()
	_ = f.wait(pause, func() (bool, error) { return f.awaited(), nil }) // its only error is the end of the pause
	return context.Cause(ctx)
}

// awaited tells whether a client waits for the feed.
func (c *Collection) awaited() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.waiting > 0
}

// errand is what a feed wants to ask the cloud for.
type errand struct {
	node bool // for the kubelet: what the node's pods depend on goes first
	long bool // a list that may be as long as it likes
}

// next returns which of those that wait may ask beside those that run, or -1.
//
// Of long lists one is taken in at a time, so that each has the whole link, and
// memory is needed once. Only the kubelet does not wait for another client's
// list, which may take an hour over a slow link; and while the kubelet has
// something to list, nobody else begins to.
func next(running, waiting []errand) int {
	short, long := 0, map[bool]bool{}
	for _, e := range running {
		if e.long {
			long[e.node] = true
		} else {
			short++
		}
	}
	may := func(e errand) bool {
		switch {
		case !e.long:
			return short < glances
		case e.node:
			return !long[true]
		}
		return !long[true] && !long[false] && !slices.Contains(waiting, errand{node: true, long: true})
	}
	for _, node := range []bool{true, false} {
		for i, e := range waiting {
			if e.node == node && may(e) {
				return i
			}
		}
	}
	return -1
}

// turns makes the feeds of a hub ask one after the other, in the order that next
// says. What a client on the node waits for by itself (Refresh) takes no turn.
type turns struct {
	mu      sync.Mutex
	running []errand
	waiting []errand // in the order in which they came
	granted []chan struct{}
}

// turn is one feed's leave to ask.
type turn struct {
	turns   *turns
	errand  errand
	end     sync.Once
	silence *time.Timer // ends the turn
}

// take waits for a turn. It ends by done, or when nothing has been heard for a
// while.
func (t *turns) take(ctx context.Context, e errand) (*turn, error) {
	granted := make(chan struct{})
	t.mu.Lock()
	t.waiting, t.granted = append(t.waiting, e), append(t.granted, granted)
	t.grantLocked()
	t.mu.Unlock()
	n := &turn{turns: t, errand: e}
	select {
	case <-granted:
		n.silence = time.AfterFunc(turnPatience, n.finish)
		return n, nil
	case <-ctx.Done():
		t.leave(granted, n)
		return nil, context.Cause(ctx)
	}
}

// leave takes one out of the queue that does not want to wait any more.
func (t *turns) leave(granted chan struct{}, n *turn) {
	t.mu.Lock()
	i := slices.Index(t.granted, granted)
	if i >= 0 {
		t.waiting, t.granted = slices.Delete(t.waiting, i, i+1), slices.Delete(t.granted, i, i+1)
		t.grantLocked() // others may have waited for this one to go first
	}
	t.mu.Unlock()
	if i < 0 { // its turn has come at the same moment
		n.finish()
	}
}

// heard says that the answer goes on.
func (n *turn) heard() { n.silence.Reset(turnPatience) }

// done ends the turn.
func (n *turn) done() {
	n.silence.Stop()
	n.finish()
}

func (n *turn) finish() {
	n.end.Do(func() {
		t := n.turns
		t.mu.Lock()
		defer t.mu.Unlock()
		i := slices.Index(t.running, n.errand) // one is as good as another
		t.running = slices.Delete(t.running, i, i+1)
		t.grantLocked()
	})
}

// grantLocked lets go whoever may.
func (t *turns) grantLocked() {
	for i := next(t.running, t.waiting); i >= 0; i = next(t.running, t.waiting) {
		t.running = append(t.running, t.waiting[i])
		close(t.granted[i])
		t.waiting, t.granted = slices.Delete(t.waiting, i, i+1), slices.Delete(t.granted, i, i+1)
	}
}
