package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"k8s.io/utils/third_party/forked/golang/btree"
)

// Options are what Open needs to know. The zero value is a good store.
type Options struct {
	Logger *slog.Logger

	HistoryPerTable int   // changes kept in reach of Since, or as many as the table has records; default 1000
	SegmentBytes    int64 // size of a file of the log; default 8 MiB
	CompactAbove    int64 // the log is let grow to max(this, 3 × live bytes); default 4 segments
	// Gather is how long after a sync the next one may wait for more of what CommitAsync brings, so that a fast stream
	// does not cost a sync for each event. A batch that finds the store quiet, or that somebody waits for, goes at once.
	// Default 2 ms.
	Gather      time.Duration
	RecentBytes int64 // newest commits kept in memory for cursors; default 1 MiB

	// Keys gives the keys that seal the values: each of KeySize bytes, the newest first. Open asks for them once it knows
	// that the directory is a store, or may become one, and this process's alone. What is written is sealed by the newest;
	// what is in clear or sealed by an older one is written again at once, so that older ones are soon not needed any more
	// (see Stats.Stale). Names of tables and keys, metas and revisions stay in clear. Without keys nothing is sealed.
	Keys func() ([][]byte, error)

	// Synced, when set, is called by the committer after every write+fdatasync. It must not block.
	Synced func(Sync)
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.HistoryPerTable = cmp.Or(o.HistoryPerTable, 1000)
	o.SegmentBytes = cmp.Or(o.SegmentBytes, 8<<20)
	o.CompactAbove = cmp.Or(o.CompactAbove, 4*o.SegmentBytes)
	o.Gather = cmp.Or(o.Gather, 2*time.Millisecond)
	o.RecentBytes = cmp.Or(o.RecentBytes, 1<<20)
	return o
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
	DiskBytes, LiveBytes  int64 // LiveBytes: what a log without history and garbage would take
	Segments              int
	Commits, Syncs        uint64 // batches that succeeded; fdatasyncs, failed ones too
	BytesWritten          int64
	BytesMoved            int64 // of BytesWritten: values written again by compaction
	LastSync, SlowestSync time.Duration
	DamagedRecords        int    // met so far and not replaced yet
	Key                   string // names what seals the values; empty if nothing does
	// Stale is how many of Segments are still to be written again, as they are in clear or sealed by an older key. At 0 no
	// older key is needed.
	Stale     int
	LastError error // of the newest write; nil when it succeeded
}

// Store is an open store.
//
// The committer alone changes the log and the tables: it builds a group of batches on copies of the tables' contents,
// writes it, and publishes the copies under mu once they are durable. Readers take what is published, under mu, and read
// values from the files afterwards. Nothing is held while a file is read or written.
type Store struct {
	opts Options
	log  *slog.Logger
	dir  string
	root *os.Root
	lock *os.File
	keys []*masterKey // newest first

	queue  *queue
	writer writer // the committer's

	compact chan struct{} // wakes the compactor

	mu      sync.Mutex
	tables  map[string]*Table
	nextID  uint32
	set     *segmentSet // the files of the log
	spare   bool        // a file waits to become a segment
	stages  map[*Stage]struct{}
	damaged map[*entry]*Table // records met that can't be read
	recent  recent
	loaders loaders
	lost    error // a part of the log could not be read at Open
	disk    int64 // bytes of data in the set
	live    int64
	stats   Stats // the counters; the rest is computed when asked for
	nodes   *btree.FreeList[*entry]
}

// Open opens the store in dir, or makes one if dir is missing or empty. The errors ErrLocked, ErrForeign and ErrNewer
// leave the directory as it was. A damaged store opens: what is lost shows as DamagedError and Table.Doubt.
func Open(dir string, opts Options) (*Store, error) {
	s := &Store{
		opts: opts.withDefaults(), dir: dir,
		queue: newQueue(), compact: make(chan struct{}, 1),
		tables: map[string]*Table{}, nextID: 1,
		stages: map[*Stage]struct{}{}, damaged: map[*entry]*Table{},
		nodes: btree.NewFreeList[*entry](btree.DefaultFreeListSize),
	}
	s.log = s.opts.Logger
	s.recent.limit = s.opts.RecentBytes
	if err := s.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("open store %s: %w", dir, err), s.release())
	}
	return s, nil
}

func (s *Store) open() error {
	if err := s.enterDir(); err != nil {
		return err
	}
	if err := s.takeKeys(); err != nil {
		return err
	}
	return s.recover()
}

