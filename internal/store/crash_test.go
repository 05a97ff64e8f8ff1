package store

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"yurt/internal/failpoint"
)

// TestKillAtEveryFailpoint kills a process that works on a store, at each point in turn, the first time it comes by and
// later, and looks at what it leaves: everything that it was told is durable, and of the rest one operation at most, whole.
func TestKillAtEveryFailpoint(t *testing.T) {
	for _, name := range failpoint.All() {
		if !strings.HasPrefix(string(name), "store/") {
			continue
		}
		for _, spec := range []string{"kill", "after 3 kill", "after 40 kill"} {
			t.Run(fmt.Sprintf("%s=%s", name, spec), func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				acked, killed := runChild(t, dir, string(name)+"="+spec)
				if !killed && spec == "kill" {
					t.Fatal("the point was not reached")
				}
				checkLife(t, dir, acked)
				// And once more, on what the first crash left.
				acked, _ = runChild(t, dir, string(name)+"="+spec)
				checkLife(t, dir, acked)
			})
		}
	}
}

// runChild works on the store until it is killed; it returns the last operation that was acknowledged.
func runChild(t *testing.T, dir, failpoints string) (acked int, killed bool) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+dir, failpoint.Env+"="+failpoints)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		if _, err := fmt.Sscanf(lines.Text(), "done %d", &acked); err != nil {
			t.Fatalf("%q: %v", lines.Text(), err)
		}
	}
	err = cmd.Wait()
	if err != nil && err.Error() != "signal: killed" {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	return acked, err != nil
}

const (
	childEnv        = "STORE_TEST_CHILD"
	childOperations = 150
)

func childOptions() Options {
	return Options{SegmentBytes: 4000, CompactAbove: 12000, HistoryPerTable: 20, RecentBytes: 1, Keys: testKeys("k")}
}

// child is the process that is killed: it goes on with the operation after the last one that it finds done.
func child(dir string) {
	err := failpoint.FromEnv()
	if err == nil {
		err = work(dir, childOptions(), os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func work(dir string, opts Options, acks io.Writer) error {
	s, err := tryStart(dir, opts)
	if err != nil {
		return err
	}
	a, err := s.Table("a", KeepHistory)
	if err != nil {
		return err
	}
	b, err := s.Table("b", NoHistory)
	if err != nil {
		return err
	}
	first := int(a.Revision()) + 1
	for i := first; i < first+childOperations; i++ {
		if err := operate(s.Store, a, b, i); err != nil {
			return fmt.Errorf("operation %d: %w", i, err)
		}
		fmt.Fprintf(acks, "done %d\n", i)
		for _, err := range readAll(a) {
			if err != nil {
				return err
			}
		}
	}
	return s.stop()
}

// readAll gives the errors of reading a table.
func readAll(t *Table) []error {
	v := t.View()
	defer v.Release()
	var errs []error
	for _, err := range v.Records("") {
		errs = append(errs, err)
	}
	return errs
}

// operate does the ith operation; life says what comes of it.
func operate(s *Store, a, b *Table, i int) error {
	ctx := context.Background()
	if i%11 == 10 {
		g := a.Stage()
		defer g.Abort()
		for key, r := range relist(i) {
			if err := g.Add(ctx, Record{Key: key, Revision: r.revision, Value: []byte(r.value)}); err != nil {
				return err
			}
		}
		_, err := g.Swap(ctx, uint64(i), nil)
		return err
	}
	var batch Batch
	for key, r := range changes(i) {
		batch.Put(a, Record{Key: key, Revision: r.revision, Value: []byte(r.value)})
		batch.Put(b, Record{Key: key, Revision: 1, Value: []byte(r.value)})
	}
	if i%3 == 0 {
		batch.Delete(a, fmt.Sprintf("k%d", i*5%7), uint64(i), nil)
		batch.Delete(b, fmt.Sprintf("k%d", i*5%7), 0, nil)
	}
	return s.Commit(ctx, &batch)
}

func content(i, key int) modelRecord {
	return modelRecord{uint64(i), "", strings.Repeat(string(rune('a'+i%26)), 30+i*key%200)}
}

func changes(i int) map[string]modelRecord {
	return map[string]modelRecord{fmt.Sprintf("k%d", i%7): content(i, i%7), fmt.Sprintf("k%d", i*3%7): content(i, i*3%7)}
}

func relist(i int) map[string]modelRecord {
	records := map[string]modelRecord{}
	for k := range 5 {
		records[fmt.Sprintf("k%d", (i+k)%7)] = content(i, k)
	}
	return records
}

// life returns both tables after n operations.
func life(n int) (a, b map[string]string) {
	a, b = map[string]string{}, map[string]string{}
	for i := 1; i <= n; i++ {
		if i%11 == 10 {
			clear(a)
			for key, r := range relist(i) {
				a[key] = fmt.Sprintf("%d:%s", r.revision, r.value)
			}
			continue
		}
		for key, r := range changes(i) {
			a[key] = fmt.Sprintf("%d:%s", r.revision, r.value)
			b[key] = fmt.Sprintf("1:%s", r.value)
		}
		if i%3 == 0 {
			delete(a, fmt.Sprintf("k%d", i*5%7))
			delete(b, fmt.Sprintf("k%d", i*5%7))
		}
	}
	return a, b
}

// checkLife opens what a killed process left.
func checkLife(t *testing.T, dir string, acked int) {
	t.Helper()
	s, err := tryStart(dir, childOptions())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.stop(); err != nil {
			t.Error(err)
		}
	}()
	a, b := mustTable(t, s.Store, "a", KeepHistory), mustTable(t, s.Store, "b", NoHistory)
	if err := errors.Join(a.Doubt(), b.Doubt()); err != nil {
		t.Error(err)
	}
	n := int(a.Revision())
	if acked > 0 && n != acked && n != acked+1 {
		t.Fatalf("%d operations are there, %d were acknowledged", n, acked)
	}
	wantA, wantB := life(n)
	if diff := cmp.Diff(wantA, contentsOf(t, a)); diff != "" {
		t.Errorf("table a after %d operations: %s", n, diff)
	}
	if diff := cmp.Diff(wantB, contentsOf(t, b)); diff != "" {
		t.Errorf("table b after %d operations: %s", n, diff)
	}
	checkHistory(t, a, n)
}

// checkHistory replays the history from the oldest point on: it must lead to what the table holds.
func checkHistory(t *testing.T, a *Table, n int) {
	t.Helper()
	for from := range n + 1 {
		c, err := a.Since(uint64(from))
		if errors.Is(err, ErrExpired) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		got, _ := life(from)
		for {
			events, err := c.Next(3)
			if errors.Is(err, ErrExpired) {
				break // compaction goes on meanwhile, if there was something to seal
			}
			if err != nil {
				t.Fatalf("since %d: %v", from, err)
			}
			if len(events) == 0 {
				checkReplayed(t, got, from, n)
				break
			}
			for _, e := range events {
				if e.Type == Deleted {
					delete(got, e.Key)
				} else {
					got[e.Key] = string(e.Value)
				}
			}
		}
	}
}

func checkReplayed(t *testing.T, got map[string]string, from, n int) {
	t.Helper()
	want, _ := life(n)
	for key, v := range want {
		_, want[key], _ = strings.Cut(v, ":")
		if _, cut, ok := strings.Cut(got[key], ":"); ok {
			got[key] = cut
		}
	}
	if diff := cmp.Diff(want, maps.Clone(got)); diff != "" {
		t.Fatalf("history from %d to %d: %s", from, n, diff)
	}
}
