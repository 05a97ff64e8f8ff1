package store

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"yurt/internal/failpoint"
)

const (
	queueBytes = 4 << 20 // queued values beyond which committing blocks
	groupBytes = 1 << 20 // of values in one write, unless a single batch has more
)

// request is something for the committer to do: build adds frames to a group, or leaves it as it was and fails.
type request struct {
	size  int64 // about what it adds to the log
	build func(*group) error
	done  func(error)
	// urgent: somebody waits for it, and may have nothing else to commit.
	urgent bool
	err    error
}

// queue is what waits for the committer: in order, and bounded by bytes.
type queue struct {
	mu       sync.Mutex
	requests []*request
	bytes    int64
	urgent   int // of requests
	closed   bool
	wake     chan struct{} // has an element when there is something to take
	room     chan struct{} // closed when something was taken; nil when nobody waits for that
}

func newQueue() *queue { return &queue{wake: make(chan struct{}, 1)} }

// push queues r, when there is room for it.
func (q *queue) push(ctx context.Context, r *request) error {
	for {
		q.mu.Lock()
		if q.closed {
			q.mu.Unlock()
			return ErrClosed
		}
		if q.bytes < queueBytes {
			q.requests = append(q.requests, r)
			q.bytes += r.size
			if r.urgent {
				q.urgent++
			}
			q.mu.Unlock()
			q.signal()
			return nil
		}
		if q.room == nil {
			q.room = make(chan struct{})
		}
		room := q.room
		q.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take waits for requests and returns those of the next group; none when the queue is closed and empty. Unless one is
// urgent, it waits for more until the given time.
func (q *queue) take(gather time.Time) []*request {
	for {
		q.mu.Lock()
		more := time.Until(gather)
		if len(q.requests) > 0 && (q.urgent > 0 || q.closed || more <= 0 || q.bytes >= groupBytes) {
			break
		}
		idle := len(q.requests) == 0
		if idle && q.closed {
			q.mu.Unlock()
			return nil
		}
		q.mu.Unlock()
		if idle {
			<-q.wake
			continue
		}
		select {
		case <-q.wake:
		case <-time.After(more):
		}
	}
	defer q.mu.Unlock()
	n, size := 0, int64(0)
	for n < len(q.requests) && (n == 0 || size+q.requests[n].size <= groupBytes) {
		size += q.requests[n].size
		if q.requests[n].urgent {
			q.urgent--
		}
		n++
	}
	taken := q.requests[:n:n]
	if q.requests = q.requests[n:]; len(q.requests) == 0 {
		q.requests = nil // let go of what was taken
	}
	q.bytes -= size
	if q.room != nil {
		close(q.room)
		q.room = nil
	}
	return taken
}

// close lets the committer finish what is queued.
func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	if q.room != nil {
		close(q.room)
		q.room = nil
	}
	q.mu.Unlock()
	q.signal()
}

// writer appends to the log: the newest segment, and what the next one must know of it.
type writer struct {
	segment  *segment // nil: the next commit begins one
	offset   int64    // everything before is durable
	footer   []byte   // the indexes of the segment's frames
	header   segmentHeader
	next     segmentHeader // of the segment to begin
	buffers  sync.Pool     // of groups that nobody keeps
	unmarked bool          // something was written since the last mark
	// Before this offset the file's blocks were written once: to write them again changes nothing but them.
	zeroed int64
}

// zeroBytes is how much of a fresh segment is filled with zeros at once. Each first write to a block costs the file
// system as much again in its journal, or more; this way it is paid for many blocks together.
const zeroBytes = 64 << 10

var zeros [zeroBytes]byte

func (s *Store) commitAll() {
	var gather time.Time
	for {
		requests := s.queue.take(gather)
		if requests == nil {
			break
		}
		gather = time.Now().Add(s.opts.Gather)
		s.commitGroup(requests)
	}
	s.writeMark()
}

// commitGroup builds, writes and publishes one group, and tells those who wait for it.
func (s *Store) commitGroup(requests []*request) {
	var size int64
	for _, r := range requests {
		size += r.size
	}
	err := s.writer.prepare(s, size)
	if err == nil {
		err = s.writeGroup(requests, size)
	}
	s.mu.Lock()
	before := s.stats.LastError
	s.stats.LastError = err
	for _, r := range requests {
		if r.err == nil {
			r.err = err
		}
		if r.err == nil {
			s.stats.Commits++
		}
	}
	due := s.compactionDueLocked()
	s.mu.Unlock()
	s.logOutcome(before, err)
	if err := failpoint.Hit(failpoint.StoreBeforeCallback); err != nil {
		s.log.Error("before callbacks", "err", err)
	}
	for i, r := range requests {
		r.done(r.err)
		requests[i] = nil // what it holds may be large, and the next group far
	}
	if due {
		select {
		case s.compact <- struct{}{}:
		default:
		}
	}
}

// logOutcome says when commits begin to fail and when they succeed again; each failure is told to its caller.
func (s *Store) logOutcome(before, err error) {
	switch {
	case err != nil && before == nil:
		s.log.Error("commits fail", "err", err)
	case err == nil && before != nil:
		s.log.Info("commits succeed again")
	}
}

func (s *Store) writeGroup(requests []*request, size int64) error {
	w := &s.writer
	g := &group{store: s, segment: w.segment, start: w.offset, changes: map[*Table]*change{}, buf: w.buffer(size)}
	for _, r := range requests {
		r.err = r.build(g)
	}
	if len(g.buf) > 0 {
		if err := w.write(s, g.buf, len(requests)); err != nil {
			return err
		}
		w.footer = append(w.footer, g.footer...)
		s.mu.Lock()
		s.stats.BytesMoved += g.moved
		s.mu.Unlock()
	}
	s.publish(g)
	if !g.kept && cap(g.buf) <= groupBytes {
		w.buffers.Put(&g.buf)
	}
	return nil
}

// buffer returns memory for a group.
func (w *writer) buffer(size int64) []byte {
	if buf, ok := w.buffers.Get().(*[]byte); ok && int64(cap(*buf)) >= size {
		return (*buf)[:0]
	}
	return make([]byte, 0, size+size/8+256)
}

// prepare makes sure that there is a segment with room.
func (w *writer) prepare(s *Store, size int64) error {
	full := w.offset+size+int64(len(w.footer)) > s.opts.SegmentBytes || int64(len(w.footer)) > s.opts.SegmentBytes/16
	if w.segment != nil && (!full || w.offset == segmentHeaderSize) {
		return nil
	}
	if w.segment != nil {
		w.finish(s)
	}
	seg, err := s.createSegment(w.next)
	if err != nil {
		return err
	}
	w.begin(seg, w.next, segmentHeaderSize, nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.disk += segmentHeaderSize
	closeAll(s.replaceSetLocked(append(s.set.list[:len(s.set.list):len(s.set.list)], seg)))
	return nil
}

// begin makes seg the segment to append to, at the given offset.
func (w *writer) begin(seg *segment, h segmentHeader, offset int64, footer []byte) {
	w.segment, w.header, w.offset, w.footer = seg, h, offset, footer
	// A reserved block that was never written is a hole.
	hole, err := unix.Seek(int(seg.file.Fd()), offset, unix.SEEK_HOLE)
	if err != nil {
		hole = math.MaxInt64
	}
	w.zeroed = hole
}

// zeroAhead fills the file with zeros from end on, if the blocks there are fresh.
func (w *writer) zeroAhead(end, limit int64) error {
	if end <= w.zeroed || end >= limit {
		return nil
	}
	w.zeroed = min((end/zeroBytes+1)*zeroBytes, limit)
	_, err := w.segment.file.WriteAt(zeros[:w.zeroed-end], end)
	return err
}

// finish ends the segment with a footer, so that Open need not read all of it. It may fail: then Open does.
func (w *writer) finish(s *Store) {
	end := w.offset
	w.next = segmentHeader{id: w.segment.id + 1, prevEnd: uint32(end)}
	footer := append(make([]byte, frameHeaderSize), w.footer...)
	putFrame(footer, w.segment.id, frameHeader{
		kind: frameFooter, salt: w.segment.salt, key: w.segment.key.tag(), synced: uint32(end), indexLen: uint32(len(w.footer)),
	})
	err := failpoint.Hit(failpoint.StoreBeforeFooter)
	if err == nil {
		err = w.write(s, footer, 0)
	}
	if err != nil {
		s.log.Warn("write footer", "segment", w.next.id-1, "err", err)
	} else {
		w.next.prevFooter = uint32(end)
	}
	w.segment = nil
	if err := failpoint.Hit(failpoint.StoreAfterFooter); err != nil {
		s.log.Warn("after footer", "err", err)
	}
}

// write appends b to the segment and makes it durable. After an error the segment is not written to again: what of b is
// in the file, and what the kernel thinks of those pages, is unknown.
func (w *writer) write(s *Store, b []byte, batches int) error {
	if w.offset+int64(len(b)) > math.MaxUint32 {
		return ErrTooLarge
	}
	begin := time.Now()
	err := w.writeAndSync(b, s.opts.SegmentBytes)
	took := time.Since(begin)

	s.mu.Lock()
	s.stats.Syncs++
	s.stats.LastSync = took
	s.stats.SlowestSync = max(s.stats.SlowestSync, took)
	if err == nil {
		s.stats.BytesWritten += int64(len(b))
	}
	s.mu.Unlock()
	if s.opts.Synced != nil {
		s.opts.Synced(Sync{Batches: batches, Bytes: int64(len(b)), Took: took, Err: err})
	}
	if err != nil {
		err = fmt.Errorf("write segment %d: %w", w.segment.id, err)
		w.abandon(s)
		return err
	}
	w.offset += int64(len(b))
	w.unmarked = true
	return nil
}

func (w *writer) writeAndSync(b []byte, limit int64) error {
	if err := failpoint.Hit(failpoint.StoreBeforeWrite); err != nil {
		return err
	}
	written := 0
	if failpoint.Armed(failpoint.StorePartWritten) {
		written = len(b) / 2
		if _, err := w.segment.file.WriteAt(b[:written], w.offset); err != nil {
			return err
		}
		if err := failpoint.Hit(failpoint.StorePartWritten); err != nil {
			return err
		}
	}
	if _, err := w.segment.file.WriteAt(b[written:], w.offset+int64(written)); err != nil {
		return err
	}
	if err := w.zeroAhead(w.offset+int64(len(b)), limit); err != nil {
		return err
	}
	if err := failpoint.Hit(failpoint.StoreBeforeSync); err != nil {
		return err
	}
	if err := fdatasync(w.segment.file); err != nil {
		return err
	}
	return failpoint.Hit(failpoint.StoreAfterSync)
}

// abandon ends the segment where it was durable last. One with nothing in it is removed, so that a disk that stays full
// does not fill with files.
func (w *writer) abandon(s *Store) {
	seg := w.segment
	w.segment = nil
	if w.offset > segmentHeaderSize {
		w.next = segmentHeader{id: seg.id + 1, prevEnd: uint32(w.offset)}
		// What was written in vain must not be seen by an Open that finds no next segment to bound this one.
		if err := seg.file.Truncate(w.offset); err != nil {
			s.log.Warn("truncate segment", "segment", seg.id, "err", err)
		}
		return
	}
	w.next = w.header
	s.mu.Lock()
	s.disk -= segmentHeaderSize
	unused := s.replaceSetLocked(s.set.list[:len(s.set.list)-1])
	s.mu.Unlock()
	closeAll(unused)
	if err := errors.Join(s.root.Remove(segmentName(seg.id)), s.syncDir()); err != nil {
		s.log.Warn("remove segment", "segment", seg.id, "err", err)
	}
}

// writeMark says in the log that it was closed in good order: then damage in its last frames can't pass for a torn tail.
func (s *Store) writeMark() {
	w := &s.writer
	err := failpoint.Hit(failpoint.StoreBeforeCloseMark)
	if err == nil && w.segment != nil && w.unmarked {
		mark := make([]byte, frameHeaderSize)
		putFrame(mark, w.segment.id, frameHeader{kind: frameMark, salt: w.segment.salt, key: w.segment.key.tag(), synced: uint32(w.offset)})
		err = w.write(s, mark, 0)
	}
	if err != nil {
		s.log.Warn("write mark", "err", err)
	}
}
