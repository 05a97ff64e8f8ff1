package store

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
type Table struct{}

func (t *Table) Name() string { panic("todo") }

// Revision is the table's revision, as committed last.
func (t *Table) Revision() uint64 { panic("todo") }

// Meta is the blob set last. It must not be changed.
func (t *Table) Meta() []byte { panic("todo") }

// Doubt is nil for a table that is known to be complete. Otherwise a part of the log was lost that may have changed it:
// what it holds is a past state at best, until Stage.Swap or Stage.Reset has replaced it.
func (t *Table) Doubt() error { panic("todo") }

// Get returns one record, as in a View of its own.
func (t *Table) Get(key string) (Record, bool, error) { panic("todo") }

// View pins the newest committed state. It costs next to nothing; what it pins is disk space. Release it.
func (t *Table) View() *View { panic("todo") }

// Changed returns a channel that is closed at the next visible change: any commit that touches the table. To wait
// without missing one, take the channel first, then look.
func (t *Table) Changed() <-chan struct{} { panic("todo") }

// Since returns a cursor over what changed after the given revision. It fails with ErrExpired where the history does not
// hold all of that: below its bound, or strictly between the two revisions of a Swap, whose order within is not known.
// A revision ahead of the table is fine: the cursor yields what will come after it.
func (t *Table) Since(revision uint64) (*Cursor, error) { panic("todo") }
