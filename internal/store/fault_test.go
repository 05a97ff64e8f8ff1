package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"yurt/internal/failpoint"
)

// What arrives while a sync runs shares the next one.
func TestGroupCommit(t *testing.T) {
	s := start(t, t.TempDir(), Options{})
	table := mustTable(t, s.Store, "pods", KeepHistory)
	put(t, table, "first", 1, "x")

	syncing, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	defer failpoint.EnableFunc(failpoint.StoreBeforeSync, func() error {
		once.Do(func() { close(syncing); <-release })
		return nil
	})()
	slow := make(chan error, 1)
	go func() {
		var b Batch
		b.Put(table, Record{Key: "slow", Revision: 2})
		slow <- s.Commit(t.Context(), &b)
	}()
	<-syncing
	before := s.Stats()

	const n = 50
	var waiting sync.WaitGroup
	for i := range n {
		waiting.Go(func() {
			var b Batch
			b.Put(table, Record{Key: fmt.Sprintf("k%d", i), Revision: 3})
			if err := s.Commit(t.Context(), &b); err != nil {
				t.Error(err)
			}
		})
	}
	for queued := 0; queued < n; {
		time.Sleep(time.Millisecond)
		s.queue.mu.Lock()
		queued = len(s.queue.requests)
		s.queue.mu.Unlock()
	}
	close(release)
	waiting.Wait()
	if err := <-slow; err != nil {
		t.Fatal(err)
	}
	after := s.Stats()
	if syncs := after.Syncs - before.Syncs; syncs != 2 {
		t.Errorf("%d commits during a sync took %d syncs with it, want 2", n, syncs)
	}
	if got := after.Commits - before.Commits; got != n+1 {
		t.Errorf("%d commits, want %d", got, n+1)
	}
}

// Asynchronous commits are called back in their order, and gathered while the store is busy; the queue is bounded.
func TestCommitAsync(t *testing.T) {
	s := start(t, t.TempDir(), Options{Gather: 5 * time.Millisecond})
	table := mustTable(t, s.Store, "pods", KeepHistory)
	var order []int
	done := make(chan struct{})
	const n = 300
	value := make([]byte, 100<<10)
	for i := range n {
		var b Batch
		b.Put(table, Record{Key: fmt.Sprintf("k%d", i%10), Revision: uint64(i + 1), Value: value})
		s.CommitAsync(&b, func(err error) {
			if err != nil {
				t.Error(err)
			}
			order = append(order, i)
			if len(order) == n {
				close(done)
			}
		})
		s.queue.mu.Lock()
		if s.queue.bytes > queueBytes+200<<10 {
			t.Errorf("%d bytes are queued", s.queue.bytes)
		}
		s.queue.mu.Unlock()
	}
	<-done
	for i, got := range order {
		if got != i {
			t.Fatalf("callback %d was that of commit %d", i, got)
		}
	}
	if st := s.Stats(); st.Syncs > n/2 {
		t.Errorf("%d syncs for %d commits", st.Syncs, n)
	}
}

