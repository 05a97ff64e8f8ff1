package replica

import (
	"strings"
	"sync"

	"yurt/internal/overlay"
	"yurt/internal/request"
	"yurt/internal/store"
	"yurt/internal/wire"
)

// lens is how clients see a collection: through the overlay. It tells the
// overlay in turn what the cloud says of those objects.
//
// A nil lens shows everything as it is stored.
type lens struct {
	overlay *overlay.Overlay
	kind    overlay.Kind
	table   *store.Table
	node    string
	all     bool // the collection has every pod of this node, so that one which it lacks is gone

	mu     sync.Mutex
	enc    wire.Encoding
	cursor *store.Cursor  // behind what index has seen; nil: begin anew
	index  *overlay.Index // of a collection of endpoints
}

// ShowThrough lays an overlay of this node's pods over what clients see. It is
// to be called before Run and before there are clients.
func (s *Set) ShowThrough(o *overlay.Overlay, node string) {
	s.overlay, s.node = o, node
	for _, c := range s.All() {
		c.lens = s.newLens(c.Key, c.table)
	}
}

// Assume tells the overlay of this node's pods as the cloud had them last. It
// is to be called while the cloud is away.
func (s *Set) Assume() {
	var newest *Collection
	for _, c := range s.All() {
		if c.lens == nil || !c.lens.all || newest != nil && newest.Revision() > c.Revision() {
			continue
		}
		newest = c
	}
	if newest == nil {
		return
	}
	m, err := newest.whole()
	if err != nil {
		return // what is not known can't be held
	}
	view := newest.table.View()
	defer view.Release()
	for record, err := range view.Records("") {
		if err != nil {
			continue
		}
		if err := s.overlay.Assume(m.Encoding, nameOf(record.Key), record.Value); err != nil {
			s.log.Warn("a pod can't be read", "error", err)
		}
	}
}

// PublishesNotReady reports whether a Service wants its pods' addresses
// published before they are ready; known is false where no collection has it.
func (s *Set) PublishesNotReady(namespace, service string) (publishes, known bool) {
	encoding, item, ok := s.Find(request.Resource{Version: "v1", Resource: "services"}, namespace, service)
	if !ok {
		return false, false
	}
	publishes, err := overlay.PublishesNotReady(encoding, item)
	return publishes, err == nil
}

// Find returns the newest that any collection has of an object, in item form. It
// is for the hub's own decisions: whoever asks, it is shown to nobody.
func (s *Set) Find(resource request.Resource, namespace, name string) (encoding wire.Encoding, item []byte, ok bool) {
	key := rowKey(namespace, name)
	var newest uint64
	for _, c := range s.whole(resource) {
		m, populated := c.current()
		if !populated {
			continue
		}
		record, found, err := c.table.Get(key)
		if err == nil && found && (!ok || record.Revision > newest) {
			encoding, item, ok, newest = m.Encoding, record.Value, true, record.Revision
		}
	}
	return encoding, item, ok
}

// whole returns the collections of objects of a resource. It is asked for each
// slice that is shown, beside hundreds of collections of other things.
func (s *Set) whole(resource request.Resource) []*Collection {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []*Collection
	for key, c := range s.collections {
		if key.Resource == resource && key.Representation.Transform == wire.Whole {
			found = append(found, c)
		}
	}
	return found
}

// newLens returns nil for a collection that the overlay never concerns.
func (s *Set) newLens(key Key, table *store.Table) *lens {
	kind := overlay.KindOf(key.Resource.Group, key.Resource.Version, key.Resource.Resource)
	if s.overlay == nil || kind == overlay.None || key.Representation.Transform != wire.Whole {
		return nil
	}
	all := kind == overlay.Pods && key.Namespace == "" && key.LabelSelector == "" && key.FieldSelector == "spec.nodeName="+s.node
	return &lens{overlay: s.overlay, kind: kind, table: table, node: s.node, all: all}
}

// changed returns a channel that is closed when something shows differently.
func (l *lens) changed() <-chan struct{} {
	if l == nil {
		return nil
	}
	return l.overlay.Changed()
}

// newest is the number of the newest change to what shows.
func (l *lens) newest() uint64 {
	if l == nil {
		return 0
	}
	_, now := l.overlay.Since(0)
	return now
}

