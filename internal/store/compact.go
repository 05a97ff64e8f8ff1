package store

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"yurt/internal/failpoint"
)

const (
	moveBytes   = 256 << 10 // of values in one piece of compaction
	moveRecords = 512
)

// compactionDueLocked reports whether the log is larger than it may be, or has what must be sealed. A third of the log is
// live then, so each live byte is written again once for two new ones.
func (s *Store) compactionDueLocked() bool {
	if len(s.set.list) < 2 {
		return false
	}
	return s.disk > max(s.opts.CompactAbove, 3*s.live) || s.staleLocked() > 0
}

// compactAll removes the oldest segments while the log is too large, until ctx ends.
func (s *Store) compactAll(ctx context.Context) {
	c := &compactor{store: s}
	stale := s.beginSealing()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.compact:
		}
		for s.compactionDue() {
			err := c.compactOldest(ctx)
			if ctx.Err() != nil {
				return
			}
			if err != nil && !failing {
				s.log.Error("compact", "err", err)
			}
			if failing = err != nil; failing {
				break // the next commit brings us back
			}
		}
		if before := stale; before > 0 {
			if stale = s.Stats().Stale; stale == 0 {
				s.log.Info("what was in clear or sealed by an older key is sealed by the newest one; older keys are not needed any more", "key", s.sealingID())
			}
		}
	}
}

// beginSealing makes sure that there is a segment to write to what is still in clear or sealed by an older key, which
// begins that, and returns how many segments of such there are. Commits that fail do it when they succeed again.
func (s *Store) beginSealing() int {
	stale := s.Stats().Stale
	if stale > 0 {
		err := s.submit(context.Background(), &request{build: func(*group) error { return nil }})
		s.log.Info("sealing what is in clear or sealed by an older key", "segments", stale, "key", s.sealingID(), "err", err)
	}
	return stale
}

func (s *Store) compactionDue() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.compactionDueLocked()
}

type compactor struct {
	store *Store
	// remove is a file that is no longer part of the log, and is still there: its successors must not go before it, or
	// what they deleted would come back.
	remove string
}

// compactOldest writes what is live in the oldest segment again, and removes it. New references to a finished segment do
// not appear, so once nothing refers to it nothing will.
func (c *compactor) compactOldest(ctx context.Context) error {
	s := c.store
	if err := c.removeFile(); err != nil {
		return err
	}
	set := s.pin()
	defer s.unpin(set)
	oldest := set.list[0]
	for {
		records, tables := s.referring(oldest)
		if len(records) == 0 && len(tables) == 0 {
			break
		}
		if err := failpoint.Hit(failpoint.StoreCompactMove); err != nil {
			return err
		}
		if err := c.moveTables(oldest, tables); err != nil {
			return err
		}
		if err := c.moveRecords(ctx, set, records); err != nil {
			return err
		}
	}
	return c.retire(set, oldest)
}

// referring returns everything that lies in a segment and is still needed. Stages are looked at before tables: what is
// swapped in between is seen there.
func (s *Store) referring(seg *segment) (records []ref, tables []*Table) {
	s.mu.Lock()
	for g := range s.stages {
		for _, st := range g.records {
			if !st.seen && st.entry.at.segment == seg.id {
				records = append(records, ref{table: g.table, entry: st.entry, stage: g})
			}
		}
	}
	snapshots := make(map[*Table]*snapshot, len(s.tables))
	for _, t := range s.tables {
		snapshots[t] = t.now
	}
	s.mu.Unlock()

	for t, now := range snapshots {
		if now.home == seg.id || seg.lossy && now.doubt != nil && now.home <= seg.id {
			tables = append(tables, t)
		}
		now.tree.Ascend(func(e *entry) bool {
			if e.at.segment == seg.id {
				records = append(records, ref{table: t, entry: e})
			}
			return true
		})
	}
	return records, tables
}

// submit waits for the committer whatever happens: it outlives the compactor, whose memory the request uses.
func (c *compactor) submit(r *request) error { return c.store.submit(context.Background(), r) }

// moveTables writes the own records of tables again.
func (c *compactor) moveTables(seg *segment, tables []*Table) error {
	for len(tables) > 0 {
		n := min(len(tables), moveRecords)
		piece := tables[:n]
		tables = tables[n:]
		err := c.submit(&request{size: int64(n) * entryOverhead, build: func(g *group) error {
			f := g.begin(frameBatch)
			for _, t := range piece {
				if ch := g.change(t); !ch.dropped && ch.next.home <= seg.id {
					f.tableRecord(ch)
				}
			}
			f.end()
			return nil
		}})
		if err != nil {
			return err
		}
	}
	return nil
}

// moveRecords writes records again, piece by piece, and leaves commits most of the disk's time.
func (c *compactor) moveRecords(ctx context.Context, set *segmentSet, records []ref) error {
	for len(records) > 0 {
		n, size := 0, 0
		for n < len(records) && n < moveRecords && (n == 0 || size+int(records[n].entry.at.size) <= moveBytes) {
			size += int(records[n].entry.at.size)
			n++
		}
		begin := time.Now()
		if err := c.movePiece(set, records[:n], size); err != nil {
			return err
		}
		records = records[n:]
		if c.store.behind() {
			continue
		}
		select {
		case <-time.After(time.Since(begin)):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// behind reports whether the log grows faster than compaction at its leisure.
func (s *Store) behind() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.disk > 2*max(s.opts.CompactAbove, 3*s.live)
}

func (c *compactor) movePiece(set *segmentSet, records []ref, size int) error {
	l := c.store.loaders.get()
	defer c.store.loaders.put(l)
	l.load(set, records)
	return c.submit(&request{size: int64(size + len(records)*entryOverhead), build: func(g *group) error {
		tables, stages := g.begin(frameBatch), g.begin(frameStaged)
		for i, r := range records {
			value, lost := l.values[i], l.errs[i] != nil
			if r.stage != nil {
				stages.restage(r.stage, r.entry, value, lost)
			} else {
				tables.move(r.table, r.entry, value, lost)
			}
		}
		tables.end()
		stages.end()
		return nil
	}})
}

// retire takes a segment that nothing refers to out of the log. The history that needs it expires.
func (c *compactor) retire(set *segmentSet, seg *segment) error {
	s := c.store
	if err := failpoint.Hit(failpoint.StoreBeforeRetire); err != nil {
		return err
	}
	s.mu.Lock()
	for _, t := range s.tables {
		t.events.expireBefore(seg.id + 1)
	}
	unused := s.replaceSetLocked(s.set.list[1:])
	s.disk -= seg.size
	clear := seg.key == 0 && s.sealingKey() != nil
	reuse := !s.spare && !clear && seg.refs == 1 && set.refs == 1 // the last pin is ours
	s.mu.Unlock()
	closeAll(unused)

	c.remove = segmentName(seg.id)
	if reuse {
		if err := s.root.Rename(c.remove, spareName); err != nil {
			return err
		}
	}
	if err := c.removeFile(); err != nil {
		return err
	}
	// Not before its new name is durable: overwritten under the old one, it would be a lost part of the log.
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spare = s.spare || reuse
	seg.wipe = clear
	return nil
}

// removeFile removes the file of a retired segment, durably.
func (c *compactor) removeFile() error {
	if c.remove == "" {
		return nil
	}
	s := c.store
	if err := s.root.Remove(c.remove); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := failpoint.Hit(failpoint.StoreAfterUnlink); err != nil {
		return err
	}
	if err := s.syncDir(); err != nil {
		return err
	}
	c.remove = ""
	return failpoint.Hit(failpoint.StoreAfterRetire)
}
