package store

import "context"

// Stage takes in the complete new contents of a table, beside the live ones, and swaps them in by one commit. Values go
// to the log as they come, in pieces that share group commits with everybody else, so memory is O(names). Changes that
// are committed to the table meanwhile are fine as long as the staged contents are at least as new as the table at the
// moment of the Swap. One goroutine may use it; end it by Swap, Reset or Abort.
type Stage struct{}

// Diff counts what a Swap or Reset changed.
type Diff struct{ Added, Modified, Deleted, Unchanged int }

// Stage begins new contents of the table.
func (t *Table) Stage() *Stage { panic("todo") }

// Add stages a record. One that the table holds with the same revision, identity and checksum is only marked as seen.
// The value is copied.
func (g *Stage) Add(ctx context.Context, r Record) error { panic("todo") }

// Swap makes the staged contents the table's, at the given revision B, as one commit; A being the table's revision before.
// The history gets the difference: first a Deleted for each key that was not staged, at revision A+1, with the stored
// content; then the changes in order of their revisions, which are taken into (A, B] where they lie outside. Since gives
// ErrExpired strictly between A and B. meta nil leaves the meta as it is.
//
// ErrConflict if B is below A, or a key only marked as seen was deleted since. A live record with a greater revision
// than the staged one wins. Where events could not tell the difference apart (B = A, or B = A+1 with several changes)
// the contents are replaced and older cursors expire.
func (g *Stage) Swap(ctx context.Context, revision uint64, meta []byte) (Diff, error) { panic("todo") }

// Reset is Swap into a new epoch: the revision may go down, the history begins anew and all cursors expire.
func (g *Stage) Reset(ctx context.Context, revision uint64, meta []byte) (Diff, error) { panic("todo") }

// Abort ends the stage without effect. After Swap or Reset it does nothing, so it may be deferred.
func (g *Stage) Abort() { panic("todo") }
