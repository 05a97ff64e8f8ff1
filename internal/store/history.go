package store

import (
	"slices"
	"sort"
)

// EventType says what happened to a key.
type EventType uint8

// The events of a key; each follows from the ones before it.
const (
	Added EventType = iota + 1
	Modified
	Deleted
)

func (t EventType) String() string {
	switch t {
	case Added:
		return "ADDED"
	case Modified:
		return "MODIFIED"
	case Deleted:
		return "DELETED"
	}
	return "EventType(?)"
}

// Event is one change of a table. Value is the new content, for Deleted the last one; it is shared with other cursors
// and must not be changed.
type Event struct {
	Type     EventType
	Key      string
	Revision uint64
	Value    []byte
}

// event is an Event whose value is where the entry says.
type event struct {
	typ      EventType
	revision uint64
	entry    *entry
}

// events is the bounded history of a table: a queue whose elements are counted from the table's first event on, so that
// a cursor is a number. Guarded by Store.mu.
type events struct {
	queue []event
	first uint64 // index of queue[0]
	// floor is the revision that a watcher must have reached: all events above it are in the queue.
	floor uint64
	holes []hole // oldest first
	epoch uint64 // grows when all cursors expire
}

// hole is a Swap from one revision to another. Its events are [first, end): between them no revision is complete.
type hole struct {
	from, to   uint64
	first, end uint64
}

// clamp is where the history has a change of the swap that itself says the given revision.
func (x *hole) clamp(revision uint64) uint64 { return min(max(revision, x.from+1), x.to) }

func (h *events) end() uint64 { return h.first + uint64(len(h.queue)) }

func (h *events) add(e event) { h.queue = append(h.queue, e) }

// trim forgets the oldest events, n of them.
func (h *events) trim(n int) {
	if n <= 0 {
		return
	}
	h.floor = h.queue[n-1].revision
	clear(h.queue[:n]) // let go of the entries
	h.queue = h.queue[n:]
	h.first += uint64(n)
	h.dropHoles()
}

// dropHoles forgets the holes that no revision above the floor can be in.
func (h *events) dropHoles() {
	h.holes = slices.DeleteFunc(h.holes, func(x hole) bool { return x.to <= h.floor })
}

// cut forgets everything: who wants to go on must have reached the given revision, and no cursor goes on.
func (h *events) cut(revision uint64) {
	h.first = h.end()
	h.queue, h.holes = nil, nil
	h.floor = revision
	h.epoch++
}

// expireBefore forgets all events up to the last one whose value lies in a segment before the given one.
func (h *events) expireBefore(segment uint32) {
	for n := len(h.queue); n > 0; n-- {
		if at := h.queue[n-1].entry.at.segment; at != 0 && at < segment {
			h.trim(n)
			return
		}
	}
}

// since returns the index of the first event after a revision.
func (h *events) since(revision uint64) (uint64, error) {
	if revision < h.floor {
		return 0, ErrExpired
	}
	for _, x := range h.holes {
		if x.from < revision && revision < x.to {
			return 0, ErrExpired
		}
	}
	i := sort.Search(len(h.queue), func(i int) bool { return h.queue[i].revision > revision })
	return h.first + uint64(i), nil
}

// inside returns the hole that begins before the event of that index and has not ended there.
func (h *events) inside(index uint64) *hole {
	for i, x := range h.holes {
		if x.first < index && index < x.end {
			return &h.holes[i]
		}
	}
	return nil
}

