package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func listing(t *testing.T, dir string) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		got[path] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// Open refuses what is not this process's store, says so, and changes nothing.
func TestOpenRefuses(t *testing.T) {
	newer := func(dir string) error {
		h := segmentHeader{version: formatVersion + 1, id: 1, salt: 5}
		return os.WriteFile(filepath.Join(dir, segmentName(1)), h.encode(), 0o600)
	}
	for _, tc := range []struct {
		name    string
		prepare func(dir string) error
		want    error
		text    string
	}{
		{"a foreign file", func(dir string) error { return os.WriteFile(filepath.Join(dir, "db.bolt"), nil, 0o600) }, ErrForeign, "it has a file db.bolt"},
		{"a foreign directory", func(dir string) error { return os.Mkdir(filepath.Join(dir, "pods"), 0o700) }, ErrForeign, "pods is not a regular file"},
		{"a symlink", func(dir string) error { return os.Symlink("/etc/passwd", filepath.Join(dir, segmentName(1))) }, ErrForeign, "is not a regular file"},
		{"a symlink for the spare file", func(dir string) error { return os.Symlink("/etc/passwd", filepath.Join(dir, spareName)) }, ErrForeign, "is not a regular file"},
		{"a symlink for the lock", func(dir string) error { return os.Symlink("/etc/passwd", filepath.Join(dir, lockName)) }, ErrForeign, "is not a regular file"},
		{"another user's file", func(dir string) error {
			name := filepath.Join(dir, spareName)
			return errors.Join(os.WriteFile(name, nil, 0o600), os.Chown(name, 12345, 12345))
		}, ErrForeign, "spare belongs to user 12345"},
		{"a segment's name, other contents", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, segmentName(1)), []byte(strings.Repeat("not a log", 100)), 0o600)
		}, ErrForeign, "not its contents"},
		{"a newer format", newer, ErrNewer, "format 3"},
		{"another user's directory", func(dir string) error { return os.Chown(dir, 12345, 12345) }, ErrForeign, "it belongs to user 12345"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if os.Geteuid() != 0 && strings.Contains(tc.name, "user") {
				t.Skip("needs root")
			}
			dir := t.TempDir()
			if err := tc.prepare(dir); err != nil {
				t.Fatal(err)
			}
			before := listing(t, dir)
			s, err := Open(dir, Options{})
			if err == nil {
				s.Close()
			}
			if !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.text) || !strings.Contains(err.Error(), dir) {
				t.Errorf("got %v", err)
			}
			if diff := cmp.Diff(before, listing(t, dir)); diff != "" {
				t.Errorf("the directory changed: %s", diff)
			}
		})
	}
}

func TestOpenOnce(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir, Options{})
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrLocked) {
		t.Errorf("the second Open: %v", err)
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	start(t, dir, Options{})
}

func TestOpenUnwritable(t *testing.T) {
	if os.Geteuid() == 0 {
		// Root may write everywhere but where nobody can.
		if _, err := Open("/proc/1/store", Options{}); err == nil {
			t.Error("a store in /proc")
		}
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(file, Options{}); err == nil || !strings.Contains(err.Error(), "not a directory") {
			t.Errorf("a store in a file: %v", err)
		}
		return
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{}); !errors.Is(err, os.ErrPermission) {
		t.Errorf("got %v", err)
	}
}

// Nobody else can read what is stored.
func TestModes(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	dir := filepath.Join(t.TempDir(), "a", "b")
	s := start(t, dir, Options{SegmentBytes: 4000, CompactAbove: 8000})
	table := mustTable(t, s.Store, "pods", KeepHistory)
	for i := range 40 {
		put(t, table, "k", uint64(i+1), strings.Repeat("x", 500))
	}
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil // compacted
		}
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestTableKeepsItsHistorySetting(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir, Options{})
	put(t, mustTable(t, s.Store, "plain", NoHistory), "k", 1, "v")
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	s = start(t, dir, Options{})
	if _, err := s.Table("plain", KeepHistory); err == nil {
		t.Error("a table without history was opened with one")
	}
	if got := contentsOf(t, mustTable(t, s.Store, "plain", NoHistory)); got["k"] != "1:v" {
		t.Errorf("got %v", got)
	}
}

