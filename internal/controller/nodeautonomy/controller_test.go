package nodeautonomy

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"yurt/internal/controller/autonomy"
)

// TestStaleNode: a cache that is behind with a node costs none of its pods the protection that it has.
func TestStaleNode(t *testing.T) {
	dark := func(since time.Duration, term string) *corev1.Node {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "edge"}}
		node.Status.Conditions = []corev1.NodeCondition{{
			Type: corev1.NodeReady, Status: corev1.ConditionUnknown, LastTransitionTime: metav1.NewTime(time.Now().Add(-since)),
		}}
		if term != "" {
			node.Annotations = map[string]string{autonomy.DurationKey: term}
		}
		return node
	}
	for _, tc := range []struct {
		name          string
		cached, live  *corev1.Node
		keptForSecond *int64 // nil: without end
	}{
		{"it has become autonomous", dark(time.Hour, ""), dark(time.Hour, "0"), nil},
		{"its term was made longer", dark(time.Hour, "1m"), dark(time.Hour, "0"), nil},
		{"it was there meanwhile", dark(time.Hour, "30m"), dark(time.Minute, "30m"), nil},
		{"it is gone", dark(time.Hour, "30m"), nil, nil},
		{"the cache is right: nobody asks for it", dark(time.Hour, ""), dark(time.Hour, ""), ptr.To[int64](300)},
		{"the cache is right: it is over", dark(time.Hour, "30m"), dark(time.Hour, "30m"), ptr.To[int64](0)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			pod := &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "u1", Annotations: map[string]string{}},
				Spec:       corev1.PodSpec{NodeName: "edge"},
			}
			for _, o := range outages() {
				pod.Annotations[o.original] = "300"
				pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{Key: o.taint, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute})
			}
			if !toleranceOf(pod).endless() {
				t.Fatal("the pod is not protected to begin with")
			}
			cache := fake.NewClientBuilder().WithObjects(tc.cached, pod).WithStatusSubresource(&corev1.Node{}).
				WithIndex(&corev1.Pod{}, "spec.nodeName", func(o client.Object) []string { return []string{o.(*corev1.Pod).Spec.NodeName} }).Build()
			live := fake.NewClientBuilder()
			if tc.live != nil {
				live = live.WithObjects(tc.live)
			}
			r := &Reconciler{
				client: cache, live: live.Build(), events: events.NewFakeRecorder(10), log: slog.New(slog.DiscardHandler),
				metrics: newMetrics(prometheus.NewRegistry()),
			}
			if _, err := r.Reconcile(t.Context(), reconcile.Request{NamespacedName: types.NamespacedName{Name: "edge"}}); err != nil {
				t.Fatal(err)
			}
			var got corev1.Pod
			if err := cache.Get(t.Context(), client.ObjectKeyFromObject(pod), &got); err != nil {
				t.Fatal(err)
			}
			for _, toleration := range got.Spec.Tolerations {
				if fmt.Sprint(ptr.Deref(toleration.TolerationSeconds, -1)) != fmt.Sprint(ptr.Deref(tc.keptForSecond, -1)) {
					t.Errorf("tolerates %s for %v s, want %v (-1: without end)", toleration.Key, ptr.Deref(toleration.TolerationSeconds, -1), ptr.Deref(tc.keptForSecond, -1))
				}
			}
		})
	}
}
