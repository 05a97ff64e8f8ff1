package scale

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"
)

const (
	namespace = "default"
	writers   = 24 // requests at a time
	services  = 20 // that the pods are spread over
)

// fleet is the nodes and pods, and who beats their hearts.
type fleet struct {
	client      kubernetes.Interface
	nodes, pods int // pods on each node
	dark        atomic.Bool
	made        []atomic.Bool // nodes whose hearts beat
}

func newFleet(client kubernetes.Interface, nodes, pods int) *fleet {
	return &fleet{client: client, nodes: nodes, pods: pods, made: make([]atomic.Bool, nodes)}
}

func nodeName(i int) string     { return fmt.Sprintf("node-%05d", i) }
func podName(i, pod int) string { return fmt.Sprintf("pod-%05d-%d", i, pod) }
func autonomous(i int) bool     { return i%2 == 0 }

// spared tells whether a node stays reachable: one of 100, or the control plane would believe that the fault is its own.
func spared(i int) bool { return i%100 == 99 }

// each runs do for each node, some at a time.
func (f *fleet) each(ctx context.Context, do func(context.Context, int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(writers)
	for i := range f.nodes {
		group.Go(func() error { return do(ctx, i) })
	}
	return group.Wait()
}

// create makes all objects; pods run from the first moment.
func (f *fleet) create(ctx context.Context) error {
	for i := range services {
		service := &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("service-%d", i)},
			Spec:       corev1.ServiceSpec{Selector: map[string]string{"service": fmt.Sprint(i)}, Ports: []corev1.ServicePort{{Port: 80}}},
		}
		if _, err := f.client.CoreV1().Services(namespace).Create(ctx, service, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	err := f.each(ctx, f.createNode)
	if err != nil {
		return err
	}
	return f.each(ctx, func(ctx context.Context, i int) error {
		for pod := range f.pods {
			if err := f.createPod(ctx, i, pod); err != nil {
				return err
			}
		}
		return nil
	})
}

func (f *fleet) createNode(ctx context.Context, i int) error {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName(i), Labels: map[string]string{
		corev1.LabelHostname: nodeName(i), corev1.LabelTopologyZone: nodeName(i),
	}}}
	if autonomous(i) {
		node.Annotations = map[string]string{"node.openyurt.io/autonomy-duration": "0"}
	}
	node, err := f.client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	node.Status.Conditions = []corev1.NodeCondition{readyCondition()}
	if _, err := f.client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{}); err != nil {
		return err
	}
	f.made[i].Store(true)
	return f.beat(ctx, i)
}

func readyCondition() corev1.NodeCondition {
	return corev1.NodeCondition{
		Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now(),
	}
}

func (f *fleet) createPod(ctx context.Context, i, number int) error {
	pods := f.client.CoreV1().Pods(namespace)
	pod, err := pods.Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: podName(i, number), Labels: map[string]string{"service": fmt.Sprint((i + number) % services)}},
		Spec: corev1.PodSpec{
			NodeName: nodeName(i), AutomountServiceAccountToken: ptr.To(false),
			Containers: []corev1.Container{{Name: "server", Image: "server"}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	ip := fmt.Sprintf("10.%d.%d.%d", 128+i/200, i%200, number+1)
	patch := fmt.Appendf(nil, `{"status":{"phase":"Running","podIP":%q,"podIPs":[{"ip":%q}],"conditions":[`+
		`{"type":"Ready","status":"True","lastTransitionTime":%q}]}}`, ip, ip, time.Now().UTC().Format(time.RFC3339))
	_, err = pods.Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}

// beat renews the lease of a node.
func (f *fleet) beat(ctx context.Context, i int) error {
	leases := f.client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	patch := fmt.Appendf(nil, `{"spec":{"renewTime":%q}}`, time.Now().UTC().Format(metav1.RFC3339Micro))
	_, err := leases.Patch(ctx, nodeName(i), types.MergePatchType, patch, metav1.PatchOptions{})
	if !apierrors.IsNotFound(err) {
		return err
	}
	_, err = leases.Create(ctx, &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: nodeName(i)},
		Spec: coordinationv1.LeaseSpec{
			HolderIdentity: ptr.To(nodeName(i)), LeaseDurationSeconds: ptr.To(int32(renewal.Seconds())), RenewTime: ptr.To(metav1.NowMicro()),
		},
	}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// heartbeats renews all leases, but those of dark nodes, evenly, until ctx ends.
func (f *fleet) heartbeats(ctx context.Context) *errgroup.Group {
	var group errgroup.Group
	for w := range writers {
		group.Go(func() error {
			for ctx.Err() == nil {
				begun := time.Now()
				for i := w; i < f.nodes && ctx.Err() == nil; i += writers {
					if !f.made[i].Load() || f.dark.Load() && !spared(i) {
						continue
					}
					if err := f.beat(ctx, i); err != nil && ctx.Err() == nil {
						return fmt.Errorf("renew lease of %s: %w", nodeName(i), err)
					}
					pause(ctx, renewal*writers/time.Duration(f.nodes)-time.Millisecond)
				}
				pause(ctx, min(time.Second, renewal-time.Since(begun)))
			}
			return nil
		})
	}
	return &group
}

func pause(ctx context.Context, length time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(length):
	}
}

func (f *fleet) darken() { f.dark.Store(true) }

// lighten lets leases be renewed and the nodes say that they are ready, as kubelets do.
func (f *fleet) lighten() { f.dark.Store(false) }

