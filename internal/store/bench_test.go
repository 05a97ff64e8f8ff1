package store

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const objectSize = 4200 // of a pod

func object(seed uint64) []byte {
	b := make([]byte, objectSize)
	r := rand.New(rand.NewPCG(seed, 0))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func objectKey(i int) string { return fmt.Sprintf("default/deployment-%d-7f8d9c6b5-%05d", i%7, i) }

// fillTable takes in n objects, as a first list does.
func fillTable(b testing.TB, t *Table, n int) {
	b.Helper()
	value := object(1)
	g := t.Stage()
	for i := range n {
		if err := g.Add(context.Background(), Record{Key: objectKey(i), Revision: uint64(i + 1), Value: value}); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := g.Swap(context.Background(), uint64(n), nil); err != nil {
		b.Fatal(err)
	}
}

// reportAmplification says what the log took for each byte of objects.
func reportAmplification(b *testing.B, before, after Stats, objects int) {
	bytes := float64(after.BytesWritten - before.BytesWritten)
	b.ReportMetric(bytes/float64(objects*objectSize), "log-bytes/byte")
	b.ReportMetric(float64(after.Syncs-before.Syncs)/float64(objects), "syncs/op")
}

// eachWay runs a benchmark in clear and with sealing.
func eachWay(b *testing.B, run func(b *testing.B, opts Options)) {
	b.Run("clear", func(b *testing.B) { run(b, Options{}) })
	b.Run("sealed", func(b *testing.B) { run(b, Options{Keys: testKeys("k")}) })
}

// BenchmarkCommit is one object after the other, each durable before the next: the latency of a quiet node.
func BenchmarkCommit(b *testing.B) { eachWay(b, benchmarkCommit) }

func benchmarkCommit(b *testing.B, opts Options) {
	s := start(b, b.TempDir(), opts)
	t := mustTable(b, s.Store, "pods", KeepHistory)
	value := object(1)
	before := s.Stats()
	b.ReportAllocs()
	for i := 1; b.Loop(); i++ {
		var batch Batch
		batch.Put(t, Record{Key: objectKey(i % 1000), Revision: uint64(i), Value: value})
		if err := s.Commit(context.Background(), &batch); err != nil {
			b.Fatal(err)
		}
	}
	reportAmplification(b, before, s.Stats(), b.N)
}

// BenchmarkCommitFromMany is the same from eight tables' feeds at once, which do not wait for each commit.
func BenchmarkCommitFromMany(b *testing.B) { eachWay(b, benchmarkCommitFromMany) }

func benchmarkCommitFromMany(b *testing.B, opts Options) {
	s := start(b, b.TempDir(), opts)
	const feeds = 8
	value := object(1)
	before := s.Stats()
	b.ReportAllocs()
	b.ResetTimer()
	var all sync.WaitGroup
	for f := range feeds {
		t := mustTable(b, s.Store, fmt.Sprintf("table%d", f), KeepHistory)
		n := b.N/feeds + 1
		all.Go(func() {
			var done sync.WaitGroup
			for i := range n {
				var batch Batch
				batch.Put(t, Record{Key: objectKey(i % 1000), Revision: uint64(i + 1), Value: value})
				done.Add(1)
				s.CommitAsync(&batch, func(err error) {
					if err != nil {
						b.Error(err)
					}
					done.Done()
				})
			}
			done.Wait()
		})
	}
	all.Wait()
	reportAmplification(b, before, s.Stats(), b.N)
}

// BenchmarkFanOut is one event to ten watchers at the end of the history.
func BenchmarkFanOut(b *testing.B) { eachWay(b, benchmarkFanOut) }

func benchmarkFanOut(b *testing.B, opts Options) {
	opts.HistoryPerTable = 100000
	s := start(b, b.TempDir(), opts)
	t := mustTable(b, s.Store, "pods", KeepHistory)
	value := object(1)
	ctx, cancel := context.WithCancel(b.Context())
	var seen atomic.Int64
	var watchers sync.WaitGroup
	for range 10 {
		c, err := t.Since(0)
		if err != nil {
			b.Fatal(err)
		}
		watchers.Go(func() {
			for {
				changed := t.Changed()
				events, err := c.Next(64)
				if err != nil {
					b.Error(err)
					return
				}
				seen.Add(int64(len(events)))
				if len(events) > 0 {
					continue
				}
				select {
				case <-changed:
				case <-ctx.Done():
					return
				}
			}
		})
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		var batch Batch
		batch.Put(t, Record{Key: objectKey(i % 1000), Revision: uint64(i + 1), Value: value})
		s.CommitAsync(&batch, func(err error) {
			if err != nil {
				b.Error(err)
			}
		})
	}
	for seen.Load() < int64(b.N)*10 {
		runtime.Gosched()
	}
	b.StopTimer()
	cancel()
	watchers.Wait()
}

// BenchmarkList reads 5,000 objects in key order: as the list came that brought them, and after 20,000 changes.
func BenchmarkList(b *testing.B) { eachWay(b, benchmarkLists) }

func benchmarkLists(b *testing.B, opts Options) {
	const n = 5000
	s := start(b, b.TempDir(), opts)
	t := mustTable(b, s.Store, "pods", KeepHistory)
	fillTable(b, t, n)
	b.Run("fresh", func(b *testing.B) { benchmarkList(b, t, n) })
	value := object(2)
	for i := range 4 * n {
		var batch Batch
		batch.Put(t, Record{Key: objectKey(i * 7919 % n), Revision: uint64(n + i + 1), Value: value})
		s.CommitAsync(&batch, func(err error) {
			if err != nil {
				b.Error(err)
			}
		})
	}
	mustCommit(b, s.Store, &Batch{})
	b.Run("changed", func(b *testing.B) { benchmarkList(b, t, n) })
}

func benchmarkList(b *testing.B, t *Table, n int) {
	b.SetBytes(int64(n) * objectSize)
	b.ReportAllocs()
	for b.Loop() {
		v := t.View()
		got := 0
		for r, err := range v.Records("") {
			if err != nil {
				b.Fatal(err)
			}
			got += len(r.Value)
		}
		v.Release()
		if got != n*objectSize {
			b.Fatal(got)
		}
	}
}

// BenchmarkOpen opens a store of 20,000 objects, after 40,000 changes of them, and lists 30 of them. The page cache is empty.
func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	fillStore(b, dir)
	for b.Loop() {
		b.StopTimer()
		dropCache(b, dir)
		b.StartTimer()
		s, err := Open(dir, Options{})
		if err != nil {
			b.Fatal(err)
		}
		t, err := s.Table("pods", KeepHistory)
		if err != nil {
			b.Fatal(err)
		}
		v := t.View()
		n := 0
		for _, err := range v.Records("") {
			if err != nil {
				b.Fatal(err)
			}
			if n++; n == 30 {
				break
			}
		}
		if v.Len() != 20000 {
			b.Fatal(v.Len())
		}
		v.Release()
		b.StopTimer()
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

func fillStore(b *testing.B, dir string) {
	s := start(b, dir, Options{})
	t := mustTable(b, s.Store, "pods", KeepHistory)
	fillTable(b, t, 20000)
	value := object(2)
	for i := range 40000 {
		var batch Batch
		batch.Put(t, Record{Key: objectKey(i * 7919 % 20000), Revision: uint64(20001 + i), Value: value})
		s.CommitAsync(&batch, func(err error) {
			if err != nil {
				b.Error(err)
			}
		})
	}
	if err := s.stop(); err != nil {
		b.Fatal(err)
	}
}

func dropCache(b *testing.B, dir string) {
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		b.Fatal(err)
	}
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			b.Fatal(err)
		}
		if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
			b.Fatal(err)
		}
		f.Close()
	}
}