func TestCommitAfterRun(t *testing.T) {
	s, err := tryStart(t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	table := mustTable(t, s.Store, "pods", KeepHistory)
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	var b Batch
	b.Put(table, Record{Key: "k", Revision: 1})
	if err := s.Commit(t.Context(), &b); !errors.Is(err, ErrClosed) {
		t.Errorf("commit: %v", err)
	}
	s.CommitAsync(&b, func(got error) { err = got })
	if !errors.Is(err, ErrClosed) {
		t.Errorf("asynchronous commit: %v", err)
	}
}

// A failed write, sync or creation of a file fails the batches concerned and nothing else; when the disk takes writes
// again, so does the store; and what failed is not there after a crash.
func TestDiskFaultsHeal(t *testing.T) {
	for _, tc := range []struct {
		point failpoint.Name
		err   error
	}{
		{failpoint.StoreBeforeWrite, syscall.ENOSPC},
		{failpoint.StorePartWritten, syscall.ENOSPC},
		{failpoint.StoreBeforeSync, syscall.EIO},
		{failpoint.StoreAfterSync, syscall.EIO},
		{failpoint.StoreBeforeCreate, syscall.ENOSPC},
		{failpoint.StoreAfterCreate, syscall.ENOSPC},
		{failpoint.StoreAfterHeader, syscall.EIO},
		{failpoint.StoreBeforeFooter, syscall.EIO},
	} {
		t.Run(string(tc.point), func(t *testing.T) {
			dir := t.TempDir()
			s := start(t, dir, Options{SegmentBytes: 3000, CompactAbove: 1 << 30})
			table := mustTable(t, s.Store, "pods", KeepHistory)
			want := map[string]string{}
			revision := uint64(0)
			try := func() error {
				revision++
				key, value := fmt.Sprintf("k%d", revision%20), fmt.Sprintf("%0300d", revision)
				var b Batch
				b.Put(table, Record{Key: key, Revision: revision, Value: []byte(value)})
				err := s.Commit(t.Context(), &b)
				if err == nil {
					want[key] = fmt.Sprintf("%d:%s", revision, value)
				}
				return err
			}
			for range 5 {
				if err := try(); err != nil {
					t.Fatal(err)
				}
			}
			failed := 0
			disable := failpoint.EnableFunc(tc.point, func() error { return tc.err })
			for range 30 {
				err := try()
				if err == nil {
					continue
				}
				failed++
				if !errors.Is(err, tc.err) || !errors.Is(s.Stats().LastError, tc.err) {
					t.Errorf("commit: %v, in stats: %v", err, s.Stats().LastError)
				}
				if diff := cmp.Diff(want, contentsOf(t, table)); diff != "" {
					t.Fatalf("reads while the disk fails: %s", diff)
				}
			}
			disable()
			if failed == 0 && tc.point != failpoint.StoreBeforeFooter {
				t.Error("no commit failed")
			}
			files, err := filepath.Glob(filepath.Join(dir, "*.seg"))
			if err != nil || len(files) > 20 {
				t.Errorf("%d files (%v): failed commits leave files behind", len(files), err)
			}
			for range 5 {
				if err := try(); err != nil {
					t.Fatalf("after the disk had healed: %v", err)
				}
			}
			if err := s.Stats().LastError; err != nil {
				t.Errorf("in stats after the disk had healed: %v", err)
			}
			if diff := cmp.Diff(want, contentsOf(t, table)); diff != "" {
				t.Errorf("after the disk had healed: %s", diff)
			}
			again := start(t, copyDir(t, dir), Options{SegmentBytes: 3000})
			after := mustTable(t, again.Store, "pods", KeepHistory)
			if diff := cmp.Diff(want, contentsOf(t, after)); diff != "" || after.Doubt() != nil {
				t.Errorf("after a crash: %s, doubt %v", diff, after.Doubt())
			}
		})
	}
}

// A real full file system, as far as a limit on the size of files is one: writes beyond it fail.
func TestReadsGoOnWhileCommitsFail(t *testing.T) {
	s := start(t, t.TempDir(), Options{})
	table := mustTable(t, s.Store, "pods", KeepHistory)
	put(t, table, "a", 1, "one")
	c, err := table.Since(0)
	if err != nil {
		t.Fatal(err)
	}
	defer failpoint.EnableFunc(failpoint.StoreBeforeSync, func() error { return syscall.EIO })()
	var b Batch
	b.Put(table, Record{Key: "b", Revision: 2})
	if err := s.Commit(t.Context(), &b); !errors.Is(err, syscall.EIO) {
		t.Fatalf("commit: %v", err)
	}
	g := table.Stage()
	defer g.Abort()
	if err := g.Add(t.Context(), Record{Key: "c", Revision: 3}); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Swap(t.Context(), 4, nil); !errors.Is(err, syscall.EIO) {
		t.Errorf("swap: %v", err)
	}
	if len(s.stages) != 0 {
		t.Errorf("%d stages are left", len(s.stages))
	}
	events, err := c.Next(10)
	if err != nil || len(events) != 1 || string(events[0].Value) != "one" || table.Revision() != 1 {
		t.Errorf("got %v, %v at revision %d", events, err, table.Revision())
	}
}

// Compaction that fails is tried again, and a view keeps what it needs.
func TestCompactionUnderFaults(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir, Options{SegmentBytes: 8000, CompactAbove: 24000})
	table := mustTable(t, s.Store, "pods", KeepHistory)
	put(t, table, "still", 1, "here")
	v := table.View()
	defer v.Release()
	var n atomic.Int64
	for _, p := range []failpoint.Name{
		failpoint.StoreCompactMove, failpoint.StoreBeforeRetire, failpoint.StoreAfterUnlink, failpoint.StoreAfterRetire, failpoint.StoreRead,
	} {
		t.Cleanup(failpoint.EnableFunc(p, func() error {
			if n.Add(1)%3 == 0 && p != failpoint.StoreRead {
				return syscall.EIO
			}
			return nil
		}))
	}
	for i := range 400 {
		put(t, table, fmt.Sprintf("k%d", i%10), uint64(i+2), fmt.Sprintf("%0500d", i))
	}
	waitFor(t, "compaction", func() bool { return !s.compactionDue() })
	if got := s.Stats(); got.DiskBytes > 40000 {
		t.Errorf("the log has %d bytes in %d segments", got.DiskBytes, got.Segments)
	}
	if r, ok, err := v.Get("still"); err != nil || !ok || string(r.Value) != "here" {
		t.Errorf("the old view reads %q, %v, %v", r.Value, ok, err)
	}
	if r, ok, err := table.Get("still"); err != nil || !ok || string(r.Value) != "here" {
		t.Errorf("the table reads %q, %v, %v", r.Value, ok, err)
	}
	if len(contentsOf(t, table)) != 11 {
		t.Errorf("%d records", table.View().Len())
	}
	again := start(t, copyDir(t, dir), Options{})
	if diff := cmp.Diff(contentsOf(t, table), contentsOf(t, mustTable(t, again.Store, "pods", KeepHistory))); diff != "" {
		t.Error(diff)
	}
}

