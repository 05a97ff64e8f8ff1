package gateway

import (
	"bytes"
	"fmt"

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
	l := layer{overlay: m.Overlay, kind: kind, encoding: encoding}
	over := l.object
	if k.q.Verb == request.List {
		over = l.list
	}
	if body, err := over(a.Body); err == nil {
		a.Body = body
	}
	return a
}

// layer shows bodies of one kind and encoding through an overlay.
type layer struct {
	overlay  *overlay.Overlay
	kind     overlay.Kind
	encoding wire.Encoding
}

func (l layer) item(item wire.Item) ([]byte, error) {
	shown, _, err := l.overlay.Apply(l.kind, l.encoding, overlay.Key{Namespace: item.Namespace, Name: item.Name}, item.Raw)
	return shown, err
}

func (l layer) object(body []byte) ([]byte, error) {
	item, kind, err := wire.ParseObject(l.encoding, body)
	if err != nil {
		return nil, fmt.Errorf("read remembered object: %w", err)
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
		items, size = append(items, bytes.Clone(shown)), size+wire.ItemSize(len(shown))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read remembered list: %w", err)
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
