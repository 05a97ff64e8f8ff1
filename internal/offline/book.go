package offline

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"yurt/internal/credential"
	"yurt/internal/store"
)

// A book is bounded. The answers given longest ago go first, of the client that
// has most of them.
const (
	bookEntries = 4096
	bookBytes   = 64 << 20
)

// Answer is a complete answer that the API server gave once.
type Answer struct {
	ContentType string
	Revision    uint64 // of the object, if it is one
	At          time.Time
	Body        []byte
}

// Book holds the last answer to each of many questions, durably.
type Book struct {
	store   *store.Store
	table   *store.Table
	entries int // at most
	bytes   int64

	mu  sync.Mutex // changes are queued under it, so that the last word on a question stays the last
	seq uint64     // the revision of the newest entry: entries are in the order of their keeping
}

// OpenBook opens the book of that name.
func OpenBook(st *store.Store, name string) (*Book, error) {
	table, err := st.Table("answers "+name, store.NoHistory)
	if err != nil {
		return nil, fmt.Errorf("open book of %s: %w", name, err)
	}
	b := &Book{store: st, table: table, entries: bookEntries, bytes: bookBytes}
	view := table.View()
	defer view.Release()
	for item := range view.Items("") {
		b.seq = max(b.seq, item.Revision)
	}
	return b, nil
}

// Keep remembers the answer to a question and returns when that is durable. An
// answer that says what the last one said is not written again, unless the last
// one is old enough to be forgotten soon.
func (b *Book) Keep(ctx context.Context, question string, a Answer) error {
	record, known, err := b.table.Get(question)
	if known && err == nil && b.recent(record.Revision) {
		if last, err := decodeAnswer(record.Value); err == nil && last.says(a) {
			return nil
		}
	}
	value := encodeAnswer(a)
	err = b.change(ctx, func(batch *store.Batch) {
		b.makeRoom(batch, int64(len(value)))
		batch.Put(b.table, store.Record{Key: question, Revision: b.seq, Value: value})
	})
	if err != nil {
		return fmt.Errorf("keep answer to %s: %w", question, err)
	}
	return nil
}

func (b *Book) recent(revision uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.seq-revision < uint64(b.entries/2)
}

// change commits what fill puts into a batch. Others may queue theirs meanwhile,
// to go with the same fdatasync.
func (b *Book) change(ctx context.Context, fill func(*store.Batch)) error {
	done := make(chan error, 1)
	b.mu.Lock()
	b.seq++
	var batch store.Batch
	fill(&batch)
	b.store.CommitAsync(&batch, func(err error) { done <- err })
	b.mu.Unlock()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// says tells whether both answers mean the same. A review's age matters, so
// that a repeated answer counts as a new one after a while.
func (a Answer) says(other Answer) bool {
	return a.ContentType == other.ContentType && a.Revision == other.Revision && bytes.Equal(a.Body, other.Body) &&
		other.At.Sub(a.At) < reviewAge/2
}

// makeRoom drops answers for which there is no room beside a new one, and more
// than must be: it looks at all of them.
func (b *Book) makeRoom(batch *store.Batch, size int64) {
	view := b.table.View()
	defer view.Release()
	if view.Len()+1 <= b.entries && view.Size()+size <= b.bytes {
		return
	}
	held := newShares(bound{b.entries * 15 / 16, b.bytes * 15 / 16}, owner(credential.Node.Name))
	held.reserve(size)
	oldest := map[string][]store.Item{}
	items := slices.Collect(view.Items(""))
	slices.SortFunc(items, func(a, b store.Item) int { return cmp.Compare(a.Revision, b.Revision) })
	for _, item := range items {
		held.add(ownerOf(item.Key), int64(item.Size), 1)
		oldest[ownerOf(item.Key)] = append(oldest[ownerOf(item.Key)], item)
	}
	for range items {
		if !held.over() {
			return
		}
		victim := held.greediest()
		item := oldest[victim][0]
		oldest[victim] = oldest[victim][1:]
		held.add(victim, int64(item.Size), -1)
		batch.Delete(b.table, item.Key, item.Revision, nil)
	}
}

// owner is how the questions of a client begin.
func owner(name string) string { return strconv.Quote(name) }

// ownerOf is the client whose question it is; "" for one that is nobody's.
func ownerOf(question string) string {
	quoted, err := strconv.QuotedPrefix(question)
	if err != nil {
		return ""
	}
	return quoted
}

// Recall returns the last answer to a question. A damaged one counts as none.
func (b *Book) Recall(question string) (Answer, bool) {
	record, ok, err := b.table.Get(question)
	if err != nil || !ok {
		return Answer{}, false
	}
	a, err := decodeAnswer(record.Value)
	return a, err == nil
}

// Questions returns the questions with an answer that begin with prefix.
func (b *Book) Questions(prefix string) []string {
	view := b.table.View()
	defer view.Release()
	var questions []string
	for item := range view.Items(prefix) {
		if !strings.HasPrefix(item.Key, prefix) {
			break
		}
		questions = append(questions, item.Key)
	}
	return questions
}

// Forget drops the answers to some questions, where there are any, and returns
// when that is durable.
func (b *Book) Forget(ctx context.Context, questions ...string) error {
	if len(questions) == 0 {
		return nil
	}
	err := b.change(ctx, func(batch *store.Batch) {
		for _, question := range questions {
			// An answer that is not visible yet may be queued: drop it unseen.
			batch.Delete(b.table, question, b.seq, nil)
		}
	})
	if err != nil {
		return fmt.Errorf("forget answer to %s: %w", questions[0], err)
	}
	return nil
}

// Len is the number of answers.
func (b *Book) Len() int {
	view := b.table.View()
	defer view.Release()
	return view.Len()
}

// An answer is stored as two varints (revision, Unix milliseconds), the content
// type with its length before it, and the body.
func encodeAnswer(a Answer) []byte {
	buf := make([]byte, 0, len(a.ContentType)+len(a.Body)+3*binary.MaxVarintLen64)
	buf = binary.AppendUvarint(buf, a.Revision)
	buf = binary.AppendVarint(buf, a.At.UnixMilli())
	buf = binary.AppendUvarint(buf, uint64(len(a.ContentType)))
	buf = append(buf, a.ContentType...)
	return append(buf, a.Body...)
}

var errAnswer = errors.New("stored answer is malformed")

func decodeAnswer(buf []byte) (Answer, error) {
	revision, n := binary.Uvarint(buf)
	if n <= 0 {
		return Answer{}, errAnswer
	}
	buf = buf[n:]
	at, n := binary.Varint(buf)
	if n <= 0 {
		return Answer{}, errAnswer
	}
	buf = buf[n:]
	length, n := binary.Uvarint(buf)
	if n <= 0 || length > uint64(len(buf)-n) {
		return Answer{}, errAnswer
	}
	buf = buf[n:]
	return Answer{Revision: revision, At: time.UnixMilli(at), ContentType: string(buf[:length]), Body: buf[length:]}, nil
}
