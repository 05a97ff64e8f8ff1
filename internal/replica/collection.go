package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"yurt/internal/credential"
	"yurt/internal/request"
	"yurt/internal/store"
	"yurt/internal/upstream"
	"yurt/internal/wire"
)

// ErrUnavailable: the collection has never been complete, or is not any more,
// and the cloud can't be asked now. It says nothing about what exists.
var ErrUnavailable = errors.New("not in the replica yet, and the cloud is away")

// lapsePatience is how long a read waits for a replica that was not followed
// for a while, before it gets what was known then.
const lapsePatience = 2 * time.Second

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
	// Withdrawn: the API server's last word was a refusal. It outlives a
	// restart, so that nobody reads in the dark what was taken from him.
	Withdrawn bool `json:"withdrawn,omitempty"`
	// Idle is for how many hours nobody had used the collection when that was
	// last written down.
	Idle int `json:"idle,omitempty"`
}

// Collection is the replica of one list+watch.
type Collection struct {
	Key
	table *store.Table
	set   *Set
	lens  *lens
	log   *slog.Logger

	// feeding is held by whoever changes the table: the watch of the feed for
	// one event, a list from its beginning to its swap. It guards what follows.
	feeding  gate
	inFlight <-chan struct{} // closed when the newest commit has its outcome; nil: there was none
	queued   uint64          // the revision of the newest commit
	bookmark uint64          // the newest version heard of, not committed yet
	flushed  time.Time       // when a bookmark was last committed for its own sake
	epoch    int             // how often the cloud has gone back in time
	listed   time.Time       // when the newest complete list was begun

	// failed: a commit failed since queued was read from the table.
	failed atomic.Bool

	// heard is when the feed last heard from the cloud, in Unix nanoseconds.
	heard atomic.Int64

	// startAt is the version at which a client wants its watch to begin that
	// has listed elsewhere: the first list is taken exactly there, if that can
	// be.
	startAt atomic.Uint64

	mu     sync.Mutex
	meta   *meta // nil until the first list is complete
	phase  Phase
	since  time.Time // of phase
	denied *DeniedError
	// recheck: denied, and somebody has asked again since.
	recheck bool
	// doubt is why the replica may lack something that it had: a part of the
	// store is lost or can't be read. It is not shown as a whole until it has
	// been listed again.
	doubt error
	// mustList: the feed can't go on from the replica's revision.
	mustList bool
	// anew: the cloud has gone back in time, and what clients know of the
	// collection means nothing.
	anew bool
	// lapsed: the cloud has not been followed since the hub's start, or since
	// the feed was parked.
	lapsed    bool
	interrupt context.CancelCauseFunc // ends the feed's watch; nil between watches
	cred      credential.Credential
	running   bool      // a feed runs
	refresh   *refresh  // that is under way; nil: none
	watchers  int       // streams being served
	waiting   int       // requests that wait for the feed
	lastUse   time.Time // by a request; streams use it all the time
	unmissed  int       // see leave
	changed   chan struct{}
	leaving   chan struct{} // closed when it has been forgotten or not; nil: it stays
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

func newCollection(key Key, table *store.Table, set *Set) *Collection {
	c := &Collection{
		Key: key, table: table, set: set, lens: set.newLens(key, table),
		log:     set.log.With("collection", key.String()),
		since:   time.Now(),
		lastUse: time.Now(),
		changed: make(chan struct{}),
		feeding: make(gate, 1),
		lapsed:  true,
		doubt:   table.Doubt(),
	}
	raw := table.Meta()
	if len(raw) == 0 {
		return c
	}
	var m meta
	if err := json.Unmarshal(raw, &m); err != nil {
		c.log.Error("what the store says of the collection can't be read, it is listed anew", "error", err)
		return c
	}
	c.meta, c.unmissed = &m, m.Idle
	if m.Withdrawn {
		// Whoever asks makes the feed ask again: these words reach nobody.
		c.denied, c.mustList = &DeniedError{Code: http.StatusForbidden}, true
	}
	return c
}

// Populated tells whether a complete list has been taken in at some time, and
// is still there.
func (c *Collection) Populated() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wholeLocked()
}

func (c *Collection) wholeLocked() bool { return c.meta != nil && c.doubt == nil }

