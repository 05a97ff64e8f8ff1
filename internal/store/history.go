package store

// EventType says what happened to a key.
type EventType uint8

const (
	Added EventType = iota + 1
	Modified
	Deleted
)

// Event is one change of a table. Value is the new content, for Deleted the last one; it is shared with other cursors
// and must not be changed.
type Event struct {
	Type     EventType
	Key      string
	Revision uint64
	Value    []byte
}

// Cursor is a position in the history of a table. Nothing is kept for it in the store: a cursor that is not read costs
// nothing, and expires when the bounded history has gone past it. One goroutine may use it at a time.
type Cursor struct{}

// Next returns the next changes, at most max of them (and at most about a megabyte, but at least one); none when the
// cursor has caught up: then wait on Table.Changed. Changes of equal revision come in one piece. After ErrExpired the
// cursor is of no use; a *DamagedError names an event whose value can't be read, and the cursor stays in front of it.
func (c *Cursor) Next(max int) ([]Event, error) { panic("todo") }

// Revision is the table revision up to which the events returned so far are complete: what a bookmark may say. Within
// the changes of a Swap it is the revision before it.
func (c *Cursor) Revision() uint64 { panic("todo") }
