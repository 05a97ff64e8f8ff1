package endpointretention

import (
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"yurt/internal/controller/autonomy"
)

// TestStaleNode: a cache that is behind with a node takes none of its pods out of its Services.
func TestStaleNode(t *testing.T) {
	dark := func(since time.Duration, term string) *corev1.Node {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "edge", Annotations: map[string]string{autonomy.DurationKey: term}}}
		node.Status.Conditions = []corev1.NodeCondition{{
			Type: corev1.NodeReady, Status: corev1.ConditionUnknown, LastTransitionTime: metav1.NewTime(time.Now().Add(-since)),
		}}
		return node
	}
	for _, tc := range []struct {
		name         string
		cached, live *corev1.Node
		kept         bool
	}{
		{"it has become autonomous", dark(time.Hour, autonomy.Off), dark(time.Hour, "0"), true},
		{"its term was made longer", dark(time.Hour, "1m"), dark(time.Hour, "0"), true},
		{"it was there meanwhile", dark(time.Hour, "30m"), dark(time.Minute, "30m"), true},
		{"it is gone", dark(time.Hour, "30m"), nil, true},
		{"the cache is right", dark(time.Hour, "30m"), dark(time.Hour, "30m"), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			pod := &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "u1", Annotations: map[string]string{RetainKey: Keep}},
				Spec:       corev1.PodSpec{NodeName: "edge"},
				Status:     corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
			}
			cache := fake.NewClientBuilder().WithObjects(tc.cached, pod).WithStatusSubresource(&corev1.Pod{}).
				WithIndex(&corev1.Pod{}, "spec.nodeName", func(o client.Object) []string { return []string{o.(*corev1.Pod).Spec.NodeName} }).Build()
			live := fake.NewClientBuilder()
			if tc.live != nil {
				live = live.WithObjects(tc.live)
			}
			log := slog.New(slog.DiscardHandler)
			m := newMetrics(prometheus.NewRegistry())
			r := &Reconciler{
				client: cache, live: live.Build(), events: events.NewFakeRecorder(10), log: log, metrics: m,
				policy: &keeper{log: log, metrics: m},
			}
			if _, err := r.Reconcile(t.Context(), reconcile.Request{NamespacedName: types.NamespacedName{Name: "edge"}}); err != nil {
				t.Fatal(err)
			}
			var got corev1.Pod
			if err := cache.Get(t.Context(), client.ObjectKeyFromObject(pod), &got); err != nil {
				t.Fatal(err)
			}
			if ready(&got) != tc.kept || (got.Annotations[RetainKey] == Keep) != tc.kept {
				t.Errorf("ready %v, marks %v; kept is to be %v", ready(&got), got.Annotations, tc.kept)
			}
		})
	}
}
