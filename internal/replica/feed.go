package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"yurt/internal/backoff"
	"yurt/internal/credential"
	"yurt/internal/store"
	"yurt/internal/wire"
)

const (
	// maxObject bounds one object: etcd takes 1.5 MiB, an aggregated API may
	// be more generous.
	maxObject = 16 << 20

	retryBase = 500 * time.Millisecond
	retryCap  = 30 * time.Second

	// denialPatience: an API server that has just started, or a node
	// authorizer that has not seen the binding yet, says 403 to what it will
	// allow a moment later. A collection that has data believes a denial only
	// after it has been repeated for this long.
	denialPatience = 10 * time.Second

	// maxRetryAfter bounds for how long an API server that is busy can keep a
	// feed away.
	maxRetryAfter = time.Minute

	// relistBase and relistCap space lists that the feed has to repeat. A list
	// may be a thousand times what a watch costs.
	relistBase = 500 * time.Millisecond
	relistCap  = 2 * time.Minute

	// steadyAfter is how long a watch without an event must stand to count as a
	// success.
	steadyAfter = time.Second

	// answerPatience is how long the API server may be silent when it has
	// something to say: before an answer, in the middle of a list, after the end
	// of the time for which a watch was asked. Pings find dead connections, not
	// servers that hang behind a proxy.
	answerPatience = time.Minute

	// bookmarkInterval is how long a bookmark's version may wait for another
	// commit to go with, for the flash's sake.
	bookmarkInterval = 10 * time.Minute
)

// errExpired: the API server no longer has the history behind our revision, or
// our copy is in doubt: list again.
var errExpired = errors.New("revision expired")

// errCommit: the store did not take an event; what came after it is not taken
// either, and the next watch begins where the store is.
var errCommit = errors.New("commit event")

// errParked ends a feed that nobody needs.
var errParked = errors.New("parked")

// errAnew ends a watch whose events are of a time that the cloud has gone back
// behind.
var errAnew = errors.New("the replica has begun anew")

// errSilent ends a request to which the API server says nothing.
var errSilent = errors.New("the API server says nothing")

// feed follows the cloud until nobody needs it or ctx ends.
func (c *Collection) feed(ctx context.Context) {
	f := &follower{
		Collection: c,
		retry:      backoff.Backoff{Base: retryBase, Cap: retryCap},
		relists:    backoff.Backoff{Base: relistBase, Cap: relistCap},
	}
	for ctx.Err() == nil {
		err := f.round(ctx)
		if errors.Is(err, errParked) {
			return
		}
		f.settle(ctx, err)
	}
}

// follower is the state of a running feed.
type follower struct {
	*Collection
	retry       backoff.Backoff
	relists     backoff.Backoff       // of lists after the first
	relisted    time.Time             // when the feed last had to list again
	steady      bool                  // the round's watch stood, or brought something
	used        credential.Credential // of the round
	began       int                   // the epoch in which the watch began
	deniedSince time.Time             // of an uninterrupted series of denials
	returning   time.Duration         // over which this round is spread, and a list that it finds necessary; 0: no outage was before it
}

// round brings the replica up to date and follows the cloud for as long as
// one watch lasts. It returns why it ended.
func (f *follower) round(ctx context.Context) error {
	f.steady = false
	if err := f.awaitUse(ctx); err != nil {
		return err
	}
	if f.park() {
		return errParked
	}
	if err := f.awaitLink(ctx); err != nil {
		return err
	}
	f.used = f.credential()
	if f.needsList() {
		f.update(func() { f.phase = Listing })
		if err := f.list(ctx); err != nil {
			return err
		}
	}
	return f.watch(ctx)
}

func (c *Collection) needsList() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mustList || !c.wholeLocked()
}

// settle decides what follows from the end of a round, and waits before the
// next one where that is called for: whatever goes wrong, and however often,
// the cloud is not asked in a tight loop.
func (f *follower) settle(ctx context.Context, err error) {
	f.update(func() { f.phase = Waiting })
	if ctx.Err() != nil {
		return
	}
	if f.steady && !errors.Is(err, errCommit) {
		f.retry.Reset()
		f.returning = 0
	}
	var denied *DeniedError
	var busy *busyError
	switch {
	case err == nil && f.steady:
		return
	case errors.As(err, &busy):
		f.log.Debug("the API server is busy", "error", err)
		f.pause(ctx, busy.after+min(busy.after, f.retry.Next())) // not all who were told the same at once
		return
	case errors.Is(err, errExpired), errors.Is(err, errAhead):
		f.log.Info("the replica must be listed again", "reason", err)
		f.listAgain(err)
		if time.Since(f.relisted) > 2*relistCap {
			f.relists.Reset()
		}
		f.relisted = time.Now()
		wait := f.relists.Next()
		if f.returning > 0 {
			wait = max(wait, f.set.spread(f.returning))
			f.returning = 0
		}
		f.pause(ctx, wait)
		return
	case errors.As(err, &denied):
		if denied.Code == http.StatusUnauthorized && f.set.unauthorized != nil {
			f.set.unauthorized(f.used)
		}
		if f.believe(denied) {
			f.deny(denied)
			return
		}
	case errors.Is(err, errCommit):
		f.log.Error("the replica could not take a change in", "error", err)
	default:
		f.deniedSince = time.Time{}
		f.log.Debug("feed interrupted", "error", err)
	}
	f.pause(ctx, f.retry.Next())
}

