package cloud

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// A remover is something that takes the pods of an autonomous node away.
type remover struct {
	name   string
	app    string
	node   string
	make   func(ctx context.Context, app, node string) error // nil: one bare pod
	remove func(ctx context.Context, app string) error
}

// TestNotProtectedAgainst states what removes the pods of an autonomous node all the same: whatever is somebody's decision, and not a
// conclusion from silence. Each pod is protected before it is removed. (Deletion of the node takes the stock controllers a minute, so it
// is a part of TestDarkNodesKeepTheirPods, which has the time.)
func TestNotProtectedAgainst(t *testing.T) {
	s := begin(t)
	taint := func(key string) func(context.Context, string) error {
		return func(ctx context.Context, _ string) error {
			return s.patchNode(ctx, brief, fmt.Sprintf(`{"spec":{"taints":[{"key":%q,"effect":"NoExecute"}]}}`, key))
		}
	}
	t.Run("by decisions about pods and owners", func(t *testing.T) {
		for _, r := range []remover{
			{name: "deletion", app: "deleted", node: hub, remove: func(ctx context.Context, app string) error {
				return s.client.CoreV1().Pods(namespace).Delete(ctx, app, metav1.DeleteOptions{})
			}},
			{name: "drain", app: "drained", node: hub, remove: func(ctx context.Context, app string) error {
				return s.client.PolicyV1().Evictions(namespace).Evict(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: app, Namespace: namespace}})
			}},
			{name: "scaling down", app: "scaled", node: hub, make: s.deployOn, remove: func(ctx context.Context, app string) error {
				return s.patchDeployment(ctx, app, `{"spec":{"replicas":0}}`)
			}},
			{name: "rollout", app: "rolled", node: hub, make: s.deployOn, remove: func(ctx context.Context, app string) error {
				return s.patchDeployment(ctx, app, `{"spec":{"template":{"metadata":{"annotations":{"version":"2"}}}}}`)
			}},
			{name: "deletion of the owner", app: "orphaned", node: hub, make: s.deployOn, remove: func(ctx context.Context, app string) error {
				return s.client.AppsV1().Deployments(namespace).Delete(ctx, app, metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationBackground)})
			}},
			{name: "preemption", app: "preempted", node: bare, make: s.deployGreedy, remove: s.preempt},
		} {
			t.Run(r.name, func(t *testing.T) {
				t.Parallel()
				s.removes(t, r)
			})
		}
	})
	for _, r := range []remover{ // one after the other, for they are about a node and all that it runs
		{name: "another taint", app: "tainted", node: brief, remove: taint("example.com/maintenance")},
		{name: "out of service", app: "outofservice", node: brief, remove: taint("node.kubernetes.io/out-of-service")},
	} {
		t.Run(r.name, func(t *testing.T) {
			t.Cleanup(func() { must(t, s.patchNode(context.WithoutCancel(t.Context()), brief, `{"spec":{"taints":null}}`)) })
			s.removes(t, r)
		})
	}
}

// removes makes pods, waits until they are protected, removes them, and waits until they are gone.
func (s *site) removes(t *testing.T, r remover) {
	t.Helper()
	create := r.make
	if create == nil {
		create = func(ctx context.Context, app, node string) error { return s.run(ctx, app, node, nil) }
	}
	t.Cleanup(func() { must(t, s.clean(context.WithoutCancel(t.Context()), r.app)) })
	must(t, create(t.Context(), r.app, r.node))
	var name string
	await(t, "the pod is protected", time.Minute, func(context.Context) error {
		for _, pod := range s.podsOf(t, r.app) {
			if pod.Spec.NodeName == r.node && tolerates(&pod) && podReady(&pod) {
				name = pod.Name
				return nil
			}
		}
		return errors.New("it is not")
	})
	must(t, r.remove(t.Context(), r.app))
	await(t, "pod "+name+" is gone", time.Minute, func(ctx context.Context) error {
		_, err := s.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(err, errors.New("it is there"))
	})
}

// clean removes what a remover has left.
func (s *site) clean(ctx context.Context, app string) error {
	errs := []error{
		s.client.AppsV1().Deployments(namespace).Delete(ctx, app, metav1.DeleteOptions{}),
		s.client.CoreV1().Pods(namespace).Delete(ctx, app, metav1.DeleteOptions{}),
	}
	if app == "preempted" {
		errs = append(errs,
			s.client.CoreV1().Pods(namespace).Delete(ctx, urgent, metav1.DeleteOptions{}),
			s.client.SchedulingV1().PriorityClasses().Delete(ctx, urgent, metav1.DeleteOptions{}))
	}
	return errors.Join(slices.DeleteFunc(errs, apierrors.IsNotFound)...)
}

// deployOn makes a Deployment of one pod that can't run elsewhere.
func (s *site) deployOn(ctx context.Context, app, node string) error {
	return s.deployOne(ctx, app, node, nil)
}

func (s *site) deployOne(ctx context.Context, app, node string, requests corev1.ResourceList) error {
	pods := template(app)
	pods.Spec.NodeSelector = map[string]string{corev1.LabelHostname: node}
	pods.Spec.Containers[0].Resources.Requests = requests
	_, err := s.client.AppsV1().Deployments(namespace).Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: app},
		Spec:       appsv1.DeploymentSpec{Replicas: ptr.To[int32](1), Selector: selector(app), Template: pods},
	}, metav1.CreateOptions{})
	return err
}

func (s *site) patchDeployment(ctx context.Context, name, patch string) error {
	_, err := s.client.AppsV1().Deployments(namespace).Patch(ctx, name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	return err
}

// urgent is a priority, and the one pod that has it.
const urgent = "urgent"

// most returns as much of the processors of a node as no two pods can have.
func (s *site) most(ctx context.Context, node string) (corev1.ResourceList, error) {
	object, err := s.client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return corev1.ResourceList{
		corev1.ResourceCPU: *resource.NewMilliQuantity(object.Status.Allocatable.Cpu().MilliValue()*6/10, resource.DecimalSI),
	}, nil
}

func (s *site) deployGreedy(ctx context.Context, app, node string) error {
	requests, err := s.most(ctx, node)
	if err != nil {
		return err
	}
	return s.deployOne(ctx, app, node, requests)
}

// preempt makes a pod that is more important than those of the node, and does not fit beside them.
func (s *site) preempt(ctx context.Context, _ string) error {
	class := &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: urgent}, Value: 1000}
	if _, err := s.client.SchedulingV1().PriorityClasses().Create(ctx, class, metav1.CreateOptions{}); err != nil {
		return err
	}
	requests, err := s.most(ctx, bare)
	if err != nil {
		return err
	}
	pod := &corev1.Pod{ObjectMeta: template(urgent).ObjectMeta, Spec: template(urgent).Spec}
	pod.Name = urgent
	pod.Spec.PriorityClassName = urgent
	pod.Spec.NodeSelector = map[string]string{corev1.LabelHostname: bare}
	pod.Spec.Containers[0].Resources.Requests = requests
	_, err = s.client.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{})
	return err
}
