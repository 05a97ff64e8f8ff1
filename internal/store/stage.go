package store

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"yurt/internal/failpoint"
)

// Stage takes in the complete new contents of a table, beside the live ones, and swaps them in by one commit. Values go
// to the log as they come, in pieces that share group commits with everybody else, so memory is O(names). Changes that
// are committed to the table meanwhile are fine as long as the staged contents are at least as new as the table at the
// moment of the Swap. One goroutine may use it; end it by Swap, Reset or Abort.
type Stage struct {
	table   *Table
	records map[string]staged // durable ones, and those seen; guarded by store.mu
	piece   *piece            // being filled
	writing chan error        // outcome of the piece being written; nil if there is none
	err     error             // of a piece; the stage is of no use then
	over    bool
	cost    int64 // of records that are not live; guarded by store.mu
}

// staged is what a Stage knows of a key.
type staged struct {
	entry *entry
	seen  bool // entry is the live one, and stays
}

// piece is a part of the staged values on its way to the log.
type piece struct {
	values  []byte
	entries []*entry
}

// pieceBytes is how much a Stage writes at once: what one of somebody else's commits may have to wait for.
const pieceBytes = 256 << 10

// Diff counts what a Swap or Reset changed.
type Diff struct{ Added, Modified, Deleted, Unchanged int }

// Stage begins new contents of the table.
func (t *Table) Stage() *Stage {
	g := &Stage{table: t, records: map[string]staged{}}
	t.store.mu.Lock()
	defer t.store.mu.Unlock()
	t.store.stages[g] = struct{}{}
	return g
}

// Add stages a record; each key once. One that the table holds with the same revision, identity and checksum is only
// marked as seen. The value is copied.
func (g *Stage) Add(ctx context.Context, r Record) error {
	if g.over || g.err != nil {
		return errors.Join(errors.New("add to a stage that is over"), g.err)
	}
	e := &entry{key: r.Key, revision: r.Revision, identity: hashIdentity(r.Identity)}
	size, crc := uint32(len(r.Value)), checksum(r.Value)
	if g.see(e, size, crc) {
		return nil
	}
	e.at = g.table.store.sealingKey().location(crc, size, r.Revision)
	e.key = strings.Clone(e.key) // it may be a part of something large
	if g.piece != nil && len(g.piece.values)+len(r.Value) > pieceBytes {
		if err := g.flush(ctx); err != nil {
			return err
		}
	}
	if g.piece == nil {
		g.piece = &piece{}
	}
	g.piece.values = append(g.piece.values, r.Value...)
	g.piece.entries = append(g.piece.entries, e)
	return nil
}

// see marks a record as seen if the live one is the same, and can be read as far as is known. Sameness is by the
// fingerprint that the live one has, which may be of an older key.
func (g *Stage) see(e *entry, size, crc uint32) bool {
	s := g.table.store
	s.mu.Lock()
	defer s.mu.Unlock()
	live := g.table.now.get(e.key)
	if live == nil || !s.soundLocked(live) {
		return false
	}
	var key *masterKey
	if box := s.set.find(live.at.segment).box; box != nil {
		key = box.master
	}
	if e.at = key.location(crc, size, e.revision); !live.same(e) {
		return false
	}
	g.records[live.key] = staged{entry: live, seen: true}
	return true
}

// same reports whether two entries of one key are of the same object in the same state.
func (e *entry) same(other *entry) bool {
	same := e.at.print == other.at.print
	if !e.at.sealed() {
		same = same && e.at.crc == other.at.crc
	}
	return same && e.revision == other.revision && e.at.size == other.at.size && sameIdentity(e.identity, other.identity)
}

// soundLocked is false for an entry whose value is known to be unreadable.
func (s *Store) soundLocked(e *entry) bool {
	_, damaged := s.damaged[e]
	if damaged || e.at.lost() {
		return false
	}
	seg := s.set.find(e.at.segment)
	return seg != nil && !seg.blind()
}