// Covers tells whether absence from the replica proves that there is no object
// of that name: one that is not followed proves nothing.
func (c *Collection) Covers(resource request.Resource, namespace, name string) bool {
	if !c.Key.Covers(resource, namespace, name) {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wholeLocked() && c.phase != Parked && !c.mustList
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

// whole returns the meta of a collection that can be shown as a whole.
func (c *Collection) whole() (meta, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.meta == nil:
		return meta{}, ErrUnavailable
	case c.doubt != nil:
		return meta{}, fmt.Errorf("%w: %w", ErrUnavailable, c.doubt)
	}
	return *c.meta, nil
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
	c.signalLocked()
}

func (c *Collection) signalLocked() {
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

// Ready returns when a complete list has been taken in, however old; what has
// not been followed for a while gets a moment to catch up. Otherwise the error
// is a *DeniedError, ErrUnavailable if the link is down, or ctx's.
func (c *Collection) Ready(ctx context.Context) error {
	defer c.await()()
	err := c.wait(ctx, func() (bool, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		down := c.set.down()
		switch {
		case c.denied != nil && (c.recheck || down):
			return down, ErrUnavailable // what it said once is no answer for now
		case c.denied != nil:
			return true, c.denied
		case c.wholeLocked():
			return true, nil
		}
		return down, ErrUnavailable
	})
	if err != nil || !c.behind() {
		return err
	}
	patience, cancel := context.WithTimeout(ctx, lapsePatience)
	defer cancel()
	_ = c.wait(patience, func() (bool, error) { return !c.behind(), nil }) // then it is what there is
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// behind tells whether the replica is about to catch up with the cloud.
func (c *Collection) behind() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lapsed && c.set.up.Link().State == upstream.Up
}

// Live returns when the feed follows the cloud, or can't because the link is
// down; then the replica is what there is. A denial is returned.
func (c *Collection) Live(ctx context.Context) error {
	defer c.await()()
	return c.wait(ctx, func() (bool, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.denied != nil && !c.recheck {
			return true, c.denied
		}
		return c.phase == Watching || c.set.down(), nil
	})
}

// await keeps the feed from being parked until the returned function is called.
func (c *Collection) await() (done func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting++
	c.signalLocked()
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.waiting--
		c.lastUse = time.Now()
	}
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
// starts its feed if none runs. It is false for a collection that is being
// forgotten.
func (c *Collection) use(cred credential.Credential) bool {
	c.mu.Lock()
	if c.leaving != nil {
		c.mu.Unlock()
		return false
	}
	c.lastUse, c.unmissed = time.Now(), 0
	if recheck := c.denied != nil; c.cred != cred || recheck {
		c.cred, c.recheck = cred, recheck
		c.signalLocked()
	}
	start := !c.running
	c.running = true
	if start {
		c.phase, c.since = Waiting, time.Now()
	}
	c.mu.Unlock()
	if start {
		c.set.start(c.feed)
	}
	return true
}

// Reconsider makes the feed ask again, as whom it did, after a denial.
func (c *Collection) Reconsider() { c.use(c.credential()) }

func (c *Collection) credential() credential.Credential {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cred
}

// deny ends the collection's use: the API server said no. What is granted
// again is listed anew.
func (c *Collection) deny(d *DeniedError) {
	c.update(func() { c.denied, c.recheck, c.phase, c.mustList = d, false, Waiting, true })
}

// distrust notes that something of the replica can't be read: it is not shown
// as a whole until it has been listed again.
func (c *Collection) distrust(reason error) {
	c.update(func() {
		if c.doubt == nil {
			c.doubt = reason
		}
	})
	c.listAgain(reason)
}

// listAgain makes the feed list the collection again, even if it is watching.
func (c *Collection) listAgain(reason error) {
	c.mu.Lock()
	c.mustList = true
	interrupt := c.interrupt
	c.mu.Unlock()
	if interrupt != nil {
		interrupt(fmt.Errorf("%w: %w", errExpired, reason))
	}
}

func (c *Collection) beginsAnew() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.anew
}

// Denied returns the API server's refusal, if the last word on this collection
// was one.
func (c *Collection) Denied() *DeniedError {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.denied
}

// park ends the feed if nobody has used the collection for a while. What it
// holds is listed again before it passes for the present.
func (c *Collection) park() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.watchers > 0 || c.waiting > 0 || time.Since(c.lastUse) < c.set.linger {
		return false
	}
	c.running, c.phase, c.since = false, Parked, time.Now()
	c.lapsed, c.mustList = true, true
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
