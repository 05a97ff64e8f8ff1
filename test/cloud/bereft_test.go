package cloud

import (
	"context"
	"errors"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	hollow = "hollow" // a node of which there is an object only
	bereft = "bereft" // its pod
)

// bereave makes an autonomous node that never was, where no DaemonSet goes, and a pod that is bound to it; and deletes the node once the
// pod is protected.
func (s *site) bereave(t *testing.T) {
	t.Helper()
	nodes := s.client.CoreV1().Nodes()
	_, err := nodes.Create(t.Context(), &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: hollow, Annotations: map[string]string{"node.openyurt.io/autonomy-duration": "0"}},
		Spec:       corev1.NodeSpec{Taints: []corev1.Taint{{Key: "example.com/hollow", Effect: corev1.TaintEffectNoSchedule}}},
	}, metav1.CreateOptions{})
	must(t, err)
	t.Cleanup(func() {
		if err := nodes.Delete(context.WithoutCancel(t.Context()), hollow, metav1.DeleteOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("delete node %s: %v; want it to be gone", hollow, err)
		}
	})
	must(t, s.run(t.Context(), bereft, hollow, nil))
	await(t, "the pod of the hollow node is protected", 30*time.Second, func(ctx context.Context) error {
		pod, err := s.client.CoreV1().Pods(namespace).Get(ctx, bereft, metav1.GetOptions{})
		if err == nil && !tolerates(pod) {
			err = errors.New("it is not")
		}
		return err
	})
	must(t, nodes.Delete(t.Context(), hollow, metav1.DeleteOptions{}))
}

// isBereft states what nobody protects from: the pods of a node that is deleted are collected, though it was dark and autonomous.
func (s *site) isBereft(t *testing.T) {
	await(t, "the pod of a deleted node is collected", time.Minute, func(ctx context.Context) error {
		_, err := s.client.CoreV1().Pods(namespace).Get(ctx, bereft, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(err, errors.New("it is there"))
	})
}
