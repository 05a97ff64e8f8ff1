package endpointretention

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
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
)

const (
	name    = "endpointretention"
	workers = 16 // nodes at a time; the pods of one node come one after the other

	// conflictDelay is how long the cache gets to catch up with whoever changed a pod first.
	conflictDelay = 100 * time.Millisecond

	// reasonOver is what a withdrawn pod's Ready condition has as its reason.
	reasonOver = "RetentionEnded"
)

// Reconciler carries out what decide says, one node at a time. It keeps nothing of its own.
type Reconciler struct {
	client  client.Client
	events  events.EventRecorder
	log     *slog.Logger
	metrics *metrics
	policy  *keeper
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
	r := &Reconciler{client: mgr.GetClient(), events: mgr.GetEventRecorder(name), log: log, metrics: m, policy: k}
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
	var result reconcile.Result
	if !p.next.IsZero() {
		result.RequeueAfter = max(p.next.Sub(now), time.Millisecond)
	}
	var errs []error
	for _, change := range p.pods {
		err := r.changePod(ctx, change)
		switch {
		case apierrors.IsConflict(err):
			result.RequeueAfter = conflictDelay
		case err != nil:
			errs = append(errs, err)
		}
	}
	return result, errors.Join(errs...)
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

// changePod carries out one change. Readiness goes first: once the mark is gone, nobody knows that there was something to withdraw.
func (r *Reconciler) changePod(ctx context.Context, c podChange) error {
	err := r.writeReady(ctx, &c)
	if err == nil {
		err = r.writeMark(ctx, c)
	}
	if err != nil {
		return fmt.Errorf("%s pod %s/%s: %w", c.action, c.pod.Namespace, c.pod.Name, err)
	}
	r.metrics.changes.WithLabelValues(c.action.String()).Inc()
	r.log.InfoContext(ctx, "retention of readiness changed", "pod", c.pod.Namespace+"/"+c.pod.Name, "node", c.pod.Spec.NodeName, "action", c.action.String())
	return nil
}

// writeReady withdraws a pod, where that is the change.
func (r *Reconciler) writeReady(ctx context.Context, c *podChange) error {
	if c.action != withdraw {
		return nil
	}
	target, data, err := patchOf(c.pod, map[string]any{"status": map[string]any{"conditions": []any{map[string]any{
		"type": corev1.PodReady, "status": corev1.ConditionFalse, "reason": reasonOver,
		"message":            "The node is dark, and this pod is no longer kept in its Services.",
		"lastTransitionTime": metav1.Now(),
	}}}})
	if err != nil {
		return err
	}
	if err := r.client.Status().Patch(ctx, target, client.RawPatch(types.StrategicMergePatchType, data)); err != nil {
		return client.IgnoreNotFound(err)
	}
	c.pod.ResourceVersion = target.ResourceVersion
	return nil
}

// writeMark gives a pod its mark or takes it away. What its owner has put there instead stays.
func (r *Reconciler) writeMark(ctx context.Context, c podChange) error {
	var value any
	switch {
	case c.action == mark:
		value = Keep
	case c.pod.Annotations[RetainKey] != Keep:
		return nil
	}
	target, data, err := patchOf(c.pod, map[string]any{"metadata": map[string]any{"annotations": map[string]any{RetainKey: value}}})
	if err != nil {
		return err
	}
	return client.IgnoreNotFound(r.client.Patch(ctx, target, client.RawPatch(types.MergePatchType, data)))
}

// patchOf returns what to patch and the patch. It fails with a conflict if the pod is another one by now, or has changed.
func patchOf(pod *corev1.Pod, content map[string]any) (*corev1.Pod, []byte, error) {
	metadata, ok := content["metadata"].(map[string]any)
	if !ok {
		metadata = map[string]any{}
		content["metadata"] = metadata
	}
	metadata["uid"], metadata["resourceVersion"] = pod.UID, pod.ResourceVersion
	data, err := json.Marshal(content)
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name}}, data, err
}
