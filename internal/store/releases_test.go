package store

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var writeStores = flag.Bool("update", false, "write the stores of this release") //nolint:gochecknoglobals // flags are

// released are the formats that stores on disk may have, and by which options they are written.
func released() map[string]Options {
	return map[string]Options{
		"format-1-in-clear": {},
		"format-2-sealed":   {Keys: testKeys("k")},
	}
}

// writeReleased makes a store that has all kinds of records: two segments, a list, changes to it, a deletion, a bookmark,
// metas, and a table without history.
func writeReleased(t *testing.T, dir string, opts Options) {
	t.Helper()
	opts.SegmentBytes = 4 << 10
	s := start(t, dir, opts)
	pods, notes := mustTable(t, s.Store, "pods", KeepHistory), mustTable(t, s.Store, "notes", NoHistory)
	list := pods.Stage()
	for i := range 20 {
		r := Record{Key: fmt.Sprintf("default/pod-%02d", i), Revision: uint64(100 + i), Identity: fmt.Sprintf("uid-%d", i), Value: bytes.Repeat([]byte{byte('a' + i)}, 200)}
		if err := list.Add(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := list.Swap(t.Context(), 150, []byte("meta of pods")); err != nil {
		t.Fatal(err)
	}
	var b Batch
	b.Put(pods, Record{Key: "default/pod-03", Revision: 151, Identity: "uid-3", Value: []byte("changed")})
	b.Delete(pods, "default/pod-04", 152, []byte("as it was last"))
	b.Put(notes, Record{Key: "b", Revision: 1, Value: []byte("a note")})
	mustCommit(t, s.Store, &b)
	b = Batch{}
	b.SetRevision(pods, 160)
	b.SetMeta(notes, []byte("meta of notes"))
	mustCommit(t, s.Store, &b)
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
}

// TestStoresOfEarlierReleases opens stores that were written by earlier releases, and must be opened by all later ones. A
// format that is new gets a name of its own above, is written by -update, and never again.
func TestStoresOfEarlierReleases(t *testing.T) {
	for name, opts := range released() {
		t.Run(name, func(t *testing.T) {
			from := filepath.Join("testdata", "releases", name)
			if _, err := os.Stat(from); os.IsNotExist(err) && *writeStores {
				written := t.TempDir()
				writeReleased(t, written, opts)
				copyStore(t, written, from)
			}
			dir := t.TempDir()
			copyStore(t, from, dir)
			opts.Keys = testKeys("k") // a hub of today always has one
			s := start(t, dir, opts)
			checkReleased(t, s.Store)
			if name != "format-1-in-clear" { // what is sealed anew keeps no history
				checkReleasedHistory(t, s.Store)
			}
			waitSealed(t, s.Store)
			if err := s.stop(); err != nil {
				t.Fatal(err)
			}
			s = start(t, dir, opts)
			checkReleased(t, s.Store)
			if err := s.stop(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func checkReleased(t *testing.T, s *Store) {
	t.Helper()
	pods, notes := mustTable(t, s, "pods", KeepHistory), mustTable(t, s, "notes", NoHistory)
	want := map[string]string{}
	for i := range 20 {
		want[fmt.Sprintf("default/pod-%02d", i)] = string(bytes.Repeat([]byte{byte('a' + i)}, 200))
	}
	want["default/pod-03"] = "changed"
	delete(want, "default/pod-04")
	if diff := cmp.Diff(want, valuesOf(t, pods)); diff != "" {
		t.Errorf("pods (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{"b": "a note"}, valuesOf(t, notes)); diff != "" {
		t.Errorf("notes (-want +got):\n%s", diff)
	}
	if pods.Revision() != 160 || string(pods.Meta()) != "meta of pods" || string(notes.Meta()) != "meta of notes" || pods.Doubt() != nil {
		t.Errorf("pods at %d, metas %q and %q, doubt %v", pods.Revision(), pods.Meta(), notes.Meta(), pods.Doubt())
	}
}

func checkReleasedHistory(t *testing.T, s *Store) {
	t.Helper()
	cursor, err := mustTable(t, s, "pods", KeepHistory).Since(150)
	if err != nil {
		t.Fatal(err)
	}
	events, err := cursor.Next(10)
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	for _, e := range events {
		told = append(told, fmt.Sprintf("%s %s@%d %s", e.Type, e.Key, e.Revision, e.Value))
	}
	if diff := cmp.Diff([]string{"MODIFIED default/pod-03@151 changed", "DELETED default/pod-04@152 as it was last"}, told); diff != "" {
		t.Errorf("history since 150 (-want +got):\n%s", diff)
	}
}

func valuesOf(t *testing.T, table *Table) map[string]string {
	t.Helper()
	view := table.View()
	defer view.Release()
	got := map[string]string{}
	for r, err := range view.Records("") {
		if err != nil {
			t.Errorf("%s: %v", r.Key, err)
		}
		got[r.Key] = string(r.Value)
	}
	return got
}

// copyStore copies the segments of a store, without the zeros at their ends.
func copyStore(t *testing.T, from, to string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(from, "*.seg"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no segments in %s: %v", from, err)
	}
	if err := os.MkdirAll(to, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(to, filepath.Base(name)), bytes.TrimRight(data, "\x00"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