// pause waits, but no longer than until there is another credential, or until
// the link is down: its return is waited for otherwise.
func (f *follower) pause(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	_ = f.wait(ctx, func() (bool, error) { return f.credential() != f.used || f.set.down(), nil }) // its only error is the end of the pause
}

// believe tells whether a denial is final for now. That a token has expired
// says nothing of the identity: the feed waits for a newer one.
func (f *follower) believe(d *DeniedError) bool {
	if _, populated := f.current(); !populated || f.Denied() != nil {
		return true
	}
	if d.Code == http.StatusUnauthorized {
		return false
	}
	if f.deniedSince.IsZero() {
		f.deniedSince = time.Now()
	}
	if time.Since(f.deniedSince) < denialPatience {
		return false
	}
	f.log.Warn("the API server no longer lets this collection be read", "code", d.Code)
	f.deniedSince = time.Time{}
	f.withdraw()
	return true
}

// withdraw makes a denial outlive a restart. If the store does not take it, a
// restart in the dark forgets it.
func (f *follower) withdraw() {
	m, _ := f.current()
	m.Withdrawn = true
	raw, err := json.Marshal(m)
	if err != nil {
		return
	}
	var batch store.Batch
	batch.SetMeta(f.table, raw)
	f.set.store.CommitAsync(&batch, func(err error) {
		if err != nil {
			f.log.Error("a refusal could not be recorded", "error", err)
		}
	})
}

// awaitUse waits until a client asks again after a denial.
func (f *follower) awaitUse(ctx context.Context) error {
	idle, cancel := context.WithTimeoutCause(ctx, f.set.linger, errParked)
	defer cancel()
	err := f.wait(idle, func() (bool, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.denied == nil || f.recheck, nil
	})
	if errors.Is(err, errParked) && !f.park() {
		return nil
	}
	return err
}

// get asks the API server for the collection with further parameters.
func (c *Collection) get(ctx context.Context, query url.Values, watch bool) (*http.Response, error) {
	return c.getAs(ctx, c.Representation, query, watch)
}

func (c *Collection) getAs(ctx context.Context, representation wire.Representation, query url.Values, watch bool) (*http.Response, error) {
	for name, values := range c.selectors() {
		query[name] = values
	}
	u := &url.URL{Path: c.Resource.Path(c.Namespace), RawQuery: query.Encode()}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), http.NoBody)
	if err != nil {
		return nil, err
	}
	accept := representation.Accept(!watch)
	r.Header.Set("Accept", accept)
	r.Header.Set("User-Agent", userAgent)
	resp, err := c.set.up.RoundTrip(r, c.credential())
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, c.refusal(resp)
}

const userAgent = "yurthub"

// refusal turns an answer that is not 200 into an error.
func (c *Collection) refusal(resp *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("read the answer %s: %w", resp.Status, err)
	}
	contentType := resp.Header.Get("Content-Type")
	encoding, known := wire.ParseContentType(contentType)
	var status wire.Status
	if known {
		if item, tm, err := wire.ParseObject(encoding, body); err == nil && tm.Kind == "Status" {
			status, _ = wire.ParseStatus(encoding, item.Raw) // an unreadable one has no reason
		}
	}
	switch after := retryAfter(resp); {
	case resp.StatusCode == http.StatusGone:
		return fmt.Errorf("%w: %s", errExpired, status.Message)
	case tooLarge(status):
		return errAhead
	case after > 0:
		return &busyError{code: resp.StatusCode, message: status.Message, after: after}
	case (known || resp.Header.Get("Audit-Id") != "") && resp.StatusCode >= 400 && resp.StatusCode < 500 && resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusRequestTimeout:
		return &DeniedError{Code: resp.StatusCode, ContentType: contentType, Body: body}
	}
	return fmt.Errorf("the API server answers %s: %s", resp.Status, status.Message)
}

