package store

import (
	"bytes"
	"fmt"
)

// Record is one entry of a table.
type Record struct {
	Key      string
	Revision uint64
	// Identity tells an object from its successor of the same key (a uid): where it differs from the stored one, a put
	// is a deletion and an addition. Empty compares equal to all. Only a hash is kept: it is empty in what is read.
	Identity string
	Value    []byte
}

// Batch collects changes that are committed together, all or nothing, possibly over several tables. The zero value is
// an empty batch. Values are copied: the caller's buffers are its own again when Put returns.
type Batch struct {
	ops    []op
	values []byte
}

type opKind uint8

const (
	opPut opKind = iota
	opDelete
	opRevision
	opMeta
	opExpect
)

type op struct {
	kind     opKind
	table    *Table
	key      string
	revision uint64
	identity uint64
	stored   bool   // opDelete: the last content is the stored one
	begin    int    // of the value in Batch.values
	size     uint32 // of the value
	crc      uint32
	meta     []byte
}

func (b *Batch) add(o op, value []byte) {
	o.begin, o.size, o.crc = len(b.values), uint32(len(value)), checksum(value)
	b.values = append(b.values, value...)
	b.ops = append(b.ops, o)
}

// Put adds or replaces a record. In a table with history its revision becomes the table's and must not be lower.
func (b *Batch) Put(t *Table, r Record) {
	b.add(op{kind: opPut, table: t, key: r.Key, revision: r.Revision, identity: hashIdentity(r.Identity)}, r.Value)
}

// Delete removes the record of that key at the given revision. last is the content that the Deleted event shows; nil
// stands for the stored one. Deleting what is not there only moves the revision.
func (b *Batch) Delete(t *Table, key string, revision uint64, last []byte) {
	b.add(op{kind: opDelete, table: t, key: key, revision: revision, stored: last == nil}, last)
}

// SetRevision moves the table's revision without a change (a bookmark).
func (b *Batch) SetRevision(t *Table, revision uint64) {
	b.ops = append(b.ops, op{kind: opRevision, table: t, revision: revision})
}

// Expect makes the commit fail with ErrConflict, without effect, unless the table's revision is exactly this one before
// it. Who queues change after change by CommitAsync says so with each: then nothing is committed behind one that
// failed.
func (b *Batch) Expect(t *Table, revision uint64) {
	b.ops = append(b.ops, op{kind: opExpect, table: t, revision: revision})
}

// SetMeta replaces the small opaque blob that the table carries.
func (b *Batch) SetMeta(t *Table, meta []byte) {
	b.ops = append(b.ops, op{kind: opMeta, table: t, meta: bytes.Clone(meta)})
}

// Len is the number of changes in b.
func (b *Batch) Len() int { return len(b.ops) }

// Size is the sum of the sizes of the values in b.
func (b *Batch) Size() int { return len(b.values) }

func (b *Batch) request(s *Store) *request {
	return &request{size: int64(len(b.values)) + int64(len(b.ops))*(entryOverhead+s.valueOverhead()), build: b.build}
}

// build adds the batch to a group, or leaves the group as it was and says why.
func (b *Batch) build(g *group) error {
	if len(b.values) > maxFrame/2 {
		return ErrTooLarge
	}
	revisions, err := b.check(g)
	if err != nil {
		return err
	}
	f := g.begin(frameBatch)
	for i := range b.ops {
		t := b.ops[i].table
		c := f.change(t)
		if to, first := revisions[t]; first {
			f.setRevision(c, to, 0)
			delete(revisions, t)
		}
	}
	for i := range b.ops {
		b.apply(f, &b.ops[i])
	}
	f.end()
	return nil
}

// check finds the revision that each table will have, before anything is changed.
func (b *Batch) check(g *group) (map[*Table]uint64, error) {
	revisions := make(map[*Table]uint64, 1)
	for i := range b.ops {
		o := &b.ops[i]
		c := g.change(o.table)
		if c.dropped {
			return nil, fmt.Errorf("change table %s: %w", o.table.name, ErrDropped)
		}
		now, seen := revisions[o.table]
		if !seen {
			now = c.next.revision
		}
		revisions[o.table] = now
		if o.kind == opExpect {
			if before := c.next.revision; before != o.revision {
				return nil, fmt.Errorf("change table %s at revision %d, expected %d: %w", o.table.name, before, o.revision, ErrConflict)
			}
			continue
		}
		if o.kind == opMeta || o.kind != opRevision && o.table.history == NoHistory {
			continue
		}
		if o.revision < now {
			return nil, fmt.Errorf("take table %s from revision %d to %d: %w", o.table.name, now, o.revision, ErrRevision)
		}
		revisions[o.table] = o.revision
	}
	return revisions, nil
}

func (b *Batch) apply(f *frame, o *op) {
	c := f.change(o.table)
	value := b.values[o.begin : o.begin+int(o.size)]
	switch o.kind {
	case opPut:
		e := &entry{key: o.key, revision: o.revision, identity: o.identity, at: f.location(o)}
		f.put(c, e, value)
	case opDelete:
		old := c.next.get(o.key)
		if old == nil {
			return
		}
		last := old
		if !o.stored && c.table.history != NoHistory {
			last = &entry{key: old.key, revision: o.revision, identity: old.identity, at: f.location(o)}
		}
		f.delete(c, old, o.revision, last, value)
	case opMeta:
		if !bytes.Equal(o.meta, c.next.meta) {
			c.next.meta = o.meta
			c.visible = true
			f.tableRecord(c)
		}
	case opRevision, opExpect:
	}
}

func (f *frame) location(o *op) location {
	return f.group.store.sealingKey().location(o.crc, o.size, o.revision)
}
