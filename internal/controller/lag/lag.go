// Package lag keeps a controller from writing twice on the strength of one version of a pod.
//
// What a controller decides by comes from a cache, which is behind: by a moment usually, by seconds when thousands of pods change at
// once. Until it has caught up, each look at a node sees the same pods as before, and would write again what is written already. Such a
// write changes nothing, for it names the version that it is based on; but the API server has to refuse it.
//
// It guarantees that a version is written to once, unless the write fails, and forgets versions as soon as there is nothing more to
// write. It never reads a cache, and what is written is not its business.
package lag

import (
	"errors"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
)

// Writes remembers the versions of pods that were written to. The zero value is ready for use, for many nodes at a time.
type Writes struct {
	nodes sync.Map // the name of a node: versions of its pods
}

type versions map[types.UID]string

// A Change is to be written about a pod as the cache has it. Write returns the version that the pod has then; it is refused as a
// conflict if the pod has another version than this one.
type Change struct {
	Pod   *corev1.Pod
	Write func() (version string, err error)
}

// Carry carries out the changes of one node's pods, all that there are, and tells whether the cache is behind, so that the node is to
// be looked at again soon. Versions that are no longer among the changes are forgotten. There is one call at a time for each node.
func (w *Writes) Carry(node string, changes []Change) (behind bool, err error) {
	var before versions
	if kept, ok := w.nodes.Load(node); ok {
		before = kept.(versions)
	}
	now := versions{}
	var errs []error
	for _, c := range changes {
		based := c.Pod.ResourceVersion
		if before[c.Pod.UID] == based {
			now[c.Pod.UID] = based
			behind = true
			continue
		}
		version, err := c.Write()
		switch {
		case apierrors.IsConflict(err) || apierrors.IsNotFound(err):
			now[c.Pod.UID] = based
			behind = true
		case err != nil:
			errs = append(errs, err)
		case version != based: // else somebody undoes at once what is written, and there will be no other version to wait for
			now[c.Pod.UID] = based
		}
	}
	if len(now) == 0 {
		w.nodes.Delete(node)
	} else {
		w.nodes.Store(node, now)
	}
	return behind, errors.Join(errs...)
}