// show returns an object as clients see it. One that the overlay can't read is
// shown as it is: the cloud's word is better than none.
func (l *lens) show(enc wire.Encoding, key string, value []byte) []byte {
	if l == nil || l.overlay.Empty() {
		return value
	}
	l.compare(enc, key)
	shown, _, _ := l.overlay.Apply(l.kind, enc, nameOf(key), value)
	return shown
}

// compare tells the overlay what the cloud says of a pod by now. A stream that
// resumes may pass through a past in which it had another uid, or none.
func (l *lens) compare(enc wire.Encoding, key string) {
	if l == nil || !l.all {
		return
	}
	pod := nameOf(key)
	if state, ok := l.overlay.State(pod); !ok || state == overlay.Lifted {
		return
	}
	view := l.table.View()
	defer view.Release()
	record, ok, err := view.Get(key)
	switch {
	case err != nil:
	case ok:
		_ = l.overlay.See(enc, pod, record.Value) // what can't be read tells nothing
	case view.Doubt() == nil:
		l.overlay.Gone(pod, view.Revision())
	}
}

// over returns by their keys the objects of a view that show differently from
// how they are stored.
func (l *lens) over(view *store.View, enc wire.Encoding) map[string][]byte {
	if l == nil || l.overlay.Empty() {
		return nil
	}
	l.follow(enc) // not before the view: what it has newer is still to come to the client
	shown := map[string][]byte{}
	for _, pod := range l.overlay.Pods() {
		l.compare(enc, rowKey(pod.Namespace, pod.Name))
		for _, key := range l.touched(pod) {
			if _, done := shown[key]; done {
				continue // a slice may have a hundred pods
			}
			record, ok, err := view.Get(key)
			if err != nil || !ok {
				continue // who reads the view meets the error there
			}
			shown[key] = l.show(enc, key, record.Value)
		}
	}
	return shown
}

// since returns the keys of the objects that may show differently since a
// change, and the number of the newest.
func (l *lens) since(change uint64, enc wire.Encoding) (keys []string, now uint64) {
	if l == nil {
		return nil, 0
	}
	pods, now := l.overlay.Since(change)
	l.follow(enc) // not before: without an entry there is no index, and the first would be missed
	once := map[string]bool{}
	for _, pod := range pods {
		for _, key := range l.touched(pod) {
			if !once[key] {
				once[key] = true
				keys = append(keys, key)
			}
		}
	}
	return keys, now
}

// touched returns the keys of the objects that show something of a pod.
func (l *lens) touched(pod overlay.Key) []string {
	if l.kind == overlay.Pods {
		return []string{rowKey(pod.Namespace, pod.Name)}
	}
	l.mu.Lock()
	index := l.index
	l.mu.Unlock()
	if index == nil {
		return nil
	}
	var keys []string
	for _, object := range index.Naming(pod) {
		keys = append(keys, rowKey(object.Namespace, object.Name))
	}
	return keys
}

// follow brings the index of a collection of endpoints up to what is stored.
// As long as the overlay has nothing to show there is no index.
func (l *lens) follow(enc wire.Encoding) {
	if l == nil || l.kind == overlay.Pods {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.overlay.Empty() {
		l.cursor, l.index = nil, nil
		return
	}
	for l.cursor != nil && l.enc == enc {
		events, err := l.cursor.Next(eventsAtOnce)
		if err != nil {
			break
		}
		for _, e := range events {
			if e.Type == store.Deleted {
				l.index.Delete(nameOf(e.Key))
			} else {
				_ = l.index.Put(nameOf(e.Key), e.Value) // one that can't be read names nobody
			}
		}
		if len(events) == 0 {
			return
		}
	}
	view := l.table.View()
	defer view.Release()
	l.enc, l.cursor, l.index = enc, view.Cursor(), l.overlay.NewIndex(l.kind, enc, l.node)
	for record, err := range view.Records("") {
		if err == nil {
			_ = l.index.Put(nameOf(record.Key), record.Value)
		}
	}
}

// nameOf reads what rowKey wrote for an object in a namespace.
func nameOf(key string) overlay.Key {
	namespace, name, _ := strings.Cut(key, "/")
	return overlay.Key{Namespace: namespace, Name: name}
}
