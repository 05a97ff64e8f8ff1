package offline

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"yurt/internal/backoff"
	"yurt/internal/credential"
	"yurt/internal/store"
)

const (
	journalEntries = 1000
	journalBytes   = 2 << 20
)

// Entry is one write of the dark time, as the client sent it.
type Entry struct {
	Method      string    `json:"method"`
	Path        string    `json:"path"`
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
// writes them there when it is back: in order, with the timestamps that they
// carry. An event's name is chosen by its client, so that one which is sent
// twice, after a power cut in the middle, exists once.
type Journal struct {
	store *store.Store
	table *store.Table
	up    Upstream
	log   *slog.Logger
	wake  chan struct{}

	mu       sync.Mutex
	next     uint64
	creds    map[string]credential.Credential // the newest of each identity
	replayed uint64
	dropped  uint64
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
	j := &Journal{store: st, table: table, up: up, log: log, wake: make(chan struct{}, 1), next: 1, creds: map[string]credential.Credential{"": {}}}
	view := table.View()
	defer view.Release()
	for item := range view.Items("") {
		j.next = max(j.next, item.Revision+1)
	}
	return j, nil
}

// Append adds an entry and returns when it is durable. When the journal is full
// its oldest entries go; they are counted.
func (j *Journal) Append(ctx context.Context, e Entry, cred credential.Credential) error {
	e.Identity = cred.Identity.Name
	value, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("journal %s: %w", e.Path, err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.creds[e.Identity] = cred
	var batch store.Batch
	batch.Put(j.table, store.Record{Key: entryKey(j.next), Revision: j.next, Value: value})
	dropped := j.makeRoom(&batch, int64(len(value)))
	if err := j.store.Commit(ctx, &batch); err != nil {
		return fmt.Errorf("journal %s: %w", e.Path, err)
	}
	j.next++
	j.dropped += dropped
	select {
	case j.wake <- struct{}{}:
	default:
	}
	return nil
}

func (j *Journal) makeRoom(batch *store.Batch, size int64) (dropped uint64) {
	view := j.table.View()
	defer view.Release()
	entries, bytes := view.Len()+1, view.Size()+size
	for item := range view.Items("") {
		if entries <= journalEntries && bytes <= journalBytes {
			break
		}
		batch.Delete(j.table, item.Key, item.Revision, nil)
		entries, bytes, dropped = entries-1, bytes-int64(item.Size), dropped+1
	}
	return dropped
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

// Run replays the journal whenever the link is up and something is in it.
func (j *Journal) Run(ctx context.Context) error {
	retry := backoff.Backoff{Base: time.Second, Cap: time.Minute}
	for {
		if err := j.up.WaitUp(ctx); err != nil {
			return nil
		}
		if err := j.replay(ctx); err != nil {
			j.log.Debug("journal replay interrupted", "error", err)
			if retry.Wait(ctx) != nil {
				return nil
			}
			continue
		}
		retry.Reset()
		select {
		case <-j.wake:
		case <-ctx.Done():
			return nil
		}
	}
}

// replay sends the entries in order. It stops at the first that gets no answer.
func (j *Journal) replay(ctx context.Context) error {
	for {
		view := j.table.View()
		var record store.Record
		var damaged error
		found := false
		for record, damaged = range view.Records("") {
			found = true
			break
		}
		view.Release()
		if !found {
			return nil
		}
		accepted := false
		if damaged == nil {
			var err error
			if accepted, err = j.send(ctx, record.Value); err != nil {
				return err
			}
		}
		if err := j.remove(ctx, record, accepted); err != nil {
			return err
		}
	}
}

func (j *Journal) remove(ctx context.Context, record store.Record, accepted bool) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	var batch store.Batch
	batch.Delete(j.table, record.Key, record.Revision, nil)
	if err := j.store.Commit(ctx, &batch); err != nil {
		return err
	}
	if accepted {
		j.replayed++
	} else {
		j.dropped++
	}
	return nil
}

// send replays one entry. It reports whether the API server has taken it, now
// or before; an error means that it gave no answer.
func (j *Journal) send(ctx context.Context, value []byte) (bool, error) {
	var e Entry
	if err := json.Unmarshal(value, &e); err != nil {
		return false, nil //nolint:nilerr // an unreadable entry is dropped and counted
	}
	cred, ok := j.credential(e.Identity)
	if !ok {
		return false, errors.New("no credential of " + e.Identity + " yet")
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, e.Method, e.Path, bytes.NewReader(e.Body))
	if err != nil {
		return false, nil //nolint:nilerr // as above
	}
	r.Header.Set("Content-Type", e.ContentType)
	r.Header.Set("Accept", "application/json")
	resp, err := j.up.RoundTrip(r, cred)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		return false, err
	}
	switch {
	case resp.StatusCode < 300, resp.StatusCode == http.StatusConflict:
		return true, nil
	case resp.StatusCode >= 500, resp.StatusCode == http.StatusTooManyRequests, resp.StatusCode == http.StatusUnauthorized:
		return false, fmt.Errorf("replay event: %s", resp.Status)
	}
	j.log.Warn("the API server does not take an event of the dark time", "path", e.Path, "status", resp.Status, "answer", string(answer))
	return false, nil
}

func (j *Journal) credential(identity string) (credential.Credential, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	cred, ok := j.creds[identity]
	return cred, ok
}

// Remember notes a client's newest credential, for what it left in the journal.
func (j *Journal) Remember(cred credential.Credential) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.creds[cred.Identity.Name] = cred
}

// Stats describes the journal at this moment.
func (j *Journal) Stats() JournalStats {
	view := j.table.View()
	defer view.Release()
	j.mu.Lock()
	defer j.mu.Unlock()
	return JournalStats{Pending: view.Len(), Bytes: view.Size(), Replayed: j.replayed, Dropped: j.dropped}
}

// entryKey keeps the entries in the order of their numbers.
func entryKey(n uint64) string { return string(binary.BigEndian.AppendUint64(nil, n)) }
