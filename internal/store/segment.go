package store

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"yurt/internal/failpoint"
)

// segment is one file of the log. Only the newest one grows, and only the committer writes to it.
type segment struct {
	id   uint32
	salt uint32
	key  keyID // of its values; 0: they are not sealed
	box  *box  // for them; nil if they are not sealed, or by a key that is not known
	file *os.File
	size int64 // end of its data that counts; guarded by Store.mu
	// lossy: a part of it could not be read at Open. Tables in doubt are written again before it goes.
	lossy bool
	refs  int // segment sets it is in; guarded by Store.mu
	// wipe: what is in it is in clear, and not wanted so any more. Guarded by Store.mu.
	wipe bool
}

// close lets go of a file that nobody reads any more.
func (seg *segment) close() {
	if info, err := seg.file.Stat(); seg.wipe && err == nil && names(info) == 0 { // else it is somebody's copy
		_ = overwrite(seg.file, info.Size()) // if it fails it is gone all the same
	}
	seg.file.Close()
}

// overwrite fills a file with zeros, so that its blocks, which are anybody's next, don't have its content. File systems
// that write elsewhere, and flash, keep it all the same.
func overwrite(f *os.File, size int64) error {
	for off := int64(0); off < size; off += zeroBytes {
		if _, err := f.WriteAt(zeros[:min(zeroBytes, size-off)], off); err != nil {
			return err
		}
	}
	return fdatasync(f)
}

const (
	segmentSuffix = ".seg"
	spareName     = "spare"
	lockName      = "LOCK"
)

func segmentName(id uint32) string { return fmt.Sprintf("%016x%s", id, segmentSuffix) }

func parseSegmentName(name string) (uint32, bool) {
	digits, ok := strings.CutSuffix(name, segmentSuffix)
	if !ok || len(digits) != 16 {
		return 0, false
	}
	id, err := strconv.ParseUint(digits, 16, 32)
	return uint32(id), err == nil && id > 0 && segmentName(uint32(id)) == name
}

// segmentSet is an immutable list of segments, oldest first. Who reads pins the set of the moment, so that no file in it
// is closed or reused meanwhile.
type segmentSet struct {
	list []*segment
	refs int // guarded by Store.mu
}

func (set *segmentSet) find(id uint32) *segment {
	i, ok := slices.BinarySearchFunc(set.list, id, func(s *segment, id uint32) int {
		return int(int64(s.id) - int64(id))
	})
	if !ok {
		return nil
	}
	return set.list[i]
}

// pin returns the current set; unpin must follow.
func (s *Store) pin() *segmentSet {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pinLocked()
}

func (s *Store) pinLocked() *segmentSet {
	s.set.refs++
	return s.set
}

func (s *Store) unpin(set *segmentSet) {
	s.mu.Lock()
	unused := s.unpinLocked(set)
	s.mu.Unlock()
	closeAll(unused)
}

// unpinLocked returns the segments that nobody needs any more; their files are to be closed.
func (s *Store) unpinLocked(set *segmentSet) (unused []*segment) {
	set.refs--
	if set.refs > 0 {
		return nil
	}
	for _, seg := range set.list {
		seg.refs--
		if seg.refs == 0 {
			unused = append(unused, seg)
		}
	}
	return unused
}

// replaceSetLocked makes list the current set.
func (s *Store) replaceSetLocked(list []*segment) (unused []*segment) {
	next := &segmentSet{list: list, refs: 1}
	for _, seg := range list {
		seg.refs++
	}
	old := s.set
	s.set = next
	if old == nil {
		return nil
	}
	return s.unpinLocked(old)
}

// createSegment makes the file of a new segment, from the spare one if there is one: overwriting blocks that exist costs
// half of what a growing file costs, in bytes and in time. It is durable under its name when this returns.
func (s *Store) createSegment(h segmentHeader) (*segment, error) {
	seg, err := s.tryCreateSegment(h)
	if err != nil {
		return nil, fmt.Errorf("create segment %d: %w", h.id, err)
	}
	return seg, nil
}

func (s *Store) tryCreateSegment(h segmentHeader) (*segment, error) {
	if err := failpoint.Hit(failpoint.StoreBeforeCreate); err != nil {
		return nil, err
	}
	name := segmentName(h.id)
	f, err := s.segmentFile(name)
	if err != nil {
		return nil, err
	}
	seg := &segment{id: h.id, salt: rand.Uint32(), key: s.sealingID(), file: f, size: segmentHeaderSize}
	h.version, h.salt, h.key = formatPlain, seg.salt, seg.key
	if h.key != 0 {
		h.version = formatSealed
	}
	err = s.unlock(seg)
	if err == nil {
		err = s.beginSegment(f, h)
	}
	if err != nil {
		f.Close()
		// Without a header that is durable it holds nothing; if it can't be removed, Open will see that too.
		return nil, errors.Join(err, s.root.Remove(name))
	}
	return seg, nil
}

func (s *Store) segmentFile(name string) (*os.File, error) {
	flags := os.O_RDWR | os.O_CREATE | os.O_EXCL
	s.mu.Lock()
	spare := s.spare
	s.spare = false
	s.mu.Unlock()
	if spare {
		if err := s.root.Rename(spareName, name); err == nil {
			flags = os.O_RDWR
		}
	}
	f, err := s.root.OpenFile(name, flags, 0o600)
	if errors.Is(err, os.ErrExist) { // left by an attempt that failed
		f, err = s.root.OpenFile(name, os.O_RDWR|os.O_TRUNC, 0o600)
	}
	return f, err
}

func (s *Store) beginSegment(f *os.File, h segmentHeader) error {
	if err := failpoint.Hit(failpoint.StoreAfterCreate); err != nil {
		return err
	}
	if err := reserve(f, s.opts.SegmentBytes); err != nil {
		return err
	}
	if _, err := f.WriteAt(h.encode(), 0); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := failpoint.Hit(failpoint.StoreAfterHeader); err != nil {
		return err
	}
	return s.syncDir()
}

// reserve allocates the blocks of a segment, so that commits neither move the end of the file nor run out of space.
func reserve(f *os.File, size int64) error {
	for {
		err := unix.Fallocate(int(f.Fd()), 0, 0, size)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
			return nil // then it grows with each commit
		case err != nil:
			return os.NewSyscallError("fallocate", err)
		}
		return nil
	}
}

func (s *Store) syncDir() error {
	d, err := s.root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func fdatasync(f *os.File) error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("fdatasync", err)
		}
	}
}

// readFull reads exactly len(b) bytes.
func readFull(f *os.File, b []byte, off int64) error {
	if err := failpoint.Hit(failpoint.StoreRead); err != nil {
		return err
	}
	n, err := f.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func closeAll(segments []*segment) {
	for _, seg := range segments {
		seg.close()
	}
}
