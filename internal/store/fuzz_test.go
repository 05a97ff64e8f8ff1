package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// FuzzOpen opens a store with bytes changed, cut off or zeroed. Whatever was done to it, Open ends, what it reads is what
// was once written under that key, a record that it can't read is named, and if nothing is in doubt and the log was
// closed in good order, nothing is missing.
func FuzzOpen(f *testing.F) {
	plain, sealed := f.TempDir(), f.TempDir()
	keys := testKeys("k")
	want := fuzzStore(f, plain, nil)
	fuzzStore(f, sealed, keys)
	f.Add(uint8(0), uint32(100), uint16(1), uint8(1))
	f.Add(uint8(1), uint32(0), uint16(64), uint8(0))
	f.Add(uint8(2), uint32(4000), uint16(4096), uint8(0xff))
	f.Add(uint8(3), uint32(70), uint16(0), uint8(9))
	f.Add(uint8(128), uint32(100), uint16(1), uint8(1))
	f.Add(uint8(129), uint32(0), uint16(64), uint8(0))
	f.Add(uint8(130), uint32(4000), uint16(4096), uint8(0xff))
	f.Add(uint8(131), uint32(200), uint16(30), uint8(0x80))
	f.Fuzz(func(t *testing.T, file uint8, offset uint32, length uint16, how uint8) {
		broken := t.TempDir()
		dir, opts := plain, Options{SegmentBytes: 4096, CompactAbove: 1 << 30}
		if file >= 128 {
			dir, opts.Keys = sealed, keys
		}
		if err := tryCopyDir(dir, broken); err != nil {
			t.Fatal(err)
		}
		names, err := filepath.Glob(filepath.Join(broken, "*.seg"))
		if err != nil {
			t.Fatal(err)
		}
		name := names[int(file)%len(names)]
		truncated := breakFile(t, name, offset, length, how)
		s, err := tryStart(broken, opts)
		if err != nil {
			t.Fatalf("open: %v", err)
		}
		defer func() {
			if err := s.stop(); err != nil {
				t.Error(err)
			}
		}()
		table := mustTable(t, s.Store, "pods", KeepHistory)
		newest := name == names[len(names)-1]
		checkFuzzed(t, table, want, truncated && newest)

		// It goes on to work.
		g := table.Stage()
		for key, value := range want {
			if err := g.Add(context.Background(), Record{Key: key, Revision: 500, Value: []byte(value)}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := g.Swap(context.Background(), 1000, nil); err != nil {
			t.Fatal(err)
		}
		checkFuzzed(t, table, want, false)
		if table.Doubt() != nil {
			t.Errorf("in doubt after a swap: %v", table.Doubt())
		}
	})
}

// fuzzStore makes a store with finished segments, compacted ones, a swap and a good end.
func fuzzStore(f *testing.F, dir string, keys func() ([][]byte, error)) map[string]string {
	s, err := tryStart(dir, Options{SegmentBytes: 4096, CompactAbove: 1 << 30, Keys: keys})
	if err != nil {
		f.Fatal(err)
	}
	table := mustTable(f, s.Store, "pods", KeepHistory)
	want := map[string]string{}
	for i := range 40 {
		key := fmt.Sprintf("k%d", i%15)
		want[key] = fmt.Sprintf("%s=%0300d", key, i)
		put(f, table, key, uint64(i+1), want[key])
	}
	c := &compactor{store: s.Store}
	if err := c.compactOldest(context.Background()); err != nil {
		f.Fatal(err)
	}
	g := table.Stage()
	for i := range 12 {
		key := fmt.Sprintf("k%d", i)
		want[key] = fmt.Sprintf("%s=%0300d", key, 1000+i)
		if err := g.Add(context.Background(), Record{Key: key, Revision: 100, Value: []byte(want[key])}); err != nil {
			f.Fatal(err)
		}
	}
	for i := 12; i < 15; i++ {
		delete(want, fmt.Sprintf("k%d", i))
	}
	if _, err := g.Swap(context.Background(), 200, nil); err != nil {
		f.Fatal(err)
	}
	put(f, table, "k0", 300, "k0=last")
	want["k0"] = "k0=last"
	if err := s.stop(); err != nil {
		f.Fatal(err)
	}
	return want
}

// breakFile reports whether it took away the end of the file's data.
func breakFile(t *testing.T, name string, offset uint32, length uint16, how uint8) bool {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	end := len(bytes.TrimRight(data, "\x00"))
	begin := int(offset) % end
	part := data[begin:min(begin+int(length), len(data))]
	switch how {
	case 0:
		clear(part)
	case 0xff:
		data = data[:begin]
	default:
		for i := range part {
			part[i] ^= how
		}
	}
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	// The mark at the end is gone as well, if those last bytes are.
	return begin+int(length) >= end-frameHeaderSize || how == 0xff
}

func checkFuzzed(t *testing.T, table *Table, want map[string]string, endLost bool) {
	t.Helper()
	v := table.View()
	defer v.Release()
	got := 0
	for r, err := range v.Records("") {
		switch {
		case errors.Is(err, ErrDamaged):
		case err != nil:
			t.Fatal(err)
		case !bytes.HasPrefix(r.Value, []byte(r.Key+"=")):
			t.Errorf("%s reads %q", r.Key, r.Value)
		case v.Doubt() == nil && !endLost && want[r.Key] != string(r.Value):
			t.Errorf("%s reads %q, want %q", r.Key, r.Value, want[r.Key])
		}
		got++
	}
	if v.Doubt() == nil && !endLost && got != len(want) {
		t.Errorf("%d records without any doubt, want %d", got, len(want))
	}
}
