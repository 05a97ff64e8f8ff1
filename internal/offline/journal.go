package offline

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"yurt/internal/credential"
	"yurt/internal/store"
)

// The journal is bounded. The oldest entries of who has most of it go first.
const (
	journalEntries = 1000
	journalBytes   = 2 << 20
)

// Entry is one write of the dark time, as the client sent it.
type Entry struct {
	Method      string    `json:"method"`
	Path        string    `json:"path"` // with the query
	ContentType string    `json:"contentType"`
	Identity    string    `json:"identity,omitempty"`
	At          time.Time `json:"at"`
	Body        []byte    `json:"body"`
}

// Upstream is the way to the cloud.
type Upstream interface {
	RoundTrip(*http.Request, credential.Credential) (*http.Response, error)
	WaitUp(context.Context) error
}

// Journal keeps the events that were written while the cloud was away and
// writes them there when it is back (replay.go), with the timestamps that they
// carry.
type Journal struct {
	Node string // whose events they are; empty: nobody is told of dropped ones

	store *store.Store
	table *store.Table
	up    Upstream
	log   *slog.Logger
	wake  chan struct{} // something may be sent

	// writing is held for one change of the table, its commit included, so that
	// entries is what the table holds. Requests that write no event don't wait
	// for it.
	writing sync.Mutex

	mu       sync.Mutex
	next     uint64             // number of the next entry
	entries  []*note            // in the order of their numbers
	bytes    int64              // of all
	authors  map[string]*author // of the entries
	lost     loss
	replayed uint64
	dropped  uint64
}

// note is what is remembered of an entry; the rest is in the table.
type note struct {
	number uint64
	size   int64
	author *author
}

// author is an identity that has entries in the journal.
type author struct {
	name    string
	entries int
	cred    credential.Credential // the newest
	known   bool                  // cred is one; after a restart its next request brings it
}

// JournalStats is the journal as /status shows it.
type JournalStats struct {
	Pending           int
	Bytes             int64
	Replayed, Dropped uint64 // since the hub's start
}

// OpenJournal opens the store's journal.
func OpenJournal(st *store.Store, up Upstream, log *slog.Logger) (*Journal, error) {
	table, err := st.Table("journal", store.NoHistory)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	j := &Journal{store: st, table: table, up: up, log: log, wake: make(chan struct{}, 1), next: 1, authors: map[string]*author{}, lost: readLoss(table)}
	view := table.View()
	defer view.Release()
	for record, err := range view.Records("") {
		var e Entry
		if err == nil {
			_ = json.Unmarshal(record.Value, &e) // an unreadable entry is found so again, and dropped, when its turn comes
		}
		j.add(record.Revision, int64(len(record.Value)), j.author(e.Identity))
		j.next = record.Revision + 1
	}
	return j, nil
}

// author returns the author of that name. The node's credential is the hub's own.
func (j *Journal) author(name string) *author {
	if a := j.authors[name]; a != nil {
		return a
	}
	return &author{name: name, known: credential.Identity{Name: name}.IsNode()}
}

func (j *Journal) add(number uint64, size int64, a *author) {
	j.entries = append(j.entries, &note{number, size, a})
	j.bytes += size
	a.entries++
	j.authors[a.name] = a
}

// forget takes the entry at an index out of the notes.
func (j *Journal) forget(index int) {
	n := j.entries[index]
	j.entries = append(j.entries[:index], j.entries[index+1:]...)
	j.bytes -= n.size
	if n.author.entries--; n.author.entries == 0 {
		delete(j.authors, n.author.name) // and its credential: the journal holds no secret that it does not need
	}
}

// Append adds an entry and returns when it is durable. When the journal is full
// the oldest entries go of who has most of it; they are counted.
func (j *Journal) Append(ctx context.Context, e Entry, cred credential.Credential) error {
	e.Identity = cred.Identity.Name
	value, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("journal %s: %w", e.Path, err)
	}
	size := int64(len(value))
	if size > journalBytes {
		return fmt.Errorf("journal %s: %d bytes are more than the journal takes", e.Path, size)
	}
	j.writing.Lock()
	defer j.writing.Unlock()
	var batch store.Batch
	surplus := j.makeRoom(&batch, size)
	batch.Put(j.table, store.Record{Key: entryKey(j.next), Revision: j.next, Value: value})
	lost := j.lost.plus(len(surplus)) // it changes with writing held
	if len(surplus) > 0 {
		if err := lost.note(&batch, j.table); err != nil {
			return err
		}
	}
	// What is begun is ended: an entry that the notes lack would wait for the
	// next start.
	if err := j.store.Commit(context.WithoutCancel(ctx), &batch); err != nil {
		return fmt.Errorf("journal %s: %w", e.Path, err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, index := range slices.Backward(surplus) {
		j.forget(index)
	}
	j.dropped += uint64(len(surplus))
	j.lost = lost
	a := j.author(e.Identity)
	a.cred, a.known = cred, true
	j.add(j.next, size, a)
	j.next++
	j.notify()
	return nil
}

// makeRoom deletes the entries for which there is no room beside a new one, and
// returns their indices, ascending.
func (j *Journal) makeRoom(batch *store.Batch, size int64) []int {
	j.mu.Lock()
	defer j.mu.Unlock()
	held := newShares(bound{journalEntries, journalBytes}, credential.Node.Name)
	held.reserve(size)
	oldest := map[string][]int{}
	for i, n := range j.entries {
		held.add(n.author.name, n.size, 1)
		oldest[n.author.name] = append(oldest[n.author.name], i)
	}
	var surplus []int
	for held.over() && len(surplus) < len(j.entries) {
		victim := held.greediest()
		index := oldest[victim][0]
		oldest[victim] = oldest[victim][1:]
		n := j.entries[index]
		held.add(victim, n.size, -1)
		batch.Delete(j.table, entryKey(n.number), n.number, nil)
		surplus = append(surplus, index)
	}
	slices.Sort(surplus)
	return surplus
}

func (j *Journal) notify() {
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// Last returns the newest entry for which match holds.
func (j *Journal) Last(match func(Entry) bool) (Entry, bool) {
	view := j.table.View()
	defer view.Release()
	var last Entry
	var found bool
	for record, err := range view.Records("") {
		var e Entry
		if err == nil && json.Unmarshal(record.Value, &e) == nil && match(e) {
			last, found = e, true
		}
	}
	return last, found
}

// Remember notes a client's newest credential, if it has entries here.
func (j *Journal) Remember(cred credential.Credential) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if a := j.authors[cred.Identity.Name]; a != nil && (!a.known || a.cred != cred) {
		a.cred, a.known = cred, true
		j.notify()
	}
}

// Stats describes the journal at this moment.
func (j *Journal) Stats() JournalStats {
	j.mu.Lock()
	defer j.mu.Unlock()
	return JournalStats{Pending: len(j.entries), Bytes: j.bytes, Replayed: j.replayed, Dropped: j.dropped}
}

// entryKey keeps the entries in the order of their numbers.
func entryKey(n uint64) string { return string(binary.BigEndian.AppendUint64(nil, n)) }
