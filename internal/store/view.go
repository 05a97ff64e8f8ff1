package store

import "iter"

// View is one committed state of a table. It never changes, and may be used by several goroutines.
type View struct {
	table *Table
	snap  *snapshot
	set   *segmentSet
}

// Item is a record without its value.
type Item struct {
	Key      string
	Revision uint64
	Size     int // of the value
}

// readAhead is how many bytes of values Records reads at once.
const readAhead = 256 << 10

// Release unpins the view. It must not be used afterwards.
func (v *View) Release() { v.table.store.unpin(v.set) }

// Revision, Meta and Doubt are those of the table at that moment.
func (v *View) Revision() uint64 { return v.snap.revision }

// Meta is described at Table.Meta.
func (v *View) Meta() []byte { return v.snap.meta }

// Doubt is described at Table.Doubt.
func (v *View) Doubt() error { return v.snap.doubt }

// Len is the number of records.
func (v *View) Len() int { return v.snap.tree.Len() }

// Size is the sum of the sizes of all values.
func (v *View) Size() int64 { return v.snap.size }

// Get returns one record. Its value is the caller's.
func (v *View) Get(key string) (Record, bool, error) {
	e := v.snap.get(key)
	if e == nil {
		return Record{}, false, nil
	}
	var l loader
	l.load(v.set, []ref{{table: v.table, entry: e}})
	return Record{Key: e.key, Revision: e.revision, Value: l.values[0]}, true, l.errs[0]
}

// Item returns one record without its value.
func (v *View) Item(key string) (Item, bool) {
	e := v.snap.get(key)
	if e == nil {
		return Item{}, false
	}
	return e.item(), true
}

func (e *entry) item() Item { return Item{Key: e.key, Revision: e.revision, Size: e.at.content()} }

// Items goes through the keys from the given one on, in byte order, without reading any value.
func (v *View) Items(from string) iter.Seq[Item] {
	return func(yield func(Item) bool) {
		v.snap.tree.AscendGreaterOrEqual(&entry{key: from}, func(e *entry) bool {
			return yield(e.item())
		})
	}
}

// Records goes through the records from the given key on, in byte order. Values are read ahead in large pieces; each is
// valid until the next step. A record that can't be read is given with its key, no value and a *DamagedError; the
// iteration goes on behind it.
func (v *View) Records(from string) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		s := v.table.store
		l := s.loaders.get()
		defer s.loaders.put(l)
		batch := make([]ref, 0, 128)
		bytes := 0
		flush := func() bool {
			l.load(v.set, batch)
			for i, r := range batch {
				if !yield(Record{Key: r.entry.key, Revision: r.entry.revision, Value: l.values[i]}, l.errs[i]) {
					return false
				}
			}
			batch, bytes = batch[:0], 0
			return true
		}
		more := true
		v.snap.tree.AscendGreaterOrEqual(&entry{key: from}, func(e *entry) bool {
			if len(batch) == cap(batch) || len(batch) > 0 && bytes+int(e.at.size) > readAhead {
				more = flush()
			}
			if more {
				batch = append(batch, ref{table: v.table, entry: e})
				bytes += int(e.at.size)
			}
			return more
		})
		if more {
			flush()
		}
	}
}

// Cursor returns a cursor that continues exactly behind this view. It outlives the view.
func (v *View) Cursor() *Cursor {
	return &Cursor{table: v.table, epoch: v.snap.epoch, next: v.snap.end, revision: v.snap.revision}
}
