package fault

import (
	"bytes"
	"maps"
	"slices"
	"time"
)

// rootID is the node that FUSE calls the root.
const rootID = 1

// tree is what is on the disk: as programs see it, and as it is durable.
type tree struct {
	root  *node
	nodes map[uint64]*node // also those that have no name any more: somebody may hold them open
	next  uint64
	names []nameChange // not durable yet, in their order
	clock uint64       // numbers changes of names and content in one order
}

// node is a file or a directory.
type node struct {
	id    uint64
	mode  uint32 // with the type
	links uint32
	mtime time.Time

	entries map[string]*node // of a directory, as it is seen
	durable map[string]*node // of a directory

	content []byte // of a file, as it is seen
	synced  []byte // of a file
	writes  []write
}

// write is a change of a file's content that is not durable yet.
type write struct {
	at     uint64 // clock
	offset int64
	data   []byte
	size   int64 // of the file afterwards, if it is not data that changes; else -1
}

// nameChange is one step that a directory entry takes: all of it, or nothing.
type nameChange struct {
	at    uint64
	steps []step
}

// step gives a name to a node, or takes it away if the node is nil.
type step struct {
	dir  *node
	name string
	node *node
}

func newTree() *tree {
	t := &tree{nodes: map[uint64]*node{}, next: rootID}
	t.root = t.newNode(dirMode | 0o700)
	return t
}

func (t *tree) newNode(mode uint32) *node {
	n := &node{id: t.next, mode: mode, links: 1, mtime: time.Now()}
	if n.isDir() {
		n.entries, n.durable = map[string]*node{}, map[string]*node{}
	}
	t.nodes[n.id] = n
	t.next++
	return n
}

const dirMode, fileMode = 0o040000, 0o100000

func (n *node) isDir() bool { return n.mode&0o170000 == dirMode }

func (t *tree) tick() uint64 {
	t.clock++
	return t.clock
}

// change does the steps as programs see it.
func (t *tree) change(steps ...step) {
	for _, s := range steps {
		if s.node == nil {
			delete(s.dir.entries, s.name)
		} else {
			s.dir.entries[s.name] = s.node
		}
		s.dir.mtime = time.Now()
	}
	t.names = append(t.names, nameChange{t.tick(), steps})
}

// syncNames makes a directory's entries durable. A rename between two directories becomes durable with either.
func (t *tree) syncNames(dir *node) {
	t.names = slices.DeleteFunc(t.names, func(c nameChange) bool {
		concerns := slices.ContainsFunc(c.steps, func(s step) bool { return s.dir == dir })
		if concerns {
			c.keep()
		}
		return concerns
	})
}

func (c nameChange) keep() {
	for _, s := range c.steps {
		if s.node == nil {
			delete(s.dir.durable, s.name)
		} else {
			s.dir.durable[s.name] = s.node
		}
	}
}

func (t *tree) write(n *node, offset int64, data []byte) {
	w := write{at: t.tick(), offset: offset, data: bytes.Clone(data), size: -1}
	n.content = w.apply(n.content)
	n.writes = append(n.writes, w)
	n.mtime = time.Now()
}

func (t *tree) resize(n *node, size int64) {
	w := write{at: t.tick(), size: size}
	n.content = w.apply(n.content)
	n.writes = append(n.writes, w)
	n.mtime = time.Now()
}

func (n *node) sync() {
	for _, w := range n.writes {
		n.synced = w.apply(n.synced)
	}
	n.writes = nil
}

// apply does the write on a content.
func (w write) apply(content []byte) []byte {
	if w.size >= 0 {
		return resized(content, w.size)
	}
	end := w.offset + int64(len(w.data))
	if end > int64(len(content)) {
		content = resized(content, end)
	}
	copy(content[w.offset:], w.data)
	return content
}

func resized(content []byte, size int64) []byte {
	if size <= int64(len(content)) {
		clear(content[size:])
		return content[:size]
	}
	return slices.Grow(content, int(size)-len(content))[:size]
}

func (t *tree) walk(dir *node, path string, f func(string, []byte)) {
	for _, name := range slices.Sorted(maps.Keys(dir.entries)) {
		n := dir.entries[name]
		if n.isDir() {
			t.walk(n, path+name+"/", f)
			continue
		}
		f(path+name, n.content)
	}
}
