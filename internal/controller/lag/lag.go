// Package lag keeps a controller from writing twice on the strength of one version of a pod.
//
// What a controller decides by comes from a cache, which is behind: by a moment usually, by seconds when thousands of pods change at
// once. Until it has caught up, each look at a node sees the same pods as before, and would write again what is written already. Such a
// write changes nothing, for it names the version that it is based on; but the API server has to refuse it.
//
// It guarantees that a version is written to once, and forgets versions as soon as there is nothing more to write. It never reads a
// cache and never writes.
package lag

import (
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Writes remembers the versions of pods that were written to. The zero value is ready for use, for many nodes at a time.
type Writes struct {
	nodes sync.Map // the name of a node: versions of its pods
}

type versions map[types.UID]string

// Round begins a look at a node. There is only one at a time for each node, and it is followed by End.
func (w *Writes) Round(node string) *Round {
	r := &Round{writes: w, node: node, now: versions{}}
	if before, ok := w.nodes.Load(node); ok {
		r.before = before.(versions)
	}
	return r
}

// A Round is one look at the pods of a node, with what is to be written about them.
type Round struct {
	writes      *Writes
	node        string
	before, now versions
}

// Old tells whether the version of a pod was written to before, so that the next one has to be waited for.
func (r *Round) Old(pod *corev1.Pod) bool {
	if r.before[pod.UID] != pod.ResourceVersion {
		return false
	}
	r.now[pod.UID] = pod.ResourceVersion
	return true
}

// Wrote says that there is another version of a pod now than this one.
func (r *Round) Wrote(pod *corev1.Pod) { r.now[pod.UID] = pod.ResourceVersion }

// End remembers what was found in this round, and forgets the rest.
func (r *Round) End() {
	if len(r.now) == 0 {
		r.writes.nodes.Delete(r.node)
		return
	}
	r.writes.nodes.Store(r.node, r.now)
}
