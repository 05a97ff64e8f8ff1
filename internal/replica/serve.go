package replica

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"yurt/internal/filter"
	"yurt/internal/request"
	"yurt/internal/store"
	"yurt/internal/wire"
)

const (
	// writeTimeout is how long one write to a client may take. A client that
	// reads more slowly is disconnected; it comes back with its last version.
	writeTimeout = 30 * time.Second

	// eventsAtOnce bounds what a watcher takes from the history in one step.
	eventsAtOnce = 64

	minWatch = 30 * time.Minute // of a watch without timeoutSeconds, as the API server has it
)

// List answers a list with the whole collection at its current revision, as the
// filters show it.
func (c *Collection) List(w http.ResponseWriter, filters *filter.Chain) error {
	m, err := c.whole()
	if err != nil {
		return err
	}
	view := c.table.View()
	defer view.Release()
	listMeta := wire.ListMeta{ResourceVersion: strconv.FormatUint(view.Revision(), 10)}
	over, err := c.otherwise(view, m.Encoding, filters)
	if err != nil {
		return err
	}
	var items int64
	if m.Encoding == wire.Protobuf {
		for item := range view.Items("") {
			size := item.Size
			if shown, ok := over[item.Key]; ok {
				size = len(shown)
				if shown == nil {
					continue
				}
			}
			items += wire.ItemSize(size)
		}
		w.Header().Set("Content-Length", strconv.FormatInt(wire.ListSize(m.Envelope, listMeta, items), 10))
	}
	w.Header().Set("Content-Type", wire.ContentType(m.Encoding, false))
	w.Header().Set("Cache-Control", "no-cache, private")
	paced := &pacedWriter{w: w, control: http.NewResponseController(w)}
	out := wire.NewListWriter(paced, m.Encoding, m.Envelope, listMeta, items)
	for record, err := range view.Records("") {
		if err != nil {
			c.distrust(err)
		}
		if err != nil && !paced.begun {
			w.Header().Del("Content-Length")
			return err // nothing has been promised yet
		}
		if err != nil {
			return abort(err)
		}
		value := record.Value
		if shown, ok := over[record.Key]; ok {
			value = shown
		}
		if value == nil {
			continue // left out
		}
		if err := out.WriteItem(value); err != nil {
			return abort(err)
		}
	}
	if err := out.Close(); err != nil {
		return abort(err)
	}
	return nil
}

// ErrAborted: the answer had begun and can't be completed. The connection must
// be broken, so that the client does not take a part for the whole.
var ErrAborted = errors.New("answer aborted")

func abort(err error) error { return fmt.Errorf("%w: %w", ErrAborted, err) }

// pacedWriter renews the write deadline for every chunk.
type pacedWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
	begun   bool
}

func (p *pacedWriter) Write(b []byte) (int, error) {
	if err := p.control.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, err
	}
	p.begun = true
	return p.w.Write(b)
}

// Object is one object as the answer to a get.
type Object struct {
	ContentType string
	Body        []byte
	Revision    uint64 // of the object
}

// Get returns an object of the collection as the cloud has it; ok is false if it isn't in it. The
// revision at which that holds is the second result.
func (c *Collection) Get(namespace, name string) (object Object, at uint64, ok bool, err error) {
	m, populated := c.current()
	if !populated {
		return Object{}, 0, false, ErrUnavailable
	}
	view := c.table.View()
	defer view.Release()
	record, ok, err := view.Get(rowKey(namespace, name))
	if err != nil {
		c.distrust(err)
		return Object{}, 0, false, err
	}
	if !ok {
		return Object{}, view.Revision(), false, nil
	}
	return Object{
		ContentType: wire.ContentType(m.Encoding, false),
		Body:        wire.AppendObject(nil, m.Encoding, m.Envelope.Item, record.Value),
		Revision:    record.Revision,
	}, view.Revision(), true, nil
}

