package store

import (
	"bytes"
	"slices"
	"strings"
)

// group is what goes to the disk by one write: a few frames, and what they make of the tables. The tables change when it
// is published; until then, and if the write fails, nothing has happened.
type group struct {
	store   *Store
	segment *segment
	start   int64  // offset in the segment, before which all is durable
	buf     []byte // the frames
	footer  []byte // what they add to the segment's footer
	changes map[*Table]*change
	order   []*change // of first touch
	moved   int64     // bytes of values written again by compaction
	events  int
	kept    bool // buf belongs to the recent commits
	// Staged records that compaction writes again.
	restaged []restaged
}

// change is what a group makes of one table.
type change struct {
	table   *Table
	next    contents
	events  []event
	holes   []hole // indexes count from the first of events
	cut     bool   // all events before, and all cursors, expire
	cutAt   uint64 // the revision where the history begins anew
	visible bool   // to more than compaction
	dropped bool
}

func (g *group) change(t *Table) *change {
	if c := g.changes[t]; c != nil {
		return c
	}
	c := &change{table: t, next: t.work, dropped: t.dropped}
	c.next.tree = t.work.tree.Clone()
	g.changes[t] = c
	g.order = append(g.order, c)
	return c
}

// frame is one frame being built.
type frame struct {
	group   *group
	kind    frameKind
	index   []byte
	values  [][]byte
	entries []*entry // whose values those are
	lost    []*entry // that have none
}

func (g *group) begin(kind frameKind) *frame { return &frame{group: g, kind: kind} }

// change returns the table's change, after the table's own record where it has none yet.
func (f *frame) change(t *Table) *change {
	c := f.group.change(t)
	if c.next.home == 0 {
		f.tableRecord(c)
	}
	return c
}

func (f *frame) add(r *record) { f.index = appendRecord(f.index, r) }

// inline writes e's record and puts its value into the frame. end sets where that is.
func (f *frame) inline(r *record, e *entry, value []byte) {
	r.value = e.at
	f.add(r)
	f.values = append(f.values, value)
	f.entries = append(f.entries, e)
}

func (f *frame) tableRecord(c *change) {
	r := record{kind: recTable, table: c.table.id, key: c.table.name, revision: c.next.revision, meta: c.next.meta}
	if c.next.home == 0 {
		r.flags |= flagNew
	}
	if c.table.history == NoHistory {
		r.flags |= flagNoHistory
	}
	if c.next.doubt != nil {
		r.flags |= flagDoubt
	}
	f.add(&r)
	c.next.home = f.group.segment.id
}

// setRevision moves the table's revision. In a table with history it must come before what that revision changed.
func (f *frame) setRevision(c *change, to uint64, flags recordFlags) {
	if to == c.next.revision && flags == 0 {
		return
	}
	f.add(&record{kind: recRevision, flags: flags, table: c.table.id, from: c.next.revision, revision: to})
	c.next.revision = to
	c.visible = true
}

// put makes e a record of its table, with the value in this frame, or where e says if value is nil.
func (f *frame) put(c *change, e *entry, value []byte) {
	f.putEvent(c, e, value, e.revision)
}

// putEvent is put with another revision for the history.
func (f *frame) putEvent(c *change, e *entry, value []byte, revision uint64) {
	r := record{kind: recAdded, table: c.table.id, key: e.key, revision: e.revision}
	typ := Added
	if old := c.next.get(e.key); old != nil {
		e.key = old.key // one copy is enough
		if sameIdentity(old.identity, e.identity) {
			r.kind, typ = recModified, Modified
			e.identity = max(e.identity, old.identity) // one may be unknown
		} else {
			f.delete(c, old, revision, old, nil)
		}
	} else if value != nil {
		e.key = strings.Clone(e.key) // it may be a part of something large
	}
	r.identity = e.identity
	if value == nil && !e.at.lost() {
		r.flags, r.value = flagElsewhere, e.at
		f.add(&r)
	} else {
		f.inline(&r, e, value)
	}
	c.next.put(e)
	c.event(event{typ, revision, e})
}

// delete removes old. last is what the event shows: old itself, or an entry whose value goes into this frame.
func (f *frame) delete(c *change, old *entry, revision uint64, last *entry, value []byte) {
	r := record{kind: recDeleted, table: c.table.id, key: old.key, revision: revision, identity: old.identity}
	if i := slices.Index(f.entries, old); i >= 0 && last == old {
		// It was put by this very frame, and has no place yet that could be pointed at.
		again := *old
		last, value = &again, f.values[i]
	}
	switch {
	case c.table.history == NoHistory || last == old && old.at.lost():
		r.flags = flagLost // nobody will see it, or nobody can
		f.add(&r)
	case last != old:
		f.inline(&r, last, value)
	default:
		r.flags, r.value = flagElsewhere, old.at
		f.add(&r)
	}
	c.next.remove(old)
	c.event(event{Deleted, revision, last})
}

