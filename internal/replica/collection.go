package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"yurt/internal/credential"
	"yurt/internal/store"
	"yurt/internal/wire"
)

// ErrUnavailable: the collection has never been complete, and the cloud can't
// be asked now. It says nothing about what exists.
var ErrUnavailable = errors.New("not in the replica yet, and the cloud is away")

// DeniedError is the API server's own answer to the feed of a collection: it
// did not let this identity read it, or there is no such resource.
type DeniedError struct {
	Code        int
	ContentType string
	Body        []byte
}

func (e *DeniedError) Error() string { return fmt.Sprintf("the API server answers %d", e.Code) }

// Phase is what a collection's feed is doing.
type Phase int

// The phases of a feed.
const (
	Parked   Phase = iota // nobody has asked for a while
	Waiting               // for the link, a credential or the next attempt
	Listing               // taking in a list
	Watching              // the replica follows the cloud
)

// String is the phase as it stands on /status.
func (p Phase) String() string {
	return [...]string{"parked", "waiting", "listing", "watching"}[p]
}

// meta is what the store keeps beside a collection's objects.
type meta struct {
	Encoding wire.Encoding `json:"encoding"`
	Envelope wire.Envelope `json:"envelope"`
	// Bookmark is the item of a bookmark of the API server: the shape of ours.
	Bookmark []byte `json:"bookmark,omitempty"`
}

// Collection is the replica of one list+watch.
type Collection struct {
	Key
	table *store.Table
	set   *Set
	log   *slog.Logger

	// feeding is held by whoever changes the table: the watch of the feed for
	// one event, a list from its beginning to its swap. Whoever takes it finds
	// no commit under way that is not yet visible.
	feeding  gate
	inFlight sync.WaitGroup // commits handed to the store
	queued   uint64         // the revision of the newest of them
	bookmark uint64         // the newest version heard of, not committed yet
	listed   time.Time      // when the newest complete list was begun

	// heard is when the feed last heard from the cloud, in Unix nanoseconds.
	heard atomic.Int64

	// startAt is the version at which a client wants its watch to begin that
	// has listed elsewhere: the first list is taken exactly there, if that can
	// be.
	startAt atomic.Uint64

	mu       sync.Mutex
	meta     *meta // nil until the first list is complete
	phase    Phase
	since    time.Time // of phase
	denied   *DeniedError
	recheck  bool // denied, and somebody has asked again since
	cred     credential.Credential
	running  bool      // a feed runs
	watchers int       // streams being served
	lastUse  time.Time // by a request; streams use it all the time
	changed  chan struct{}
}

// gate is a mutex that can be waited for with a context.
type gate chan struct{}

