package store

import (
	"errors"
	"fmt"
)

// replay applies the records of the log in the order in which they were written.
type replay struct {
	store  *Store
	tables map[uint32]*replayTable
	lost   error // the newest damage to the log itself, nil if there is none
	maxID  uint32
}

type replayTable struct {
	*Table
	named bool // its own record was seen
	known bool // its revision is that of the log at this point
	// Of the frame being applied:
	swap *hole // with revisions; nil: no swap
	cut  bool
}

// lose notes that a part of the log is gone: any table may have changed in it.
func (r *replay) lose(err error) {
	r.store.log.Error("a part of the log is lost", "err", err)
	r.lost = fmt.Errorf("a part of the log is lost: %w", err)
	for _, t := range r.tables {
		t.doubtFrom(r.lost)
		t.known = false
	}
}

func (t *replayTable) doubtFrom(err error) {
	t.work.doubt = err
	t.events.cut(t.work.revision)
}

func (r *replay) table(id uint32) *replayTable {
	t := r.tables[id]
	if t == nil {
		t = &replayTable{Table: r.store.newTable("", id, KeepHistory)}
		if r.lost != nil {
			t.doubtFrom(r.lost)
		}
		r.tables[id] = t
		r.maxID = max(r.maxID, id)
	}
	return t
}

// frame applies the index of one frame.
func (r *replay) frame(segment uint32, valuesAt int64, index []byte) error {
	d := indexReader{rest: index, segment: segment, values: valuesAt}
	touched := map[*replayTable]bool{}
	var rec record
	for d.next(&rec) {
		if rec.kind == recDropped {
			delete(r.tables, rec.table)
			continue
		}
		t := r.table(rec.table)
		t.locate(&rec, segment)
		if !touched[t] {
			touched[t] = true
			t.events.trim(len(t.events.queue) - max(r.store.opts.HistoryPerTable, t.work.tree.Len()))
		}
		switch rec.kind {
		case recTable:
			t.applyTable(&rec, segment)
		case recRevision:
			t.applyRevision(&rec)
		case recDeleted:
			t.applyDeleted(&rec)
		default:
			t.applyPut(&rec)
		}
	}
	for t := range touched {
		t.endFrame()
	}
	return d.err
}

func (t *replayTable) applyTable(rec *record, segment uint32) {
	if rec.flags&flagNew != 0 {
		t.known, t.work.doubt = true, nil
	}
	t.arrive(rec.revision)
	t.name, t.named = rec.key, true
	t.work.meta, t.work.home = rec.meta, segment
	if rec.flags&flagNoHistory != 0 {
		t.history = NoHistory
	}
	if rec.flags&flagDoubt != 0 && t.work.doubt == nil {
		t.work.doubt = errors.New("a part of the log was lost before")
	}
}

// arrive checks that the table is where the log says it was before a record.
func (t *replayTable) arrive(revision uint64) {
	switch {
	case !t.known:
		t.known, t.work.revision = true, revision
		t.events.cut(revision)
	case t.work.revision != revision:
		t.doubtFrom(fmt.Errorf("a part of the log is lost: what led from revision %d to %d", t.work.revision, revision))
		t.work.revision = revision
		t.events.cut(revision)
	}
}

func (t *replayTable) applyRevision(rec *record) {
	t.arrive(rec.from)
	t.work.revision = rec.revision
	if rec.flags&(flagSwap|flagCut) != 0 {
		t.work.doubt = nil
		t.cut = rec.flags&flagCut != 0
		t.swap = &hole{from: rec.from, to: rec.revision, first: t.events.end()}
	}
}

// locate gives up a value that is in a segment that is gone, and with it the history that needs it. A record of the
// table that is still live was written again, and comes later in the log.
func (t *replayTable) locate(rec *record, segment uint32) {
	if rec.flags&flagElsewhere != 0 && t.store.set.find(rec.value.segment) == nil {
		rec.value.segment, rec.value.offset = segment, 0
	}
}

func (t *replayTable) applyPut(rec *record) {
	e := &entry{key: rec.key, revision: rec.revision, identity: rec.identity, at: rec.value}
	if old := t.work.put(e); old != nil {
		e.key = old.key
	}
	switch rec.kind {
	case recAdded:
		t.event(event{Added, rec.revision, e})
	case recModified:
		t.event(event{Modified, rec.revision, e})
	}
}

func (t *replayTable) applyDeleted(rec *record) {
	last := &entry{key: rec.key, revision: rec.revision, identity: rec.identity, at: rec.value}
	if old := t.work.get(rec.key); old != nil {
		t.work.remove(old)
		if old.at == last.at {
			last = old
		}
	}
	t.event(event{Deleted, rec.revision, last})
}

func (t *replayTable) event(e event) {
	if t.history == NoHistory || t.cut {
		return
	}
	if t.swap != nil {
		e.revision = t.swap.clamp(e.revision)
	}
	t.events.add(e)
	if e.entry.at.lost() {
		t.events.trim(len(t.events.queue))
	}
}

// endFrame does what publishing the frame's group did.
func (t *replayTable) endFrame() {
	switch {
	case t.cut:
		t.events.cut(t.work.revision)
	case t.swap != nil:
		t.swap.end = t.events.end()
		t.events.holes = append(t.events.holes, *t.swap)
	}
	t.swap, t.cut = nil, false
}

// finish makes the tables the store's.
func (r *replay) finish() {
	s := r.store
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nextID, s.lost = max(s.nextID, r.maxID+1), r.lost
	blind := s.set.blind()
	for id, t := range r.tables {
		if !t.named {
			s.log.Error("records of a table whose name is lost", "id", id, "records", t.work.tree.Len())
			continue
		}
		if other := s.tables[t.name]; other != nil && other.id > id {
			continue // the record of this one's drop is lost
		}
		if t.history == NoHistory {
			t.events = events{}
		}
		if blind && t.history == KeepHistory && t.work.blind(s.set) && t.work.doubt == nil {
			t.work.doubt = ErrKeyUnknown
		}
		s.live += t.work.cost
		t.now = &snapshot{contents: t.work, end: t.events.end(), epoch: t.events.epoch}
		t.now.tree = t.work.tree.Clone()
		s.tables[t.name] = t.Table
	}
}
