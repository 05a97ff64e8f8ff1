package store

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestPowerCut works on a store in a file system of its own, whose power is cut at random moments: what was not synced is
// gone, on a real ext4, whatever the kernel had in mind. STORE_POWER_CUTS makes it longer.
func TestPowerCut(t *testing.T) {
	cuts := 10
	if n, err := strconv.Atoi(os.Getenv("STORE_POWER_CUTS")); err == nil {
		cuts = n
	}
	disk := newCutDisk(t)
	dir := filepath.Join(disk.mount, "store")
	done := 0
	for i := range cuts {
		known, acked := disk.workUntilCut(t, dir)
		checkLife(t, dir, 0)
		s, err := tryStart(dir, childOptions())
		if err != nil {
			t.Fatal(err)
		}
		before := done
		done = int(mustTable(t, s.Store, "a", KeepHistory).Revision())
		if err := s.stop(); err != nil {
			t.Fatal(err)
		}
		if done < max(known, before) || done > max(acked, before)+1 {
			t.Fatalf("cut %d: %d operations are there; %d were before, %d acknowledged before the cut, %d at all", i, done, before, known, acked)
		}
		if t.Failed() {
			t.Fatalf("cut %d", i)
		}
	}
	t.Logf("%d operations", done)
}

// cutDisk is a file system in a file.
type cutDisk struct{ image, mount string }

func newCutDisk(t *testing.T) *cutDisk {
	dir := t.TempDir()
	d := &cutDisk{filepath.Join(dir, "image"), filepath.Join(dir, "mount")}
	if err := os.Mkdir(d.mount, 0o700); err != nil {
		t.Fatal(err)
	}
	err := command("truncate", "-s", "128M", d.image)
	if err == nil {
		err = command("mkfs.ext4", "-q", "-F", d.image)
	}
	if err == nil {
		err = command("mount", "-o", "loop", d.image, d.mount)
	}
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("no file system to cut the power of: %v", err)
	}
	t.Cleanup(func() {
		if err := d.unmount(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func command(args ...string) error {
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w: %s", args, err, out)
	}
	return nil
}

func (d *cutDisk) unmount() (err error) {
	for range 100 {
		if err = command("umount", d.mount); err == nil {
			return nil
		}
		time.Sleep(10 * time.Millisecond) // the killed process is not quite gone
	}
	return err
}

// workUntilCut returns the last operation that is known to have been acknowledged before the cut, and the last one at all:
// a process may outlive its disk for a moment, and the kernel's word is worth nothing then.
func (d *cutDisk) workUntilCut(t *testing.T, dir string) (known, acked int) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+dir)
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	var last atomic.Int64
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			var n int64
			if _, err := fmt.Sscanf(lines.Text(), "done %d", &n); err == nil {
				last.Store(n)
			}
		}
	}()
	time.Sleep(time.Duration(rand.IntN(120)) * time.Millisecond)

	known = int(last.Load())
	if err := d.cut(); err != nil {
		t.Error(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	<-ended
	_ = cmd.Wait() // killed, or out of a disk
	if err := d.unmount(); err != nil {
		t.Fatal(err)
	}
	if err := command("mount", "-o", "loop", d.image, d.mount); err != nil {
		t.Fatal(err)
	}
	return known, int(last.Load())
}

// cut shuts the file system down without writing anything more, its journal included.
func (d *cutDisk) cut() error {
	const (
		fsIocShutdown = 0x8004587d
		noLogFlush    = 2
	)
	f, err := os.Open(d.mount)
	if err != nil {
		return err
	}
	defer f.Close()
	return os.NewSyscallError("FS_IOC_SHUTDOWN", unix.IoctlSetPointerInt(int(f.Fd()), fsIocShutdown, noLogFlush))
}