// BenchmarkMemory reports what a record and an empty table take.
func BenchmarkMemory(b *testing.B) {
	heap := func() float64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc)
	}
	for b.Loop() {
		s, err := tryStart(b.TempDir(), Options{})
		if err != nil {
			b.Fatal(err)
		}
		before := heap()
		t := mustTable(b, s.Store, "pods", KeepHistory)
		fillTable(b, t, 20000)
		var batch Batch // the next segment: the index of the last one goes to its footer
		batch.Put(t, Record{Key: "last", Revision: 20001, Value: object(3)})
		if err := s.Commit(context.Background(), &batch); err != nil {
			b.Fatal(err)
		}
		after := heap()
		for i := range 5000 {
			mustTable(b, s.Store, fmt.Sprintf("table%05d", i), KeepHistory)
		}
		tables := heap()
		b.ReportMetric((after-before)/20000, "bytes/record")
		b.ReportMetric((tables-after)/5000, "bytes/table")
		if err := s.stop(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPaced measures what reaches the block device (the whole machine's, so nothing else may write) for each byte of
// objects, and the latency of commits, at a steady rate.
func BenchmarkPaced(b *testing.B) {
	device := os.Getenv("STORE_BLOCK_DEVICE") // "vda"
	if device == "" {
		b.Skip("STORE_BLOCK_DEVICE does not name the device of the temporary directory")
	}
	value := object(1)
	pod := func(batch *Batch, t *Table, i int) {
		batch.Put(t, Record{Key: objectKey(i * 7919 % 20000), Revision: uint64(30000 + i), Value: value})
	}
	bookmark := func(batch *Batch, t *Table, i int) { batch.SetRevision(t, uint64(30000+i)) }
	for _, bm := range []struct {
		name   string
		rate   time.Duration
		change func(*Batch, *Table, int)
	}{
		{"1-a-second", 1, pod}, {"100-a-second", 100, pod}, {"1000-a-second", 1000, pod}, {"bookmark", 100, bookmark},
	} {
		b.Run(bm.name, func(b *testing.B) {
			s := start(b, b.TempDir(), Options{})
			t := mustTable(b, s.Store, "pods", KeepHistory)
			fillTable(b, t, 20000)
			put(b, t, "last", 20001, "") // the swap's segment gets its footer
			var latency []time.Duration
			unix.Sync()
			before := written(b, device)
			next := time.Now()
			for i := range b.N {
				time.Sleep(time.Until(next))
				next = next.Add(time.Second / bm.rate)
				var batch Batch
				bm.change(&batch, t, i)
				begin := time.Now()
				s.CommitAsync(&batch, func(err error) {
					if err != nil {
						b.Error(err)
					}
					latency = append(latency, time.Since(begin))
				})
			}
			if err := s.stop(); err != nil {
				b.Fatal(err)
			}
			unix.Sync()
			bytes := float64(written(b, device)-before) / float64(b.N)
			b.ReportMetric(bytes, "device-bytes/op")
			b.ReportMetric(bytes/objectSize, "device-bytes/byte")
			slices.Sort(latency)
			b.ReportMetric(float64(latency[len(latency)/2].Microseconds()), "µs-p50")
			b.ReportMetric(float64(latency[len(latency)*99/100].Microseconds()), "µs-p99")
		})
	}
}

func written(b *testing.B, device string) int64 {
	data, err := os.ReadFile("/sys/block/" + device + "/stat")
	if err != nil {
		b.Fatal(err)
	}
	var f [7]int64
	if _, err := fmt.Sscan(string(data), &f[0], &f[1], &f[2], &f[3], &f[4], &f[5], &f[6]); err != nil {
		b.Fatal(err)
	}
	return f[6] * 512
}