// busyError: the API server asks to be asked again later: it has more to do than
// it can, or serves a new custom resource in a moment.
type busyError struct {
	code    int
	message string
	after   time.Duration
}

func (e *busyError) Error() string {
	return fmt.Sprintf("the API server answers %d, and wants to be left alone for %s: %s", e.code, e.after, e.message)
}

// retryAfter is for how long the API server does not want to be asked; 0 if it
// says nothing about it.
func retryAfter(resp *http.Response) time.Duration {
	if resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode < http.StatusInternalServerError {
		return 0
	}
	seconds, err := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 16)
	if err != nil {
		return 0 // the other form, a date, is nothing that an API server sends
	}
	return min(time.Duration(seconds)*time.Second, maxRetryAfter)
}

// errAhead: the cloud has not reached our revision; its etcd may have been
// restored from a backup.
var errAhead = errors.New("the replica is ahead of the API server")

func tooLarge(s wire.Status) bool {
	return s.Details != nil && slices.ContainsFunc(s.Details.Causes, func(cause wire.StatusCause) bool {
		return cause.Type == "ResourceVersionTooLarge"
	})
}

// watch follows the cloud from the replica's revision until the stream ends.
func (f *follower) watch(ctx context.Context) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if !f.interruptible(cancel) {
		return nil // it was found wanting since it was listed
	}
	defer f.interruptible(nil)
	m, _ := f.current()
	from, err := f.resumeFrom(ctx)
	if err != nil {
		return err
	}
	turn, err := f.set.turns.take(ctx, errand{node: f.Identity.IsNode()})
	if err != nil {
		return err
	}
	defer turn.done()
	silence := time.AfterFunc(answerPatience, func() { cancel(errSilent) })
	defer silence.Stop()
	if err := f.checkHistory(ctx); err != nil {
		return err
	}
	// Spread the ends of watches, as client-go does.
	lasts := 300*time.Second + f.set.spread(300*time.Second)
	resp, err := f.get(ctx, url.Values{
		"watch":               {"1"},
		"allowWatchBookmarks": {"true"},
		"resourceVersion":     {strconv.FormatUint(from, 10)},
		"timeoutSeconds":      {strconv.Itoa(int(lasts.Seconds()))},
	}, true)
	if err != nil {
		return err
	}
	turn.done()
	defer resp.Body.Close()
	silence.Reset(lasts + answerPatience)
	if encoding, ok := wire.ParseContentType(resp.Header.Get("Content-Type")); !ok {
		return fmt.Errorf("the API server answers the watch with Content-Type %q", resp.Header.Get("Content-Type"))
	} else if encoding != m.Encoding {
		return fmt.Errorf("%w: the watch is in %s, the list was in %s", errExpired, encoding, m.Encoding)
	}
	f.update(func() { f.phase, f.lapsed = Watching, false })
	f.deniedSince = time.Time{}
	stood := time.Now()
	defer func() {
		f.steady = f.steady || time.Since(stood) >= steadyAfter
		if err != nil {
			f.keepBookmark()
		}
	}()
	return f.follow(ctx, wire.NewWatchDecoder(resp.Body, m.Encoding, maxObject), cancel)
}

// interruptible says how the watch can be ended. It is false, and does nothing,
// if there is no use in one.
func (c *Collection) interruptible(cancel context.CancelCauseFunc) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cancel != nil && (c.mustList || !c.wholeLocked()) {
		return false
	}
	c.interrupt = cancel
	return true
}

// follow takes in one event after the other.
func (f *follower) follow(ctx context.Context, decoder *wire.WatchDecoder, fail context.CancelCauseFunc) error {
	for {
		event, err := decoder.Next()
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return frameError(err)
		}
		f.heard.Store(time.Now().UnixNano())
		if err := f.apply(ctx, event, fail); err != nil {
			return err
		}
		f.steady = true
		if f.park() {
			return errParked
		}
	}
}

// frameError sorts an error of the stream: after an event that can't be read the
// replica may lack it.
func frameError(err error) error {
	var frame *wire.FrameError
	if errors.As(err, &frame) {
		return fmt.Errorf("%w: %w", errExpired, err)
	}
	return fmt.Errorf("read watch: %w", err)
}

// resumeFrom returns the version to watch from. Between two watches nothing is
// in flight.
func (f *follower) resumeFrom(ctx context.Context) (uint64, error) {
	if err := f.feeding.lock(ctx); err != nil {
		return 0, err
	}
	defer f.feeding.unlock()
	if err := f.landed(ctx); err != nil {
		return 0, err
	}
	f.began = f.epoch
	f.queued = f.table.Revision()
	if f.failed.Swap(false) {
		f.bookmark, f.flushed = 0, time.Time{} // the bookmark may lie behind an event that was not taken
	}
	return max(f.queued, f.bookmark), nil
}

