package offline

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"yurt/internal/backoff"
	"yurt/internal/credential"
	"yurt/internal/store"
	"yurt/internal/wire"
)

const (
	// replayJitter spreads the nodes that a healed link brings back at once.
	replayJitter  = time.Second
	replayTimeout = 30 * time.Second // of one entry

	// replayTries is how often an entry may be answered 500 before it is
	// dropped: a webhook that fails for one event must not hold up all others
	// for ever.
	replayTries = 10
)

// errWait: the API server does not take the entry now and may later.
var errWait = errors.New("the API server does not take events now")

// Run replays the journal whenever the link is up and something is in it.
//
// The entries of one identity are sent in their order; those whose credential
// is not known, or not accepted, don't hold up the others'. An entry is removed
// when the API server has answered. An event's name is chosen by its client, so
// that one which is sent twice, after a power cut in the middle, exists once.
func (j *Journal) Run(ctx context.Context) error {
	retry := backoff.Backoff{Base: time.Second, Cap: time.Minute}
	var r replayer
	for ctx.Err() == nil {
		if j.up.WaitUp(ctx) != nil {
			continue
		}
		if j.Stats().Pending > 0 && backoff.Sleep(ctx, rand.N(replayJitter)) != nil {
			continue
		}
		if err := j.replay(ctx, &r); err != nil {
			j.log.Debug("journal replay interrupted", "error", err)
			_ = retry.Wait(ctx) // its error is ctx's
			continue
		}
		retry.Reset()
		select {
		case <-j.wake:
		case <-ctx.Done():
		}
	}
	return nil
}

// replayer remembers an entry that the API server has answered with 500.
type replayer struct {
	number uint64
	tries  int
}

// giveUp tells whether the entry has failed often enough.
func (r *replayer) giveUp(number uint64) bool {
	if r.number != number {
		r.number, r.tries = number, 0
	}
	r.tries++
	return r.tries >= replayTries
}

// replay sends what can be sent, once through. It stops at the first entry that
// gets no answer. An error means that the rest is to be tried again.
func (j *Journal) replay(ctx context.Context, r *replayer) error {
	var unauthorized error
	refused := map[string]bool{} // authors whose credential is not accepted
	for after := uint64(0); ; {
		n, cred, ok := j.sendable(after, refused)
		if !ok {
			return errors.Join(unauthorized, j.reportLoss(ctx))
		}
		after = n.number
		code, err := j.send(ctx, n.number, cred)
		switch {
		case err != nil:
			return err
		case code == http.StatusUnauthorized:
			refused[n.author.name] = true
			unauthorized = fmt.Errorf("replay events of %s: the API server answers 401", cred.Identity)
			continue
		case code == http.StatusInternalServerError && !r.giveUp(n.number):
			return fmt.Errorf("replay event: the API server answers 500: %w", errWait)
		}
		if err := j.remove(ctx, n.number, taken(code)); err != nil {
			return err
		}
	}
}

// taken tells whether the API server has the event, now or from before.
func taken(code int) bool { return code < 300 || code == http.StatusConflict }

// sendable returns the first entry behind a number whose author may be asked
// for.
func (j *Journal) sendable(after uint64, refused map[string]bool) (note, credential.Credential, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, n := range j.entries {
		if n.number > after && n.author.known && !refused[n.author.name] {
			return *n, n.author.cred, true
		}
	}
	return note{}, credential.Credential{}, false
}

// send replays one entry and returns the API server's word on it. An error means
// that the API server gave none, or that it takes nothing at present.
func (j *Journal) send(ctx context.Context, number uint64, cred credential.Credential) (int, error) {
	record, ok, err := j.table.Get(entryKey(number))
	var e Entry
	switch damaged := errors.Is(err, store.ErrDamaged); {
	case err != nil && !damaged:
		return 0, err
	case damaged, !ok, json.Unmarshal(record.Value, &e) != nil:
		return unsendable, nil //nolint:nilerr // it is lost, and counted
	}
	return j.post(ctx, e, cred)
}

// post sends an entry as somebody, and returns the API server's word on it.
func (j *Journal) post(ctx context.Context, e Entry, cred credential.Credential) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, replayTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, e.Method, e.Path, bytes.NewReader(e.Body))
	if err != nil {
		return unsendable, nil
	}
	r.Header.Set("Content-Type", e.ContentType)
	r.Header.Set("Accept", "application/json")
	resp, err := j.up.RoundTrip(r, cred)
	if err != nil {
		return 0, fmt.Errorf("replay event: %w", err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		return 0, fmt.Errorf("replay event: %w", err)
	}
	switch encoding, _ := wire.ParseContentType(resp.Header.Get("Content-Type")); {
	case encoding != wire.JSON: // a load balancer's, or a captive portal's; or 429 by an API server's filter
		return 0, fmt.Errorf("replay event: %s: %w", resp.Status, errWait)
	case resp.StatusCode > http.StatusInternalServerError, resp.StatusCode == http.StatusTooManyRequests:
		return 0, fmt.Errorf("replay event: %s: %w", resp.Status, errWait)
	case resp.StatusCode >= 400 && resp.StatusCode != http.StatusConflict && resp.StatusCode != http.StatusUnauthorized:
		j.log.Warn("the API server does not take an event of the dark time", "path", e.Path, "status", resp.Status, "answer", string(answer[:min(len(answer), 500)]))
	}
	return resp.StatusCode, nil
}

// unsendable stands for the answer about an entry that can't be sent.
const unsendable = http.StatusBadRequest

// remove takes an entry that has been answered out of the journal.
func (j *Journal) remove(ctx context.Context, number uint64, taken bool) error {
	j.writing.Lock()
	defer j.writing.Unlock()
	index := j.index(number)
	if index < 0 {
		return nil // it has been dropped meanwhile, and counted
	}
	var batch store.Batch
	batch.Delete(j.table, entryKey(number), number, nil)
	lost := j.lost // it changes with writing held
	if !taken {
		lost = lost.plus(1)
		if err := lost.note(&batch, j.table); err != nil {
			return err
		}
	}
	if err := j.store.Commit(context.WithoutCancel(ctx), &batch); err != nil {
		return fmt.Errorf("remove event from the journal: %w", err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.forget(index)
	j.lost = lost
	if taken {
		j.replayed++
	} else {
		j.dropped++
	}
	return nil
}

// index is the place of an entry in the notes, which stays with writing held.
func (j *Journal) index(number uint64) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.IndexFunc(j.entries, func(n *note) bool { return n.number == number })
}
