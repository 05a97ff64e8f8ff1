package overlay

import (
	"slices"
	"strings"
	"sync"

	"yurt/internal/splice"
	"yurt/internal/wire"
)

// Index knows, of one collection of EndpointSlices or Endpoints, which of its objects name which pods of this node, and
// tells the overlay when they have caught up. It is complete once each object of the collection has been Put.
type Index struct {
	overlay *Overlay
	kind    Kind
	enc     wire.Encoding
	node    string

	mu      sync.Mutex
	names   map[Key][]Key            // by object: the pods that it names
	objects map[Key]map[Key]struct{} // by pod: the objects that name it
}

// NewIndex returns an empty index. Only pods of the named node have entries, so no others are kept.
func (o *Overlay) NewIndex(kind Kind, enc wire.Encoding, node string) *Index {
	return &Index{overlay: o, kind: kind, enc: enc, node: node, names: map[Key][]Key{}, objects: map[Key]map[Key]struct{}{}}
}

// Put notes a new or changed object. It never waits for the disk, and may be called from within a commit.
func (x *Index) Put(key Key, item []byte) error {
	pods, err := x.pods(item)
	if err != nil {
		return err
	}
	x.mu.Lock()
	x.replace(key, pods)
	x.mu.Unlock()
	return x.overlay.seeEndpoints(object{x.kind, key}, x.enc, item)
}

// Delete notes that an object is gone.
func (x *Index) Delete(key Key) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.replace(key, nil)
}

// Naming returns the objects that name a pod: those that watchers get again when the pod's entry changes.
func (x *Index) Naming(pod Key) []Key {
	x.mu.Lock()
	defer x.mu.Unlock()
	objects := make([]Key, 0, len(x.objects[pod]))
	for key := range x.objects[pod] {
		objects = append(objects, key)
	}
	slices.SortFunc(objects, func(a, b Key) int { return strings.Compare(a.String(), b.String()) })
	return objects
}

func (x *Index) replace(key Key, pods []Key) {
	for _, pod := range x.names[key] {
		delete(x.objects[pod], key)
		if len(x.objects[pod]) == 0 {
			delete(x.objects, pod)
		}
	}
	if len(pods) == 0 {
		delete(x.names, key)
		return
	}
	x.names[key] = pods
	for _, pod := range pods {
		if x.objects[pod] == nil {
			x.objects[pod] = map[Key]struct{}{}
		}
		x.objects[pod][key] = struct{}{}
	}
}

// pods returns the pods of this node, and those of unsaid node, that an object names.
func (x *Index) pods(item []byte) ([]Key, error) {
	c := codecOf(x.enc)
	var pods []Key
	add := func(raw []byte, reference, node splice.Field) {
		if on := c.Text(raw, node); on != "" && on != x.node {
			return
		}
		if t, ok := c.target(c.One(raw, reference)); ok {
			pods = append(pods, t.Key)
		}
	}
	switch x.kind {
	case EndpointSlices:
		for _, raw := range c.Many(item, sliceEndpoints) {
			add(raw, endpointTarget, endpointNode)
		}
	case Endpoints:
		for _, subset := range c.Many(item, subsets) {
			for _, raw := range append(c.Many(subset, subsetReady), c.Many(subset, subsetNotReady)...) {
				add(raw, addressTarget, addressNode)
			}
		}
	}
	return pods, c.Err
}

// seeEndpoints notes for which pods an object, as the cloud has it, carries what the kubelet has reported. From this version
// on the cloud's word counts there.
func (o *Overlay) seeEndpoints(at object, enc wire.Encoding, item []byte) error {
	s := o.state.Load()
	if len(s.uids) == 0 || s.dark {
		return nil
	}
	meta, err := wire.ParseItem(enc, item)
	if err != nil {
		return err
	}
	v := version(meta.Meta)
	result, err := o.show(codecOf(enc), at, item, s.hasUID, func(t target) (facts, bool) {
		e, ok := s.entries[t.Key]
		return factsIf(e, ok && e.uid == t.uid && e.proves(v))
	})
	if err != nil || len(result.same) == 0 {
		return err
	}
	o.change(func(t *transition) {
		for _, pod := range result.same {
			e := t.entries[pod.Key]
			if e == nil || e.uid != pod.uid || !e.proves(v) || slices.Contains(result.changed, pod) {
				continue
			}
			if _, marked := e.caughtUp[at]; !marked {
				t.entries[pod.Key] = e.withMark(at, v)
			}
		}
	})
	return nil
}

func factsIf(e *entry, ok bool) (facts, bool) {
	if !ok {
		return facts{}, false
	}
	return e.facts, true
}
