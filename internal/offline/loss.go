package offline

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"yurt/internal/credential"
	"yurt/internal/store"
	"yurt/internal/wire"
)

// loss is the entries that were dropped and of which the cloud has not been
// told: those for which there was no room, and those that the API server does
// not take. It is the journal's table's meta, and changes with the drop.
type loss struct {
	Count uint64    `json:"count"`
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
}

// plus is the loss with more entries.
func (l loss) plus(count int) loss {
	if count == 0 {
		return l
	}
	now := time.Now()
	if l.Count == 0 {
		l.First = now
	}
	l.Count, l.Last = l.Count+uint64(count), now
	return l
}

// readLoss reads the meta of a journal's table. One that can't be read is none.
func readLoss(table *store.Table) loss {
	var l loss
	_ = json.Unmarshal(table.Meta(), &l)
	return l
}

// note puts the loss into a batch.
func (l loss) note(batch *store.Batch, table *store.Table) error {
	raw, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("note what the journal has lost: %w", err)
	}
	batch.SetMeta(table, raw)
	return nil
}

// reportLoss tells the cloud of all dropped entries by one event about the node.
// Its name is made of the moment of the first loss, so that a report which is
// sent twice exists once.
func (j *Journal) reportLoss(ctx context.Context) error {
	j.mu.Lock()
	lost := j.lost
	j.mu.Unlock()
	if lost.Count == 0 || j.Node == "" {
		return nil
	}
	e, err := lost.entry(j.Node)
	if err != nil {
		return err
	}
	code, err := j.post(ctx, e, credential.Credential{Identity: credential.Node})
	switch {
	case err != nil:
		return err
	case code == http.StatusUnauthorized, code == http.StatusInternalServerError:
		return fmt.Errorf("report dropped events: the API server answers %d: %w", code, errWait)
	}
	j.writing.Lock()
	defer j.writing.Unlock()
	j.mu.Lock()
	rest := loss{}.plus(int(j.lost.Count - lost.Count)) // dropped since
	j.mu.Unlock()
	return j.setLoss(ctx, rest)
}

// setLoss is called with writing held.
func (j *Journal) setLoss(ctx context.Context, l loss) error {
	var batch store.Batch
	if err := l.note(&batch, j.table); err != nil {
		return err
	}
	if err := j.store.Commit(context.WithoutCancel(ctx), &batch); err != nil {
		return fmt.Errorf("note what the journal has lost: %w", err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lost = l
	return nil
}

// entry is the event that reports the loss.
func (l loss) entry(node string) (Entry, error) {
	const path = "/api/v1/namespaces/default/events"
	event := corev1.Event{ // of the node as the kubelet names it, so that kubectl describe shows it
		TypeMeta:       metav1.TypeMeta{APIVersion: "v1", Kind: "Event"},
		ObjectMeta:     metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: fmt.Sprintf("%s.dropped-%x", node, l.First.UnixNano())},
		InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: node, UID: types.UID(node)},
		Reason:         "EventsDropped",
		Message: fmt.Sprintf("%d events of the time without the cloud were dropped: there was no room for more than %d or %d bytes, or the API server did not take them",
			l.Count, journalEntries, journalBytes),
		Type: corev1.EventTypeWarning, Count: int32(min(l.Count, 1<<30)),
		FirstTimestamp: metav1.NewTime(l.First), LastTimestamp: metav1.NewTime(l.Last),
		Source: corev1.EventSource{Component: "yurthub", Host: node},
	}
	body, err := json.Marshal(event)
	if err != nil {
		return Entry{}, fmt.Errorf("write the event about dropped ones: %w", err)
	}
	return Entry{Method: http.MethodPost, Path: path, ContentType: wire.JSON.MediaType(), At: l.Last, Body: body}, nil
}
