// Package history is what happened in a run: what the API server had, what clients were told by the hub, and when the
// power went.
//
// It guarantees that nothing is written down after the instant of a power cut until the next life begins: what a client
// still receives then was sent before, or by a program that has no disk any more. It judges nothing; validate does.
package history

import (
	"hash/fnv"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Digest stands for the bytes of an object's content.
type Digest uint64

// DigestOf is the digest of a content.
func DigestOf(content string) Digest {
	h := fnv.New64a()
	_, _ = h.Write([]byte(content)) // it never fails
	return Digest(h.Sum64())
}

// Object is one version of an object.
type Object struct {
	Name    string
	Version uint64
	Digest  Digest
}

// Change is one change of a collection: the API server made it, or a watch brought it.
type Change struct {
	Type string // ADDED, MODIFIED, DELETED, BOOKMARK
	Object
}

// Collection names a list+watch by its URL. Whatever the query is, it selects all objects of the path.
type Collection string

// Path is the URL without the query.
func (c Collection) Path() string {
	path, _, _ := strings.Cut(string(c), "?")
	return path
}

// Read is a list that a client got from the hub.
type Read struct {
	At         int // place in the history
	Life       int
	Client     string
	Collection Collection
	Dark       bool // there was no cloud
	Code       int  // of the answer
	Revision   uint64
	Objects    []Object
}

// Watch is a watch of a client.
type Watch struct {
	Life       int
	Client     string
	Collection Collection
	From       uint64
	Code       int // of the answer
	Changes    []Told
}

// Told is a change that a watch brought.
type Told struct {
	At int
	Change
}

// Note is a write in the dark that the hub accepted for later.
type Note struct {
	At   int
	Name string
}

// Receipt is an event that arrived at the API server.
type Receipt struct {
	At   int
	Life int
	Name string
	Code int // what it was answered
}

// Life is one run of the hub, from a boot to a cut.
type Life struct {
	Began   int // place in the history
	Dark    bool
	Started error // nil if the hub came up
	Drained []int // when the hub said that it has nothing to tell the API server any more
	Clear   []string
}

// Floor is a version up to which the API server forgot the changes, in a life.
type Floor struct {
	Life    int
	Version uint64
}

// History is all of it.
type History struct {
	Truth    map[string][]Change // by path: what the API server did, in the order of versions
	Floors   []Floor
	Lives    []Life
	Reads    []Read
	Watches  []*Watch
	Notes    []Note
	Receipts []Receipt
}

// Recorder writes a history down while it happens.
type Recorder struct {
	mu      sync.Mutex
	at      int
	stopped bool
	h       History
}

// NewRecorder returns a recorder of an empty history.
func NewRecorder() *Recorder {
	return &Recorder{stopped: true, h: History{Truth: map[string][]Change{}}}
}

// Stop ends a life: nothing that clients see is written down before the next one.
func (r *Recorder) Stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
}

// Begin begins a life and returns its number.
func (r *Recorder) Begin(dark bool) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = false
	r.h.Lives = append(r.h.Lives, Life{Began: r.next(), Dark: dark})
	return len(r.h.Lives) - 1
}

func (r *Recorder) next() int {
	r.at++
	return r.at
}

// record calls f with a place in the history, unless the life is over.
func (r *Recorder) record(f func(at int)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.stopped {
		f(r.next())
	}
}

// Changed records a change that the API server has made. It does so after cuts, too.
func (r *Recorder) Changed(path string, change Change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.h.Truth[path] = append(r.h.Truth[path], change)
}

// Forgot records that the API server has forgotten the changes up to a version.
func (r *Recorder) Forgot(version uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.h.Floors = append(r.h.Floors, Floor{len(r.h.Lives) - 1, version})
}

// Read records a list.
func (r *Recorder) Read(read Read) {
	r.record(func(at int) {
		read.At = at
		r.h.Reads = append(r.h.Reads, read)
	})
}

// Watch records that a watch has begun, and returns what records what it brings.
func (r *Recorder) Watch(w Watch) func(Change) {
	watch := &w
	r.record(func(int) { r.h.Watches = append(r.h.Watches, watch) })
	return func(c Change) {
		r.record(func(at int) { watch.Changes = append(watch.Changes, Told{at, c}) })
	}
}

// Noted records that the hub has accepted an event in the dark.
func (r *Recorder) Noted(name string) {
	r.record(func(at int) { r.h.Notes = append(r.h.Notes, Note{at, name}) })
}

// Life is the number of the newest life.
func (r *Recorder) Life() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.h.Lives) - 1
}

// Received records an event that has come to the API server, from the hub of a life. It does so after a cut, too: it was
// sent before.
func (r *Recorder) Received(life int, name string, code int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.h.Receipts = append(r.h.Receipts, Receipt{r.next(), life, name, code})
}

// Drained records that the hub says that nothing is left to be told to the API server.
func (r *Recorder) Drained() {
	r.record(func(at int) {
		life := &r.h.Lives[len(r.h.Lives)-1]
		life.Drained = append(life.Drained, at)
	})
}

// Ended records how the newest life began, and in which files of it a secret was found in clear.
func (r *Recorder) Ended(started error, inClear []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	life := &r.h.Lives[len(r.h.Lives)-1]
	life.Started, life.Clear = started, inClear
}

// History returns a copy of what has been recorded so far.
func (r *Recorder) History() History {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.h
	h.Truth = map[string][]Change{}
	for path, changes := range r.h.Truth {
		h.Truth[path] = slices.Clone(changes)
	}
	h.Floors = slices.Clone(r.h.Floors)
	h.Lives, h.Reads = slices.Clone(r.h.Lives), slices.Clone(r.h.Reads)
	h.Notes, h.Receipts = slices.Clone(r.h.Notes), slices.Clone(r.h.Receipts)
	h.Watches = nil
	for _, w := range r.h.Watches {
		copied := *w
		copied.Changes = slices.Clone(w.Changes)
		h.Watches = append(h.Watches, &copied)
	}
	return h
}

// State is a collection at a version, by name.
type State map[string]Object

// Apply does a change.
func (s State) Apply(c Change) {
	if c.Type == "DELETED" {
		delete(s, c.Name)
	} else {
		s[c.Name] = c.Object
	}
}

// Clone returns a copy.
func (s State) Clone() State { return maps.Clone(s) }

// Sorted returns the objects in the order of their names.
func (s State) Sorted() []Object {
	var objects []Object
	for _, name := range slices.Sorted(maps.Keys(s)) {
		objects = append(objects, s[name])
	}
	return objects
}
