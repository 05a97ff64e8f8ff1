package store

import (
	"bytes"
	"errors"
	"slices"
	"sync"
)

// readGap is how many bytes between two values are rather read than skipped.
const readGap = 4 << 10

// ref names a record to be read.
type ref struct {
	table *Table
	entry *entry // nil: none
	stage *Stage // that it is a record of, while it is not one of the table
	// What is on the disk is in memory, too, if it is recent, and has to be opened only. It is shared.
	recent *segment
	stored []byte
}

// loader reads values, neighbours in the log by one pread. Its memory can be used again: what it returned is valid until
// the next load.
type loader struct {
	buf     []byte
	binding []byte // of the value being opened
	order   []int
	runs    []run
	values  [][]byte // by index; nil where errs says why, or nothing was asked
	errs    []error
}

// load reads the values of records and verifies them. One that can't be read is noted as damaged.
func (l *loader) load(set *segmentSet, refs []ref) {
	n := len(refs)
	l.order = l.order[:0]
	l.values = slices.Grow(l.values[:0], n)[:n]
	l.errs = slices.Grow(l.errs[:0], n)[:n]
	clear(l.values)
	clear(l.errs)
	for i, r := range refs {
		switch {
		case r.entry == nil:
		case r.entry.at.lost():
			l.errs[i] = r.noteDamage(errors.New("it was damaged before"))
		case r.recent != nil:
			var err error
			if l.values[i], err = r.recent.openValue(r.table.name, r.entry, bytes.Clone(r.stored), &l.binding); err != nil {
				l.errs[i] = r.noteDamage(err)
			}
		default:
			l.order = append(l.order, i)
		}
	}
	slices.SortFunc(l.order, func(a, b int) int { return refs[a].entry.at.compare(refs[b].entry.at) })

	l.findRuns(refs)
	total := 0
	for _, r := range l.runs {
		total += r.length
	}
	l.buf = slices.Grow(l.buf[:0], total)[:total]
	rest := l.buf
	for _, r := range l.runs {
		l.readRun(set, refs, r, rest[:r.length:r.length])
		rest = rest[r.length:]
	}
	for _, i := range l.order {
		if err := l.errs[i]; err != nil {
			l.errs[i] = refs[i].noteDamage(err)
		}
	}
}

func (a location) compare(b location) int {
	if a.segment != b.segment {
		return int(int64(a.segment) - int64(b.segment))
	}
	return int(int64(a.offset) - int64(b.offset))
}

func (a location) end() int64 { return int64(a.offset) + int64(a.size) }

// run is a stretch of one segment that holds the values of l.order[first:last].
type run struct {
	at          location
	length      int
	first, last int
}

func (l *loader) findRuns(refs []ref) {
	runs := l.runs[:0]
	for k, i := range l.order {
		at := refs[i].entry.at
		if len(runs) > 0 {
			r := &runs[len(runs)-1]
			if end := int64(r.at.offset) + int64(r.length); r.at.segment == at.segment && int64(at.offset) <= end+readGap {
				r.length = int(max(end, at.end()) - int64(r.at.offset))
				r.last = k + 1
				continue
			}
		}
		runs = append(runs, run{at: at, length: int(at.size), first: k, last: k + 1})
	}
	l.runs = runs
}

