package nodeautonomy

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"yurt/internal/controller/autonomy"
	"yurt/internal/controller/lag"
)

const (
	name    = "nodeautonomy"
	workers = 16 // nodes at a time; the pods of one node come one after the other

	// conflictDelay is how long the cache gets to catch up with whoever changed a pod first.
	conflictDelay = 100 * time.Millisecond
)

// Reconciler carries out what decide says, one node at a time. It keeps nothing of its own but what it has just
// written.
type Reconciler struct {
	client  client.Client
	live    client.Reader // asks the API server, not the cache
	events  events.EventRecorder
	log     *slog.Logger
	metrics *metrics
	writes  lag.Writes
}

// Add lets a manager run the controller while it is the leader. The manager's cache must index pods by spec.nodeName.
func Add(mgr manager.Manager, reg prometheus.Registerer, log *slog.Logger) error {
	r := &Reconciler{client: mgr.GetClient(), live: mgr.GetAPIReader(), events: mgr.GetEventRecorder(name), log: log, metrics: newMetrics(reg)}
	err := builder.ControllerManagedBy(mgr).
		Named(name).
		For(&corev1.Node{}, builder.WithPredicates(predicate.Funcs{UpdateFunc: nodeMatters})).
		Watches(&corev1.Pod{}, handler.Funcs{
			CreateFunc: func(_ context.Context, e event.CreateEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
				r.podWritten(nil, e.Object, q)
			},
			UpdateFunc: func(_ context.Context, e event.UpdateEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
				r.podWritten(e.ObjectOld, e.ObjectNew, q)
			},
			DeleteFunc: func(_ context.Context, e event.DeleteEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
				r.podWritten(nil, e.Object, q)
			},
		}).
		WithOptions(controller.Options{MaxConcurrentReconciles: workers}).
		Complete(r)
	if err != nil {
		return fmt.Errorf("add controller %s: %w", name, err)
	}
	return nil
}

// nodeMatters tells whether an update of a node can change a decision.
func nodeMatters(e event.UpdateEvent) bool {
	return !autonomy.Same(e.ObjectOld.(*corev1.Node), e.ObjectNew.(*corev1.Node))
}

// podWritten asks for a decision about the pod's node, and tells the pod's owner once if its annotation can't be understood.
func (r *Reconciler) podWritten(old, pod client.Object, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
	is := pod.(*corev1.Pod)
	was, update := old.(*corev1.Pod)
	if !update {
		was = &corev1.Pod{}
	}
	if was.Annotations[autonomy.DurationKey] != is.Annotations[autonomy.DurationKey] {
		if _, err := autonomy.OfPod(is, autonomy.Term{}); err != nil {
			r.events.Eventf(is, nil, corev1.EventTypeWarning, "InvalidAutonomyDuration", "Ignore", "%v", err)
		}
	}
	if update && was.Spec.NodeName == is.Spec.NodeName && evictable(was) == evictable(is) && toleranceOf(was).equal(toleranceOf(is)) &&
		was.Annotations[autonomy.DurationKey] == is.Annotations[autonomy.DurationKey] {
		return
	}
	if is.Spec.NodeName != "" {
		q.Add(reconcile.Request{NamespacedName: types.NamespacedName{Name: is.Spec.NodeName}})
	}
}

// Reconcile brings the pods of one node, and what the node shows, to what decide says.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	var node corev1.Node
	if err := r.client.Get(ctx, req.NamespacedName, &node); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	var list corev1.PodList
	if err := r.client.List(ctx, &list, client.MatchingFields{"spec.nodeName": node.Name}); err != nil {
		return reconcile.Result{}, fmt.Errorf("list pods of node %s: %w", node.Name, err)
	}
	pods := make([]*corev1.Pod, len(list.Items))
	for i := range list.Items {
		pods[i] = &list.Items[i]
	}
	now := time.Now()
	p := decide(&node, pods, now)
	if p.takesAway() {
		// What is written names the version of the pod it is about, and not of the node that it is decided by. A cache that has
		// fallen behind, as that of a new leader may have, must not cost a pod its protection.
		if err := r.live.Get(ctx, req.NamespacedName, &node); err != nil {
			return reconcile.Result{}, client.IgnoreNotFound(err)
		}
		p = decide(&node, pods, now)
	}
	var result reconcile.Result
	if !p.next.IsZero() {
		result.RequeueAfter = max(p.next.Sub(now), time.Millisecond)
	}
	changes := make([]lag.Change, len(p.pods))
	for i, c := range p.pods {
		changes[i] = lag.Change{Pod: c.pod, Write: func() (string, error) { return r.changePod(ctx, c) }}
	}
	behind, err := r.writes.Carry(node.Name, changes)
	if err == nil && p.condition != nil {
		err = r.show(ctx, &node, p)
		if apierrors.IsConflict(err) {
			behind, err = true, nil
		}
	}
	if behind {
		result.RequeueAfter = conflictDelay
	}
	return result, err
}

// changePod writes a pod's tolerance and returns the version that the pod has now. The resource version keeps it from being based on
// what the pod is no longer.
func (r *Reconciler) changePod(ctx context.Context, c podChange) (version string, err error) {
	annotations := map[string]any{}
	for _, o := range outages() {
		annotations[o.original] = nil
		if value, ok := c.is.originals[o.original]; ok {
			annotations[o.original] = value
		}
	}
	patch := map[string]any{"metadata": map[string]any{"resourceVersion": c.pod.ResourceVersion, "annotations": annotations}}
	if !equality.Semantic.DeepEqual(c.was.tolerations, c.is.tolerations) {
		patch["spec"] = map[string]any{"tolerations": c.is.tolerations}
	}
	data, err := json.Marshal(patch)
	if err != nil {
		return "", err
	}
	target := &corev1.Pod{}
	target.Namespace, target.Name = c.pod.Namespace, c.pod.Name
	err = r.client.Patch(ctx, target, client.RawPatch(types.MergePatchType, data))
	if err != nil {
		return "", fmt.Errorf("change tolerations of pod %s/%s: %w", c.pod.Namespace, c.pod.Name, err)
	}
	r.metrics.changes.WithLabelValues(c.phase.String()).Inc()
	r.log.InfoContext(ctx, "tolerations changed", "pod", c.pod.Namespace+"/"+c.pod.Name, "node", c.pod.Spec.NodeName, "phase", c.phase.String())
	return target.ResourceVersion, nil
}

// show writes the node's condition, and then tells of it: once, as a decision about what the node is no longer is a conflict. The
// events are about the node in all its versions, so that those of a link that comes and goes are counted and not heaped up.
func (r *Reconciler) show(ctx context.Context, node *corev1.Node, p plan) error {
	data, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": node.ResourceVersion},
		"status":   map[string]any{"conditions": []*corev1.NodeCondition{p.condition}},
	})
	if err != nil {
		return err
	}
	target := &corev1.Node{}
	target.Name = node.Name
	err = client.IgnoreNotFound(r.client.Status().Patch(ctx, target, client.RawPatch(types.StrategicMergePatchType, data)))
	if err != nil {
		return fmt.Errorf("set condition %s of node %s: %w", autonomy.PodsProtected, node.Name, err)
	}
	node.ResourceVersion = ""
	for _, e := range p.events {
		r.log.InfoContext(ctx, "protection of a node changed", "node", node.Name, "reason", e.reason, "note", e.note)
		r.events.Eventf(node, nil, e.kind, e.reason, "Protect", "%s", e.note)
	}
	return nil
}