func (c *change) event(e event) {
	c.visible = true
	if c.table.history != NoHistory {
		c.events = append(c.events, e)
	}
}

// move writes e again, as it is, unless it is no longer a record of its table. A value that could not be read is written
// as lost.
func (f *frame) move(t *Table, e *entry, value []byte, lost bool) {
	c := f.group.change(t)
	if c.dropped || c.next.get(e.key) != e {
		return
	}
	again := *e
	again.at.segment, again.at.offset = 0, 0
	r := record{kind: recMoved, table: t.id, key: e.key, revision: e.revision, identity: e.identity}
	if lost {
		r.flags, r.value = flagLost, again.at
		f.add(&r)
		f.lost = append(f.lost, &again)
	} else {
		f.inline(&r, &again, value)
		f.group.moved += int64(len(value))
	}
	c.next.put(&again)
}

// restaged is a record of a stage that lies elsewhere now.
type restaged struct {
	stage *Stage
	entry *entry
}

// restage writes the value of a staged record again, unless the stage has let go of it.
func (f *frame) restage(g *Stage, e *entry, value []byte, lost bool) {
	if g.records[e.key].entry != e {
		return
	}
	again := *e
	again.at.segment, again.at.offset = 0, 0
	if !lost {
		f.values = append(f.values, value)
		f.entries = append(f.entries, &again)
		f.group.moved += int64(len(value))
	}
	f.group.restaged = append(f.group.restaged, restaged{g, &again})
}

// end appends the frame to the group and sets where its values are. A frame without content is none.
func (f *frame) end() {
	g := f.group
	if len(f.index) == 0 && len(f.values) == 0 {
		return
	}
	size := frameHeaderSize + len(f.index)
	for _, v := range f.values {
		size += len(v)
	}
	begin := len(g.buf)
	g.buf = append(g.buf, make([]byte, frameHeaderSize)...)
	g.buf = append(g.buf, f.index...)
	valuesAt := g.start + int64(len(g.buf))
	at := valuesAt
	for i, v := range f.values {
		e := f.entries[i]
		e.at.segment, e.at.offset = g.segment.id, uint32(at)
		at += int64(len(v))
		g.buf = append(g.buf, v...)
	}
	for _, e := range f.lost {
		e.at.segment = g.segment.id
	}
	putFrame(g.buf[begin:], g.segment.id, frameHeader{
		kind: f.kind, salt: g.segment.salt, synced: uint32(g.start),
		indexLen: uint32(len(f.index)), valuesLen: uint32(at - valuesAt),
	})
	if len(f.index) > 0 {
		g.footer = appendFooter(g.footer, valuesAt, f.index)
	}
}

func (g *group) drop(t *Table) error {
	c := g.change(t)
	if c.dropped {
		return ErrDropped
	}
	if c.next.home != 0 {
		f := g.begin(frameBatch)
		f.add(&record{kind: recDropped, table: t.id})
		f.end()
	}
	c.dropped = true
	return nil
}

// publish makes a durable group visible.
func (s *Store) publish(g *group) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range g.order {
		s.publishLocked(c)
		g.events += len(c.events)
	}
	for _, m := range g.restaged {
		if m.stage.records != nil {
			m.stage.records[m.entry.key] = staged{entry: m.entry}
		}
	}
	if g.events > 0 {
		data := g.buf
		if g.kept = cap(data)-len(data) <= len(data)/2; !g.kept {
			data = bytes.Clone(data) // the rest would be kept with it
		}
		s.recent.add(g.segment.id, g.start, data)
	}
	g.segment.size += int64(len(g.buf))
	s.disk += int64(len(g.buf))
}

func (s *Store) publishLocked(c *change) {
	t := c.table
	if t.dropped {
		return
	}
	s.live += c.next.cost - t.work.cost
	t.work = c.next
	if c.dropped {
		s.live -= c.next.cost
		t.signalLocked()
		t.dropped = true
		t.events.cut(t.work.revision)
		if s.tables[t.name] == t {
			delete(s.tables, t.name)
		}
		return
	}
	h := &t.events
	if c.cut {
		h.cut(c.cutAt)
	}
	// The bound is for what came before: watchers get the time until the next commit to read a large one.
	h.trim(len(h.queue) - max(s.opts.HistoryPerTable, t.work.tree.Len()))
	for _, x := range c.holes {
		x.first, x.end = x.first+h.end(), x.end+h.end()
		h.holes = append(h.holes, x)
	}
	h.queue = append(h.queue, c.events...)
	t.now = &snapshot{contents: t.work, end: h.end(), epoch: h.epoch}
	t.now.tree = t.work.tree.Clone()
	if len(s.damaged) > 0 {
		s.forgetDamageLocked(t)
	}
	if c.visible {
		t.signalLocked()
	}
}
