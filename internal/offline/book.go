package offline

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"yurt/internal/store"
)

// bookLimit bounds the number of answers in a book. The ones seen longest ago
// go first.
const bookLimit = 4096

// Answer is a complete answer that the API server gave once.
type Answer struct {
	ContentType string
	Revision    uint64 // of the object, if it is one
	At          time.Time
	Body        []byte
}

// Book holds the last answer to each of many questions, durably.
type Book struct {
	store *store.Store
	table *store.Table

	mu  sync.Mutex
	seq uint64 // the revision of the newest entry: entries are in the order of their keeping
}

// OpenBook opens the book of that name.
func OpenBook(st *store.Store, name string) (*Book, error) {
	table, err := st.Table("answers "+name, store.NoHistory)
	if err != nil {
		return nil, fmt.Errorf("open book of %s: %w", name, err)
	}
	b := &Book{store: st, table: table}
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
	b.mu.Lock()
	defer b.mu.Unlock()
	record, known, err := b.table.Get(question)
	if err != nil && !errors.Is(err, store.ErrDamaged) {
		return fmt.Errorf("keep answer to %s: %w", question, err)
	}
	if known && err == nil && b.seq-record.Revision < bookLimit/2 {
		if last, err := decodeAnswer(record.Value); err == nil && last.says(a) {
			return nil
		}
	}
	b.seq++
	var batch store.Batch
	batch.Put(b.table, store.Record{Key: question, Revision: b.seq, Value: encodeAnswer(a)})
	if !known {
		b.forgetOldest(&batch)
	}
	if err := b.store.Commit(ctx, &batch); err != nil {
		return fmt.Errorf("keep answer to %s: %w", question, err)
	}
	return nil
}

// says tells whether both answers mean the same. A review's age matters, so
// that a repeated answer counts as a new one after a while.
func (a Answer) says(other Answer) bool {
	return a.ContentType == other.ContentType && a.Revision == other.Revision && bytes.Equal(a.Body, other.Body) &&
		other.At.Sub(a.At) < reviewAge/2
}

// forgetOldest makes room for one more answer.
func (b *Book) forgetOldest(batch *store.Batch) {
	view := b.table.View()
	defer view.Release()
	if view.Len() < bookLimit {
		return
	}
	items := slices.Collect(view.Items(""))
	slices.SortFunc(items, func(a, b store.Item) int { return int(int64(a.Revision) - int64(b.Revision)) })
	for _, item := range items[:bookLimit/16] {
		batch.Delete(b.table, item.Key, item.Revision, nil)
	}
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

// Forget drops the answer to a question, if there is one.
func (b *Book) Forget(ctx context.Context, question string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	record, ok, err := b.table.Get(question)
	if !ok && err == nil {
		return nil
	}
	var batch store.Batch
	batch.Delete(b.table, question, record.Revision, nil)
	if err := b.store.Commit(ctx, &batch); err != nil {
		return fmt.Errorf("forget answer to %s: %w", question, err)
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
