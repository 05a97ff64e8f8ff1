package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"yurt/internal/failpoint"
)

// testKey is a key that everybody can guess.
func testKey(c byte) []byte { return bytes.Repeat([]byte{c}, KeySize) }

// testKeys are such keys, the newest first.
func testKeys(letters string) func() ([][]byte, error) {
	return func() (keys [][]byte, err error) {
		for _, c := range []byte(letters) {
			keys = append(keys, testKey(c))
		}
		return keys, nil
	}
}

// waitSealed waits until nothing is in clear or sealed by an older key.
func waitSealed(t *testing.T, s *Store) {
	t.Helper()
	for end := time.Now().Add(time.Minute); s.Stats().Stale > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d segments are still to be sealed", s.Stats().Stale)
		}
	}
}

// forge changes the records in the first segment as somebody would who can write to the directory and has no key: all
// checksums are right. The indexes must keep their lengths.
func forge(t *testing.T, dir string, change func(r *record)) {
	t.Helper()
	name := filepath.Join(dir, segmentName(1))
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for off := int64(segmentHeaderSize); ; {
		h, err := decodeFrameHeader(data[off:])
		if err != nil {
			break
		}
		index := data[off+frameHeaderSize : h.valuesAt(off)]
		d := indexReader{rest: bytes.Clone(index), segment: 1, values: h.valuesAt(off)}
		var r record
		var forged []byte
		for d.next(&r) {
			change(&r)
			forged = appendRecord(forged, &r)
		}
		if d.err != nil || len(forged) != len(index) {
			t.Fatalf("forged %d bytes for %d: %v", len(forged), len(index), d.err)
		}
		copy(index, forged)
		putFrame(data[off:], 1, h)
		off = h.end(off)
	}
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestRecordsCantBeSwapped: a sealed value opens as the record that it was sealed for, and as no other.
func TestRecordsCantBeSwapped(t *testing.T) {
	for name, change := range map[string]func(r *record){
		"keys":      func(r *record) { r.key = map[string]string{"key-a": "key-b", "key-b": "key-a"}[r.key] },
		"tables":    func(r *record) { r.table = 3 - r.table },
		"revisions": func(r *record) { r.revision = 3 - r.revision },
	} {
		t.Run(name, func(t *testing.T) {
			dir, opts := t.TempDir(), Options{Keys: testKeys("k")}
			s := start(t, dir, opts)
			one, two := mustTable(t, s.Store, "one", NoHistory), mustTable(t, s.Store, "two", NoHistory)
			var b Batch
			b.Put(one, Record{Key: "key-a", Revision: 1, Value: []byte("a of one")})
			b.Put(one, Record{Key: "key-b", Revision: 2, Value: []byte("b of one")})
			b.Put(two, Record{Key: "key-a", Revision: 1, Value: []byte("a of two")})
			b.Put(two, Record{Key: "key-b", Revision: 2, Value: []byte("b of two")})
			mustCommit(t, s.Store, &b)
			if err := s.stop(); err != nil {
				t.Fatal(err)
			}
			forge(t, dir, func(r *record) {
				if r.kind == recAdded {
					change(r)
				}
			})
			s = start(t, dir, opts)
			for _, table := range []string{"one", "two"} {
				n := 0
				v := mustTable(t, s.Store, table, NoHistory).View()
				for r, err := range v.Records("") {
					if !errors.Is(err, ErrDamaged) {
						t.Errorf("%s of %s reads %q, %v", r.Key, table, r.Value, err)
					}
					n++
				}
				v.Release()
				if n != 2 {
					t.Errorf("%d records in %s, want 2", n, table)
				}
			}
		})
	}
}

// TestForgedValuesDontOpen: it is not enough to say that a value is not sealed, or that another segment's is this one's.
func TestForgedValuesDontOpen(t *testing.T) {
	key, err := newMasterKey(testKey('k'))
	if err != nil {
		t.Fatal(err)
	}
	box, err := key.box(1, 7)
	if err != nil {
		t.Fatal(err)
	}
	seg := &segment{id: 1, salt: 7, key: key.id, box: box}
	value := []byte("a secret")
	good := &entry{key: "web", revision: 1, at: key.location(checksum(value), uint32(len(value)), 1)}
	stored := box.seal(nil, value, appendBinding(nil, "pods", "web", 1))
	var binding []byte
	if got, err := seg.openValue("pods", good, bytes.Clone(stored), &binding); err != nil || !bytes.Equal(got, value) {
		t.Fatalf("opens as %q, %v", got, err)
	}

	plain := *good
	plain.at = (*masterKey)(nil).location(checksum(value), uint32(len(value)), 1)
	if got, err := seg.openValue("pods", &plain, bytes.Clone(value), &binding); err == nil {
		t.Errorf("a value in clear is taken for a sealed one: %q", got)
	}
	clear := &segment{id: 1, salt: 7}
	if got, err := clear.openValue("pods", good, bytes.Clone(stored), &binding); err == nil {
		t.Errorf("a sealed value is taken for one in clear: %q", got)
	}
	if seg.box, err = key.box(2, 7); err != nil {
		t.Fatal(err)
	}
	if got, err := seg.openValue("pods", good, bytes.Clone(stored), &binding); err == nil {
		t.Errorf("a value of segment 1 opens in segment 2: %q", got)
	}
}

// TestNoNonceTwice: whatever is written, and written again, is sealed with a nonce of its own.
func TestNoNonceTwice(t *testing.T) {
	dir := t.TempDir()
	opts := Options{SegmentBytes: 1024, CompactAbove: 3000, Keys: testKeys("k")}
	seen := map[[nonceSize]byte]location{}
	var s *running
	moved := int64(0)
	look := func(e *entry) {
		set := s.pin()
		defer s.unpin(set)
		seg := set.find(e.at.segment)
		var nonce [nonceSize]byte
		if seg == nil || readFull(seg.file, nonce[:], int64(e.at.offset)) != nil {
			return // compacted meanwhile
		}
		if at, ok := seen[nonce]; ok && at != e.at {
			t.Fatalf("%v and %v have the nonce %x", at, e.at, nonce)
		}
		seen[nonce] = e.at
	}
	for life := range 5 { // the last segment goes on
		s = start(t, dir, opts)
		table := mustTable(t, s.Store, "book", NoHistory)
		put(t, table, fmt.Sprintf("stays%d", life), 1, "and is moved")
		for i := range 60 {
			put(t, table, fmt.Sprintf("k%d", i%9), 1, "the same value each time")
			table.snapshot().tree.Ascend(func(e *entry) bool { look(e); return true })
		}
		if err := s.stop(); err != nil {
			t.Fatal(err)
		}
		moved += s.Stats().BytesMoved
	}
	if len(seen) < 300 || moved == 0 {
		t.Errorf("%d nonces seen, %d bytes moved: too few", len(seen), moved)
	}
}

// TestClearIsOverwritten: what was in clear before there was a key is not left in the blocks of files that are gone.
func TestClearIsOverwritten(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir, Options{SegmentBytes: 4096})
	table := mustTable(t, s.Store, "book", NoHistory)
	for i := range 30 {
		put(t, table, fmt.Sprintf("k%d", i%10), 1, strings.Repeat("in-clear", 50))
	}
	if err := (&compactor{store: s.Store}).compactOldest(context.Background()); err != nil {
		t.Fatal(err)
	}
	want := contentsOf(t, table)
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	var files []*os.File
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	spare := false
	for _, name := range names {
		spare = spare || filepath.Base(name) == spareName
		f, err := os.Open(name) // stays, and shows the blocks
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		files = append(files, f)
	}
	if !spare || len(files) < 4 {
		t.Fatalf("not the files that this test is about: %v", names)
	}
	s = start(t, dir, Options{SegmentBytes: 4096, Keys: testKeys("k")})
	waitSealed(t, s.Store)
	if got := contentsOf(t, mustTable(t, s.Store, "book", NoHistory)); len(got) != len(want) {
		t.Errorf("%d records, want %d", len(got), len(want))
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		data := make([]byte, 1<<20)
		n, _ := f.ReadAt(data, 0)
		if bytes.Contains(data[:n], []byte("in-clear")) {
			t.Errorf("%s still has it", f.Name())
		}
	}
}

