package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const lockPatience = time.Second // a process that was killed takes a moment to die

// lockDir makes the directory of a cluster and takes its lock, which lasts until the file is closed or the process dies. ErrInUse if
// somebody else still has it when patience is over.
func lockDir(dir string, patience time.Duration) (*os.File, error) {
	name := filepath.Join(dir, "lock")
	for deadline := time.Now().Add(patience); ; {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
		f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o644)
		if errors.Is(err, os.ErrNotExist) {
			continue // the directory was removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) && time.Now().Before(deadline) {
				time.Sleep(20 * time.Millisecond)
				continue
			}
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, ErrInUse
			}
			return nil, fmt.Errorf("lock %s: %w", name, err)
		}
		// Whoever had the lock before may have removed the file with the cluster; then this is the lock of nothing.
		if same, err := sameFile(f, name); err != nil || !same {
			f.Close()
			if err != nil {
				return nil, err
			}
			continue
		}
		return f, nil
	}
}

func sameFile(f *os.File, name string) (bool, error) {
	opened, err := f.Stat()
	if err != nil {
		return false, err
	}
	named, err := os.Stat(name)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return os.SameFile(opened, named), nil
}
