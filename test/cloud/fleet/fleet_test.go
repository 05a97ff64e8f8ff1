package fleet

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"
)

const (
	namespace = "default"
	writers   = 24 // requests at a time that make the fleet
	hearts    = 80 // and that renew leases, which must not be late while it is made
	services  = 20 // that the pods are spread over

	// firstLate is the number from which on a node's pods are those that are bound late, to see how long each is unprotected.
	firstLate = 50
)

// size says how many, and how fast they are given up.
type size struct {
	nodes, pods int           // pods on each node
	renewal     time.Duration // of leases
	grace       time.Duration // that the cloud gives them
}

// fleet is the nodes and pods, and who beats their hearts.
type fleet struct {
	size
	client kubernetes.Interface
	dark   atomic.Bool
	made   []atomic.Bool // nodes whose hearts beat
}

func newFleet(client kubernetes.Interface, of size) *fleet {
	return &fleet{size: of, client: client, made: make([]atomic.Bool, of.nodes)}
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
	if _, err := f.client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
		return err
	}
	if err := f.report(ctx, i); err != nil {
		return err
	}
	f.made[i].Store(true)
	return f.beat(ctx, i)
}

// report says that a node is ready, as its kubelet would.
func (f *fleet) report(ctx context.Context, i int) error {
	patch := fmt.Appendf(nil, `{"status":{"conditions":[{"type":"Ready","status":"True","reason":"KubeletReady","lastHeartbeatTime":%[1]q,"lastTransitionTime":%[1]q}]}}`,
		time.Now().UTC().Format(time.RFC3339))
	_, err := f.client.CoreV1().Nodes().Patch(ctx, nodeName(i), types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
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
			HolderIdentity: ptr.To(nodeName(i)), LeaseDurationSeconds: ptr.To(int32(f.renewal.Seconds())), RenewTime: ptr.To(metav1.NowMicro()),
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
	for w := range hearts {
		group.Go(func() error {
			for ctx.Err() == nil {
				begun := time.Now()
				for i := w; i < f.nodes && ctx.Err() == nil; i += hearts {
					if !f.made[i].Load() || f.dark.Load() && !spared(i) {
						continue
					}
					if err := f.beat(ctx, i); err != nil && ctx.Err() == nil {
						return fmt.Errorf("renew lease of %s: %w", nodeName(i), err)
					}
					pause(ctx, f.renewal*hearts/time.Duration(f.nodes)-time.Millisecond)
				}
				pause(ctx, min(time.Second, f.renewal-time.Since(begun)))
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

func (f *fleet) darken()  { f.dark.Store(true) }
func (f *fleet) lighten() { f.dark.Store(false) }

// comeBack makes nodes that the cloud has given up ready, as kubelets do that are back, and tells how many these were.
func (f *fleet) comeBack(ctx context.Context, unready map[string]bool) error {
	if len(unready) == 0 {
		return nil
	}
	err := f.each(ctx, func(ctx context.Context, i int) error {
		if !unready[nodeName(i)] {
			return nil
		}
		if err := f.beat(ctx, i); err != nil {
			return err
		}
		return f.report(ctx, i)
	})
	if err != nil {
		return err
	}
	return fmt.Errorf("%d nodes were not ready", len(unready))
}

// bind makes more pods on autonomous nodes, evenly.
func (f *fleet) bind(ctx context.Context, count int) error {
	for n := range count {
		i := 2 * n % f.nodes
		if err := f.createPod(ctx, i, firstLate+n/(f.nodes/2)); err != nil {
			return err
		}
		pause(ctx, 50*time.Millisecond)
	}
	return nil
}