// landed returns when the commits that were handed to the store have their
// outcome: the store tells them in order. Feeding must be held.
func (c *Collection) landed(ctx context.Context) error {
	if c.inFlight == nil {
		return nil
	}
	select {
	case <-c.inFlight:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// apply takes one event into the replica.
func (f *follower) apply(ctx context.Context, event wire.Event, fail context.CancelCauseFunc) error {
	if event.Type == wire.Error {
		m, _ := f.current()
		return watchError(m.Encoding, event)
	}
	if err := f.feeding.lock(ctx); err != nil {
		return err
	}
	defer f.feeding.unlock()
	if f.began != f.epoch {
		return errAnew
	}
	revision, err := strconv.ParseUint(event.ResourceVersion, 10, 64)
	if err != nil {
		return fmt.Errorf("%w: event with resourceVersion %q", errExpired, event.ResourceVersion)
	}
	if event.Type == wire.Bookmark {
		f.noteBookmark(event, revision, fail)
		return nil
	}
	if revision <= f.queued {
		return nil // a list has already brought it
	}
	var batch store.Batch
	key := rowKey(event.Namespace, event.Name)
	if event.Type == wire.Deleted {
		batch.Delete(f.table, key, revision, event.Raw)
	} else {
		batch.Put(f.table, store.Record{Key: key, Revision: revision, Identity: event.UID, Value: event.Raw})
	}
	f.commit(&batch, revision, fail)
	return nil
}

// commit hands a change to the store. Feeding must be held. If it fails the
// watch ends, and the next one begins at the revision that is durable.
func (c *Collection) commit(batch *store.Batch, revision uint64, fail context.CancelCauseFunc) {
	batch.Expect(c.table, c.queued) // or a commit behind a failed one would leave a gap
	c.queued = revision
	landed := make(chan struct{})
	c.inFlight = landed
	c.set.store.CommitAsync(batch, func(err error) {
		if err != nil {
			c.failed.Store(true)
			fail(fmt.Errorf("%w: %w", errCommit, err))
		}
		close(landed)
	})
}

// keepBookmark makes the newest version durable, unless the collection is being
// fed. It does so when the watch breaks (what comes next may be a power cut, and
// then a watch from there), and when another collection's turn has come.
func (c *Collection) keepBookmark() {
	select {
	case c.feeding <- struct{}{}:
	default:
		return // by a list, which is newer, or by an event, with which the next bookmark may go
	}
	defer c.feeding.unlock()
	if c.failed.Load() || c.bookmark <= c.queued {
		return
	}
	c.flushed = time.Now()
	var batch store.Batch
	batch.SetRevision(c.table, c.bookmark)
	c.commit(&batch, c.bookmark, func(error) {}) // the next commit expects it, and fails too
}

// noteBookmark remembers how far the cloud has come. The version is made
// durable, and so visible to clients, with the next event or after
// bookmarkInterval, and then those of all collections are: a commit for each
// would wear the flash out, and a block for each collection too.
func (f *follower) noteBookmark(event wire.Event, revision uint64, fail context.CancelCauseFunc) {
	f.bookmark = max(f.bookmark, revision)
	m, _ := f.current()
	first := m.Bookmark == nil
	if !first && time.Since(f.flushed) < bookmarkInterval {
		return
	}
	if revision <= f.queued && !first {
		return
	}
	f.flushed = time.Now()
	var batch store.Batch
	if first {
		m.Bookmark = append([]byte(nil), event.Raw...)
		if raw, err := json.Marshal(m); err == nil {
			batch.SetMeta(f.table, raw)
			f.update(func() { f.meta = &m })
		}
	}
	revision = max(revision, f.queued)
	batch.SetRevision(f.table, revision)
	f.commit(&batch, revision, fail)
	for _, other := range f.set.All() {
		other.keepBookmark() // this one is being fed, and stays as it is
	}
}

// watchError reads the Status that ends a watch.
func watchError(encoding wire.Encoding, event wire.Event) error {
	status, err := wire.ParseStatus(encoding, event.Raw)
	if err != nil {
		return fmt.Errorf("the watch ends with an error that can't be read: %w", err)
	}
	switch {
	case status.Code == http.StatusGone:
		return fmt.Errorf("%w: %s", errExpired, status.Message)
	case tooLarge(status):
		return errAhead
	}
	return fmt.Errorf("the watch ends with %d: %s", status.Code, status.Message)
}