// A retired segment is not written again before it is durable that it is none: under its old name it would be a segment
// of the log that can't be read.
func TestSpareIsNamedDurablyFirst(t *testing.T) {
	s := start(t, t.TempDir(), Options{SegmentBytes: 4000, CompactAbove: 1 << 30})
	table := mustTable(t, s.Store, "pods", KeepHistory)
	for i := range 40 {
		put(t, table, "k", uint64(i+1), fmt.Sprintf("%0500d", i))
	}
	spare := func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.spare
	}
	c := &compactor{store: s.Store}
	disable := failpoint.EnableFunc(failpoint.StoreAfterUnlink, func() error { return syscall.EIO })
	if err := c.compactOldest(t.Context()); !errors.Is(err, syscall.EIO) || spare() {
		t.Errorf("the directory is not synced (%v), the spare file is in use: %v", err, spare())
	}
	disable()
	if err := c.compactOldest(t.Context()); err != nil || !spare() {
		t.Errorf("%v, spare file: %v", err, spare())
	}
}

func (s *Store) oldest() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.set.list[0].id
}

// waitFor waits until something is so.
func waitFor(t *testing.T, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !so(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited for %s in vain", what)
		}
	}
}

// A damaged record stays a damaged record through compaction, and takes nothing else with it.
func TestCompactionOfDamage(t *testing.T) {
	dir := t.TempDir()
	s, err := tryStart(dir, Options{SegmentBytes: 8000, CompactAbove: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	table := mustTable(t, s.Store, "pods", KeepHistory)
	put(t, table, "bad", 1, "to be damaged")
	put(t, table, "good", 2, "not to be")
	at := table.now.get("bad").at
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	flipBit(t, filepath.Join(dir, segmentName(at.segment)), int64(at.offset))

	s = start(t, dir, Options{SegmentBytes: 8000, CompactAbove: 24000})
	table = mustTable(t, s.Store, "pods", KeepHistory)
	for i := range 200 {
		put(t, table, "other", uint64(i+3), fmt.Sprintf("%0500d", i))
	}
	waitFor(t, "compaction", func() bool { return s.oldest() > 1 && !s.compactionDue() })
	check := func(table *Table) {
		t.Helper()
		r, ok, err := table.Get("bad")
		var damaged *DamagedError
		if !ok || !errors.As(err, &damaged) || damaged.Key != "bad" || damaged.Table != "pods" || r.Revision != 1 {
			t.Errorf("the damaged record: %v, %v, %v", r, ok, err)
		}
		if r, ok, err := table.Get("good"); !ok || err != nil || string(r.Value) != "not to be" {
			t.Errorf("the other: %q, %v, %v", r.Value, ok, err)
		}
	}
	check(table)
	again := start(t, copyDir(t, dir), Options{})
	table = mustTable(t, again.Store, "pods", KeepHistory)
	check(table)

	g := table.Stage()
	for _, r := range []Record{{Key: "bad", Revision: 1, Value: []byte("to be damaged")}, {Key: "good", Revision: 2, Value: []byte("not to be")}} {
		if err := g.Add(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	if diff, err := g.Swap(t.Context(), 500, nil); err != nil || diff != (Diff{Modified: 1, Unchanged: 1, Deleted: 1}) {
		t.Errorf("%+v, %v", diff, err)
	}
	if r, _, err := table.Get("bad"); err != nil || string(r.Value) != "to be damaged" {
		t.Errorf("after the relist: %q, %v", r.Value, err)
	}
}

func flipBit(t testing.TB, name string, offset int64) {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	data[offset] ^= 4
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A stage of many megabytes goes in while others commit, and none of them waits for long.
func TestStageDoesNotStallCommits(t *testing.T) {
	s := start(t, t.TempDir(), Options{})
	big, small := mustTable(t, s.Store, "big", KeepHistory), mustTable(t, s.Store, "small", KeepHistory)
	ctx, cancel := context.WithCancel(t.Context())
	staged := make(chan error, 1)
	value := bytes.Repeat([]byte("x"), 4<<10)
	go func() {
		defer cancel()
		g := big.Stage()
		for i := range 5000 {
			if err := g.Add(context.Background(), Record{Key: fmt.Sprintf("k%05d", i), Revision: 1, Value: value}); err != nil {
				staged <- err
				return
			}
		}
		_, err := g.Swap(context.Background(), 2, nil)
		staged <- err
	}()
	n := uint64(0)
	for ctx.Err() == nil {
		n++
		put(t, small, "k", n, "v")
	}
	if err := <-staged; err != nil {
		t.Fatal(err)
	}
	if n < 20 || big.View().Len() != 5000 {
		t.Errorf("%d commits while %d records were staged", n, big.View().Len())
	}
}