// Watch serves a watch until its time is over, the client is gone, too slow,
// or behind the history, or ctx ends. Events are as the filters show them.
func (c *Collection) Watch(ctx context.Context, w http.ResponseWriter, o request.Options, filters *filter.Chain) error {
	m, err := c.whole()
	if err != nil {
		return err
	}
	c.attend(1)
	defer c.attend(-1)

	timeout := o.Timeout
	if timeout <= 0 {
		timeout = minWatch + c.set.spread(minWatch)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	s := &stream{c: c, m: m, w: w, control: http.NewResponseController(w), bookmarks: o.AllowWatchBookmarks, filtered: c.set.newFiltered(filters)}
	w.Header().Set("Content-Type", wire.ContentType(m.Encoding, true))
	w.Header().Set("Cache-Control", "no-cache, private")
	w.WriteHeader(http.StatusOK)
	if err := s.begin(o); err != nil {
		return s.end(err)
	}
	return s.end(s.follow(ctx))
}

// attend counts the streams. Nobody waits for their number.
func (c *Collection) attend(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watchers += n
	c.lastUse = time.Now()
}

// stream is one watch being served.
type stream struct {
	c         *Collection
	m         meta
	w         http.ResponseWriter
	control   *http.ResponseController
	cursor    *store.Cursor
	bookmarks bool
	after     uint64 // events up to this version are not the client's business
	sent      uint64 // the version that the client has seen
	shown     uint64 // the newest change to what shows that the client has seen
	filtered  filtered
	buf       []byte
}

// begin places the cursor, and sends the initial events if the client wants
// them: it does by sendInitialEvents, or by no version or version 0.
func (s *stream) begin(o request.Options) error {
	if initial(o) {
		return s.sendInitial(o.SendInitialEvents != nil && *o.SendInitialEvents && o.AllowWatchBookmarks)
	}
	if o.ResourceVersion == "" || o.ResourceVersion == "0" { // without initial events: from now on
		view := s.c.table.View()
		defer view.Release()
		s.cursor, s.sent, s.shown = view.Cursor(), view.Revision(), s.c.lens.newest()
		return s.flush()
	}
	from, err := strconv.ParseUint(o.ResourceVersion, 10, 64)
	if err != nil {
		return fmt.Errorf("parse resourceVersion: %w", err)
	}
	s.after, s.sent = from, from
	if s.cursor, err = s.c.table.Since(from); err != nil {
		return err
	}
	return s.flush() // the client learns at once that the watch stands
}

func initial(o request.Options) bool {
	if o.SendInitialEvents != nil {
		return *o.SendInitialEvents
	}
	return o.ResourceVersion == "" || o.ResourceVersion == "0"
}

func (s *stream) sendInitial(mark bool) error {
	view := s.c.table.View()
	defer view.Release()
	s.shown = s.c.lens.newest()
	over, err := s.c.otherwise(view, s.m.Encoding, s.filtered.chain)
	if err != nil {
		return err
	}
	for record, err := range view.Records("") {
		if err != nil {
			s.c.distrust(err)
			return err
		}
		value := record.Value
		if shown, ok := over[record.Key]; ok {
			value = shown
			s.filtered.note(record.Key, value, true)
		}
		if value == nil {
			continue // left out
		}
		if err := s.event(wire.Added, value); err != nil {
			return err
		}
	}
	s.cursor, s.sent = view.Cursor(), view.Revision()
	if mark {
		if err := s.bookmark(view.Revision(), true); err != nil {
			return err
		}
	}
	return s.flush()
}

// follow passes on what is committed until ctx ends.
func (s *stream) follow(ctx context.Context) error {
	for {
		changed, state, lens := s.c.table.Changed(), s.c.stateChanged(), s.c.lens.changed()
		events, err := s.cursor.Next(eventsAtOnce)
		if err != nil {
			return s.lost(err)
		}
		for _, e := range events {
			if e.Revision <= s.after {
				continue
			}
			told, err := s.change(e)
			if err != nil {
				return err
			}
			if told {
				s.sent = e.Revision
			}
		}
		if len(events) == eventsAtOnce {
			continue
		}
		before := s.sent
		s.sent = max(s.sent, s.cursor.Revision())
		again, err := s.showAgain()
		if err != nil {
			return err
		}
		differently, err := s.filterAgain()
		if err != nil {
			return err
		}
		again = again || differently
		if s.bookmarks && (s.sent > before || again) {
			if err := s.bookmark(s.sent, false); err != nil {
				return err
			}
		}
		if err := s.flush(); err != nil {
			return err
		}
		if d := s.c.Denied(); d != nil {
			return d
		}
		s.buf = nil // a watcher that waits holds no memory
		select {
		case <-changed:
		case <-state:
		case <-lens:
		case <-s.filtered.due():
		case <-ctx.Done():
			return nil
		}
	}
}

// showAgain sends the objects that show differently since the client has seen
// them, and reports whether there were any. They have the versions that they
// had, so that the client may go back by its own reckoning: a bookmark must
// follow. What the cursor has yet to bring is left to it, or a client that
// resumes from that object's version would miss what lies between. A client that
// knows more than the replica has is told when the replica has come as far:
// until then it would be shown the past.
func (s *stream) showAgain() (any bool, err error) {
	if s.cursor.Revision() > s.c.table.Revision() {
		return false, nil
	}
	keys, now := s.c.lens.since(s.shown, s.m.Encoding)
	for _, key := range keys {
		record, ok, err := s.c.table.Get(key)
		if err != nil {
			s.c.distrust(err)
			return any, err
		}
		if !ok || record.Revision > s.cursor.Revision() {
			continue
		}
		any = true
		if _, err := s.send(wire.Modified, key, s.c.lens.show(s.m.Encoding, key, record.Value)); err != nil {
			return any, err
		}
	}
	s.shown = now
	return any, nil
}

// lost tells why the cursor can't go on. A change that can't be read is as good
// as one that the history has dropped.
func (s *stream) lost(err error) error {
	var damaged *store.DamagedError
	if !errors.As(err, &damaged) {
		return err
	}
	if _, _, live := s.c.table.Get(damaged.Key); live != nil {
		s.c.distrust(live)
	}
	return fmt.Errorf("%w: %w", store.ErrExpired, err)
}

// change sends an event of the history. One that a relist has found shows a
// deleted object as it was known last, at the version of its deletion: a
// client takes the version from which it resumes from every event.
func (s *stream) change(e store.Event) (told bool, err error) {
	if e.Type != store.Deleted {
		return s.send(wire.EventType(e.Type), e.Key, s.c.lens.show(s.m.Encoding, e.Key, e.Value))
	}
	s.c.lens.compare(s.m.Encoding, e.Key)
	item, err := wire.ParseItem(s.m.Encoding, e.Value)
	if err != nil {
		return false, fmt.Errorf("read %s: %w", e.Key, err)
	}
	version := strconv.FormatUint(e.Revision, 10)
	if item.ResourceVersion == version {
		return s.send(wire.Deleted, e.Key, e.Value)
	}
	value, err := wire.AppendItemAt(nil, s.m.Encoding, e.Value, version)
	if err != nil {
		return false, fmt.Errorf("read %s: %w", e.Key, err)
	}
	return s.send(wire.Deleted, e.Key, value)
}

// send sends an event as the client sees it, and tells whether it sees anything of
// it.
func (s *stream) send(typ wire.EventType, key string, item []byte) (told bool, err error) {
	typ, item = s.filtered.eventOf(typ, s.m.Encoding, key, item)
	if item == nil {
		return false, nil
	}
	return true, s.event(typ, item)
}

const flushAt = 32 << 10

func (s *stream) event(typ wire.EventType, item []byte) error {
	s.buf = wire.AppendEvent(s.buf, s.m.Encoding, typ, s.m.Envelope.Item, item)
	if len(s.buf) < flushAt {
		return nil
	}
	return s.flush()
}

func (s *stream) bookmark(revision uint64, initialEventsEnd bool) error {
	var err error
	s.buf, err = wire.AppendBookmark(s.buf, s.m.Encoding, s.m.Envelope.Item, s.m.Bookmark, strconv.FormatUint(revision, 10), initialEventsEnd)
	return err
}

// flush sends what is buffered. The deadline is for this write alone: over
// HTTP/2 one that passes resets the stream, even if nothing is being written.
func (s *stream) flush() error {
	if err := s.deadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	if len(s.buf) > 0 {
		if _, err := s.w.Write(s.buf); err != nil {
			return err
		}
		s.buf = s.buf[:0]
	}
	if err := s.control.Flush(); err != nil {
		return err
	}
	return s.deadline(time.Time{})
}

func (s *stream) deadline(at time.Time) error {
	if err := s.control.SetWriteDeadline(at); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

// end tells the client why the stream ends, where there is something to tell.
// The stream has begun, so that every error after it is ErrAborted.
func (s *stream) end(err error) error {
	if err == nil {
		return nil
	}
	var status wire.Status
	var denied *DeniedError
	switch {
	case errors.Is(err, store.ErrExpired):
		status = wire.Status{Code: http.StatusGone, Reason: "Expired", Message: "too old resource version: the replica no longer has the history behind it"}
	case errors.As(err, &denied):
		return abort(err) // the client asks again, and gets the API server's own words
	case errors.Is(err, store.ErrDamaged):
		status = wire.Status{Code: http.StatusServiceUnavailable, Reason: "ServiceUnavailable", Message: err.Error()}
	default:
		return abort(err)
	}
	s.buf = wire.AppendErrorEvent(s.buf[:0], s.m.Encoding, status)
	if err := s.flush(); err != nil {
		return abort(err)
	}
	return nil
}
