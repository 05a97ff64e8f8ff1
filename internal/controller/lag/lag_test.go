package lag

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func pod(uid types.UID, version string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: uid, ResourceVersion: version}}
}

// TestVersionIsWrittenToOnce looks at a node again and again while its cache is behind.
func TestVersionIsWrittenToOnce(t *testing.T) {
	var w Writes
	for i, step := range []struct {
		version string
		old     bool
	}{
		{"1", false}, // and written
		{"1", true},
		{"1", true}, // it is remembered for as long as it is asked for
		{"2", false},
		{"2", true},
	} {
		r := w.Round("edge")
		if got := r.Old(pod("a", step.version)); got != step.old {
			t.Errorf("step %d: version %s is old: %t, want %t", i, step.version, got, step.old)
		}
		if r.Old(pod("b", step.version)) {
			t.Errorf("step %d: another pod is old", i)
		}
		if !step.old {
			r.Wrote(pod("a", step.version))
		}
		r.End()
	}
	if w.Round("other").Old(pod("a", "2")) {
		t.Error("another node knows of it")
	}
}

// TestWritesAreForgotten ends with a round in which there was nothing to write.
func TestWritesAreForgotten(t *testing.T) {
	var w Writes
	r := w.Round("edge")
	r.Wrote(pod("a", "1"))
	r.End()
	w.Round("edge").End()
	w.nodes.Range(func(node, kept any) bool {
		t.Errorf("kept of node %v: %v", node, kept)
		return true
	})
}