// Stats and the hook agree on what was written.
func TestStats(t *testing.T) {
	var mu sync.Mutex
	var syncs, batches int
	var bytes int64
	s := start(t, t.TempDir(), Options{Synced: func(x Sync) {
		mu.Lock()
		defer mu.Unlock()
		syncs, batches, bytes = syncs+1, batches+x.Batches, bytes+x.Bytes
		if x.Took <= 0 || x.Err != nil {
			t.Errorf("%+v", x)
		}
	}})
	for _, h := range []History{KeepHistory, NoHistory} {
		table := mustTable(t, s.Store, fmt.Sprintf("table%d", h), h)
		for i := range 10 {
			put(t, table, fmt.Sprintf("k%d", i%5), uint64(i), strings.Repeat("x", 1000))
		}
	}
	mustTable(t, s.Store, "not yet durable", KeepHistory)
	st := s.Stats()
	mu.Lock()
	defer mu.Unlock()
	if st.Tables != 2 || st.Records != 10 || st.Segments != 1 || st.Commits != 20 || batches != 20 {
		t.Errorf("%+v, %d batches", st, batches)
	}
	if int(st.Syncs) != syncs || st.BytesWritten != bytes || st.DiskBytes != bytes+segmentHeaderSize {
		t.Errorf("%+v, %d syncs of %d bytes", st, syncs, bytes)
	}
	if st.LiveBytes < 10*1000 || st.LiveBytes > 11*1000 || st.LastSync <= 0 || st.SlowestSync < st.LastSync {
		t.Errorf("%+v", st)
	}
}

func TestChanged(t *testing.T) {
	s := start(t, t.TempDir(), Options{})
	table, other := mustTable(t, s.Store, "pods", KeepHistory), mustTable(t, s.Store, "nodes", KeepHistory)
	closed := func(c <-chan struct{}) bool {
		select {
		case <-c:
			return true
		default:
			return false
		}
	}
	c := table.Changed()
	put(t, other, "k", 1, "v")
	if closed(c) {
		t.Error("closed by a change of another table")
	}
	var b Batch
	b.SetRevision(table, 5)
	mustCommit(t, s.Store, &b)
	if !closed(c) {
		t.Error("not closed by a bookmark")
	}
	c = table.Changed()
	g := table.Stage()
	if _, err := g.Swap(t.Context(), 9, nil); err != nil || !closed(c) {
		t.Errorf("not closed by a swap (%v)", err)
	}
	c = table.Changed()
	if err := s.Drop(t.Context(), "pods"); err != nil || !closed(c) || !closed(table.Changed()) {
		t.Errorf("not closed by a drop (%v)", err)
	}
}

// A file that has another name somewhere is not written to, whatever it is called here.
func TestHardLinkIsNotWritten(t *testing.T) {
	for _, keys := range []string{"", "k"} {
		dir := filepath.Join(t.TempDir(), "store")
		victim := filepath.Join(filepath.Dir(dir), "victim")
		err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(victim, []byte("precious"), 0o600), os.Link(victim, filepath.Join(dir, spareName)))
		if err != nil {
			t.Fatal(err)
		}
		s := start(t, dir, Options{SegmentBytes: 4096, Keys: testKeys(keys)})
		table := mustTable(t, s.Store, "pods", KeepHistory)
		for i := range 20 {
			put(t, table, "web", uint64(i+1), strings.Repeat("x", 500))
		}
		if err := s.stop(); err != nil {
			t.Fatal(err)
		}
		if data, err := os.ReadFile(victim); err != nil || string(data) != "precious" {
			t.Errorf("the file reads %q, %v", data, err)
		}
	}
}