// TestOlderReleasesRefuse: a sealed segment says a format that they don't know; one that is not sealed does not.
func TestOlderReleasesRefuse(t *testing.T) {
	for want, keys := range map[uint32]string{1: "", 2: "k"} {
		dir := t.TempDir()
		s := start(t, dir, Options{Keys: testKeys(keys)})
		put(t, mustTable(t, s.Store, "pods", KeepHistory), "web", 1, "x")
		data, err := os.ReadFile(filepath.Join(dir, segmentName(1)))
		if err != nil {
			t.Fatal(err)
		}
		if got := binary.LittleEndian.Uint32(data[8:]); got != want {
			t.Errorf("with the keys %q the format is %d, want %d", keys, got, want)
		}
	}
}

// TestKillWhileSealing kills a process while it seals a store that was in clear, wherever it can be killed, and looks at
// what it leaves.
func TestKillWhileSealing(t *testing.T) {
	clear := t.TempDir()
	opts := childOptions()
	opts.Keys = nil
	if err := work(clear, opts, io.Discard); err != nil {
		t.Fatal(err)
	}
	for _, name := range failpoint.All() {
		if !strings.HasPrefix(string(name), "store/") {
			continue
		}
		for _, spec := range []string{"kill", "after 3 kill"} {
			t.Run(fmt.Sprintf("%s=%s", name, spec), func(t *testing.T) {
				t.Parallel()
				dir := copyDir(t, clear)
				acked, _ := runChild(t, dir, string(name)+"="+spec)
				checkLife(t, dir, max(acked, childOperations))
				s, err := tryStart(dir, childOptions())
				if err != nil {
					t.Fatal(err)
				}
				waitSealed(t, s.Store)
				if err := s.stop(); err != nil {
					t.Fatal(err)
				}
			})
		}
	}
}

// What is not right with keys is an error, and one with the directory comes first.
func TestKeysAreAskedForLast(t *testing.T) {
	short := func() ([][]byte, error) { return [][]byte{testKey('k'), []byte("short")}, nil }
	if _, err := Open(t.TempDir(), Options{Keys: short}); err == nil || !strings.Contains(err.Error(), "5 bytes") {
		t.Errorf("a short key: %v", err)
	}
	none := errors.New("no keys today")
	if _, err := Open(t.TempDir(), Options{Keys: func() ([][]byte, error) { return nil, none }}); !errors.Is(err, none) {
		t.Errorf("no keys: %v", err)
	}
	foreign := t.TempDir()
	if err := os.WriteFile(filepath.Join(foreign, "photo.jpg"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	asked := false
	if _, err := Open(foreign, Options{Keys: func() ([][]byte, error) { asked = true; return nil, none }}); !errors.Is(err, ErrForeign) || asked {
		t.Errorf("a foreign directory: %v, asked for keys: %t", err, asked)
	}
}