func (g gate) lock(ctx context.Context) error {
	select {
	case g <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (g gate) unlock() { <-g }

func newCollection(key Key, table *store.Table, set *Set) (*Collection, error) {
	c := &Collection{
		Key: key, table: table, set: set,
		log:     set.log.With("collection", key.String()),
		since:   time.Now(),
		lastUse: time.Now(),
		changed: make(chan struct{}),
		feeding: make(gate, 1),
	}
	if raw := table.Meta(); len(raw) > 0 {
		var m meta
		if err := json.Unmarshal(raw, &m); err != nil {
			return nil, fmt.Errorf("read meta of collection %s: %w", key, err)
		}
		c.meta = &m
	}
	return c, nil
}

// Populated tells whether a complete list has been taken in at some time.
func (c *Collection) Populated() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.meta != nil
}

// Revision is the version that the replica has reached.
func (c *Collection) Revision() uint64 { return c.table.Revision() }

func (c *Collection) current() (meta, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.meta == nil {
		return meta{}, false
	}
	return *c.meta, true
}

// stateChanged returns a channel that is closed when the collection's state
// next changes.
func (c *Collection) stateChanged() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// update changes the collection's state and wakes those who wait for it.
func (c *Collection) update(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.phase
	change()
	if c.phase != before {
		c.since = time.Now()
	}
	close(c.changed)
	c.changed = make(chan struct{})
}

// wait returns when done says so, with its error; done is called whenever the
// collection's state or the link changes.
func (c *Collection) wait(ctx context.Context, done func() (bool, error)) error {
	for {
		changed, link := c.stateChanged(), c.set.up.Changed()
		if ok, err := done(); ok {
			return err
		}
		select {
		case <-changed:
		case <-link:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Ready returns when a complete list has been taken in, however old. Otherwise
// the error is a *DeniedError, ErrUnavailable if the link is down, or ctx's.
func (c *Collection) Ready(ctx context.Context) error {
	return c.wait(ctx, func() (bool, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		down := c.set.down()
		switch {
		case c.denied != nil && (!c.recheck || down):
			return true, c.denied
		case c.denied != nil:
			return false, nil
		case c.meta != nil:
			return true, nil
		}
		return down, ErrUnavailable
	})
}

// Live returns when the feed follows the cloud, or can't because the link is
// down; then the replica is what there is. A denial is returned.
func (c *Collection) Live(ctx context.Context) error {
	return c.wait(ctx, func() (bool, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.denied != nil && !c.recheck {
			return true, c.denied
		}
		return c.phase == Watching || c.set.down(), nil
	})
}

// FreshAt is when the replica was last known to be what the cloud has.
func (c *Collection) FreshAt() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase == Watching && !c.set.down() {
		return time.Now()
	}
	if heard := c.heard.Load(); heard != 0 {
		return time.Unix(0, heard)
	}
	return time.Time{} // not since the hub's start
}

// Reach returns when the replica is at revision or beyond it, or with ctx's
// error.
func (c *Collection) Reach(ctx context.Context, revision uint64) error {
	for {
		changed := c.table.Changed()
		if c.table.Revision() >= revision {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// use notes that somebody asks for the collection with a credential, and
// starts its feed if none runs.
func (c *Collection) use(cred credential.Credential) {
	c.mu.Lock()
	c.lastUse = time.Now()
	if recheck := c.denied != nil; c.cred != cred || recheck {
		c.cred, c.recheck = cred, recheck
		close(c.changed)
		c.changed = make(chan struct{})
	}
	start := !c.running
	c.running = true
	if start {
		c.phase, c.since = Waiting, time.Now()
	}
	c.mu.Unlock()
	if start {
		c.set.startFeed(c)
	}
}

func (c *Collection) credential() credential.Credential {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cred
}

// deny ends the collection's use: the API server said no.
func (c *Collection) deny(d *DeniedError) {
	c.update(func() { c.denied, c.recheck, c.phase = d, false, Waiting })
}

// allowed notes that the API server lets the collection be read.
func (c *Collection) allowed(phase Phase) {
	c.update(func() { c.denied, c.recheck, c.phase = nil, false, phase })
}

// Denied returns the API server's refusal, if the last word on this collection
// was one.
func (c *Collection) Denied() *DeniedError {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.denied
}

// park ends the feed if nobody has used the collection for a while.
func (c *Collection) park() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.watchers > 0 || time.Since(c.lastUse) < c.set.linger {
		return false
	}
	c.running, c.phase, c.since = false, Parked, time.Now()
	return true
}

// State is a collection as /status shows it.
type State struct {
	Key      Key
	Phase    Phase
	Since    time.Time
	Revision uint64
	Objects  int
	Bytes    int64
	Watchers int
}

// State describes the collection at this moment.
func (c *Collection) State() State {
	view := c.table.View()
	defer view.Release()
	c.mu.Lock()
	defer c.mu.Unlock()
	return State{
		Key: c.Key, Phase: c.phase, Since: c.since, Watchers: c.watchers,
		Revision: view.Revision(), Objects: view.Len(), Bytes: view.Size(),
	}
}