func (l *loader) readRun(set *segmentSet, refs []ref, r run, buf []byte) {
	seg := set.find(r.at.segment)
	var err error
	switch {
	case seg == nil:
		err = errors.New("its part of the log is lost")
	case seg.blind():
		err = seg.unknownKey()
	default:
		err = readFull(seg.file, buf, int64(r.at.offset))
	}
	for k, i := range l.order[r.first:r.last] {
		at := refs[i].entry.at
		if k > 0 && refs[i].same(refs[l.order[r.first+k-1]]) {
			// A value is opened in its place, and only once.
			l.values[i], l.errs[i] = l.values[l.order[r.first+k-1]], l.errs[l.order[r.first+k-1]]
			continue
		}
		begin := int(at.offset - r.at.offset)
		value := buf[begin : begin+int(at.size) : begin+int(at.size)]
		one := err
		if err != nil && seg != nil && !seg.blind() && r.last-r.first > 1 {
			one = readFull(seg.file, value, int64(at.offset)) // which of them is it?
		}
		if one == nil && checksum(value) != at.crc {
			one = errors.New("checksum does not match")
		}
		if one == nil {
			value, one = seg.openValue(refs[i].table.name, refs[i].entry, value, &l.binding)
		}
		if one != nil {
			l.errs[i] = one
			continue
		}
		l.values[i] = value
	}
}

// same reports whether two refs are to the same value of the same record.
func (r ref) same(other ref) bool {
	a, b := r.entry, other.entry
	return r.table == other.table && (a == b || a.at == b.at && a.key == b.key && a.revision == b.revision)
}

// noteDamage remembers that a live record can't be read, so that a Stage writes it again, and makes the error of it.
func (r ref) noteDamage(err error) *DamagedError {
	if errors.Is(err, ErrKeyUnknown) { // nothing is wrong with it; Open has told
		return &DamagedError{Table: r.table.name, Key: r.entry.key, Err: err}
	}
	s := r.table.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.damaged[r.entry]; !known && r.table.now.get(r.entry.key) == r.entry {
		s.damaged[r.entry] = r.table
		s.log.Error("record is damaged", "table", r.table.name, "key", r.entry.key,
			"segment", r.entry.at.segment, "offset", r.entry.at.offset, "err", err)
	}
	return &DamagedError{Table: r.table.name, Key: r.entry.key, Err: err}
}

// forgetDamageLocked drops what was noted of records of t that are gone, and follows those that were moved as lost.
func (s *Store) forgetDamageLocked(t *Table) {
	for e, of := range s.damaged {
		if of != t {
			continue
		}
		if now := t.now.get(e.key); now != e {
			delete(s.damaged, e)
			if now != nil && now.at.lost() {
				s.damaged[now] = t
			}
		}
	}
}

// loaders is the memory of lists, used again by the next one.
type loaders struct{ pool sync.Pool }

func (p *loaders) get() *loader {
	if l, ok := p.pool.Get().(*loader); ok {
		return l
	}
	return &loader{}
}

// put takes a loader back, unless one large value made it too large to keep.
func (p *loaders) put(l *loader) {
	if cap(l.buf) <= 2*readAhead {
		p.pool.Put(l)
	}
}

// recent holds the newest commits in memory, so that many cursors at the log's end need not read it. Guarded by Store.mu.
type recent struct {
	limit, bytes int64
	groups       []recentGroup // oldest first
}

type recentGroup struct {
	segment *segment
	offset  uint32
	data    []byte
}

func (r *recent) add(segment *segment, offset int64, data []byte) {
	r.groups = append(r.groups, recentGroup{segment, uint32(offset), data})
	r.bytes += int64(len(data))
	n := 0
	for ; r.bytes > r.limit && n < len(r.groups); n++ {
		r.bytes -= int64(len(r.groups[n].data))
	}
	clear(r.groups[:n])
	r.groups = r.groups[n:]
}

// find returns what is on the disk at a place, if it is there, and the segment. The slice stays valid, nobody may change
// it.
func (r *recent) find(at location) ([]byte, *segment) {
	i, ok := slices.BinarySearchFunc(r.groups, at, func(g recentGroup, at location) int {
		return location{segment: g.segment.id, offset: g.offset}.compare(at)
	})
	if !ok {
		i--
	}
	if i < 0 || r.groups[i].segment.id != at.segment {
		return nil, nil
	}
	begin := int(at.offset - r.groups[i].offset)
	end := begin + int(at.size)
	if end > len(r.groups[i].data) {
		return nil, nil
	}
	return r.groups[i].data[begin:end:end], r.groups[i].segment
}
