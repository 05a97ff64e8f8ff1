package fault

import (
	"bytes"
	"maps"
	"math/rand/v2"
	"slices"
	"time"
)

// sector is what a disk writes whole or not at all.
const sector = 512

// Loss is how a cut treats what was not durable.
type Loss int

// The ways of losing.
const (
	LoseAll    Loss = iota // nothing that was not synced is there
	KeepAll                // all is there: no power was cut, a program was killed
	LoseNewest             // what was done before some moment is there, what was being done at it is torn
	LoseAny                // any of it is there, in any order, and any of it is torn
	Tear                   // all is there, and the newest write is torn
	losses
)

// String is the way in a report.
func (l Loss) String() string {
	return [...]string{"nothing unsynced kept", "killed only", "the newest lost", "any lost, torn, reordered", "the newest write torn"}[l]
}

// Losses are all ways of losing.
func Losses() []Loss {
	var all []Loss
	for l := range losses {
		all = append(all, l)
	}
	return all
}

// Survival decides what survives a cut.
type Survival struct {
	Loss Loss
	Rand *rand.Rand
}

// survivors returns the disk as it is after a cut: all of it durable.
func (t *tree) survivors(s Survival) *tree {
	moment := t.moment(s)
	for _, c := range t.names {
		if s.keeps(c.at, moment) {
			c.keep()
		}
	}
	after := &tree{nodes: map[uint64]*node{}, next: rootID}
	after.root = t.survive(after, t.root, s, moment)
	return after
}

// moment is when the newest change was done that may survive.
func (t *tree) moment(s Survival) uint64 {
	var pending []uint64
	for _, c := range t.names {
		if s.Loss != Tear {
			pending = append(pending, c.at)
		}
	}
	for _, n := range t.nodes {
		for _, w := range n.writes {
			if w.size < 0 || s.Loss != Tear {
				pending = append(pending, w.at)
			}
		}
	}
	if len(pending) == 0 {
		return 0
	}
	slices.Sort(pending)
	if s.Loss == Tear || s.Rand.IntN(2) == 0 {
		return pending[len(pending)-1]
	}
	return pending[s.Rand.IntN(len(pending))]
}

func (s Survival) keeps(at, moment uint64) bool {
	switch s.Loss {
	case LoseAll:
		return false
	case KeepAll, Tear:
		return true
	case LoseNewest:
		return at < moment
	}
	return s.Rand.IntN(2) == 0
}

// survive copies what is durable of a directory, and what is drawn of its files' writes.
func (t *tree) survive(after *tree, dir *node, s Survival, moment uint64) *node {
	n := after.newNode(dir.mode)
	n.mtime = dir.mtime
	for _, name := range slices.Sorted(maps.Keys(dir.durable)) {
		child := dir.durable[name]
		var kept *node
		if child.isDir() {
			kept = t.survive(after, child, s, moment)
		} else {
			kept = after.newNode(child.mode)
			kept.mtime = time.Now()
			kept.synced = child.contentAfter(s, moment)
			kept.content = bytes.Clone(kept.synced)
		}
		n.durable[name], n.entries[name] = kept, kept
	}
	return n
}

func (n *node) contentAfter(s Survival, moment uint64) []byte {
	content := n.synced
	for _, w := range n.writes {
		switch {
		case (s.Loss == LoseNewest || s.Loss == Tear) && w.at == moment, s.Loss == LoseAny && s.Rand.IntN(3) == 0:
			content = w.torn(s.Rand).onto(content)
		case s.keeps(w.at, moment):
			content = w.apply(content)
		}
	}
	return content
}

// tornWrite is a write of which some sectors have come to the disk.
type tornWrite []write

// torn draws sectors: the first few, or any. A change of size is done or not.
func (w write) torn(r *rand.Rand) tornWrite {
	if w.size >= 0 {
		if r.IntN(2) == 0 {
			return nil
		}
		return tornWrite{w}
	}
	var parts tornWrite
	first := r.IntN(len(w.data)/sector + 2)
	inOrder := r.IntN(2) == 0
	for at, i := int64(0), 0; at < int64(len(w.data)); i++ {
		end := min((w.offset+at)/sector*sector+sector-w.offset, int64(len(w.data)))
		if inOrder && i < first || !inOrder && r.IntN(2) == 0 {
			parts = append(parts, write{offset: w.offset + at, data: w.data[at:end], size: -1})
		}
		at = end
	}
	return parts
}

func (t tornWrite) onto(content []byte) []byte {
	for _, w := range t {
		content = w.apply(content)
	}
	return content
}
