package lag

import (
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// A writer has something to write about a pod, and gets an answer.
type writer struct {
	version string // that the pod has after it
	answer  error
	writes  int
}

func (w *writer) change(version string) []Change {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "uid", ResourceVersion: version}}
	return []Change{{Pod: pod, Write: func() (string, error) {
		w.writes++
		return w.version, w.answer
	}}}
}

// TestAVersionIsWrittenToOnce looks at a node three times before the cache shows what was written, and once when it shows more.
func TestAVersionIsWrittenToOnce(t *testing.T) {
	pods := schema.GroupResource{Resource: "pods"}
	for _, test := range []struct {
		name    string
		version string
		answer  error
		behind  [4]bool
		writes  [4]int // in all
		wantErr bool
	}{
		{name: "written", version: "3", behind: [4]bool{false, true, true, false}, writes: [4]int{1, 1, 1, 2}},
		{name: "conflict", answer: apierrors.NewConflict(pods, "web", nil), behind: [4]bool{true, true, true, true}, writes: [4]int{1, 1, 1, 2}},
		{name: "gone", answer: apierrors.NewNotFound(pods, "web"), behind: [4]bool{true, true, true, true}, writes: [4]int{1, 1, 1, 2}},
		{name: "failed", answer: errors.New("away"), writes: [4]int{1, 2, 3, 4}, wantErr: true},
		{name: "undone", version: "1", writes: [4]int{1, 2, 3, 4}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var w Writes
			from := &writer{version: test.version, answer: test.answer}
			for i, version := range []string{"1", "1", "1", "2"} {
				if version == "2" && test.version == "1" {
					from.version = "2" // it is undone again
				}
				behind, err := w.Carry("edge", from.change(version))
				if behind != test.behind[i] || from.writes != test.writes[i] || (err != nil) != test.wantErr {
					t.Errorf("look %d: behind %t after %d writes, %v; want %t after %d, an error: %t",
						i, behind, from.writes, err, test.behind[i], test.writes[i], test.wantErr)
				}
			}
		})
	}
}

// TestNodesAreApart: what is known of a node says nothing about the next one.
func TestNodesAreApart(t *testing.T) {
	var w Writes
	from := &writer{version: "2"}
	for _, node := range []string{"a", "b"} {
		if behind, err := w.Carry(node, from.change("1")); behind || err != nil {
			t.Errorf("node %s: behind %t, %v", node, behind, err)
		}
	}
	if from.writes != 2 {
		t.Errorf("%d writes, want one for each node", from.writes)
	}
}

// TestWritesAreForgotten ends with a look at which there was nothing to write.
func TestWritesAreForgotten(t *testing.T) {
	var w Writes
	if _, err := w.Carry("edge", (&writer{version: "2"}).change("1")); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Carry("edge", nil); err != nil {
		t.Fatal(err)
	}
	w.nodes.Range(func(node, kept any) bool {
		t.Errorf("kept of node %v: %v", node, kept)
		return true
	})
}
