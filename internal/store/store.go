package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
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
	// ErrConflict is returned by Stage.Swap when the table went past the staged contents meanwhile. The stage is over.
	ErrConflict = errors.New("table changed while its new contents were staged")
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
	return fmt.Sprintf("read %s of table %s: record is damaged: %v", e.Key, e.Table, e.Err)
}

// Is makes every DamagedError an ErrDamaged.
func (e *DamagedError) Is(target error) bool { return target == ErrDamaged }

// Unwrap gives what reading the record gave.
func (e *DamagedError) Unwrap() error { return e.Err }

// Options are what Open needs to know. The zero value is a good store.
type Options struct {
	Logger *slog.Logger

	HistoryPerTable int   // changes kept in reach of Since for each table; default 1000
	SegmentBytes    int64 // size of a file of the log; default 8 MiB
	CompactAbove    int64 // the log is allowed to be max(this, 3 × live bytes); default 32 MiB
	RecentBytes     int64 // newest commits kept in memory for cursors; default 1 MiB

	// Synced, when set, is called by the committer after every write+fdatasync. It must not block.
	Synced func(Sync)
}

// Sync is one write and fdatasync of the committer.
type Sync struct {
	Batches int
	Bytes   int64
	Took    time.Duration
	Err     error
}

// Stats is what a Store says of itself.
type Stats struct {
	Tables, Records       int
	DiskBytes, LiveBytes  int64 // LiveBytes: what a store without history and garbage would need
	Segments              int
	Commits, Syncs        uint64 // batches committed, fdatasyncs
	BytesWritten          int64
	BytesMoved            int64 // of BytesWritten: by compaction
	LastSync, SlowestSync time.Duration
	DamagedRecords        int   // found so far and not replaced yet
	LastError             error // of the newest commit; nil when it succeeded
}

// Run commits and compacts until ctx ends, then finishes what is queued and returns. Commits block until Run is called.
// It returns nil; errors of the disk go to those whose commit they concern, and to Stats.
func (s *Store) Run(ctx context.Context) error { panic("todo") }

// Open opens the store in dir, or makes one if dir is missing or empty. The errors ErrLocked, ErrForeign and ErrNewer
// leave the directory as it was. A damaged store opens: what is lost shows as DamagedError and Table.Doubt.
func Open(dir string, opts Options) (*Store, error) { panic("todo") }

// Close releases the directory. Run must have returned; Views and Cursors must not be used afterwards.
func (s *Store) Close() error { panic("todo") }

// Tables returns the names of all durable tables, sorted.
func (s *Store) Tables() []string { panic("todo") }

// Table returns the table of that name, and creates it if there is none; creation becomes durable with the first commit
// that touches it. A table keeps the History it was created with; asking for another is an error.
func (s *Store) Table(name string, h History) (*Table, error) { panic("todo") }

// Drop removes a table with all it holds. Cursors on it get ErrExpired; Views that are open stay readable.
func (s *Store) Drop(ctx context.Context, name string) error { panic("todo") }

// Stats returns the current figures.
func (s *Store) Stats() Stats { panic("todo") }

// Commit makes b durable and visible, and returns then. An error means that b had no effect; only when ctx ended first
// is the outcome open.
func (s *Store) Commit(ctx context.Context, b *Batch) error { panic("todo") }

// CommitAsync queues b and returns; done is called once b is durable and visible, or failed. Callbacks are called in
// the order of commits, by the committer: they must not block and must not commit. CommitAsync itself blocks while too
// many bytes are queued. b must not be used afterwards.
func (s *Store) CommitAsync(b *Batch, done func(error)) { panic("todo") }

// Store is an open store.
type Store struct{}
