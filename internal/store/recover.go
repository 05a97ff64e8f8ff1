package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"yurt/internal/failpoint"
)

// found is a segment as Open finds it.
type found struct {
	*segment
	header segmentHeader
	begun  bool  // its header is there, or frames of it
	length int64 // of the file
	bound  int64 // end of its data, as the next segment says; 0: unknown
	footer int64 // where its footer is, as the next segment says; 0: unknown
}

// recover builds the tables from the log: from the footers of its segments where there are any, from the frames
// elsewhere, and for the newest segment, whose end is where the last commit was.
func (s *Store) recover() error {
	log, err := s.openSegments()
	if err != nil {
		return err
	}
	r := &replay{store: s, tables: map[uint32]*replayTable{}}
	for i, f := range log {
		if i > 0 && log[i-1].id+1 != f.id {
			r.lose(fmt.Errorf("segments %d to %d are missing", log[i-1].id+1, f.id-1))
		}
		if i == len(log)-1 {
			s.readNewest(r, f)
		} else {
			s.readFinished(r, f)
		}
		s.disk += f.size
	}
	r.finish()
	if u := s.Unopened(); u.Records > 0 {
		s.log.Error("records can't be opened: they are sealed by a key that is not known", "records", u.Records, "keys", u.Keys)
	}
	// A killed process may have made or renamed files, and not have come to sync the directory.
	if err := s.syncDir(); err != nil {
		return err
	}
	if err := s.findSpare(); err != nil {
		return err
	}
	return failpoint.Hit(failpoint.StoreOpenRecovered)
}

