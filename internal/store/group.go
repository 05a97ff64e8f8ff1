package store

import (
	"bytes"
	"encoding/binary"
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
	kept    bool   // buf belongs to the recent commits
	binding []byte // of the value being sealed
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
	group  *group
	kind   frameKind
	index  []byte
	values []frameValue
	lost   []*entry // entries that have none
}

// frameValue is a value that goes into a frame.
type frameValue struct {
	table   *Table
	entry   *entry // which gets to know where it is
	content []byte
	crcAt   int // offset in the index of the checksum, which a sealed value has only then; 0 if there is none
}

// append puts a value into the frame, without a record.
func (f *frame) append(t *Table, e *entry, value []byte) *frameValue {
	f.values = append(f.values, frameValue{table: t, entry: e, content: value})
	return &f.values[len(f.values)-1]
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

// inline writes the record of an entry of t, and puts its value into the frame. end sets where that is.
func (f *frame) inline(t *Table, r *record, e *entry, value []byte) {
	r.value = e.at
	f.add(r)
	v := f.append(t, e, value)
	if e.at.sealed() {
		v.crcAt = len(f.index) - 8 // the fingerprint is behind it
	}
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
		f.inline(c.table, &r, e, value)
	}
	c.next.put(e)
	c.event(event{typ, revision, e})
}

// delete removes old. last is what the event shows: old itself, or an entry whose value goes into this frame.
func (f *frame) delete(c *change, old *entry, revision uint64, last *entry, value []byte) {
	r := record{kind: recDeleted, table: c.table.id, key: old.key, revision: revision, identity: old.identity}
	i := slices.IndexFunc(f.values, func(v frameValue) bool { return v.entry == old })
	if i >= 0 && last == old {
		// It was put by this very frame, and has no place yet that could be pointed at.
		again := *old
		again.revision = revision // a value is sealed for the revision of its record
		last, value = &again, f.values[i].content
	}
	switch {
	case c.table.history == NoHistory || last == old && old.at.lost():
		r.flags = flagLost // nobody will see it, or nobody can
		f.add(&r)
	case last != old:
		f.inline(c.table, &r, last, value)
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
		again.at = f.group.store.sealingKey().location(checksum(value), uint32(len(value)), e.revision)
		f.inline(t, &r, &again, value)
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
		again.at = f.group.store.sealingKey().location(checksum(value), uint32(len(value)), e.revision)
		f.append(g.table, &again, value)
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
	begin := len(g.buf)
	g.buf = append(g.buf, make([]byte, frameHeaderSize)...)
	g.buf = append(g.buf, f.index...)
	valuesAt := len(g.buf)
	index := begin + frameHeaderSize
	for i := range f.values {
		v := &f.values[i]
		v.entry.at.segment, v.entry.at.offset = g.segment.id, uint32(g.start+int64(len(g.buf)))
		g.appendValue(v)
		if v.crcAt > 0 {
			binary.LittleEndian.PutUint32(g.buf[index+v.crcAt:], v.entry.at.crc)
		}
	}
	for _, e := range f.lost {
		e.at.segment = g.segment.id
	}
	putFrame(g.buf[begin:], g.segment.id, frameHeader{
		kind: f.kind, salt: g.segment.salt, key: g.segment.key.tag(), synced: uint32(g.start),
		indexLen: uint32(len(f.index)), valuesLen: uint32(len(g.buf) - valuesAt),
	})
	if len(f.index) > 0 {
		g.footer = appendFooter(g.footer, g.start+int64(valuesAt), g.buf[index:valuesAt])
	}
}

// appendValue writes a value as it is on the disk. Only now the checksum of a sealed one is known.
func (g *group) appendValue(v *frameValue) {
	box := g.segment.box
	if box == nil {
		g.buf = append(g.buf, v.content...)
		return
	}
	begin := len(g.buf)
	g.binding = appendBinding(g.binding[:0], v.table.name, v.entry.key, v.entry.revision)
	g.buf = box.seal(g.buf, v.content, g.binding)
	v.entry.at.crc = checksum(g.buf[begin:])
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
		s.recent.add(g.segment, g.start, data)
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
