package gateway

import (
	"bytes"
	"fmt"
	"net/http"

	"yurt/internal/forward"
	"yurt/internal/offline"
	"yurt/internal/overlay"
	"yurt/internal/request"
	"yurt/internal/wire"
)

// show lays what the node has found out in the dark over a remembered answer.
// What can't be read is shown as it is.
func (m *Memory) show(k question, a offline.Answer) offline.Answer {
	kind := overlay.KindOf(k.q.Resource.Group, k.q.Resource.Version, k.q.Resource.Resource)
	encoding, ok := wire.ParseContentType(a.ContentType)
	if m.Overlay == nil || m.Overlay.Empty() || kind == overlay.None || !ok || !k.splittable ||
		k.representation.Transform != wire.Whole || k.q.Subresource != "" {
		return a
	}
	l := layer{encoding: encoding, item: func(item wire.Item) ([]byte, error) {
		shown, _, err := m.Overlay.Apply(kind, encoding, overlay.Key{Namespace: item.Namespace, Name: item.Name}, item.Raw)
		return shown, err
	}}
	if body, err := l.over(k.q.Verb, a.Body); err == nil {
		a.Body = body
	}
	return a
}

// shown is a remembered answer as this client sees it.
func (x *exchange) shown(a offline.Answer) offline.Answer {
	a = x.Memory.show(x.question(), a)
	if show := x.filtered(); show != nil {
		a.Body = show(forward.Answer{ContentType: a.ContentType, Body: a.Body})
	}
	return a
}

// filtered returns what shows answers through this client's filters, nil if there
// is nothing to be changed. Tables and bare metadata have nothing in them that a
// filter is about. A filter leaves objects out of lists; one that is asked for by
// its name is there.
func (x *exchange) filtered() func(forward.Answer) []byte {
	if x.filters == nil || x.q.Subresource != "" || x.q.Verb != request.Get && x.q.Verb != request.List ||
		x.splittable && x.representation.Transform != wire.Whole {
		return nil
	}
	return func(a forward.Answer) []byte {
		encoding, ok := wire.ParseContentType(a.ContentType)
		if !ok {
			return a.Body
		}
		l := layer{encoding: encoding, item: func(item wire.Item) ([]byte, error) {
			shown, _ := x.filters.Apply(encoding, item.Namespace, item.Name, item.Raw)
			if shown == nil && x.q.Verb == request.Get {
				shown = item.Raw
			}
			return shown, nil
		}}
		body, err := l.over(x.q.Verb, a.Body)
		if err != nil {
			return a.Body // it is for the client to say what is wrong with it
		}
		return body
	}
}

// wouldCarryBack tells whether a write could carry to the cloud what a filter has
// changed on the way out: the client reads the object, changes a field and writes
// it. Then it has been answered. No component does this with what the filters show
// it; status is written apart, and what else is in such a body does not count.
func (x *exchange) wouldCarryBack() bool {
	name := x.filters.Changes(x.q.Namespace, x.q.Name)
	if name == "" || x.q.Subresource != "" || x.q.Verb != request.Update && x.q.Verb != request.Patch {
		return false
	}
	x.status(http.StatusForbidden, "Forbidden", fmt.Sprintf(
		"%s %q is shown to this client with what the filter %s changes, which a write would carry to the cloud: write it as another client, or start yurthub with --disabled-resource-filters=%s",
		x.q.Resource.Resource, x.q.Name, name, name))
	return true
}

// layer shows bodies item by item: as item returns them, nil for what is left out.
type layer struct {
	encoding wire.Encoding
	item     func(wire.Item) ([]byte, error)
}

func (l layer) over(verb request.Verb, body []byte) ([]byte, error) {
	if verb == request.List {
		return l.list(body)
	}
	return l.object(body)
}

func (l layer) object(body []byte) ([]byte, error) {
	item, kind, err := wire.ParseObject(l.encoding, body)
	if err != nil {
		return nil, fmt.Errorf("read object: %w", err)
	}
	shown, err := l.item(item)
	if err != nil {
		return nil, err
	}
	return wire.AppendObject(nil, l.encoding, kind, shown), nil
}

func (l layer) list(body []byte) ([]byte, error) {
	var items [][]byte
	var size int64
	list, err := wire.ReadList(bytes.NewReader(body), l.encoding, len(body)+1, func(item wire.Item) error {
		shown, err := l.item(item)
		if shown != nil {
			items, size = append(items, bytes.Clone(shown)), size+wire.ItemSize(len(shown))
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read list: %w", err)
	}
	var shown bytes.Buffer
	w := wire.NewListWriter(&shown, l.encoding, list.Envelope, list.ListMeta, size)
	for _, item := range items {
		if err := w.WriteItem(item); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return shown.Bytes(), nil
}