// openSegments opens all files of the log and makes them the current set.
func (s *Store) openSegments() ([]*found, error) {
	ids, err := s.survey()
	if err != nil {
		return nil, err
	}
	var log []*found
	for _, id := range ids {
		f, err := s.openSegment(id)
		if err != nil {
			return nil, err
		}
		log = append(log, f)
	}
	// A crash while a segment was made leaves a file that no commit has been written to.
	s.writer.next = segmentHeader{id: 1}
	if n := len(log); n > 0 && !log[n-1].begun {
		s.log.Warn("remove segment that was never begun", "segment", log[n-1].id)
		log[n-1].file.Close()
		if err := s.root.Remove(segmentName(log[n-1].id)); err != nil {
			return nil, err
		}
		s.writer.next.id = log[n-1].id
		log = log[:n-1]
	}
	var list []*segment
	for i, f := range log {
		list = append(list, f.segment)
		if i > 0 && f.header.id == log[i-1].id+1 {
			log[i-1].bound, log[i-1].footer = int64(f.header.prevEnd), int64(f.header.prevFooter)
			// Footers lie all over the disk: have them read side by side.
			_ = unix.Fadvise(int(log[i-1].file.Fd()), log[i-1].footer, scanWindow, unix.FADV_WILLNEED)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	closeAll(s.replaceSetLocked(list))
	return log, nil
}

func (s *Store) openSegment(id uint32) (*found, error) {
	file, err := s.root.OpenFile(segmentName(id), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return nil, err
	}
	f := &found{segment: &segment{id: id, file: file, size: segmentHeaderSize}, length: info.Size()}
	head := make([]byte, segmentHeaderSize)
	if err = readFull(file, head, 0); err == nil {
		f.header, err = decodeSegmentHeader(head)
	}
	switch {
	case err == nil && f.header.id == id:
		f.begun, f.salt, f.key = true, f.header.salt, f.header.key
	case err == nil: // a spare file whose new header did not make it
		f.header = segmentHeader{}
	default:
		var tag uint16
		f.salt, tag, f.begun = findSalt(file, id, f.length)
		f.key = s.keyOfTag(tag)
		f.lossy = true
		s.log.Error("segment header is damaged", "segment", id, "frames", f.begun, "err", err)
	}
	if err := s.unlock(f.segment); err != nil {
		file.Close()
		return nil, err
	}
	return f, nil
}

// readFinished replays a segment that another one follows: all in it was durable.
func (s *Store) readFinished(r *replay, f *found) {
	if !f.begun {
		s.loseSegment(r, f, errors.New("nothing in it can be read"))
		return
	}
	sc := &scanner{file: f.file, id: f.id, salt: f.salt, limit: f.length}
	if f.footer > 0 {
		p, err := sc.frame(f.footer)
		if err == nil && p.frame.kind == frameFooter {
			err = eachIndex(p.index, func(valuesAt int64, index []byte) error { return r.frame(f.id, valuesAt, index) })
			if err == nil {
				f.size = f.footer
				return
			}
		}
		s.log.Warn("read footer", "segment", f.id, "err", err)
	}
	if f.bound > 0 {
		sc.limit = min(f.bound, f.length)
	}
	parts := sc.scan()
	end := int64(segmentHeaderSize)
	for _, p := range parts {
		s.replayPart(r, f, p)
		end = p.end
	}
	f.size = max(end, f.bound)
	complete := f.bound > 0 && end == f.bound || f.bound == 0 && len(parts) > 0 && parts[len(parts)-1].frame.kind == frameFooter
	if !complete {
		s.loseSegment(r, f, fmt.Errorf("its end is lost, from offset %d on", end))
	}
}

// replayPart applies one part of a segment that is known to have been durable.
func (s *Store) replayPart(r *replay, f *found, p part) {
	if p.frame.kind == 0 {
		s.loseSegment(r, f, fmt.Errorf("bytes %d to %d can't be read", p.offset, p.end))
		return
	}
	if p.frame.kind != frameBatch {
		return
	}
	if err := r.frame(f.id, p.frame.valuesAt(p.offset), p.index); err != nil {
		s.loseSegment(r, f, err)
	}
}

func (s *Store) loseSegment(r *replay, f *found, err error) {
	f.lossy = true
	r.lose(fmt.Errorf("segment %d: %w", f.id, err))
}

// readNewest replays the segment that was written last. A group that was being written when the end came is cut off; what
// a later frame knows to have been durable, and is not there, is damage.
func (s *Store) readNewest(r *replay, f *found) {
	sc := &scanner{file: f.file, id: f.id, salt: f.salt, limit: f.length}
	parts := sc.scan()
	durable := durableEnd(parts)
	w := &s.writer
	tail, used := int64(segmentHeaderSize), 0
	var footer []byte
	for _, p := range parts {
		if p.offset >= durable && (p.frame.kind == 0 || !sc.whole(p)) {
			s.log.Warn("cut off an unfinished commit", "segment", f.id, "offset", p.offset)
			break
		}
		s.replayPart(r, f, p)
		if p.frame.kind == frameFooter {
			break
		}
		if p.frame.kind == frameBatch && len(p.index) > 0 {
			footer = appendFooter(footer, p.frame.valuesAt(p.offset), p.index)
		}
		tail = p.end
		used++
	}
	f.size = tail
	// What a killed process has written may be in memory only: nobody may see it before it is durable.
	err := fdatasync(f.file)
	if err != nil {
		s.log.Error("sync newest segment", "segment", f.id, "err", err)
	}
	if used == len(parts) && err == nil && !f.lossy && f.key == s.sealingID() {
		w.begin(f.segment, f.header, tail, footer)
		return
	}
	// There is something behind the end that a later scan must not take for part of the log, or what comes next is sealed
	// by another key.
	w.next = segmentHeader{id: f.id + 1, prevEnd: uint32(tail)}
}

// findSpare keeps the spare file for the next segment, unless what it held as another one is in clear and must not be, or
// it has another name as well.
func (s *Store) findSpare() error {
	f, err := s.root.OpenFile(spareName, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if names(info) > 1 {
		return s.root.Remove(spareName)
	}
	head := make([]byte, segmentHeaderSize)
	n, _ := f.ReadAt(head, 0)
	if h, err := decodeSegmentHeader(head[:n]); s.sealingKey() == nil || err == nil && h.key != 0 {
		s.spare = true
		return nil
	}
	if err := overwrite(f, info.Size()); err != nil {
		return err
	}
	return s.root.Remove(spareName)
}
