package traffic

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"yurt/test/faults/history"
)

// Marker begins every value of a secret: it must not be found in any file.
const Marker = "not-to-be-seen-"

// The paths of the collections that there are.
const (
	ConfigMaps = "/api/v1/namespaces/shop/configmaps"
	Secrets    = "/api/v1/namespaces/shop/secrets"
	Widgets    = "/apis/example.org/v1/namespaces/shop/widgets"
)

// Paths are all of them.
func Paths() []string { return []string{ConfigMaps, Secrets, Widgets} }

// World is what an API server keeps in its etcd.
type World struct {
	rec *history.Recorder

	mu       sync.Mutex
	revision uint64
	objects  map[string]map[string]object // by path and name
	events   []event
	newest   map[string]uint64 // by path
	floor    uint64            // versions up to here are forgotten
	wake     chan struct{}     // closed when something happens
	ends     int               // how often all watches have been ended
}

type object struct {
	uid, name, value string
	version          uint64
}

type event struct {
	typ, path string
	object
}

// NewWorld returns a world with some objects in it.
func NewWorld(rec *history.Recorder, r *rand.Rand) *World {
	w := &World{rec: rec, revision: 100, floor: 100, objects: map[string]map[string]object{}, newest: map[string]uint64{}, wake: make(chan struct{})}
	for _, path := range Paths() {
		w.objects[path] = map[string]object{}
		for range 8 {
			w.Change(path, r)
		}
	}
	return w
}

// Change makes one change to one of a collection's objects.
func (w *World) Change(path string, r *rand.Rand) {
	size := 40 + r.IntN(400)
	switch r.IntN(8) {
	case 0, 1:
		size = 1000 + r.IntN(8000) // many sectors
	case 2:
		size = 40_000 + r.IntN(60_000) // many pages, and soon a segment
	}
	name, remove := fmt.Sprintf("o%02d", r.IntN(20)), r.IntN(6) == 0
	value := fmt.Sprintf("%s%016x-", Marker, r.Uint64())
	value += strings.Repeat(string(rune('a'+r.IntN(26))), size)

	w.mu.Lock()
	defer w.mu.Unlock()
	w.revision++
	o, known := w.objects[path][name]
	typ := "MODIFIED"
	switch {
	case !known:
		typ, o = "ADDED", object{uid: fmt.Sprintf("uid-%d", w.revision), name: name}
	case remove:
		typ = "DELETED"
	}
	o.version, w.newest[path] = w.revision, w.revision
	if typ == "DELETED" {
		delete(w.objects[path], name)
	} else {
		o.value = value
		w.objects[path][name] = o
	}
	w.events = append(w.events, event{typ, path, o})
	w.rec.Changed(path, history.Change{Type: typ, Object: history.Object{Name: name, Version: o.version, Digest: history.DigestOf(o.value)}})
	w.stir()
}

func (w *World) stir() {
	close(w.wake)
	w.wake = make(chan struct{})
}

// Forget makes the history of changes begin now, and ends all watches: whoever is behind has to list.
func (w *World) Forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.floor, w.events = w.revision, nil
	w.rec.Forgot(w.floor)
	w.ends++
	w.stir()
}

// Newest is the version of the newest change of a collection.
func (w *World) Newest(path string) uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.newest[path]
}

// list returns the objects of a collection, by name, and the version of the list.
func (w *World) list(path string) ([]object, uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []object
	for _, o := range w.objects[path] {
		all = append(all, o)
	}
	slices.SortFunc(all, func(a, b object) int { return strings.Compare(a.name, b.name) })
	return all, w.revision
}

// since returns the changes of a collection behind a version, and what to wait for. It is false if they are forgotten, or
// if all watches have been ended since.
func (w *World) since(path string, version uint64, ends int) (changes []event, upTo uint64, wake <-chan struct{}, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if version < w.floor || ends != w.ends {
		return nil, 0, nil, false
	}
	i, _ := slices.BinarySearchFunc(w.events, version+1, func(e event, v uint64) int { return int(int64(e.version) - int64(v)) })
	for _, e := range w.events[i:] {
		if e.path == path {
			changes = append(changes, e)
		}
	}
	return changes, w.revision, w.wake, true
}

func (w *World) ended() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ends
}
