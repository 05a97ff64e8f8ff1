package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		child(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

// running is a store with its Run.
type running struct {
	*Store
	stop func() error // ends Run and closes the store
}

// start opens and runs a store. It is stopped with the test, unless that was done before.
func start(t testing.TB, dir string, opts Options) *running {
	t.Helper()
	r, err := tryStart(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func tryStart(dir string, opts Options) (*running, error) {
	if opts.Logger == nil && os.Getenv("STORE_LOG") != "" {
		opts.Logger = slog.Default()
	}
	s, err := Open(dir, opts)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stopped := false
	return &running{s, func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return errors.Join(<-ended, s.Close())
	}}, nil
}

func mustTable(t testing.TB, s *Store, name string, h History) *Table {
	t.Helper()
	table, err := s.Table(name, h)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func mustCommit(t testing.TB, s *Store, b *Batch) {
	t.Helper()
	if err := s.Commit(t.Context(), b); err != nil {
		t.Fatal(err)
	}
}

// put commits one record.
func put(t testing.TB, table *Table, key string, revision uint64, value string) {
	t.Helper()
	var b Batch
	b.Put(table, Record{Key: key, Revision: revision, Value: []byte(value)})
	mustCommit(t, table.store, &b)
}

// contentsOf reads a whole table.
func contentsOf(t testing.TB, table *Table) map[string]string {
	t.Helper()
	v := table.View()
	defer v.Release()
	got := map[string]string{}
	for r, err := range v.Records("") {
		if err != nil {
			t.Fatal(err)
		}
		got[r.Key] = fmt.Sprintf("%d:%s", r.Revision, r.Value)
	}
	return got
}

// copyDir copies the files of a store as a crash would leave them: everything that was written is there. Compaction may
// remove a file meanwhile: then the crash comes a little later.
func copyDir(t testing.TB, from string) string {
	t.Helper()
	for {
		to := t.TempDir()
		err := tryCopyDir(from, to)
		if err == nil {
			return to
		}
		if !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
			return to
		}
	}
}

func tryCopyDir(from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(from, e.Name()))
		if err != nil {
			return err
		}
		name := filepath.Join(to, e.Name())
		err = os.WriteFile(name, bytes.TrimRight(data, "\x00"), 0o600) // what is reserved stays a hole
		if err == nil {
			err = os.Truncate(name, int64(len(data)))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
