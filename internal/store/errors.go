package store

import (
	"errors"
	"fmt"
)

var (
	// ErrLocked is returned by Open when another process has the store open.
	ErrLocked = errors.New("store is in use by another process")
	// ErrForeign is returned by Open for a directory that holds something other than a store. Nothing was changed in it.
	ErrForeign = errors.New("directory is not a store")
	// ErrNewer is returned by Open for a store written by a newer release. Nothing was changed in it.
	ErrNewer = errors.New("store was written by a newer release")
	// ErrClosed is returned by commits after Run has ended.
	ErrClosed = errors.New("store is closed")
	// ErrDropped is returned by everything that changes a table after its Drop.
	ErrDropped = errors.New("table was dropped")
	// ErrExpired is returned by Table.Since and Cursor.Next when the history no longer (or never) holds what comes next.
	ErrExpired = errors.New("revision is no longer in the history")
	// ErrRevision is returned by commits that would take a table's revision back. The batch had no effect.
	ErrRevision = errors.New("revision is older than the table's")
	// ErrTooLarge is returned by commits of a batch of more than half a GiB. It had no effect.
	ErrTooLarge = errors.New("batch is too large")
	// ErrConflict is returned by Stage.Swap when the table went past the staged contents meanwhile, which ends the stage, and by
	// commits whose Batch.Expect does not hold.
	ErrConflict = errors.New("table changed while its new contents were staged")
	// ErrKeyUnknown is in the DamagedError of a record that is sealed by a key that Open was not given.
	ErrKeyUnknown = errors.New("it is sealed by a key that is not known")
	// ErrDamaged is what every DamagedError is (errors.Is).
	ErrDamaged = errors.New("record is damaged")
)

// DamagedError says that a record is known to exist and its value can't be had. The record stays part of its table until
// it is put again, deleted, or replaced by a Stage.
type DamagedError struct {
	Table, Key string
	Err        error // what reading it gave
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("read %q of table %q: record is damaged: %v", e.Key, e.Table, e.Err)
}

// Is makes every DamagedError an ErrDamaged.
func (e *DamagedError) Is(target error) bool { return target == ErrDamaged }

// Unwrap gives what reading the record gave.
func (e *DamagedError) Unwrap() error { return e.Err }
