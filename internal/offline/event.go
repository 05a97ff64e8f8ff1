package offline

import (
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"yurt/internal/request"
	"yurt/internal/wire"
)

// event is what corev1.Event and eventsv1.Event have in common.
type event interface {
	Marshal() ([]byte, error)
	Unmarshal([]byte) error
}

// newEvent returns an empty event of the request's API group.
func newEvent(q *request.Request) event {
	if q.Resource.Group == "" {
		e := &corev1.Event{}
		e.Namespace, e.Name = q.Namespace, q.Name
		return e
	}
	e := &eventsv1.Event{}
	e.Namespace, e.Name = q.Namespace, q.Name
	return e
}

func eventType(q *request.Request) wire.TypeMeta {
	if q.Resource.Group == "" {
		return wire.TypeMeta{APIVersion: "v1", Kind: "Event"}
	}
	return wire.TypeMeta{APIVersion: "events.k8s.io/v1", Kind: "Event"}
}

// decodeEvent reads an event from the body of a request or answer.
func decodeEvent(q *request.Request, encoding wire.Encoding, body []byte) (event, error) {
	e := newEvent(q)
	if encoding == wire.JSON {
		return e, json.Unmarshal(body, e)
	}
	item, _, err := wire.ParseObject(encoding, body)
	if err != nil {
		return nil, err
	}
	return e, e.Unmarshal(item.Raw)
}

// encodeEvent writes an event as the answer to the request.
func encodeEvent(q *request.Request, encoding wire.Encoding, e event) ([]byte, error) {
	var raw []byte
	var err error
	if encoding == wire.JSON {
		raw, err = json.Marshal(e)
	} else {
		raw, err = e.Marshal()
	}
	if err != nil {
		return nil, err
	}
	return wire.AppendObject(nil, encoding, eventType(q), raw), nil
}

// patchEvent applies a recorder's patch (a new count and time) to an event. An
// event that was created while the cloud could be reached is not known here;
// its patch is then applied to an empty one, which is all that a recorder reads
// of the answer.
func patchEvent(q *request.Request, base event, patch []byte) (event, error) {
	if base == nil {
		base = newEvent(q)
	}
	original, err := json.Marshal(base)
	if err != nil {
		return nil, err
	}
	merged, err := strategicpatch.StrategicMergePatch(original, patch, newEvent(q))
	if err != nil {
		return nil, fmt.Errorf("apply patch to event %s/%s: %w", q.Namespace, q.Name, err)
	}
	patched := newEvent(q)
	return patched, json.Unmarshal(merged, patched)
}
