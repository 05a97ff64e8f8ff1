package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"yurt/internal/failpoint"
)

// enterDir makes sure that the directory is a store's, this process's alone, and locks it. Nothing is created in a
// directory that is something else.
func (s *Store) enterDir() error {
	if err := makeDir(s.dir); err != nil {
		return err
	}
	root, err := os.OpenRoot(s.dir)
	if err != nil {
		return err
	}
	s.root = root
	if err := s.checkDir(); err != nil {
		return err
	}
	if _, err := s.survey(); err != nil {
		return err
	}
	return s.lockDir()
}

// makeDir creates the directory, and those above it, if they are missing, durably.
func makeDir(dir string) error {
	dir = filepath.Clean(dir)
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := makeDir(filepath.Dir(dir)); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	parent, err := os.Open(filepath.Dir(dir))
	if err != nil {
		return err
	}
	defer parent.Close()
	return parent.Sync()
}

// checkDir refuses a directory of another user, and one that can't be written.
func (s *Store) checkDir() error {
	info, err := s.root.Stat(".")
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("it belongs to user %d, not to %d: %w", st.Uid, os.Geteuid(), ErrForeign)
	}
	if err := unix.Access(s.dir, unix.W_OK|unix.X_OK); err != nil {
		return fmt.Errorf("it can't be written: %w", err)
	}
	return nil
}

// survey lists the segments, oldest first, and fails if there is anything that a store of this release has not made.
func (s *Store) survey() ([]uint32, error) {
	entries, err := fs.ReadDir(s.root.FS(), ".")
	if err != nil {
		return nil, err
	}
	var ids []uint32
	for _, e := range entries {
		id, isSegment := parseSegmentName(e.Name())
		if err := checkFile(e); err != nil {
			return nil, err
		}
		switch {
		case e.Name() == "lost+found" && e.IsDir(): // of a file system of its own
		case !e.Type().IsRegular():
			return nil, fmt.Errorf("%s is not a regular file: %w", e.Name(), ErrForeign)
		case isSegment:
			ids = append(ids, id)
		case e.Name() == lockName, e.Name() == spareName:
		default:
			return nil, fmt.Errorf("it has a file %s: %w", e.Name(), ErrForeign)
		}
	}
	return ids, s.checkFormat(ids)
}

// checkFile refuses a file that somebody else can change.
func checkFile(e fs.DirEntry) error {
	info, err := e.Info()
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && info.Mode().IsRegular() && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to user %d, not to %d: %w", e.Name(), st.Uid, os.Geteuid(), ErrForeign)
	}
	return nil
}

// names is how many names a file has: to write to one with several is to write elsewhere, too.
func names(info fs.FileInfo) int {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Nlink)
	}
	return 1
}

// checkFormat fails if a segment is of a newer format, or if there are segments and none looks like one.
func (s *Store) checkFormat(ids []uint32) error {
	foreign := len(ids) > 0
	for _, id := range ids {
		f, err := s.root.Open(segmentName(id))
		if err != nil {
			return err
		}
		var head [segmentHeaderSize]byte
		n, _ := f.ReadAt(head[:], 0)
		_, err = decodeSegmentHeader(head[:n])
		if errors.Is(err, ErrNewer) {
			f.Close()
			return fmt.Errorf("%s: %w", segmentName(id), err)
		}
		if err == nil || isBlank(head[:n]) || anyFrame(f, id) {
			foreign = false
		}
		f.Close()
	}
	if foreign {
		return fmt.Errorf("its files have the names of a log but not its contents: %w", ErrForeign)
	}
	return nil
}

func isBlank(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// lockDir takes the lock for this process; it ends with the file, so also with a crash.
func (s *Store) lockDir() error {
	f, err := s.root.OpenFile(lockName, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	s.lock = f
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return ErrLocked
		}
		return os.NewSyscallError("flock", err)
	}
	// Keys and sizes are nobody else's business either.
	if err := s.root.Chmod(".", 0o700); err != nil {
		return err
	}
	return failpoint.Hit(failpoint.StoreOpenLocked)
}