// Run commits and compacts until ctx ends, then finishes what is queued and returns. Commits block until Run is called.
// It returns nil; errors of the disk go to those whose commit they concern, and to Stats.
func (s *Store) Run(ctx context.Context) error {
	var workers errgroup.Group
	workers.Go(func() error { s.commitAll(); return nil })
	compactor := make(chan struct{})
	workers.Go(func() error { defer close(compactor); s.compactAll(ctx); return nil })

	<-ctx.Done()
	// The compactor waits for commits of its own: the committer ends last.
	<-compactor
	s.queue.close()
	return workers.Wait()
}

// Close releases the directory. Run must have returned; Views and Cursors must not be used afterwards.
func (s *Store) Close() error {
	s.queue.close()
	return s.release()
}

func (s *Store) release() error {
	s.mu.Lock()
	set := s.set
	s.set = nil
	s.mu.Unlock()
	var err error
	if set != nil {
		for _, seg := range set.list {
			err = errors.Join(err, seg.file.Close())
		}
	}
	if s.lock != nil {
		// Closing it is not enough: a process that is being forked has a copy until it runs its program.
		err = errors.Join(err, unix.Flock(int(s.lock.Fd()), unix.LOCK_UN), s.lock.Close())
	}
	if s.root != nil {
		err = errors.Join(err, s.root.Close())
	}
	if err != nil {
		return fmt.Errorf("close store %s: %w", s.dir, err)
	}
	return nil
}

// Tables returns the names of all durable tables, sorted.
func (s *Store) Tables() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for name, t := range s.tables {
		if t.now.home != 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Table returns the table of that name, and creates it if there is none; creation becomes durable with the first commit
// that touches it. A table keeps the History it was created with; asking for another is an error.
func (s *Store) Table(name string, h History) (*Table, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tables[name]
	if t == nil {
		t = s.newTable(name, s.nextID, h)
		// A table of that name may have been in the part of the log that is lost.
		t.work.doubt, t.now.doubt = s.lost, s.lost
		s.nextID++
		s.tables[name] = t
	}
	if t.history != h {
		return nil, fmt.Errorf("open table %s: its history setting is %d, not %d", name, t.history, h)
	}
	return t, nil
}

// Drop removes a table with all it holds. Cursors on it get ErrExpired; Views that are open stay readable.
func (s *Store) Drop(ctx context.Context, name string) error {
	s.mu.Lock()
	t := s.tables[name]
	s.mu.Unlock()
	if t == nil {
		return nil
	}
	err := s.submit(ctx, &request{build: func(g *group) error { return g.drop(t) }})
	if err != nil && !errors.Is(err, ErrDropped) {
		return fmt.Errorf("drop table %s: %w", name, err)
	}
	return nil
}

// Commit makes b durable and visible, and returns then. An error means that b had no effect; only when ctx ended first
// is the outcome open, and a write that failed just before a crash may be there after it.
func (s *Store) Commit(ctx context.Context, b *Batch) error {
	return s.submit(ctx, b.request(s))
}

// CommitAsync queues b and returns; done is called once b is durable and visible, or failed. Callbacks are called in
// the order of commits, by the committer: they must not block and must not commit. CommitAsync itself blocks while too
// many bytes are queued. b must not be used afterwards.
func (s *Store) CommitAsync(b *Batch, done func(error)) {
	r := b.request(s)
	r.done = done
	if err := s.queue.push(context.Background(), r); err != nil {
		done(err)
	}
}

// submit queues a request and waits for its outcome.
func (s *Store) submit(ctx context.Context, r *request) error {
	outcome := make(chan error, 1)
	then := r.done
	r.urgent = true
	r.done = func(err error) {
		if then != nil {
			then(err)
		}
		outcome <- err
	}
	if err := s.queue.push(ctx, r); err != nil {
		return err
	}
	select {
	case err := <-outcome:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Stats returns the current figures.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stats
	st.DiskBytes, st.LiveBytes = s.disk, s.live
	st.DamagedRecords = len(s.damaged)
	if s.set != nil {
		st.Segments, st.Stale = len(s.set.list), s.staleLocked()
	}
	if k := s.sealingKey(); k != nil {
		st.Key = k.id.String()
	}
	for _, t := range s.tables {
		if t.now.home != 0 {
			st.Tables++
			st.Records += t.now.tree.Len()
		}
	}
	return st
}