// Since returns a cursor over what changed after the given revision. It fails with ErrExpired where the history does not
// hold all of that: below its bound, or strictly between the two revisions of a Swap, whose order within is not known.
// A revision ahead of the table is fine: the cursor yields what will come after it.
func (t *Table) Since(revision uint64) (*Cursor, error) {
	t.store.mu.Lock()
	defer t.store.mu.Unlock()
	if t.history == NoHistory || t.dropped {
		return nil, ErrExpired
	}
	c := &Cursor{table: t, epoch: t.events.epoch, revision: revision}
	if revision > t.now.revision {
		c.ahead = true
		return c, nil
	}
	var err error
	c.next, err = t.events.since(revision)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Cursor is a position in the history of a table. Nothing is kept for it in the store: a cursor that is not read costs
// nothing, and expires when the bounded history has gone past it. One goroutine may use it at a time.
type Cursor struct {
	table    *Table
	epoch    uint64
	next     uint64 // index of the event to come
	revision uint64
	ahead    bool // the table has not reached revision; next is to be found when it has
}

// nextBytes bounds what one call of Next reads.
const nextBytes = 1 << 20

// Next returns the next changes, at most limit of them (and at most about a megabyte, but at least one); none when the
// cursor has caught up: then wait on Table.Changed. Changes of equal revision come in one piece. After ErrExpired the
// cursor is of no use; a *DamagedError names an event whose value can't be read, and the cursor stays in front of it.
func (c *Cursor) Next(limit int) ([]Event, error) {
	s := c.table.store
	s.mu.Lock()
	batch, err := c.takeLocked(limit)
	if err != nil || batch.unread == 0 {
		s.mu.Unlock()
		return batch.events, err
	}
	before := *c
	c.next, c.revision = batch.next, batch.revision
	set := s.pinLocked()
	s.mu.Unlock()
	defer s.unpin(set)

	var l loader
	l.load(set, batch.refs)
	for i := range batch.events {
		if batch.refs[i].entry == nil {
			continue
		}
		if err := l.errs[i]; err != nil {
			*c = before
			return c.stopBefore(batch.events[:i], err)
		}
		batch.events[i].Value = l.values[i]
	}
	return batch.events, nil
}

// taken is what one Next returns, before all values are read.
type taken struct {
	events   []Event
	refs     []ref // of the values to be read or opened
	unread   int
	next     uint64
	revision uint64 // complete after events
}

// takeLocked collects the next events, with the values of the recent ones. It moves the cursor if nothing is to be read.
func (c *Cursor) takeLocked(limit int) (taken, error) {
	if err := c.arriveLocked(); err != nil || c.ahead {
		return taken{}, err
	}
	h := &c.table.events
	var out taken
	bytes := 0
	i := c.next
	for ; i < h.end(); i++ {
		e := h.queue[i-h.first]
		full := len(out.events) >= limit || bytes >= nextBytes
		if len(out.events) > 0 && full && (e.revision != h.queue[i-1-h.first].revision || h.inside(i) != nil) {
			break
		}
		stored, seg := c.table.store.recent.find(e.entry.at)
		out.events = append(out.events, Event{Type: e.typ, Key: e.entry.key, Revision: e.revision, Value: stored})
		r := ref{table: c.table}
		if seg == nil || e.entry.at.sealed() {
			r.entry, r.recent, r.stored = e.entry, seg, stored
			out.unread++
		}
		out.refs = append(out.refs, r)
		bytes += int(e.entry.at.size)
	}
	out.next, out.revision = i, c.completeLocked(i)
	if out.unread == 0 {
		c.next, c.revision = out.next, out.revision
	}
	return out, nil
}

// arriveLocked finds the place of a cursor that began ahead of its table, and checks that the place is still held.
func (c *Cursor) arriveLocked() error {
	t := c.table
	if t.dropped || t.history == NoHistory || c.epoch != t.events.epoch {
		return ErrExpired
	}
	if c.ahead && t.now.revision >= c.revision {
		next, err := t.events.since(c.revision)
		if err != nil {
			return err
		}
		c.next, c.ahead = next, false
	}
	if !c.ahead && c.next < t.events.first {
		return ErrExpired
	}
	return nil
}

// completeLocked is the revision up to which all is known by who has seen the events before the given index.
func (c *Cursor) completeLocked(index uint64) uint64 {
	h := &c.table.events
	revision := c.revision
	switch x := h.inside(index); {
	case x != nil:
		revision = max(revision, x.from)
	case index == h.end():
		revision = max(revision, c.table.now.revision)
	case index > h.first:
		revision = max(revision, h.queue[index-1-h.first].revision)
	}
	return revision
}

// stopBefore moves the cursor behind these events only, as the next one can't be read.
func (c *Cursor) stopBefore(events []Event, err error) ([]Event, error) {
	if len(events) == 0 {
		return nil, err
	}
	s := c.table.store
	s.mu.Lock()
	defer s.mu.Unlock()
	c.next += uint64(len(events))
	if c.next >= c.table.events.first {
		c.revision = c.completeLocked(c.next)
	}
	return events, nil
}

// Revision is the table revision up to which the events returned so far are complete: what a bookmark may say. Within
// the changes of a Swap it is the revision before it.
func (c *Cursor) Revision() uint64 { return c.revision }