func (s *Store) sound(e *entry) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.soundLocked(e)
}

// flush hands the piece to the committer, once it has taken the one before.
func (g *Stage) flush(ctx context.Context) error {
	if err := g.settle(ctx); err != nil || g.piece == nil {
		return err
	}
	if err := failpoint.Hit(failpoint.StoreStageChunk); err != nil {
		g.err = err
		return err
	}
	p := g.piece
	g.piece = nil
	outcome := make(chan error, 1)
	err := g.table.store.queue.push(ctx, &request{
		size: int64(len(p.values)) + int64(len(p.entries))*g.table.store.valueOverhead(),
		build: func(group *group) error {
			f := group.begin(frameStaged)
			rest := p.values
			for _, e := range p.entries {
				f.append(g.table, e, rest[:e.at.content()])
				rest = rest[e.at.content():]
			}
			f.end()
			return nil
		},
		done: func(err error) {
			if err == nil {
				g.hold(p.entries)
			}
			outcome <- err
		},
	})
	if err != nil {
		g.err = err
		return err
	}
	g.writing = outcome
	return nil
}

// settle waits until the piece that was handed over is durable.
func (g *Stage) settle(ctx context.Context) error {
	if g.writing == nil {
		return g.err
	}
	select {
	case g.err = <-g.writing:
		g.writing = nil
		return g.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// hold makes the entries of a durable piece records of the stage.
func (g *Stage) hold(entries []*entry) {
	s := g.table.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, open := s.stages[g]; !open {
		return // aborted
	}
	for _, e := range entries {
		g.records[e.key] = staged{entry: e}
		g.cost += e.cost()
		s.live += e.cost()
	}
}

// Swap makes the staged contents the table's, at the given revision B, as one commit; A being the table's revision before.
// The history gets the difference: first a Deleted for each key that was not staged, at revision A+1, with the stored
// content; then the changes in order of their revisions, which are taken into (A, B] where they lie outside. Since gives
// ErrExpired strictly between A and B. meta nil leaves the meta as it is.
//
// ErrConflict if B is below A, or a key only marked as seen was deleted since. A live record with a greater revision
// than the staged one wins. Where events could not tell the difference apart (the first contents of a table; B = A, or
// B = A+1 with several changes) the contents are replaced, the history begins anew and cursors expire.
func (g *Stage) Swap(ctx context.Context, revision uint64, meta []byte) (Diff, error) {
	return g.finish(ctx, &swap{stage: g, to: revision, meta: meta})
}

// Reset is Swap into a new epoch: the revision may go down, what is staged wins, the history begins anew and all cursors
// expire.
func (g *Stage) Reset(ctx context.Context, revision uint64, meta []byte) (Diff, error) {
	return g.finish(ctx, &swap{stage: g, to: revision, meta: meta, reset: true})
}

// Abort ends the stage without effect. After Swap or Reset it does nothing, so it may be deferred.
func (g *Stage) Abort() {
	if !g.over {
		g.over = true
		g.leave()
	}
}

// leave forgets what was staged; what became live is the table's.
func (g *Stage) leave() {
	s := g.table.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, open := s.stages[g]; open {
		delete(s.stages, g)
		s.live -= g.cost
		g.records = nil
	}
}

func (g *Stage) finish(ctx context.Context, sw *swap) (Diff, error) {
	if g.over {
		return Diff{}, errors.New("swap a stage that is over")
	}
	defer g.Abort()
	if err := g.flush(ctx); err != nil {
		return Diff{}, fmt.Errorf("stage table %s: %w", g.table.name, err)
	}
	if err := g.settle(ctx); err != nil {
		return Diff{}, fmt.Errorf("stage table %s: %w", g.table.name, err)
	}
	if err := failpoint.Hit(failpoint.StoreBeforeSwap); err != nil {
		return Diff{}, err
	}
	g.over = true
	// Who waits may go away; the staged values are needed until the committer is done with them.
	r := &request{size: int64(len(g.records)) * 2 * entryOverhead, build: sw.build, done: func(error) { g.leave() }}
	if err := g.table.store.submit(ctx, r); err != nil {
		return Diff{}, fmt.Errorf("swap table %s: %w", g.table.name, err)
	}
	return sw.diff, nil
}

// swap is the commit that ends a Stage.
type swap struct {
	stage *Stage
	to    uint64
	meta  []byte
	reset bool
	diff  Diff

	deleted, changed []*entry
}

func (sw *swap) build(g *group) error {
	t := sw.stage.table
	c := g.change(t)
	from := c.next.revision
	switch {
	case c.dropped:
		return ErrDropped
	case sw.to < from && !sw.reset:
		return fmt.Errorf("contents of revision %d, table at %d: %w", sw.to, from, ErrConflict)
	}
	if err := sw.compare(c); err != nil {
		return err
	}
	n := len(sw.deleted) + len(sw.changed)
	newMeta := sw.meta != nil && !bytes.Equal(sw.meta, c.next.meta)
	if n == 0 && !newMeta && sw.to == from && c.next.doubt == nil && c.next.home != 0 && !sw.reset {
		return nil // nothing that a cursor or a restart could tell
	}
	f := g.begin(frameBatch)
	f.change(t)
	if newMeta {
		c.next.meta = bytes.Clone(sw.meta)
		f.tableRecord(c)
	}
	flags := flagSwap
	if sw.reset || t.history == NoHistory || from == 0 || n > 0 && sw.to == from || n > 1 && sw.to == from+1 {
		flags |= flagCut
	}
	f.setRevision(c, sw.to, flags)
	c.next.doubt = nil
	sw.apply(f, c, hole{from: from, to: sw.to, first: uint64(len(c.events))})
	if flags&flagCut != 0 {
		c.cut, c.cutAt = true, sw.to
		c.events, c.holes = nil, nil
	}
	f.end()
	return nil
}

// compare finds the difference between the staged contents and the live ones.
func (sw *swap) compare(c *change) error {
	t, records := sw.stage.table, sw.stage.records // the committer alone changes them now
	for key, st := range records {
		live := c.next.get(key)
		switch {
		case st.seen && (live == nil || sw.reset && live.revision != st.entry.revision):
			return fmt.Errorf("record %s changed: %w", key, ErrConflict)
		case st.seen:
			sw.diff.Unchanged++
		case st.entry.at.lost():
			return fmt.Errorf("read staged record %s: %w", key, ErrDamaged)
		case live == nil:
			sw.diff.Added++
			sw.changed = append(sw.changed, st.entry)
		case live.revision > st.entry.revision && !sw.reset, live.same(st.entry) && t.store.sound(live):
			sw.diff.Unchanged++
		case !sameIdentity(live.identity, st.entry.identity):
			sw.diff.Deleted++
			sw.diff.Added++
			sw.deleted = append(sw.deleted, live)
			sw.changed = append(sw.changed, st.entry)
		default:
			sw.diff.Modified++
			sw.changed = append(sw.changed, st.entry)
		}
	}
	c.next.tree.Ascend(func(e *entry) bool {
		if _, ok := records[e.key]; !ok {
			sw.diff.Deleted++
			sw.deleted = append(sw.deleted, e)
		}
		return true
	})
	slices.SortFunc(sw.deleted, func(a, b *entry) int { return cmp.Compare(a.key, b.key) })
	slices.SortFunc(sw.changed, func(a, b *entry) int {
		return cmp.Or(cmp.Compare(a.revision, b.revision), cmp.Compare(a.key, b.key))
	})
	return nil
}

func (sw *swap) apply(f *frame, c *change, x hole) {
	for _, old := range sw.deleted {
		f.delete(c, old, x.from+1, old, nil)
	}
	for _, e := range sw.changed {
		live := *e // the staged one is in others' sight
		f.putEvent(c, &live, nil, x.clamp(e.revision))
	}
	x.end = uint64(len(c.events))
	c.holes = append(c.holes, x)
}
