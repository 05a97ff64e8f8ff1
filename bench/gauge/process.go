package gauge

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// tick is what /proc counts processor time in.
const tick = 10 * time.Millisecond

// CPU returns the processor time that a process has used.
func CPU(pid int) (time.Duration, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("read processor time of %d: %w", pid, err)
	}
	_, rest, _ := strings.Cut(string(data), ") ") // the name may have spaces
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0, fmt.Errorf("read processor time of %d: %q", pid, data)
	}
	user, err := strconv.ParseInt(f[11], 10, 64)
	system, err2 := strconv.ParseInt(f[12], 10, 64)
	return time.Duration(user+system) * tick, errors.Join(err, err2)
}

// Memory is what a process takes, in MiB.
type Memory struct {
	RSS  float64 // VmRSS
	Anon float64 // RssAnon
}

// MemoryOf reads what a process takes now.
func MemoryOf(pid int) (Memory, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return Memory{}, fmt.Errorf("read memory of %d: %w", pid, err)
	}
	read := func(name string) float64 {
		_, rest, _ := strings.Cut(string(data), name+":")
		f := strings.Fields(rest)
		if len(f) == 0 {
			return 0
		}
		kib, _ := strconv.ParseFloat(f[0], 64) // the kernel writes numbers
		return kib / 1024
	}
	return Memory{RSS: read("VmRSS"), Anon: read("RssAnon")}, nil
}

// Peak watches the anonymous memory of a process while f runs, every few milliseconds, and returns the most that it was.
func Peak(ctx context.Context, pid int, f func() error) (most float64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		for ctx.Err() == nil {
			if m, err := MemoryOf(pid); err == nil {
				most = max(most, m.Anon)
			}
			time.Sleep(4 * time.Millisecond)
		}
	})
	err = f()
	cancel()
	watching.Wait()
	return most, err
}

// Evict drops the files of a directory, and given files, from the page cache.
func Evict(dir string, files ...string) error {
	err := filepath.WalkDir(dir, func(name string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files = append(files, name)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("drop page cache: %w", err)
	}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return fmt.Errorf("drop page cache: %w", err)
		}
		// Only what is clean can be dropped.
		err = errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
		f.Close()
		if err != nil {
			return fmt.Errorf("drop page cache of %s: %w", name, err)
		}
	}
	return nil
}
