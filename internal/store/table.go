package store

import (
	"hash/fnv"
	"strings"

	"k8s.io/utils/third_party/forked/golang/btree"
)

// History says whether a table keeps its changes for cursors.
type History uint8

const (
	// KeepHistory is for replicas: revisions only grow, and Since and Cursor give the changes.
	KeepHistory History = iota
	// NoHistory is for everything else: the revision of each record is its writer's affair, the table's is moved by
	// SetRevision alone, Since gives ErrExpired and deleted records leave nothing behind.
	NoHistory
)

// Table is an ordered map from key to record. All methods may be called by several goroutines.
type Table struct {
	store   *Store
	name    string
	id      uint32
	history History

	work contents // what is durable, or about to be published; the committer's

	// Guarded by store.mu.
	now     *snapshot
	events  events
	changed chan struct{} // nil unless somebody waits
	dropped bool
}

// entry is a record in memory. It never changes once it is published; the history and all views share it.
type entry struct {
	key      string
	revision uint64
	identity uint64 // hash; 0: unknown
	at       location
}

// entryOverhead is about what a record takes in the log beside key and value.
const entryOverhead = 48

func (e *entry) cost() int64 { return int64(len(e.key)) + int64(e.at.size) + entryOverhead }

// contents is the state of a table.
type contents struct {
	tree     *btree.BTree[*entry]
	revision uint64
	meta     []byte
	size     int64  // of all values
	cost     int64  // of all entries
	home     uint32 // the segment that has the table's own record; 0: it has none yet
	doubt    error
}

// snapshot is a published state. Its tree is never changed and never cloned, so it is read without a lock.
type snapshot struct {
	contents
	// Where the history was: what a cursor behind this state begins with.
	end, epoch uint64
}

const treeDegree = 32

func lessKey(a, b *entry) bool { return a.key < b.key }

// newTable makes an empty table that is in nobody's sight yet.
func (s *Store) newTable(name string, id uint32, h History) *Table {
	t := &Table{store: s, name: strings.Clone(name), id: id, history: h}
	t.work.tree = btree.NewWithFreeList(treeDegree, lessKey, s.nodes)
	t.now = &snapshot{contents: t.work}
	t.now.tree = t.work.tree.Clone()
	return t
}

func (c *contents) get(key string) *entry {
	e, _ := c.tree.Get(&entry{key: key})
	return e
}

// put inserts e and returns what it replaces.
func (c *contents) put(e *entry) *entry {
	old, _ := c.tree.ReplaceOrInsert(e)
	c.count(e, 1)
	if old != nil {
		c.count(old, -1)
	}
	return old
}

func (c *contents) remove(e *entry) {
	if old, ok := c.tree.Delete(e); ok {
		c.count(old, -1)
	}
}

func (c *contents) count(e *entry, sign int64) {
	c.size += sign * int64(e.at.content())
	c.cost += sign * e.cost()
}

func hashIdentity(id string) uint64 {
	if id == "" {
		return 0
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(id)) // a hash takes everything
	return max(h.Sum64(), 1)
}

// sameIdentity reports whether two hashes may be of the same object.
func sameIdentity(a, b uint64) bool { return a == b || a == 0 || b == 0 }

// Name is the name that the table was opened by.
func (t *Table) Name() string { return t.name }

func (t *Table) snapshot() *snapshot {
	t.store.mu.Lock()
	defer t.store.mu.Unlock()
	return t.now
}

// Revision is the table's revision, as committed last.
func (t *Table) Revision() uint64 { return t.snapshot().revision }

// Meta is the blob set last. It must not be changed.
func (t *Table) Meta() []byte { return t.snapshot().meta }

// Doubt is nil for a table that is known to be complete. Otherwise a part of the log was lost that may have changed it:
// what it holds is a past state at best, until Stage.Swap or Stage.Reset has replaced it.
func (t *Table) Doubt() error { return t.snapshot().doubt }

// Get returns one record, as in a View of its own.
func (t *Table) Get(key string) (Record, bool, error) {
	v := t.View()
	defer v.Release()
	return v.Get(key)
}

// View pins the newest committed state. It costs next to nothing; what it pins is disk space. Release it.
func (t *Table) View() *View {
	t.store.mu.Lock()
	defer t.store.mu.Unlock()
	return &View{table: t, snap: t.now, set: t.store.pinLocked()}
}

// Changed returns a channel that is closed at the next visible change: any commit that touches the table. To wait
// without missing one, take the channel first, then look.
func (t *Table) Changed() <-chan struct{} {
	t.store.mu.Lock()
	defer t.store.mu.Unlock()
	if t.changed == nil {
		t.changed = make(chan struct{})
		if t.dropped {
			close(t.changed) // there will be no other change
		}
	}
	return t.changed
}

// signalLocked wakes who waits for a change.
func (t *Table) signalLocked() {
	if t.changed != nil && !t.dropped {
		close(t.changed)
		t.changed = nil
	}
}
