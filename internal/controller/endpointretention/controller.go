package endpointretention

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"yurt/internal/controller/autonomy"
	"yurt/internal/controller/lag"
)

const (
	name    = "endpointretention"
	workers = 16 // nodes at a time; the pods of one node come one after the other

	// conflictDelay is how long the cache gets to catch up with whoever changed a pod first.
	conflictDelay = 100 * time.Millisecond

	// reasonOver is what a withdrawn pod's Ready condition has as its reason.
	reasonOver = "RetentionEnded"
)

// Reconciler carries out what decide says, one node at a time. It keeps nothing of its own but what it has just
// written.
type Reconciler struct {
	client  client.Client
	live    client.Reader // asks the API server, not the cache
	events  events.EventRecorder
	log     *slog.Logger
	metrics *metrics
	policy  *keeper
	writes  lag.Writes
}

// Add lets a manager run the controller while it is the leader. The manager's cache must index pods by spec.nodeName. The users are
// those as whom the stock node controller writes.
func Add(mgr manager.Manager, reg prometheus.Registerer, users []string, log *slog.Logger) error {
	m := newMetrics(reg)
	k := &keeper{
		reader: mgr.GetAPIReader(), client: mgr.GetClient(), log: log, metrics: m, users: users,
		supported: make(chan event.GenericEvent),
	}
	if err := mgr.Add(manager.RunnableFunc(k.Run)); err != nil {
		return fmt.Errorf("add keeper of policy %s: %w", PolicyName, err)
	}
	r := &Reconciler{client: mgr.GetClient(), live: mgr.GetAPIReader(), events: mgr.GetEventRecorder(name), log: log, metrics: m, policy: k}
	err := builder.ControllerManagedBy(mgr).
		Named(name).
		For(&corev1.Node{}, builder.WithPredicates(predicate.Funcs{UpdateFunc: nodeMatters})).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(nodeOf), builder.WithPredicates(predicate.Funcs{
			UpdateFunc: podMatters,
			DeleteFunc: func(event.DeleteEvent) bool { return false },
		})).
		WatchesRawSource(source.Channel(k.supported, &handler.EnqueueRequestForObject{})).
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

// podMatters tells whether an update of a pod can change a decision.
func podMatters(e event.UpdateEvent) bool {
	was, is := e.ObjectOld.(*corev1.Pod), e.ObjectNew.(*corev1.Pod)
	wasCrashing, wasUntil := crashes(was, time.Now())
	isCrashing, isUntil := crashes(is, time.Now())
	return was.Spec.NodeName != is.Spec.NodeName ||
		was.Annotations[RetainKey] != is.Annotations[RetainKey] ||
		was.Annotations[autonomy.DurationKey] != is.Annotations[autonomy.DurationKey] ||
		wasCrashing != isCrashing || !wasUntil.Equal(isUntil) ||
		finished(was) != finished(is) || ready(was) != ready(is)
}

func nodeOf(_ context.Context, pod client.Object) []reconcile.Request {
	node := pod.(*corev1.Pod).Spec.NodeName
	if node == "" {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Name: node}}}
}

// Reconcile brings the pods of one node to what decide says.
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
	policy, now := r.policy.now(), time.Now()
	r.warn(&node, policy)
	p := decide(&node, pods, policy.honours(), now)
	if p.takesAway() {
		// What is written names the version of the pod it is about, and not of the node that it is decided by. A cache that has
		// fallen behind, as that of a new leader may have, must not take a pod out of its Services.
		if err := r.live.Get(ctx, req.NamespacedName, &node); err != nil {
			return reconcile.Result{}, client.IgnoreNotFound(err)
		}
		p = decide(&node, pods, policy.honours(), now)
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
	if behind {
		result.RequeueAfter = conflictDelay
	}
	return result, err
}

// warn tells of a dark autonomous node that its pods leave their Services.
func (r *Reconciler) warn(node *corev1.Node, policy state) {
	_, dark := autonomy.DarkSince(node)
	term, _ := autonomy.OfNode(node)
	if dark && !term.None() && (policy == unsupported || policy == ineffective) {
		regarding := node.DeepCopy()
		regarding.ResourceVersion = "" // the node in all its versions: such events are counted and not heaped up
		r.events.Eventf(regarding, nil, corev1.EventTypeWarning, "ReadinessRetentionOff", "Retain",
			"Pods of this node leave their Services: the policy that would keep them is %s.", policy)
	}
}

// changePod carries out one change and returns the version that the pod has now. Readiness goes first: once the mark is gone, nobody
// knows that there was something to withdraw.
func (r *Reconciler) changePod(ctx context.Context, c podChange) (version string, err error) {
	version = c.pod.ResourceVersion
	if c.action == withdraw {
		version, err = r.withdraw(ctx, c.pod, version)
	}
	switch {
	case err != nil:
	case c.action == mark:
		version, err = r.mark(ctx, c.pod, version, Keep)
	case c.pod.Annotations[RetainKey] == Keep: // what its owner has put there instead stays
		version, err = r.mark(ctx, c.pod, version, nil)
	}
	if err != nil {
		return "", fmt.Errorf("%s pod %s/%s: %w", c.action, c.pod.Namespace, c.pod.Name, err)
	}
	r.metrics.changes.WithLabelValues(c.action.String()).Inc()
	r.log.InfoContext(ctx, "retention of readiness changed", "pod", c.pod.Namespace+"/"+c.pod.Name, "node", c.pod.Spec.NodeName, "action", c.action.String())
	return version, nil
}

// withdraw writes that a pod is not ready.
func (r *Reconciler) withdraw(ctx context.Context, pod *corev1.Pod, version string) (string, error) {
	target, patch, err := patchOf(pod, version, types.StrategicMergePatchType, "status", map[string]any{"conditions": []any{map[string]any{
		"type": corev1.PodReady, "status": corev1.ConditionFalse, "reason": reasonOver,
		"message":            "The node is dark, and this pod is no longer kept in its Services.",
		"lastTransitionTime": metav1.Now(),
	}}})
	if err == nil {
		err = r.client.Status().Patch(ctx, target, patch)
	}
	return target.ResourceVersion, err
}

// mark gives a pod a mark, or takes it away if the value is nil.
func (r *Reconciler) mark(ctx context.Context, pod *corev1.Pod, version string, value any) (string, error) {
	target, patch, err := patchOf(pod, version, types.MergePatchType, "metadata", map[string]any{"annotations": map[string]any{RetainKey: value}})
	if err == nil {
		err = r.client.Patch(ctx, target, patch)
	}
	return target.ResourceVersion, err
}

// patchOf returns what to patch, and the patch of one of its fields. It fails with a conflict if the pod is another one by now, or has
// another version.
func patchOf(pod *corev1.Pod, version string, kind types.PatchType, field string, content map[string]any) (*corev1.Pod, client.Patch, error) {
	patch := map[string]any{"metadata": map[string]any{}}
	patch[field] = content
	metadata := patch["metadata"].(map[string]any)
	metadata["uid"], metadata["resourceVersion"] = pod.UID, version
	data, err := json.Marshal(patch)
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name}}, client.RawPatch(kind, data), err
}