// ready tells what is missing until all nodes are ready, and makes those ready that the cloud has given up.
func (f *fleet) ready(ctx context.Context) error {
	list, err := f.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return err
	}
	unready := map[string]bool{}
	for _, node := range list.Items {
		for _, c := range node.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
				unready[node.Name] = true
			}
		}
	}
	if len(unready) == 0 {
		return nil
	}
	err = f.each(ctx, func(ctx context.Context, i int) error {
		if !unready[nodeName(i)] {
			return nil
		}
		if err := f.beat(ctx, i); err != nil {
			return err
		}
		patch := fmt.Appendf(nil, `{"status":{"conditions":[{"type":"Ready","status":"True","reason":"KubeletReady","lastHeartbeatTime":%[1]q,"lastTransitionTime":%[1]q}]}}`,
			time.Now().UTC().Format(time.RFC3339))
		_, err := f.client.CoreV1().Nodes().Patch(ctx, nodeName(i), types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
		return err
	})
	return errors.Join(err, fmt.Errorf("%d nodes were not ready", len(unready)))
}

// bind makes more pods on autonomous nodes, evenly.
func (f *fleet) bind(ctx context.Context, count int) error {
	for n := range count {
		i := 2 * n % f.nodes
		if err := f.createPod(ctx, i, 50+n/(f.nodes/2)); err != nil {
			return err
		}
		pause(ctx, 50*time.Millisecond)
	}
	return nil
}

// half is what has happened to one half of the fleet, in pods.
type half struct{ pods, evicted, unready, unserved, unprotected int }

type result struct{ autonomous, ordinary half }

func (r result) String() string {
	line := func(name string, h half) string {
		return fmt.Sprintf("%-12s%8d%10d%18d%16d\n", name, h.pods, h.evicted, h.unready, h.unserved)
	}
	return fmt.Sprintf("%-12s%8s%10s%18s%16s\n", "", "pods", "evicted", "marked NotReady", "endpoints lost") +
		line("autonomous", r.autonomous) + line("ordinary", r.ordinary)
}

// count counts the pods of all nodes that are dark, or will be.
func (f *fleet) count(ctx context.Context) (result, error) {
	var r result
	endpoints, err := f.client.DiscoveryV1().EndpointSlices(namespace).List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return r, err
	}
	served := map[string]bool{}
	for _, slice := range endpoints.Items {
		for _, endpoint := range slice.Endpoints {
			if endpoint.TargetRef != nil && ptr.Deref(endpoint.Conditions.Ready, true) {
				served[endpoint.TargetRef.Name] = true
			}
		}
	}
	list, err := f.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return r, err
	}
	pods := map[string]*corev1.Pod{}
	for i := range list.Items {
		pods[list.Items[i].Name] = &list.Items[i]
	}
	for i := range f.nodes {
		if spared(i) {
			continue
		}
		h := &r.ordinary
		if autonomous(i) {
			h = &r.autonomous
		}
		for n := range f.pods {
			name := podName(i, n)
			pod, there := pods[name]
			h.pods++
			if !there || pod.DeletionTimestamp != nil {
				h.evicted++
			}
			if !there || !slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
				return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
			}) {
				h.unready++
			}
			if !served[name] {
				h.unserved++
			}
			if !there || !protected(pod) {
				h.unprotected++
			}
		}
	}
	return r, nil
}

// complete tells what is missing until the fleet is as it should be.
func (f *fleet) complete(ctx context.Context) error {
	r, err := f.count(ctx)
	if err != nil {
		return err
	}
	for _, h := range []half{r.autonomous, r.ordinary} {
		if h.evicted+h.unready+h.unserved > 0 {
			return fmt.Errorf("it is not: %+v", r)
		}
	}
	if r.autonomous.unprotected > 0 {
		return fmt.Errorf("%d pods are not protected", r.autonomous.unprotected)
	}
	return nil
}

// evicted tells what is missing until the ordinary half has lost everything.
func (f *fleet) evicted(ctx context.Context) error {
	r, err := f.count(ctx)
	if err != nil {
		return err
	}
	if h := r.ordinary; h.evicted < h.pods || h.unserved < h.pods {
		return fmt.Errorf("it is not: %+v", r)
	}
	return nil
}

func protected(pod *corev1.Pod) bool {
	endless := 0
	for _, t := range pod.Spec.Tolerations {
		if t.TolerationSeconds == nil && (t.Key == corev1.TaintNodeNotReady || t.Key == corev1.TaintNodeUnreachable) {
			endless++
		}
	}
	return endless == 2 && pod.Annotations["node.openyurt.io/retain-ready"] == "true"
}

// watcher sees when pods of the last stream are bound, and when they are protected.
type watcher struct {
	mu    sync.Mutex
	since map[string]time.Time // when it was bound; zero: it is protected
	took  []time.Duration
}

func (f *fleet) watch(ctx context.Context) *watcher {
	w := &watcher{since: map[string]time.Time{}}
	factory := informers.NewSharedInformerFactory(f.client, 0)
	_, err := factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { w.see(o.(*corev1.Pod)) },
		UpdateFunc: func(_, o any) { w.see(o.(*corev1.Pod)) },
	})
	if err != nil {
		panic(err)
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	return w
}

func (w *watcher) see(pod *corev1.Pod) {
	var node, number int
	if _, err := fmt.Sscanf(pod.Name, "pod-%d-%d", &node, &number); err != nil || number < 50 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	since, known := w.since[pod.Name]
	switch {
	case !known:
		w.since[pod.Name] = time.Now()
	case !since.IsZero() && protected(pod):
		w.took = append(w.took, time.Since(since))
		w.since[pod.Name] = time.Time{}
	}
}

func (w *watcher) protected(count int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.took) < count {
		return fmt.Errorf("%d of %d are", len(w.took), count)
	}
	return nil
}

func (w *watcher) delays() []time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(slices.Values(w.took))
}
